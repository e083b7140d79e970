//! `clients` of a route, a policy or `defaults` as written: which addresses may use it.

use ipnet::IpNet;

use super::{
    fields::{Fields, Known, one_or_many, values},
    is_word,
    tree::{Node, Value},
};
use crate::config::{
    diagnostics::{Diagnostic, Diagnostics, code},
    units::{Invalid, network},
};

/// What is not written is inherited; an empty list is no restriction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clients {
    pub(crate) allow: Option<Vec<IpNet>>,
    pub(crate) deny: Option<Vec<IpNet>>,
}

impl Clients {
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        if is_word(node, "any") {
            return Self { allow: Some(Vec::new()), deny: Some(Vec::new()) };
        }
        // The short form: a network, or a list of them.
        if !matches!(node.value, Value::Map(_)) {
            return Self { allow: Some(networks(node, "clients", sink)), deny: None };
        }
        let Some(fields) = Fields::of(node, &CLIENTS, sink) else { return Self::default() };
        let allow = fields.get("allow").map(|node| networks(node, "clients.allow", sink));
        let deny = fields.get("deny").map(|node| networks(node, "clients.deny", sink));
        Self { allow, deny }
    }
}

/// At least one.
fn networks(node: &Node, what: &str, sink: &mut Diagnostics) -> Vec<IpNet> {
    if one_or_many(node).is_empty() {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, node.span, format!("`{what}` is empty"))
                .label("neither everyone nor nobody")
                .help("name networks, such as `[10.0.0.0/8]`; `clients: any` lets everyone in"),
        );
    }
    let parse = |text: &str| {
        network(text).map_err(|e| match what {
            "clients" => {
                Invalid { expected: format!("`any`, a map with `allow` and `deny`, or {}", e.expected), ..e }
            }
            _ => e,
        })
    };
    values(node, what, sink, parse).into_iter().map(|at| at.value).collect()
}

pub(crate) static CLIENTS: Known =
    Known { what: "`clients`", prefix: "clients.", fields: &["allow", "deny"], later: &[] };
