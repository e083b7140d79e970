//! `discovery.consul.auto_routes` as written: which tags declare routes, and which routes services may
//! declare.

use super::route::{Route, read_listeners};
use crate::{
    declaration::{
        allow::AllowRule,
        tags::{FABIO_PREFIX, NATIVE_PREFIX, TagForms},
    },
    policy,
    router::{
        HostPattern,
        pattern::{host_pattern, path_pattern},
    },
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, choice, is_word, items, some_text},
        hidden::OfRoute,
        tree::{At, Node, Value},
        units::Invalid,
    },
};

/// `discovery.consul.auto_routes`.
#[derive(Debug)]
pub(crate) struct AutoRoutes {
    pub(crate) forms: TagForms,
    pub(crate) allow: Vec<AllowRule>,
    pub(crate) trusts_fully: bool,
    /// `auth`, `use` and `listener` of every declared route; all other fields are empty.
    pub(crate) rules: Route,
}

impl AutoRoutes {
    /// Reads the map. `key` is the place of `auto_routes`. `None`: it is off, or cannot be read.
    pub(crate) fn read(key: Span, node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        if is_word(node, "off") {
            return None;
        }
        if let Value::Scalar(_) = node.value {
            sink.push(nothing_allowed(key));
            return None;
        }
        let fields = Fields::of(node, &AUTO_ROUTES, sink)?;
        let mut allow: Vec<AllowRule> = fields
            .get("allow")
            .map(|node| items(node, "`discovery.consul.auto_routes.allow`", sink))
            .unwrap_or_default()
            .iter()
            .filter_map(|item| read_rule(item, sink))
            .collect();
        let hosts = fields.values("allow_hosts", sink, host_pattern);
        let paths = fields.values("allow_paths", sink, allowed_path);
        match (hosts, paths) {
            (None, None) if fields.get("allow").is_none() => sink.push(nothing_allowed(key)),
            (None, None) => {}
            (Some(hosts), Some(paths)) => allow.push(AllowRule {
                services: vec!["*".to_owned()],
                hosts: hosts.into_iter().map(|at| at.value).collect(),
                paths: paths.into_iter().map(|at| at.value).collect(),
            }),
            (hosts, _) => {
                let (has, needs, example) = match hosts {
                    Some(_) => ("allow_hosts", "allow_paths", "allow_paths: [/shop/**]"),
                    None => ("allow_paths", "allow_hosts", "allow_hosts: [\"*.shop.example\"]"),
                };
                let message = format!("`{has}` needs `{needs}`: without it nothing is allowed");
                sink.push(
                    Diagnostic::error(code::MISSING_FIELD, key, message).help(format!("add `{example}`")),
                );
            }
        }
        let own = policy::Written::read(&fields, sink);
        let uses = fields.values("use", sink, some_text).unwrap_or_default();
        let listeners = read_listeners(&fields, sink);
        let trusts_fully =
            fields.plain("trust", sink, |text| choice(text, &[("limited", false), ("full", true)], &[]));
        Some(Self {
            forms: read_forms(&fields, sink),
            allow,
            trusts_fully: trusts_fully.unwrap_or_default(),
            rules: Route { listeners, ..rules(own, uses, key) },
        })
    }
}

fn read_forms(fields: &Fields<'_>, sink: &mut Diagnostics) -> TagForms {
    let sources = fields.values("sources", sink, |text| {
        choice(text, &[("native", Source::Native), ("fabio", Source::Fabio)], &["traefik"])
    });
    let has = |source| match &sources {
        Some(sources) => sources.iter().any(|at| at.value == source),
        None => source == Source::Native,
    };
    let prefix = fields.plain("tag_prefix", sink, tag_prefix).unwrap_or_else(|| NATIVE_PREFIX.to_owned());
    let fabio = fields.plain("fabio_prefix", sink, tag_prefix).unwrap_or_else(|| FABIO_PREFIX.to_owned());
    TagForms { native: has(Source::Native).then_some(prefix), fabio: has(Source::Fabio).then_some(fabio) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Native,
    Fabio,
}

/// Reads one element of `allow`.
fn read_rule(node: &Node, sink: &mut Diagnostics) -> Option<AllowRule> {
    let fields = Fields::of(node, &ALLOW, sink)?;
    fields.need("services", "services: \"shop-*\"", sink);
    fields.need("hosts", "hosts: [\"*.shop.example\"]", sink);
    fields.need("paths", "paths: [/shop/**]", sink);
    Some(AllowRule {
        services: fields.values("services", sink, some_text)?.into_iter().map(|at| at.value).collect(),
        hosts: fields
            .values("hosts", sink, host_pattern)?
            .into_iter()
            .map(|at| at.value)
            .collect::<Vec<HostPattern>>(),
        paths: fields.values("paths", sink, allowed_path)?.into_iter().map(|at| at.value).collect(),
    })
}

fn allowed_path(text: &str) -> Result<String, Invalid> {
    let pattern = path_pattern(text)?;
    if pattern.methods.is_empty() {
        return Ok(pattern.path);
    }
    Err(Invalid::new(code::BAD_PATH, "a path such as `/shop/**`", "methods do not stand here")
        .help(format!("write `{}`", pattern.path)))
}

fn tag_prefix(text: &str) -> Result<String, Invalid> {
    let refuse =
        |label| Err(Invalid::new(code::BAD_VALUE, "the beginning of a tag, such as `millgate`", label));
    if text.is_empty() {
        return refuse("empty: every tag would declare a route");
    }
    if text.contains(char::is_whitespace) {
        return refuse("a prefix has no spaces");
    }
    Ok(text.to_owned())
}

fn nothing_allowed(key: Span) -> Diagnostic {
    Diagnostic::error(code::MISSING_FIELD, key, "`auto_routes` does not say what services may declare")
        .label("without `allow_hosts` and `allow_paths` nothing is allowed")
        .help("write `auto_routes: {allow_hosts: [\"*.shop.example\"], allow_paths: [/shop/**]}`; `\"*\"` and `/**` allow everything")
}

fn rules(own: policy::Written, uses: Vec<At<String>>, span: Span) -> Route {
    Route {
        name: None,
        path: None,
        methods: None,
        host: HostPattern::Any,
        headers: Vec::new(),
        listeners: None,
        priority: None,
        service: None,
        subset: None,
        split: None,
        uses,
        own,
        hidden: OfRoute::default(),
        span,
    }
}

pub(crate) static AUTO_ROUTES: Known = Known {
    what: "`discovery.consul.auto_routes`",
    prefix: "discovery.consul.auto_routes.",
    fields: &[
        "sources",
        "tag_prefix",
        "fabio_prefix",
        "allow_hosts",
        "allow_paths",
        "allow",
        "trust",
        "auth",
        "use",
        "listener",
    ],
    later: &[],
};
pub(crate) static ALLOW: Known = Known {
    what: "a rule of `auto_routes.allow`",
    prefix: "allow.",
    fields: &["services", "hosts", "paths"],
    later: &[],
};
