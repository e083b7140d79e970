//! Routing: which route a request takes.
//!
//! Among the routes that match a request, the most specific one wins, by one fixed order that the file's order
//! cannot change: higher `priority`; then host (exact, then the longest `*.` suffix, then any); then the path
//! segment by segment (literal, `{name}`, `*`, `**`); then a path that has to be in its letter case; then more header conditions, of these more with a value; then
//! a method condition. That order is the derived `Ord` of [`Precedence`].
//!
//! A route that does not match in any respect is passed over for the next: a more specific host without a fitting
//! path falls back to a less specific host, a path whose methods do not fit to a less specific path. Only if some
//! route fits in all but the method is the answer 405, with the methods of all such routes.
//!
//! - Path patterns: `/a/b` only itself; `*` and `{name}` one segment that is not empty; a final `/**` everything
//!   below, and the prefix itself with or without a trailing slash. `/a/b` does not match `/a/b/`.
//! - A segment is compared with its encodings decoded and up to its `;`, in the request and in the pattern ([`reading`]):
//!   `/%40me` is `/@me` and `/admin;x` is `/admin` to services, so they must not slip past the routes that protect those.
//! - `case_insensitive: true` makes the literals of a route match in any case of their ASCII letters, `trailing_slash: same`
//!   makes it take its path with a slash at the end as well.
//! - A route for GET also takes HEAD (RFC 9110 §9.3.2), unless a route of the same rank names HEAD itself.
//!
//! Lookup walks a tree of segments with backtracking; literals are one hash look-up each, so the number of routes
//! does not count. It visits a node at most once and allocates nothing, except for the 405, for a path with a `%`, and
//! where some route takes any case.

mod conflicts;
pub(crate) mod path_cures;
pub(crate) mod pattern;
mod precedence;
pub mod reading;
mod route_match;
mod tree;

use std::{cmp::Reverse, collections::HashMap, ops::ControlFlow, sync::Arc};

use http::{HeaderMap, HeaderValue, Method};

pub use self::{
    conflicts::{ConflictKind, RouteConflict},
    precedence::{Case, HostClass, Precedence, Segment},
    route_match::{HeaderCondition, HostPattern, RouteMatch},
};
use self::{precedence::Hosts, tree::Tree};
use crate::interner::Interner;

/// All routes, compiled. Routes are named by their index in the list that [`Router::compile`] got.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Conditions>,
    /// One per distinct priority, highest first.
    levels: Vec<Level>,
    match_order: Vec<usize>,
    /// Some route takes any letter case: then the trees are in lower case, and routes that ask for their case look at the
    /// path once more.
    is_in_lower_case: bool,
}

/// What a lookup finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    Route(usize),
    /// Some route fits in everything except its methods: 405 with this `Allow`.
    MethodNotAllowed(HeaderValue),
    NotFound,
}

/// What a route requires beyond host and path.
#[derive(Debug)]
struct Conditions {
    /// Empty = any. Interned: a lookup reads it for every route that it visits.
    methods: Arc<[Method]>,
    headers: Box<[HeaderCondition]>,
    /// The pattern of a route that requires its case, where the trees are in lower case.
    written: Option<Box<[Segment]>>,
    takes_any_case: bool,
}

/// The routes of one priority.
#[derive(Debug)]
struct Level {
    priority: i32,
    hosts: Hosts<Tree>,
}

impl Router {
    /// Compiles the routes, or returns every pair of which one can never match or neither is more specific.
    pub fn compile(routes: &[RouteMatch]) -> Result<Self, Vec<RouteConflict>> {
        let written: Vec<Vec<Segment>> = routes.iter().map(precedence::segments).collect();
        let all = routes.iter().zip(&written);
        let precedences: Vec<Precedence> = all.map(|(route, path)| Precedence::of(route, path)).collect();
        let is_in_lower_case = precedences.iter().any(|precedence| precedence.case == Case::Any);
        let mut match_order: Vec<usize> = (0..routes.len()).collect();
        match_order.sort_by(|&a, &b| precedences[a].cmp(&precedences[b]));
        let mut levels: Vec<Level> = Vec::new();
        let mut texts = Interner::default();
        // In match order, so that each node lists its routes most specific first.
        for &route in &match_order {
            let precedence = &precedences[route];
            let Reverse(priority) = precedence.priority;
            if levels.last().is_none_or(|level| level.priority != priority) {
                levels.push(Level { priority, hosts: Hosts::default() });
            }
            if let Some(level) = levels.last_mut() {
                let tree = level.hosts.entry(&precedence.host);
                let path = if is_in_lower_case { &precedence.path } else { &written[route] };
                for path in precedence::forms(path, &routes[route]) {
                    tree.insert(&path, route, &mut texts);
                }
            }
        }
        let mut method_lists = Interner::default();
        let conditions = |(route, written): (&RouteMatch, &Vec<Segment>)| {
            let takes_any_case = written.iter().any(|segment| matches!(segment, Segment::AnyCase(_)));
            Conditions {
                methods: method_lists.share(Arc::from(&*route.methods)),
                headers: Box::from(&*route.headers),
                written: (is_in_lower_case && !takes_any_case).then(|| Box::from(&**written)),
                takes_any_case,
            }
        };
        let conditions = routes.iter().zip(&written).map(conditions).collect();
        let compiled = Self { routes: conditions, levels, match_order, is_in_lower_case };
        let conflicts = conflicts::find(&compiled, routes, &precedences, &written);
        if conflicts.is_empty() { Ok(compiled) } else { Err(conflicts) }
    }

