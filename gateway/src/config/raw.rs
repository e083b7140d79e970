//! `routes.yaml` as written: every field is optional, units are read, places are kept, and layers are not merged.
//!
//! Each file of this room has one part of the format: the struct, the table of its keys, and its reader, which uses the
//! tools of [`syntax`](crate::syntax). Defaults are in `resolve::defaults`.

pub(crate) mod acme;
pub(crate) mod auto_routes;
pub(crate) mod consul;
pub(crate) mod destination;
pub(crate) mod http2;
pub(crate) mod https;
pub(crate) mod instances;
pub(crate) mod limits;
pub(crate) mod listen;
pub(crate) mod listeners;
pub(crate) mod route;
pub(crate) mod service;

use std::time::Duration;

use self::{consul::Consul, limits::Limits, listen::Listen, route::Route, service::Service};
use super::{foreign_files, settings::AccessLogFormat};
use crate::{
    auth, policy,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        environment::Environment,
        fields::{Fields, Known, choice, items, name, named_entries, not_supported, some_text, value},
        tree::{self, At, Node, Value},
        units::{Invalid, count, duration_in, share_per_mille},
    },
};

/// The whole file.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) workers: Option<usize>,
    pub(crate) listen: Listen,
    pub(crate) consul: Consul,
    pub(crate) auth: Vec<Named<auth::settings::Written>>,
    pub(crate) defaults: policy::Written,
    pub(crate) policies: Vec<Named<policy::Written>>,
    pub(crate) routes: Vec<Route>,
    pub(crate) services: Vec<Named<Service>>,
    pub(crate) access_log: AccessLog,
    pub(crate) drain: Drain,
    pub(crate) limits: Limits,
}

/// An entry of `auth`, `policies` or `services`.
#[derive(Debug)]
pub(crate) struct Named<T> {
    pub(crate) name: At<String>,
    pub(crate) value: T,
}

/// The top-level `access_log`.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    pub(crate) format: Option<AccessLogFormat>,
    pub(crate) file: Option<At<String>>,
    pub(crate) sample_per_mille: Option<u16>,
    /// 0 is `off`.
    pub(crate) refusals_per_second: Option<u32>,
}

/// `drain`.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    pub(crate) notice: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
}

/// Reads the text. `None`: the text is not YAML, its top is not a map, or it is a file of another product; the error is
/// reported.
pub(crate) fn read(text: &str, env: Environment<'_>, sink: &mut Diagnostics) -> Option<File> {
    let mut of_the_text = Diagnostics::default();
    let root = tree::parse(text, env, &mut of_the_text);
    if let Some(finding) = foreign_files::recognised(text, root.as_ref()) {
        sink.push(finding);
        return None;
    }
    sink.extend(of_the_text.into_vec());
    let root = root?;
    if let Value::Map(entries) = &root.value
        && let Some(Value::Map(providers)) =
            entries.iter().find(|entry| entry.key.value == "auth").map(|entry| &entry.value.value)
    {
        sink.name_providers(providers.iter().map(|entry| entry.key.value.clone()).collect());
    }
    let fields = Fields::of(&root, &FILE, sink)?;
    read_version(&fields, sink);
    let mut file = File {
        workers: fields.plain("workers", sink, |text| count(text, 1..=WORKERS_MAX)),
        listen: fields.get("listen").map(|node| Listen::read(node, sink)).unwrap_or_default(),
        consul: fields.get("discovery").map(|node| read_discovery(node, sink)).unwrap_or_default(),
        auth: fields
            .get("auth")
            .map(|node| named(node, "`auth`", sink, auth::settings::Written::read))
            .unwrap_or_default(),
        policies: fields
            .get("policies")
            .map(|node| named(node, "`policies`", sink, read_policy))
            .unwrap_or_default(),
        services: fields
            .get("services")
            .map(|node| named(node, "`services`", sink, Service::read))
            .unwrap_or_default(),
        access_log: fields.get("access_log").map(|node| AccessLog::read(node, sink)).unwrap_or_default(),
        drain: fields.get("drain").map(|node| Drain::read(node, sink)).unwrap_or_default(),
        ..File::default()
    };
    if let Some(node) = fields.get("defaults") {
        file.defaults = route::read_policies(node, &route::DEFAULTS, sink);
    }
    if let Some(node) = fields.need("routes", "routes: [{path: /users/**, service: users}]", sink) {
        file.routes =
            items(node, "`routes`", sink).iter().filter_map(|item| Route::read(item, sink)).collect();
        let is_empty = matches!(&node.value, Value::Null)
            || matches!(&node.value, Value::List(items) if items.is_empty());
        // A file may have no routes if services declare routes.
        if is_empty && file.consul.auto_routes.is_none() {
            let span = fields.entry("routes").map_or(node.span, |entry| entry.key.span);
            sink.push(
                Diagnostic::error(code::MISSING_FIELD, span, "`routes` has no route")
                    .label("nothing would be served")
                    .help("the smallest route is `- {path: /users/**, service: users}`"),
            );
        }
    }
    if let Some(node) = fields.get("limits") {
        file.limits = Limits::read(node, sink);
    }
    Some(file)
}

