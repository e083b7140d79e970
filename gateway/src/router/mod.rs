//! Routing: which route takes a request.
//!
//! Among the routes that match a request, the most specific one wins. The order is fixed, and the order in the file cannot
//! change it: higher `priority`; then host (exact, then the longest `*.` suffix, then any); then the path segment by segment
//! (literal, `{name}`, `*`, `**`); then a path whose letter case matters; then a condition on the listener, and of these the one
//! with fewer listeners; then more header conditions, and of equally many those with more values; then a method condition. This
//! order is the derived `Ord` of [`Precedence`].
//!
//! A route that does not match in some respect is passed over for the next one: a more specific host without a fitting path
//! falls back to a less specific host, and a path whose methods do not fit falls back to a less specific path. The answer is
//! 405 only if no route matches and some routes fit in everything except the method; `Allow` then has the methods of all of
//! these.
//!
//! - Path patterns: `/a/b` matches only itself; `*` and `{name}` match one segment that is not empty; a final `/**` matches
//!   everything below, and the prefix itself with or without a trailing slash. `/a/b` does not match `/a/b/`.
//! - A segment is compared with its encodings decoded and up to its `;`, in the request and in the pattern ([`reading`]). To
//!   services `/%40me` is `/@me` and `/admin;x` is `/admin`, so these must not bypass the routes that protect the plain
//!   forms.
//! - `case_insensitive: true` makes the literals of a route match in any case of their ASCII letters, and
//!   `trailing_slash: same` makes the route match its path with a slash at the end as well.
//! - A route for GET also takes HEAD (RFC 9110 §9.3.2), unless a route of the same rank has HEAD among its methods.
//!
//! A lookup walks a tree of segments with backtracking. Each literal is one hash look-up, so the time does not depend on the
//! number of routes. It visits a node at most once, and allocates nothing except for a 405, for a path with a `%`, and where
//! some route matches in any case.

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

/// All routes, compiled. A route is identified by its index in the list that [`Router::compile`] got.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Conditions>,
    /// One per distinct priority, highest first.
    levels: Vec<Level>,
    match_order: Vec<usize>,
    /// Some route matches in any letter case. Then the trees are in lower case, and a route whose case matters compares the
    /// path with its pattern once more.
    is_in_lower_case: bool,
}

/// The result of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The index of the route that takes the request.
    Route(usize),
    /// Some route fits in everything except its methods: 405 with this `Allow`.
    MethodNotAllowed(HeaderValue),
    NotFound,
}

