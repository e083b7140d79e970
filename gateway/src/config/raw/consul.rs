//! `discovery.consul` as written.

use std::{fmt, time::Duration};

use super::{
    auto_routes::AutoRoutes,
    listen::{any_text, http_url, read_pair},
};
use crate::{
    config::settings::Consistency,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, choice, is_word, some_text, value},
        tree::{At, Node, Value},
        units::{Invalid, count, duration_in, millis, minutes},
    },
};

/// `discovery.consul`.
#[derive(Debug, Default)]
pub(crate) struct Consul {
    /// If it is empty, the environment has the address.
    pub(crate) addresses: Vec<At<String>>,
    pub(crate) token: Option<At<Token>>,
    pub(crate) token_file: Option<At<String>>,
    pub(crate) ca_file: Option<At<String>>,
    pub(crate) cert_file: Option<At<String>>,
    pub(crate) key_file: Option<At<String>>,
    pub(crate) server_name: Option<At<String>>,
    pub(crate) datacenter: Option<String>,
    pub(crate) consistency: Option<Consistency>,
    pub(crate) max_stale: Option<Duration>,
    pub(crate) wait: Option<Duration>,
    pub(crate) auto_routes: Option<AutoRoutes>,
    pub(crate) max_watches: Option<usize>,
    pub(crate) flap_damping: Option<bool>,
    pub(crate) doubt: Option<Duration>,
    /// `off` reads as `None`.
    pub(crate) unready_after: Option<Duration>,
}

/// Consul's ACL token, which `Debug` does not print.
pub(crate) struct Token {
    pub(crate) text: String,
    /// The file contains the secret itself, and not a variable.
    pub(crate) in_file: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Consul {
    /// Reads the map `discovery.consul`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &CONSUL, sink) else { return Self::default() };
        let token = fields.get("token").and_then(|node| match &node.value {
            Value::Scalar(scalar) if !scalar.text.is_empty() => Some(At {
                value: Token { text: scalar.text.clone(), in_file: !scalar.from_variable },
                span: node.span,
            }),
            Value::Scalar(_) => None,
            _ => value(node, "discovery.consul.token", sink, some_text)
                .map(|at| At { value: Token { text: at.value, in_file: true }, span: at.span }),
        });
        let token_file = fields.value("token_file", sink, any_text).filter(|at| !at.value.is_empty());
        if let (Some(token), Some(file)) = (&token, &token_file) {
            sink.push(
                Diagnostic::error(code::CONFLICT, token.span, "`token` and `token_file` exclude each other")
                    .label("remove one of the two")
                    .related(file.span, "the other one"),
            );
        }
        let some = |name, sink: &mut Diagnostics| {
            fields.value(name, sink, any_text).filter(|at: &At<String>| !at.value.is_empty())
        };
        let (cert_file, key_file) = read_pair(&fields, sink);
        let unready_after = fields.get("unready_after").filter(|node| !is_word(node, "off"));
        // Below two minutes a single blocking query would count as an outage.
        let unready_after = unready_after.and_then(|node| {
            let long = |text: &str| duration_in(text, minutes(2)..=minutes(24 * 60));
            value(node, "discovery.consul.unready_after", sink, long).map(|at| at.value)
        });
        Self {
            addresses: fields.values("address", sink, http_url).unwrap_or_default(),
            token,
            token_file,
            ca_file: some("ca_file", sink),
            cert_file,
            key_file,
            server_name: some("server_name", sink),
            datacenter: fields.plain("datacenter", sink, any_text).filter(|text| !text.is_empty()),
            consistency: fields.plain("consistency", sink, consistency),
            max_stale: fields.plain("max_stale", sink, |t| duration_in(t, millis(100)..=minutes(60))),
            wait: fields.plain("wait", sink, |t| duration_in(t, Duration::from_secs(1)..=minutes(1))),
            auto_routes: fields
                .entry("auto_routes")
                .and_then(|entry| AutoRoutes::read(entry.key.span, &entry.value, sink)),
            max_watches: fields.plain("max_watches", sink, |t| count(t, 1..=10_000)),
            flap_damping: fields
                .plain("flap_damping", sink, |t| choice(t, &[("on", true), ("off", false)], &[])),
            doubt: fields.get("doubt").and_then(|node| doubt(node, sink)),
            unready_after,
        }
    }
}

/// Reads `doubt`; `off` is zero.
fn doubt(node: &Node, sink: &mut Diagnostics) -> Option<Duration> {
    if is_word(node, "off") {
        return Some(Duration::ZERO);
    }
    let short = |text: &str| duration_in(text, Duration::from_secs(1)..=minutes(10));
    value(node, "discovery.consul.doubt", sink, short).map(|at| at.value)
}

fn consistency(text: &str) -> Result<Consistency, Invalid> {
    let words = [
        ("stale", Consistency::Stale),
        ("default", Consistency::Default),
        ("consistent", Consistency::Consistent),
    ];
    choice(text, &words, &[])
}

pub(crate) static CONSUL: Known = Known {
    what: "`discovery.consul`",
    prefix: "discovery.consul.",
    fields: &[
        "address",
        "token",
        "token_file",
        "ca_file",
        "cert_file",
        "key_file",
        "server_name",
        "datacenter",
        "consistency",
        "max_stale",
        "wait",
        "max_watches",
        "flap_damping",
        "doubt",
        "unready_after",
        "auto_routes",
    ],
    later: &["namespace", "partition", "on_loss"],
};
