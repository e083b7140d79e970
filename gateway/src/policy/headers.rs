//! `headers`: fields that a route removes, sets and adds, in requests and in responses. [`headers`](crate::headers) applies the
//! rules.

pub(crate) mod cures;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::of_route::{Asked, Compile, RoutePolicy, replace};
use crate::{
    headers::{
        HeaderRules, MadeField, MadeValue,
        settable::{header_value, settable_header},
    },
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, named_entries, value},
        tree::{Node, Value},
        units::Invalid,
    },
};

/// `headers` as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Written {
    pub(crate) request: Direction,
    pub(crate) response: Direction,
}

/// Rules for one direction. `set` and `add` are merged by the name of the field.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Direction {
    set: Vec<(HeaderName, FieldValue)>,
    add: Vec<(HeaderName, FieldValue)>,
    remove: Option<Vec<HeaderName>>,
}

#[derive(Debug, Clone, PartialEq)]
enum FieldValue {
    Fixed(HeaderValue),
    /// A value that contains a part of the request.
    Made(MadeValue),
}

/// The header rules of one route, for its requests and its responses.
#[derive(Debug)]
pub struct Headers {
    pub request: Arc<HeaderRules>,
    pub response: Arc<HeaderRules>,
}

impl RoutePolicy for Headers {
    type Written = Written;
    type Compiled = Headers;
    const KEYS: &'static [&'static str] = &["headers"];
    const MAPS: &'static [&'static Known] = &[&HEADERS, &HEADER_RULES];
    /// A script sees a response only with CORS fields, which the rules of `defaults` may set.
    const IS_FOR_NO_ROUTE: bool = true;

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        // In a route, a map of plain values contains conditions.
        let may_be_conditions = fields.may_have("match_headers");
        let node = fields.get("headers").filter(|node| !(may_be_conditions && are_conditions(node)));
        let rules = node.and_then(|node| Fields::of(node, &HEADERS, sink));
        let Some(rules) = rules else { return Written::default() };
        let mut read = |name| rules.get(name).map(|node| Direction::read(node, sink)).unwrap_or_default();
        Written { request: read("request"), response: read("response") }
    }

    fn overlay(under: &mut Written, top: &Written) {
        let pairs = [(&mut under.request, &top.request), (&mut under.response, &top.response)];
        for (under, top) in pairs {
            merge(&mut under.set, &top.set);
            merge(&mut under.add, &top.add);
            replace(&mut under.remove, top.remove.as_ref());
        }
    }

    fn ask(written: &Written, asked: &mut Asked) {
        let Direction { set, add, remove } = &written.request;
        asked
            .fields
            .extend(set.iter().chain(add).map(|(name, _)| name).chain(remove.iter().flatten()).cloned());
        let both = [&written.request, &written.response].into_iter();
        for (_, value) in both.flat_map(|rules| rules.set.iter().chain(&rules.add)) {
            if let FieldValue::Made(value) = value {
                asked.claims.extend(value.claims().map(Into::into));
            }
        }
    }

    fn compile(written: &Written, with: &mut Compile<'_, '_>) -> Headers {
        let mut rules = |direction: &Direction| with.shared.share(Arc::new(direction.rules()));
        Headers { request: rules(&written.request), response: rules(&written.response) }
    }
}

impl Direction {
    fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &HEADER_RULES, sink) else { return Self::default() };
        Self {
            set: fields.get("set").map(|node| read_header_map(node, "set", sink)).unwrap_or_default(),
            add: fields.get("add").map(|node| read_header_map(node, "add", sink)).unwrap_or_default(),
            remove: fields
                .values("remove", sink, settable_header)
                .map(|list| list.into_iter().map(|at| at.value).collect()),
        }
    }

    /// The compiled rules of one direction.
    pub(crate) fn rules(&self) -> HeaderRules {
        let mut rules =
            HeaderRules { remove: self.remove.clone().unwrap_or_default(), ..HeaderRules::default() };
        for (written, is_added) in [(&self.set, false), (&self.add, true)] {
            for (name, value) in written {
                let name = name.clone();
                match value {
                    FieldValue::Fixed(value) if is_added => rules.add.push((name, value.clone())),
                    FieldValue::Fixed(value) => rules.set.push((name, value.clone())),
                    FieldValue::Made(value) => {
                        rules.made.push(MadeField { name, value: value.clone(), is_added });
                    }
                }
            }
        }
        rules
    }
}

fn read_header_map(node: &Node, what: &str, sink: &mut Diagnostics) -> Vec<(HeaderName, FieldValue)> {
    let mut headers = Vec::new();
    for entry in named_entries(node, &format!("`{what}`"), sink) {
        let name = match settable_header(&entry.key.value) {
            Ok(name) => Some(name),
            Err(invalid) => {
                sink.push(
                    Diagnostic::error(
                        invalid.code,
                        entry.key.span,
                        format!("`{what}` needs {}", invalid.expected),
                    )
                    .label(invalid.label)
                    .help_if(cures::host(entry)),
                );
                None
            }
        };
        if name.is_some() {
            cures::report_variable(&entry.value, what, sink);
        }
        let header = value(&entry.value, what, sink, field_value);
        headers.extend(name.zip(header.map(|at| at.value)));
    }
    headers
}

fn field_value(text: &str) -> Result<FieldValue, Invalid> {
    let fixed = header_value(text)?;
    match MadeValue::parse(text) {
        Ok(Some(made)) => Ok(FieldValue::Made(made)),
        Ok(None) => Ok(FieldValue::Fixed(fixed)),
        Err(why) => {
            let cure = cures::variable(text).unwrap_or_else(|| "`{{` stands for a brace".to_owned());
            Err(Invalid::new(code::BAD_VALUE, "a header value", why).help(cure))
        }
    }
}

/// Whether a `headers` map contains conditions, which are plain values. Rules (`request`, `response`) are maps.
pub(crate) fn are_conditions(node: &Node) -> bool {
    let Value::Map(entries) = &node.value else { return false };
    !entries.is_empty() && !entries.iter().any(|entry| matches!(entry.value.value, Value::Map(_)))
}

fn merge(under: &mut Vec<(HeaderName, FieldValue)>, top: &[(HeaderName, FieldValue)]) {
    under.retain(|(name, _)| !top.iter().any(|(other, _)| other == name));
    under.extend(top.iter().cloned());
}

static HEADERS: Known =
    Known { what: "`headers`", prefix: "headers.", fields: &["request", "response"], later: &[] };
static HEADER_RULES: Known =
    Known { what: "header rules", prefix: "", fields: &["set", "add", "remove"], later: &[] };