/// What a route requires in addition to its host and path.
#[derive(Debug)]
struct Conditions {
    /// Empty: any method. Interned, because a lookup reads it for every route that it visits.
    methods: Arc<[Method]>,
    headers: Box<[HeaderCondition]>,
    /// Empty: any listener. The names are compared, since ids would have to be the same in each snapshot of a process.
    listeners: Box<[Arc<str>]>,
    /// The pattern of a route whose case matters, where the trees are in lower case.
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
    /// Compiles the routes.
    ///
    /// # Errors
    /// All pairs of routes of which one can never match, or of which neither is more specific.
    pub fn compile(routes: &[RouteMatch]) -> Result<Self, Vec<RouteConflict>> {
        let written: Vec<Vec<Segment>> = routes.iter().map(precedence::segments).collect();
        let all = routes.iter().zip(&written);
        let precedences: Vec<Precedence> = all.map(|(route, path)| Precedence::of(route, path)).collect();
        let is_in_lower_case = precedences.iter().any(|precedence| precedence.case == Case::Any);
        let mut match_order: Vec<usize> = (0..routes.len()).collect();
        match_order.sort_by(|&a, &b| precedences[a].cmp(&precedences[b]));
        let mut levels: Vec<Level> = Vec::new();
        let mut texts = Interner::default();
        // The routes are inserted in match order, so that each node lists its most specific route first.
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
                listeners: Box::from(&*route.listeners),
                written: (is_in_lower_case && !takes_any_case).then(|| Box::from(&**written)),
                takes_any_case,
            }
        };
        let conditions = routes.iter().zip(&written).map(conditions).collect();
        let compiled = Self { routes: conditions, levels, match_order, is_in_lower_case };
        let conflicts = conflicts::find(&compiled, routes, &precedences, &written);
        if conflicts.is_empty() { Ok(compiled) } else { Err(conflicts) }
    }

    /// Finds the route for a request that came through `listener`. `host` is in lower case and without port, and `path` is
    /// canonical, as [`crate::admission::Admitted`] has both.
    pub fn lookup(
        &self,
        listener: &str,
        host: &str,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Match {
        let path = &*reading::compared(path);
        let mut method_refused = false;
        let found = self.visit_matching(host, path, &mut |routes| {
            let fits = routes.iter().filter(|&&route| self.routes[route].hold(listener, path, headers));
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
                Match::MethodNotAllowed(self.allow(listener, host, path, headers))
            }
            ControlFlow::Continue(()) => Match::NotFound,
        }
    }

    /// The indexes of the routes in the order in which they are tried.
    pub fn table(&self) -> &[usize] {
        &self.match_order
    }

    /// Chooses between `implicit`, a route for GET that takes HEAD as well, and `explicit`, a later route of the same node
    /// that has HEAD among its methods, or any method. The later one wins only if both are equal in all other conditions.
    fn prefer(&self, implicit: Option<usize>, explicit: usize) -> ControlFlow<usize> {
        let rank = |route: usize| {
            let Conditions { listeners, headers, methods, takes_any_case, .. } = &self.routes[route];
            (*takes_any_case, precedence::condition_rank(listeners, headers, methods))
        };
        match implicit {
            Some(implicit) if rank(implicit) < rank(explicit) => ControlFlow::Break(implicit),
            _ => ControlFlow::Break(explicit),
        }
    }

    /// Calls `visit` with each list of routes whose host and path match, in match order, until it breaks. `path` is as
    /// [`reading::compared`] returns it.
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
    fn allow(&self, listener: &str, host: &str, path: &str, headers: &HeaderMap) -> HeaderValue {
        let mut methods: Vec<&Method> = Vec::new();
        let _ = self.visit_matching(host, path, &mut |routes| {
            let fits = routes.iter().filter(|&&route| self.routes[route].hold(listener, path, headers));
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
        // Methods are tokens, so the fallback is never taken. RFC 9110 §10.2.1 gives an empty `Allow` the meaning "none".
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

    /// Whether the request came through one of the route's listeners, its path is in the case that the route requires, and all
    /// header conditions are met.
    fn hold(&self, listener: &str, path: &str, headers: &HeaderMap) -> bool {
        self.takes_listener(Some(listener))
            && self.written.as_ref().is_none_or(|written| is_written(path, written))
            && self.headers_hold(headers)
    }

    /// Whether the route takes requests of this listener (`None`: of every listener).
    fn takes_listener(&self, listener: Option<&str>) -> bool {
        self.listeners.is_empty()
            || listener.is_some_and(|listener| self.listeners.iter().any(|name| **name == *listener))
    }

    /// Whether all conditions are met, each by any line of its field.
    fn headers_hold(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|condition| match &condition.value {
            None => headers.contains_key(&condition.name),
            Some(value) => headers.get_all(&condition.name).iter().any(|line| line == value),
        })
    }
}

/// Whether `path`, which matches the pattern in some case, does so in the pattern's own case.
fn is_written(path: &str, pattern: &[Segment]) -> bool {
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    let mut pairs = pattern.iter().zip(segments);
    pairs.all(|(segment, text)| match segment {
        Segment::Literal(literal) => **literal == *reading::without_parameters(text),
        Segment::AnyCase(_) | Segment::Named | Segment::Star | Segment::Subtree => true,
    })
}

/// The keys come from the configuration, so a peer cannot make them collide.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[cfg(test)]
mod tests;
