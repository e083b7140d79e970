//! `routes[]`, `defaults` and `policies.<name>` as written.
//!
//! All three have policies, which are laid over each other later ([`policy::Written`]).

use http::{HeaderName, HeaderValue, Method};

use super::destination::read_service;
use crate::{
    headers::settable::header_value,
    policy::{
        self,
        headers::{are_conditions, cures::report_variable},
        of_route::{joined, length},
    },
    router::{
        HeaderCondition, HostPattern,
        path_cures::{path_or_cure, taken_as_text},
        pattern::{PathPattern, host_pattern, method},
    },
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, is_word, name, named_entries, not_supported, some_text, value},
        hidden::OfRoute,
        tree::{At, Entry, Node, Value},
        units::count,
    },
};

/// One element of `routes`.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Option<At<String>>,
    pub(crate) path: Option<At<PathPattern>>,
    pub(crate) methods: Option<Vec<Method>>,
    pub(crate) host: HostPattern,
    pub(crate) headers: Vec<HeaderCondition>,
    /// Names of listeners. `None`: any listener.
    pub(crate) listeners: Option<Vec<At<String>>>,
    pub(crate) priority: Option<i32>,
    pub(crate) service: Option<At<String>>,
    pub(crate) subset: Option<At<String>>,
    /// Subsets of the service, and their shares.
    pub(crate) split: Option<Vec<(At<String>, u32)>>,
    pub(crate) uses: Vec<At<String>>,
    pub(crate) own: policy::Written,
    pub(crate) hidden: OfRoute,
    /// The place where the route begins.
    pub(crate) span: Span,
}

/// Reads `defaults`, or one of `policies`.
pub(crate) fn read_policies(node: &Node, known: &'static Known, sink: &mut Diagnostics) -> policy::Written {
    Fields::of(node, known, sink).map(|fields| policy::Written::read(&fields, sink)).unwrap_or_default()
}

impl Route {
    /// Reads one element of `routes`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        let fields = Fields::of(node, &ROUTE, sink)?;
        fields.need("path", "path: /users/**", sink);
        let own = policy::Written::read(&fields, sink);
        Some(Self {
            name: fields.value("name", sink, name),
            path: read_path(&fields, sink),
            methods: read_methods(&fields, sink),
            host: read_host(&fields, sink),
            headers: read_conditions(&fields, sink),
            listeners: read_listeners(&fields, sink),
            priority: fields.plain("priority", sink, |text| count(text, -1000..=1000)),
            service: read_service(&fields, sink),
            subset: fields.value("subset", sink, name),
            split: read_split(&fields, sink),
            uses: fields.values("use", sink, some_text).unwrap_or_default(),
            own,
            hidden: OfRoute { path: fields.hidden("path"), host: fields.hidden("host") },
            span: node.span,
        })
    }
}

