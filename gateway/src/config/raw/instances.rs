//! The instances of a service: `services.<name>.consul` and `services.<name>.subsets` as written.

use std::collections::BTreeMap;

use super::Named;
use crate::{
    config::settings::{HealthPolicy, Selector},
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, choice, name, named_entries, some_text, value},
        tree::{At, Node, Value},
        units::{Invalid, boolean},
    },
};

/// `services.<name>.consul`.
#[derive(Debug, Default)]
pub(crate) struct Consul {
    pub(crate) name: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) datacenter: Option<String>,
    pub(crate) failover: Vec<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) partition: Option<String>,
    pub(crate) policy: Option<HealthPolicy>,
    pub(crate) address: Option<String>,
    pub(crate) only_passing: bool,
}

impl Consul {
    /// Reads the map `services.<name>.consul`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        let fields = Fields::of(node, &CONSUL, sink)?;
        let only_passing = fields.value("only_passing", sink, boolean);
        let policy = fields.value("policy", sink, policy);
        if let (Some(only), Some(policy)) = (&only_passing, &policy)
            && only.value
            && policy.value == HealthPolicy::Warning
        {
            sink.push(
                Diagnostic::error(
                    code::CONFLICT,
                    policy.span,
                    "`policy: warning` and `only_passing: true` exclude each other",
                )
                .label("of instances with a warning nothing would be known")
                .related(only.span, "Consul leaves them out"),
            );
        }
        Some(Self {
            name: fields.plain("name", sink, name),
            selector: read_selector(&fields, sink),
            datacenter: read_datacenter(&fields, sink),
            failover: read_failover(&fields, sink),
            namespace: fields.plain("namespace", sink, name),
            partition: fields.plain("partition", sink, name),
            policy: policy.map(|at| at.value),
            address: fields.plain("address", sink, name),
            only_passing: only_passing.is_some_and(|at| at.value),
        })
    }
}

/// Reads `subsets`, each of which is a part of the service's instances.
pub(crate) fn read_subsets(node: &Node, sink: &mut Diagnostics) -> Vec<Named<Selector>> {
    let mut subsets = Vec::new();
    for entry in named_entries(node, "`subsets`", sink) {
        let Some(key) = subset_name(&entry.key, sink) else { continue };
        let Some(fields) = Fields::of(&entry.value, &SUBSET, sink) else { continue };
        let selector = read_selector(&fields, sink);
        if is_empty(&entry.value) {
            sink.push(
                Diagnostic::error(code::MISSING_FIELD, key.span, "this subset selects nothing")
                    .label("it would be the whole service")
                    .help("add `tag: v2` or `meta: {version: 2}`"),
            );
        }
        subsets.push(Named { name: key, value: selector });
    }
    subsets
}

/// Whether the subset has no conditions. Conditions that could not be read are reported already.
fn is_empty(subset: &Node) -> bool {
    match &subset.value {
        Value::Null => true,
        Value::Map(entries) => {
            entries.iter().all(|entry| matches!(&entry.value.value, Value::List(tags) if tags.is_empty()))
        }
        _ => false,
    }
}

fn subset_name(key: &At<String>, sink: &mut Diagnostics) -> Option<At<String>> {
    match name(&key.value) {
        Ok(_) => Some(key.clone()),
        Err(invalid) => {
            let message = format!("a subset's name must be {}", invalid.expected);
            sink.push(Diagnostic::error(code::BAD_VALUE, key.span, message).label(invalid.label));
            None
        }
    }
}

fn read_selector(fields: &Fields<'_>, sink: &mut Diagnostics) -> Selector {
    let tags = fields.values("tag", sink, some_text).unwrap_or_default();
    let mut meta = BTreeMap::new();
    if let Some(node) = fields.get("meta") {
        let what = fields.full_name("meta");
        for entry in named_entries(node, &format!("`{what}`"), sink) {
            check_meta_key(&entry.key, sink);
            if let Some(wanted) = value(&entry.value, &what, sink, some_text) {
                meta.insert(entry.key.value.clone(), wanted.value);
            }
        }
    }
    Selector { tags: tags.into_iter().map(|at| at.value).collect(), meta }
}

/// Reports keys that Consul refuses, since no instance can have them.
fn check_meta_key(key: &At<String>, sink: &mut Diagnostics) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if key.value.is_empty() || key.value.len() > META_KEY_MAX || !key.value.chars().all(allowed) {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, key.span, "no instance can have this meta key")
                .label("Consul takes letters, digits, `-` and `_`, at most 128 of them"),
        );
    }
}

fn read_datacenter(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<String> {
    if let Some(Node { span, value: Value::List(_) }) = fields.get("datacenter") {
        sink.push(
            Diagnostic::error(code::WRONG_KIND, *span, "`consul.datacenter` is one datacenter")
                .label("this is a list")
                .help("write the preferred one here, and the others in order into `failover: [dc2, dc3]`"),
        );
        return None;
    }
    fields.plain("datacenter", sink, name)
}

fn read_failover(fields: &Fields<'_>, sink: &mut Diagnostics) -> Vec<String> {
    let listed = fields.values("failover", sink, name).unwrap_or_default();
    let first = fields.value("datacenter", &mut Diagnostics::default(), name);
    let mut seen: Vec<&At<String>> = first.iter().collect();
    for datacenter in &listed {
        if let Some(other) = seen.iter().find(|other| other.value == datacenter.value) {
            sink.push(twice(datacenter.span, other.span));
        }
        seen.push(datacenter);
    }
    if let Some(at) = listed.get(FAILOVER_MAX) {
        let message = format!("`failover` has more than {FAILOVER_MAX} datacenters");
        sink.push(
            Diagnostic::error(code::OUT_OF_RANGE, at.span, message)
                .label("each of them is watched all the time"),
        );
    }
    listed.into_iter().map(|at| at.value).collect()
}

fn twice(span: Span, first: Span) -> Diagnostic {
    Diagnostic::error(code::CONFLICT, span, "this datacenter stands here twice")
        .label("it was tried before")
        .related(first, "first here")
}

fn policy(text: &str) -> Result<HealthPolicy, Invalid> {
    choice(text, &[("passing", HealthPolicy::Passing), ("warning", HealthPolicy::Warning)], &[])
}

/// Consul's own limit.
const META_KEY_MAX: usize = 128;
/// Each datacenter is one more watch of the service.
const FAILOVER_MAX: usize = 8;

pub(crate) static CONSUL: Known = Known {
    what: "`consul`",
    prefix: "consul.",
    fields: &[
        "name",
        "tag",
        "meta",
        "datacenter",
        "failover",
        "namespace",
        "partition",
        "policy",
        "address",
        "only_passing",
    ],
    later: &[],
};
pub(crate) static SUBSET: Known =
    Known { what: "a subset", prefix: "subsets.", fields: &["tag", "meta"], later: &[] };