    /// `host` in lower case without port, `path` canonical: [`crate::admission::Admitted`] has both.
    pub fn lookup(&self, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> Match {
        let path = &*reading::compared(path);
        let mut method_refused = false;
        let found = self.visit_matching(host, path, &mut |routes| {
            let fits = routes.iter().filter(|&&route| self.routes[route].hold(path, headers));
            let mut implicit = None;
            for &route in fits {
                match self.routes[route].method_fit(method) {
                    Some(MethodFit::Explicit) => return self.prefer(implicit, route),
                    Some(MethodFit::HeadByGet) => implicit = implicit.or(Some(route)),
                    None => method_refused = true,
                }
            }
            implicit.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        });
        match found {
            ControlFlow::Break(route) => Match::Route(route),
            ControlFlow::Continue(()) if method_refused => {
                Match::MethodNotAllowed(self.allow(host, path, headers))
            }
            ControlFlow::Continue(()) => Match::NotFound,
        }
    }

    /// The routes in the order in which they are tried.
    pub fn table(&self) -> &[usize] {
        &self.match_order
    }

    /// Of a route that takes HEAD for its GET and a later one of the same node that names HEAD (or no method), the
    /// later one wins only if both ask the same beyond that.
    fn prefer(&self, implicit: Option<usize>, explicit: usize) -> ControlFlow<usize> {
        let rank = |route: usize| {
            let Conditions { headers, methods, takes_any_case, .. } = &self.routes[route];
            (*takes_any_case, precedence::condition_rank(headers, methods))
        };
        match implicit {
            Some(implicit) if rank(implicit) < rank(explicit) => ControlFlow::Break(implicit),
            _ => ControlFlow::Break(explicit),
        }
    }

    /// Shows `visit` each list of routes whose host and path (as it is [`reading::compared`]) match, in match order, until it breaks.
    fn visit_matching(
        &self,
        host: &str,
        path: &str,
        visit: &mut impl FnMut(&[usize]) -> ControlFlow<usize>,
    ) -> ControlFlow<usize> {
        let lower = self.is_in_lower_case.then(|| path.to_ascii_lowercase());
        let path = lower.as_deref().unwrap_or(path);
        for level in &self.levels {
            level.hosts.visit_matching(host, &mut |tree| tree.visit_matching(path, visit))?;
        }
        ControlFlow::Continue(())
    }

    /// The methods of every route that fits in everything except the method.
    fn allow(&self, host: &str, path: &str, headers: &HeaderMap) -> HeaderValue {
        let mut methods: Vec<&Method> = Vec::new();
        let _ = self.visit_matching(host, path, &mut |routes| {
            let fits = routes.iter().filter(|&&route| self.routes[route].hold(path, headers));
            for method in fits.flat_map(|&route| &*self.routes[route].methods) {
                methods.push(method);
                if *method == Method::GET {
                    methods.push(&Method::HEAD);
                }
            }
            ControlFlow::Continue(())
        });
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        let names: Vec<&str> = methods.into_iter().map(Method::as_str).collect();
        // Methods are tokens, so the fallback is never taken; RFC 9110 §10.2.1 gives it the meaning "none".
        HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static(""))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MethodFit {
    Explicit,
    /// HEAD, by a route for GET.
    HeadByGet,
}

impl Conditions {
    fn method_fit(&self, method: &Method) -> Option<MethodFit> {
        if self.methods.is_empty() || self.methods.contains(method) {
            Some(MethodFit::Explicit)
        } else if *method == Method::HEAD && self.methods.contains(&Method::GET) {
            Some(MethodFit::HeadByGet)
        } else {
            None
        }
    }

    /// The path is in the case that the route requires, and all header conditions hold.
    fn hold(&self, path: &str, headers: &HeaderMap) -> bool {
        self.written.as_ref().is_none_or(|written| is_written(path, written)) && self.headers_hold(headers)
    }

    /// All conditions hold, each on any line of its field.
    fn headers_hold(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|condition| match &condition.value {
            None => headers.contains_key(&condition.name),
            Some(value) => headers.get_all(&condition.name).iter().any(|line| line == value),
        })
    }
}

/// Whether `path`, which matches the pattern in some case, does so in the pattern's own.
fn is_written(path: &str, pattern: &[Segment]) -> bool {
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    let mut pairs = pattern.iter().zip(segments);
    pairs.all(|(segment, text)| match segment {
        Segment::Literal(literal) => **literal == *reading::without_parameters(text),
        Segment::AnyCase(_) | Segment::Named | Segment::Star | Segment::Subtree => true,
    })
}

/// Configuration fixes the keys, so a peer cannot make them collide.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[cfg(test)]
mod tests;