/// Reads `path`. Patterns of other products are only warned of, since a segment may begin with a colon.
fn read_path(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<At<PathPattern>> {
    if let Some(Node { span, value: Value::List(_) }) = fields.get("path") {
        sink.push(
            Diagnostic::error(code::WRONG_KIND, *span, "`path` must be one value")
                .label("this is a list")
                .help("write one route for each path; what they share can stand in `policies`, or in `defaults`"),
        );
        return None;
    }
    let path = fields.value("path", sink, path_or_cure)?;
    // The value of a variable is never shown.
    let is_written = matches!(&fields.get("path")?.value, Value::Scalar(scalar) if !scalar.from_variable);
    if let Some((text, meant)) = taken_as_text(&path.value.path).filter(|_| is_written) {
        sink.push(
            Diagnostic::warning(
                code::TAKEN_AS_TEXT,
                path.span,
                format!("`{text}` in `path` is a text, not a pattern"),
            )
            .label(format!("only requests with `{text}` in this place match"))
            .help(format!("write `{}`", path.value.with_path(&meant))),
        );
    }
    Some(path)
}

fn read_methods(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<Vec<Method>> {
    let methods =
        fields.values("methods", sink, |text| text.split('|').map(method).collect::<Result<Vec<_>, _>>())?;
    Some(methods.into_iter().flat_map(|at| at.value).collect())
}

fn read_host(fields: &Fields<'_>, sink: &mut Diagnostics) -> HostPattern {
    if let Some(Node { span, value: Value::List(_) }) = fields.get("host") {
        sink.push(
            not_supported(*span, "a list of hosts")
                .label("")
                .help("write one route for each host, or `*.shop.example`"),
        );
        return HostPattern::Any;
    }
    fields.plain("host", sink, host_pattern).unwrap_or_default()
}

fn read_split(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<Vec<(At<String>, u32)>> {
    let Entry { key: At { span, .. }, value: node } = fields.entry("split")?;
    let span = *span;
    let entries = named_entries(node, "`split`", sink);
    if let Some(subset) = fields.entry("subset") {
        sink.push(
            Diagnostic::error(code::CONFLICT, span, "`subset` and `split` exclude each other")
                .label("shares of several subsets")
                .related(subset.key.span, "one of them gets everything"),
        );
    }
    let mut parts = Vec::new();
    for entry in entries {
        if let Some(weight) = value(&entry.value, "split", sink, |text| count(text, 0..=SPLIT_WEIGHT_MAX)) {
            parts.push((entry.key.clone(), weight.value));
        }
    }
    let message = if parts.len() > SPLIT_MAX {
        format!("`split` has more than {SPLIT_MAX} subsets")
    } else if parts.iter().all(|(_, weight)| *weight == 0) {
        "`split` gives nobody a share".to_owned()
    } else {
        return Some(parts);
    };
    // A share that could not be read is reported already.
    if parts.len() == entries.len() {
        sink.push(
            Diagnostic::error(code::OUT_OF_RANGE, span, message)
                .help("write subsets with their shares: `split: {v1: 95, canary: 5}`"),
        );
    }
    None
}

fn read_conditions(fields: &Fields<'_>, sink: &mut Diagnostics) -> Vec<HeaderCondition> {
    let inline = fields.get("headers").filter(|node| are_conditions(node));
    let nodes = fields.get("match_headers").into_iter().chain(inline);
    let mut conditions = Vec::new();
    for node in nodes {
        for entry in named_entries(node, "`match_headers`", sink) {
            let name = entry.key.value.parse::<HeaderName>().ok();
            if name.is_none() {
                let message = format!("`{}` is not a header name", entry.key.value.escape_debug());
                sink.push(Diagnostic::error(code::BAD_VALUE, entry.key.span, message));
            }
            let wanted = read_condition_value(&entry.value, sink);
            conditions.extend(name.zip(wanted).map(|(name, value)| HeaderCondition { name, value }));
        }
    }
    conditions
}

/// Reads `listener`: a name, or a list of names.
pub(crate) fn read_listeners(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<Vec<At<String>>> {
    let names = fields.values("listener", sink, some_text)?;
    if let Some(Node { span, value: Value::List(items) }) = fields.get("listener")
        && items.is_empty()
    {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, *span, "`listener` is an empty list")
                .label("neither all listeners nor one of them")
                .help("name listeners, such as `[internal]`; a route without `listener` is for all of them"),
        );
    }
    Some(names)
}

/// Reads the value of a condition; `"*"` accepts any value of the header.
#[expect(clippy::option_option, reason = "outer: could be read; inner: a value is asked for")]
fn read_condition_value(node: &Node, sink: &mut Diagnostics) -> Option<Option<HeaderValue>> {
    if matches!(&node.value, Value::Scalar(scalar) if scalar.text.starts_with("re:")) {
        sink.push(not_supported(node.span, "a regular expression for a header").label(""));
        return None;
    }
    if is_word(node, "*") {
        return Some(None);
    }
    report_variable(node, "match_headers", sink);
    value(node, "match_headers", sink, header_value).map(|at| Some(at.value))
}

/// Each request of such a route goes through all of its parts.
const SPLIT_MAX: usize = 16;
/// A test cannot measure a finer share than one in a hundred thousand.
const SPLIT_WEIGHT_MAX: u32 = 100_000;

/// The fields of a route that are not policies.
const OWN: &[&str] = &[
    "path",
    "methods",
    "host",
    "listener",
    "match_headers",
    "name",
    "priority",
    "service",
    "subset",
    "split",
    "use",
];
const ROUTE_FIELDS: &[&[&str]] = &[OWN, policy::OF_ROUTE];
const ROUTE_LATER: &[&[&str]] = &[&["query", "respond", "mirror"], policy::LATER];

pub(crate) static ROUTE: Known = Known {
    what: "a route",
    prefix: "",
    fields: &joined::<{ length(ROUTE_FIELDS) }>(ROUTE_FIELDS),
    later: &joined::<{ length(ROUTE_LATER) }>(ROUTE_LATER),
};
pub(crate) static DEFAULTS: Known =
    Known { what: "`defaults`", prefix: "defaults.", fields: policy::OF_ALL, later: policy::LATER };
pub(crate) static POLICY: Known =
    Known { what: "a policy", prefix: "", fields: policy::OF_ALL, later: policy::LATER };
