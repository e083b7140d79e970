//! Routes that contradict each other. All conflicts are found when the configuration is compiled.

use std::ops::ControlFlow;

use http::Method;

use super::{
    Conditions, HeaderCondition, Precedence, RouteMatch, Router, Segment,
    precedence::{forms, in_lower_case},
};

/// A conflict of two routes: one of them cannot take the requests that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConflict {
    pub kind: ConflictKind,
    /// The index of the route at fault: the later one in the file, or the dead one.
    pub route: usize,
    pub other: usize,
    pub message: String,
}

/// The kind of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Both have the same host, path shape, conditions and priority, and a method and a listener in common.
    Duplicate,
    /// Some requests match both, and neither is more specific.
    Ambiguous,
    /// All requests that match it go to routes that come first.
    Dead,
}

/// All conflicts between the routes, in the order of the file.
pub(super) fn find(
    router: &Router,
    matches: &[RouteMatch],
    precedences: &[Precedence],
    written: &[Vec<Segment>],
) -> Vec<RouteConflict> {
    let mut conflicts = ties(router, matches, precedences);
    for route in 0..matches.len() {
        if let Some(other) = covered_by(router, matches, precedences, written, route) {
            conflicts.push(RouteConflict {
                kind: ConflictKind::Dead,
                route,
                other,
                message: format!("everything it matches goes to route `{}` first", matches[other].name),
            });
        }
    }
    conflicts.sort_by_key(|conflict| (conflict.route, conflict.kind, conflict.other));
    conflicts
}

/// Conflicts between routes of equal precedence, which are neighbours in match order.
fn ties(router: &Router, matches: &[RouteMatch], precedences: &[Precedence]) -> Vec<RouteConflict> {
    let mut conflicts = Vec::new();
    for tied in router.match_order.chunk_by(|&a, &b| precedences[a] == precedences[b]) {
        for (at, &other) in tied.iter().enumerate() {
            conflicts.extend(tied[at + 1..].iter().filter_map(|&route| tie(router, matches, route, other)));
        }
    }
    conflicts
}

fn tie(router: &Router, matches: &[RouteMatch], route: usize, other: usize) -> Option<RouteConflict> {
    let (a, b) = (&router.routes[route], &router.routes[other]);
    let methods_meet = a.methods.is_empty() || a.methods.iter().any(|method| b.methods.contains(method));
    // A request comes through one listener, and each of the two routes takes any of its own.
    let listeners_meet =
        a.listeners.is_empty() || a.listeners.iter().any(|listener| b.takes_listener(Some(listener)));
    if !methods_meet || !listeners_meet || exclude_each_other(&a.headers, &b.headers) {
        return None;
    }
    let name = &matches[other].name;
    let (kind, message) = if implies(&a.headers, &b.headers) && a.listeners == b.listeners {
        (ConflictKind::Duplicate, format!("it matches the same requests as route `{name}`"))
    } else {
        let message = format!(
            "some requests match both it and route `{name}`, and neither is more specific: give one a `priority`"
        );
        (ConflictKind::Ambiguous, message)
    };
    Some(RouteConflict { kind, route, other, message })
}

/// The first route, in match order, that leaves no request to `route`. If several routes together leave none, it is the
/// first of these.
fn covered_by(
    router: &Router,
    matches: &[RouteMatch],
    precedences: &[Precedence],
    written: &[Vec<Segment>],
    route: usize,
) -> Option<usize> {
    let methods: Vec<Option<&Method>> = match &*router.routes[route].methods {
        [] => vec![None],
        methods => methods.iter().map(Some).collect(),
    };
    let listeners: Vec<Option<&str>> = match &*router.routes[route].listeners {
        [] => vec![None],
        listeners => listeners.iter().map(|listener| Some(&**listener)).collect(),
    };
    let cover = Cover { router, precedences, written, route };
    // One more than the deepest pattern, for the slash at the end that a route may take as well.
    let depth_max = precedences.iter().map(|precedence| precedence.path.len()).max().unwrap_or(0) + 1;
    let mut first = None;
    for path in forms(&written[route], &matches[route]) {
        for &method in &methods {
            for &listener in &listeners {
                let taker = cover.taker(&path, Part { method, listener }, depth_max)?;
                first = first.or(Some(taker));
            }
        }
    }
    first
}

