//! Which of two routes comes first: the derived `Ord` of [`Precedence`] is the rule, and its fields are the steps.

use std::{cmp::Reverse, ops::ControlFlow, sync::Arc};

use http::Method;

use super::{
    HeaderCondition, HostPattern, Map, RouteMatch,
    reading::{compared, without_parameters},
};
use crate::admission::canonical_path;

/// The rank of a route. The lesser of two is more specific and is tried earlier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    pub priority: Reverse<i32>,
    pub host: HostClass,
    /// In lower case, so that a route that matches in any case is as specific as its path.
    pub path: Vec<Segment>,
    pub case: Case,
    pub conditions: ConditionRank,
}

/// Of two routes with one path, the one whose letter case matters comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    Exact(Vec<Segment>),
    Any,
}

/// The host of a route: an exact name comes before a suffix, and a longer suffix before a shorter one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostClass {
    Exact(Box<str>),
    /// `.shop.example`. A longer suffix is more specific.
    Suffix(Reverse<usize>, Box<str>),
    Any,
}

/// One segment of a pattern. The order of the variants is the order of matching. A pattern that has ended comes before
/// one that goes on, which puts `/a` before `/a/**`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    Literal(Box<str>),
    /// A text in lower case that has a letter and matches in any case.
    AnyCase(Box<str>),
    /// `{name}`
    Named,
    /// `*`
    Star,
    /// `**`, which is always last
    Subtree,
}

/// The rank of a route's conditions: a route for some listeners comes first, and one for fewer of them earlier. Then come
/// more header conditions, then more of them with a value, then any method condition at all.
///
/// The listener stands before the headers, because a client chooses its headers: it must not leave the route of a listener by
/// one more header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConditionRank {
    listeners: usize,
    headers: Reverse<usize>,
    values: Reverse<usize>,
    any_method: bool,
}

impl Precedence {
    /// The rank of a route. `written` is the result of [`segments`] for it.
    pub(super) fn of(route: &RouteMatch, written: &[Segment]) -> Self {
        let takes_any_case = written.iter().any(|segment| matches!(segment, Segment::AnyCase(_)));
        Self {
            priority: Reverse(route.priority),
            host: match &route.host {
                HostPattern::Exact(host) => HostClass::Exact(host.as_str().into()),
                HostPattern::Suffix(suffix) => {
                    HostClass::Suffix(Reverse(suffix.len()), suffix.as_str().into())
                }
                HostPattern::Any => HostClass::Any,
            },
            path: in_lower_case(written),
            case: if takes_any_case { Case::Any } else { Case::Exact(written.to_vec()) },
            conditions: condition_rank(&route.listeners, &route.headers, &route.methods),
        }
    }
}

/// The rank of these conditions.
pub(super) fn condition_rank(
    listeners: &[Arc<str>],
    headers: &[HeaderCondition],
    methods: &[Method],
) -> ConditionRank {
    ConditionRank {
        listeners: if listeners.is_empty() { usize::MAX } else { listeners.len() },
        headers: Reverse(headers.len()),
        values: Reverse(headers.iter().filter(|condition| condition.value.is_some()).count()),
        any_method: methods.is_empty(),
    }
}

/// The paths under which a route is in the tree: its own and, where the route takes it, the same path with a slash at
/// the end.
pub(super) fn forms(path: &[Segment], route: &RouteMatch) -> impl Iterator<Item = Vec<Segment>> {
    let ends_otherwise = match path.last() {
        None | Some(Segment::Subtree) => true,
        Some(Segment::Literal(text)) => text.is_empty(),
        Some(_) => false,
    };
    let slashed = (route.spelling.trailing_slash() && !ends_otherwise)
        .then(|| [path, &[Segment::Literal("".into())]].concat());
    std::iter::once(path.to_vec()).chain(slashed)
}

