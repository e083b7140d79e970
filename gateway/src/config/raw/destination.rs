//! `service` of a route, which is a name. Findings for addresses, lists and shares, as other products have them here, name
//! the place where they belong.

use super::service::address_in;
use crate::{
    router::pattern::path_prefix,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, name, not_supported, value},
        tree::{At, Entry, Node, Value},
    },
};

pub(super) fn read_service(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<At<String>> {
    if fields.get("redirect").is_some() || fields.is_misspelt("redirect") {
        return None;
    }
    let node = fields.need("service", "service: users", sink)?;
    if let Some(finding) = service_of_others(node) {
        sink.push(finding);
        return None;
    }
    value(node, "service", sink, name)
}

/// The finding for an address, a list or shares in the place of a name.
fn service_of_others(node: &Node) -> Option<Diagnostic> {
    match &node.value {
        Value::Map(entries) if entries.iter().any(|entry| FIELDS_OF_OTHERS.contains(&entry.key.value.as_str())) => {
            Some(
                Diagnostic::error(code::WRONG_KIND, node.span, "`service` must be a name")
                    .label("this is a map")
                    .help(described_service(entries)),
            )
        }
        Value::Map(_) => Some(
            not_supported(node.span, "a weighted split over several services")
                .label("one service answers for a route")
                .help(
                    "write `service: users` and `split: {v1: 90, v2: 10}`: shares of `subsets` of one service, such as \
                     `services: {users: {subsets: {v1: {tag: v1}, v2: {tag: v2}}}}`",
                ),
        ),
        Value::List(_) => Some(
            Diagnostic::error(code::WRONG_KIND, node.span, "`service` must be one value")
                .label("this is a list")
                .help("write one name; several addresses are `hosts` of that service in `services`"),
        ),
        Value::Scalar(scalar) if !scalar.from_variable => {
            let cure = service_cure(&scalar.text)?;
            let message = "`service` must be a name of `services`, or of a service in Consul";
            Some(
                Diagnostic::error(code::BAD_VALUE, node.span, message)
                    .label("an address, not a name")
                    .help(cure),
            )
        }
        _ => None,
    }
}

/// Help for `{name: users, port: 80}`, as Kubernetes, Kong and Traefik have it.
fn described_service(entries: &[Entry]) -> String {
    let text = |names: &[&str]| {
        let entry = entries.iter().find(|entry| names.contains(&entry.key.value.as_str()))?;
        match &entry.value.value {
            Value::Scalar(scalar) if !scalar.from_variable => Some(scalar.text.as_str()),
            Value::Map(inner) => inner.iter().find_map(|inner| match &inner.value.value {
                Value::Scalar(scalar) if !scalar.from_variable => Some(scalar.text.as_str()),
                _ => None,
            }),
            _ => None,
        }
    };
    if let Some(cure) = text(&["url", "host", "address"]).and_then(service_cure) {
        return cure;
    }
    let named = text(&["name"]).filter(|text| name(text).is_ok());
    let host = text(&["host", "address"]).or(named).unwrap_or("users");
    let service = named.unwrap_or("users");
    match text(&["port"]).filter(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        Some(port) => format!(
            "write `service: {service}`, and at the top of the file `services: {{{service}: {{hosts: [\"{host}:{port}\"]}}}}`"
        ),
        None => format!(
            "write `service: {service}`: its addresses stand in `services` at the top of the file, or Consul knows them"
        ),
    }
}

/// Help for `http://users:9001/api` and other addresses: a name, and the service of this name.
pub(crate) fn service_cure(text: &str) -> Option<String> {
    if !text.contains([':', '/']) {
        return None;
    }
    let addresses = address_in(text)?;
    let (host, _) = addresses.first()?.rsplit_once(':')?;
    let label = host.split('.').next().filter(|label| label.starts_with(|c: char| c.is_ascii_alphabetic()));
    let service = label.filter(|label| *label != "localhost" && name(label).is_ok()).unwrap_or("users");
    let hosts: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let protocol = if text.starts_with("https://") { ", protocol: https" } else { "" };
    let path =
        text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| format!("/{path}"));
    let rewrite = path
        .filter(|path| path_prefix(path).is_ok())
        .map(|path| format!(" and `rewrite: {{add: {path}}}`"))
        .unwrap_or_default();
    Some(format!(
        "write `service: {service}`{rewrite}, and at the top of the file `services: {{{service}: {{hosts: [{}]{protocol}}}}}`",
        hosts.join(", ")
    ))
}

/// Keys by which a map of another product describes one service.
const FIELDS_OF_OTHERS: [&str; 8] =
    ["name", "port", "url", "host", "address", "protocol", "scheme", "namespace"];