/// The part of a route's requests with one method, through one listener. `None`: with every method, through every listener.
#[derive(Clone, Copy)]
struct Part<'a> {
    method: Option<&'a Method>,
    listener: Option<&'a str>,
}

struct Cover<'a> {
    router: &'a Router,
    precedences: &'a [Precedence],
    written: &'a [Vec<Segment>],
    route: usize,
}

impl Cover<'_> {
    /// The route that takes all requests of this part of `route` with these paths.
    fn taker(&self, path: &[Segment], part: Part<'_>, depth_max: usize) -> Option<usize> {
        let own = &self.precedences[self.route];
        let headers = &self.router.routes[self.route].headers;
        let mut taker = None;
        let lower = self.router.is_in_lower_case.then(|| in_lower_case(path));
        let in_tree = lower.as_deref().unwrap_or(path);
        for level in &self.router.levels {
            let _: ControlFlow<()> = level.hosts.visit_covering(&own.host, &mut |tree| {
                tree.visit_covering(in_tree, &mut |others| {
                    taker = taker.or_else(|| {
                        others.iter().copied().find(|&other| {
                            let conditions = &self.router.routes[other];
                            self.precedences[other] < *own
                                && in_every_case(&self.written[other], path)
                                && implies(headers, &conditions.headers)
                                && conditions.takes_listener(part.listener)
                                && takes_method(conditions, part.method)
                        })
                    });
                    ControlFlow::Continue(())
                })
            });
        }
        taker.or_else(|| self.takers_of_subtree(path, part, depth_max))
    }

    /// As `taker`, for a path that is a subtree: its root, the root with a slash at its end, and the subtrees of all
    /// segments below. Different routes may take these.
    fn takers_of_subtree(&self, path: &[Segment], part: Part<'_>, depth_max: usize) -> Option<usize> {
        let (Segment::Subtree, prefix) = path.split_last()? else { return None };
        if prefix.len() > depth_max {
            return None;
        }
        let with_slash = [prefix, &[Segment::Literal("".into())]].concat();
        let first = self.taker(&with_slash, part, depth_max)?;
        // Every path has its first slash.
        if !prefix.is_empty() {
            self.taker(prefix, part, depth_max)?;
        }
        let below = [prefix, &[Segment::Named, Segment::Subtree]].concat();
        self.taker(&below, part, depth_max)?;
        Some(first)
    }
}

/// Whether `other`, which matches what `path` matches in some case, does so in every case in which `path` does.
fn in_every_case(other: &[Segment], path: &[Segment]) -> bool {
    other.iter().zip(path).all(|(other, own)| match other {
        Segment::Literal(_) => other == own,
        Segment::AnyCase(_) | Segment::Named | Segment::Star | Segment::Subtree => true,
    })
}

/// Whether the route takes this method (`None`: every method).
fn takes_method(conditions: &Conditions, method: Option<&Method>) -> bool {
    match method {
        Some(method) => conditions.method_fit(method).is_some(),
        None => conditions.methods.is_empty(),
    }
}

/// Whether `others` are met whenever `conditions` are.
fn implies(conditions: &[HeaderCondition], others: &[HeaderCondition]) -> bool {
    others.iter().all(|other| {
        conditions.iter().any(|condition| {
            condition.name == other.name && (other.value.is_none() || condition.value == other.value)
        })
    })
}

/// Whether some field would need two values at once. A request can have both, on two lines, but only on purpose.
fn exclude_each_other(a: &[HeaderCondition], b: &[HeaderCondition]) -> bool {
    a.iter().any(|one| {
        b.iter().any(|two| {
            one.name == two.name && one.value.is_some() && two.value.is_some() && one.value != two.value
        })
    })
}