/// The segments of a route's pattern, with the literals in the form in which they are compared.
pub(super) fn segments(route: &RouteMatch) -> Vec<Segment> {
    let (pattern, any_case) = (route.path.as_str(), route.spelling.any_case());
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let last = pattern.split('/').count() - 1;
    let segment = |(at, text): (usize, &str)| match text {
        "**" if at == last => Segment::Subtree,
        "*" => Segment::Star,
        _ if text.starts_with('{') && text.ends_with('}') => Segment::Named,
        _ => {
            let literal = canonical_literal(text);
            let has_case = any_case && literal.bytes().any(|byte| byte.is_ascii_alphabetic());
            if has_case {
                Segment::AnyCase(literal.to_ascii_lowercase().into())
            } else {
                Segment::Literal(literal)
            }
        }
    };
    pattern.split('/').enumerate().map(segment).collect()
}

/// The path with the texts of all literals in lower case.
pub(super) fn in_lower_case(path: &[Segment]) -> Vec<Segment> {
    let lower = |segment: &Segment| match segment {
        Segment::Literal(text) | Segment::AnyCase(text) => Segment::Literal(text.to_ascii_lowercase().into()),
        Segment::Named | Segment::Star | Segment::Subtree => segment.clone(),
    };
    path.iter().map(lower).collect()
}

/// A literal in the form of request paths, which are canonical and compared as [`compared`] reads them. A literal
/// without a canonical form stays as it is. It matches nothing, and the configuration's check of `path` has refused it
/// already.
fn canonical_literal(text: &str) -> Box<str> {
    let path = format!("/{text}");
    let canonical = canonical_path(&path);
    let literal = canonical.as_deref().map_or(text, |canonical| canonical.trim_start_matches('/'));
    without_parameters(&compared(literal)).into()
}

/// A value for each host pattern.
#[derive(Debug, Default)]
pub(super) struct Hosts<T> {
    exact: Map<Box<str>, T>,
    suffixes: Map<Box<str>, T>,
    any: Option<T>,
}

impl<T: Default> Hosts<T> {
    /// The value for a host pattern, which is made if there is none.
    pub(super) fn entry(&mut self, host: &HostClass) -> &mut T {
        match host {
            HostClass::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostClass::Suffix(_, suffix) => self.suffixes.entry(suffix.clone()).or_default(),
            HostClass::Any => self.any.get_or_insert_default(),
        }
    }
}

impl<T> Hosts<T> {
    /// Calls `visit` with each value whose pattern fits `host`, most specific first, until it breaks.
    pub(super) fn visit_matching<B>(
        &self,
        host: &str,
        visit: &mut impl FnMut(&T) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if let Some(exact) = self.exact.get(host) {
            visit(exact)?;
        }
        self.visit_suffixes(host, 1, visit)
    }

    /// Calls `visit` with each value whose pattern fits every host that `host` fits, including that of `host` itself,
    /// until it breaks.
    pub(super) fn visit_covering<B>(
        &self,
        host: &HostClass,
        visit: &mut impl FnMut(&T) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match host {
            HostClass::Exact(host) => self.visit_matching(host, visit),
            HostClass::Suffix(_, suffix) => self.visit_suffixes(suffix, 0, visit),
            HostClass::Any => self.any.as_ref().map_or(ControlFlow::Continue(()), visit),
        }
    }

    /// Calls `visit` with the values of the suffixes of `host` that begin with a dot at `from` or later, longest first,
    /// and then with that of any host.
    fn visit_suffixes<B>(
        &self,
        host: &str,
        from: usize,
        visit: &mut impl FnMut(&T) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if !self.suffixes.is_empty() {
            for (dot, _) in host.match_indices('.').filter(|&(dot, _)| dot >= from) {
                if let Some(suffix) = self.suffixes.get(&host[dot..]) {
                    visit(suffix)?;
                }
            }
        }
        self.any.as_ref().map_or(ControlFlow::Continue(()), visit)
    }
}