fn read_version(fields: &Fields<'_>, sink: &mut Diagnostics) {
    let Some(node) = fields.need("version", "version: 1", sink) else { return };
    let Some(version) = value(node, "version", sink, |text| count(text, 0..=u32::MAX)) else { return };
    if version.value != FILE_VERSION {
        let message = format!("this version of millgate reads `version: {FILE_VERSION}` of the file format");
        sink.push(Diagnostic::error(code::FILE_VERSION, version.span, message).label("unknown version"));
    }
}

fn read_discovery(node: &Node, sink: &mut Diagnostics) -> Consul {
    let Some(fields) = Fields::of(node, &DISCOVERY, sink) else { return Consul::default() };
    fields.get("consul").map(|node| Consul::read(node, sink)).unwrap_or_default()
}

fn read_policy(node: &Node, sink: &mut Diagnostics) -> policy::Written {
    route::read_policies(node, &route::POLICY, sink)
}

fn named<T>(
    node: &Node,
    what: &str,
    sink: &mut Diagnostics,
    read: impl Fn(&Node, &mut Diagnostics) -> T,
) -> Vec<Named<T>> {
    let mut entries = Vec::new();
    for entry in named_entries(node, what, sink) {
        check_name(&entry.key, what, sink);
        // An empty value has no place, so its findings have the place of the name.
        let read_at = match &entry.value.value {
            Value::Null => read(&Node { span: entry.key.span, value: Value::Null }, sink),
            _ => read(&entry.value, sink),
        };
        entries.push(Named { name: entry.key.clone(), value: read_at });
    }
    entries
}

fn check_name(key: &At<String>, what: &str, sink: &mut Diagnostics) {
    if let Err(invalid) = name(&key.value) {
        let message = format!("a name in {what} must be {}", invalid.expected);
        sink.push(Diagnostic::error(invalid.code, key.span, message).label(invalid.label));
    } else if what == "`auth`" && key.value == "none" {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, key.span, "an auth provider cannot have the name `none`")
                .label("`auth: none` opens a route"),
        );
    }
}

impl AccessLog {
    fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        if matches!(node.value, Value::Scalar(_)) {
            let format = value(node, "access_log", sink, access_log_format).map(|at| at.value);
            return Self { format, ..Self::default() };
        }
        let Some(fields) = Fields::of(node, &ACCESS_LOG, sink) else { return Self::default() };
        Self {
            format: fields.plain("format", sink, access_log_format),
            file: fields.value("file", sink, some_text),
            sample_per_mille: fields.plain("sample", sink, share_per_mille),
            refusals_per_second: fields.plain("refusals_per_second", sink, |text| match text {
                "off" => Ok(0),
                _ => count(text, 1..=REFUSALS_MAX).map_err(|invalid| {
                    invalid.help("write a number, or `off`: then refusals are sampled as all other requests")
                }),
            }),
        }
    }
}

fn access_log_format(text: &str) -> Result<AccessLogFormat, Invalid> {
    let words = [
        ("json", AccessLogFormat::Json),
        ("combined", AccessLogFormat::Combined),
        ("off", AccessLogFormat::Off),
    ];
    choice(text, &words, &[])
}

impl Drain {
    fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &DRAIN, sink) else { return Self::default() };
        let up_to_an_hour = |text: &str| duration_in(text, Duration::ZERO..=Duration::from_hours(1));
        Self {
            notice: fields.plain("notice", sink, up_to_an_hour),
            timeout: fields.plain("timeout", sink, up_to_an_hour),
        }
    }
}

/// The map in which a misplaced field belongs, and how the field is written there.
pub(crate) fn place_of_field(name: &str) -> Option<(&'static str, String)> {
    let maps: [(&Known, &str, &str, &str); 5] = [
        (&route::ROUTE, "a route, or into `defaults`", "", ""),
        (&service::SERVICE, "a service", "services: {NAME: {", "}}"),
        (&listen::LISTEN, "`listen`", "listen: {", "}"),
        (&auth::PROVIDER, "a provider of `auth`", "auth: {NAME: {", "}}"),
        (&FILE, "the top of the file", "", ""),
    ];
    let (_, place, before, after) = maps.into_iter().find(|(known, ..)| known.fields.contains(&name))?;
    Some((place, format!("{before}{name}: …{after}")))
}

/// Reports a value that this version does not support yet.
pub(crate) fn later(span: Span, what: &str, sink: &mut Diagnostics) {
    sink.push(not_supported(span, what));
}

/// The top of the file.
pub(crate) static FILE: Known = Known {
    what: "the file",
    prefix: "",
    fields: &[
        "version",
        "workers",
        "listen",
        "discovery",
        "auth",
        "defaults",
        "policies",
        "routes",
        "services",
        "access_log",
        "drain",
        "limits",
    ],
    later: &["include", "docs", "telemetry", "rate_limit_store", "rate_limit_headers"],
};
pub(crate) static DISCOVERY: Known =
    Known { what: "`discovery`", prefix: "discovery.", fields: &["consul"], later: &[] };
pub(crate) static ACCESS_LOG: Known = Known {
    what: "`access_log`",
    prefix: "access_log.",
    fields: &["format", "file", "sample", "refusals_per_second"],
    later: &[],
};
pub(crate) static DRAIN: Known =
    Known { what: "`drain`", prefix: "drain.", fields: &["notice", "timeout"], later: &[] };

const FILE_VERSION: u32 = 1;
/// A larger number is a typing mistake: no machine has more cores.
const WORKERS_MAX: usize = 1024;
/// A larger number is a typing mistake: a log cannot take more lines.
const REFUSALS_MAX: u32 = 1_000_000;

/// Every kind of map in the format.
#[cfg(test)]
pub(crate) fn maps() -> Vec<&'static Known> {
    let own = [
        &FILE,
        &DISCOVERY,
        &ACCESS_LOG,
        &DRAIN,
        &limits::LIMITS,
        &listen::LISTEN,
        &listen::LISTEN_HEADERS,
        &listeners::HTTP,
        &https::HTTPS,
        &https::CERTIFICATE,
        &acme::ACME,
        &acme::STORAGE,
        &acme::EXTERNAL_ACCOUNT,
        &http2::HTTP2,
        &consul::CONSUL,
        &auto_routes::AUTO_ROUTES,
        &auto_routes::ALLOW,
        &auth::PROVIDER,
        &auth::FORWARD,
        &auth::mtls::MTLS,
        &crate::syntax::claims::REQUIRE,
        &route::ROUTE,
        &service::SERVICE,
        &service::TLS,
        &instances::CONSUL,
        &instances::SUBSET,
    ];
    own.into_iter().chain(policy::maps()).chain(policy::maps_of_service()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_configuration_shows_every_field() {
        let example = include_str!("../../../routes.yaml");
        let maps = maps();
        for known in maps {
            for field in known.fields {
                let shown = example
                    .match_indices(&format!("{field}:"))
                    .any(|(at, _)| !example[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
                assert!(shown, "routes.yaml does not show `{field}` of {}", known.what);
            }
        }
    }
}
