//! The router against an oracle that shares no code with it and states the rule in the simplest way: of all
//! routes that match, the one with the greatest key wins.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::*;

/// Greater is preferred.
type Key = (i32, (u8, usize), Vec<u8>, bool, Reverse<usize>, (usize, usize), bool, bool, Reverse<usize>);

/// Listener, host, path, method and headers.
type Request = (&'static str, &'static str, String, Method, HeaderMap);

fn winner(routes: &[RouteMatch], request: &Request) -> Option<usize> {
    let keys = routes.iter().enumerate().filter_map(|(at, route)| Some((key(at, route, request)?, at)));
    keys.max().map(|(_, at)| at)
}

fn key(at: usize, route: &RouteMatch, (listener, host, path, method, headers): &Request) -> Option<Key> {
    // No listener is named: all listeners, of which there are more than any route names.
    let listeners = if route.listeners.is_empty() { 9 } else { route.listeners.len() };
    if listeners < 9 && !route.listeners.iter().any(|name| **name == **listener) {
        return None;
    }
    let host_class = match &route.host {
        HostPattern::Exact(exact) => (exact == host).then_some((2, 0))?,
        HostPattern::Suffix(suffix) => {
            (host.len() > suffix.len() && host.ends_with(suffix.as_str())).then_some((1, suffix.len()))?
        }
        HostPattern::Any => (0, 0),
    };
    let path_class = path_class(route, path)?;
    let explicit = route.methods.is_empty() || route.methods.contains(method);
    let head_by_get = *method == Method::HEAD && route.methods.contains(&Method::GET);
    if !(explicit || head_by_get) {
        return None;
    }
    for condition in &route.headers {
        match (headers.get(&condition.name), &condition.value) {
            (Some(_), None) => {}
            (Some(seen), Some(value)) if seen == value => {}
            _ => return None,
        }
    }
    let values = route.headers.iter().filter(|condition| condition.value.is_some()).count();
    let has_methods = !route.methods.is_empty();
    Some((
        route.priority,
        host_class,
        path_class,
        !takes_any_case(route),
        Reverse(listeners),
        (route.headers.len(), values),
        has_methods,
        explicit,
        Reverse(at),
    ))
}

/// The option has an effect on this pattern only if the pattern has a letter.
fn takes_any_case(route: &RouteMatch) -> bool {
    let mut literals = route.path.split('/').filter(|part| !part.starts_with('{'));
    route.spelling.case_insensitive == Some(true) && literals.any(|part| part.contains(char::is_alphabetic))
}

/// One digit per segment of the pattern, and 5 where it ends together with the path.
fn path_class(route: &RouteMatch, path: &str) -> Option<Vec<u8>> {
    let any_case = route.spelling.case_insensitive == Some(true);
    let (mut class, mut rest) = (Vec::new(), Some(&path[1..]));
    for part in route.path[1..].split('/') {
        if part == "**" {
            class.push(0);
            return Some(class);
        }
        let text = rest?;
        let (segment, after) =
            text.split_once('/').map_or((text, None), |(segment, after)| (segment, Some(after)));
        let is_cased = any_case && part.chars().all(char::is_alphabetic) && !part.is_empty();
        class.push(match part {
            _ if part == segment && !is_cased => 4,
            "*" if !segment.is_empty() => 1,
            _ if part.starts_with('{') && !segment.is_empty() => 2,
            _ if is_cased && part.to_uppercase() == segment.to_uppercase() => 4,
            _ => return None,
        });
        rest = after;
    }
    if rest == Some("") && route.spelling.trailing_slash_same == Some(true) && !path.ends_with("//") {
        // A slash that the option allows comes before a written one, because the pattern has ended before it.
        class.push(5);
        rest = None;
    }
    class.push(5);
    rest.is_none().then_some(class)
}

fn any_route() -> impl Strategy<Value = RouteMatch> {
    let segment = prop_oneof![3 => Just("a"), 1 => Just("A"), 2 => Just("b"), 2 => Just("{x}"), 1 => Just("*"), 1 => Just("")];
    let path = (proptest::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(segments, subtree)| {
        // Only the last segment of a path can be empty.
        let last = segments.len().saturating_sub(1);
        let kept =
            segments.iter().enumerate().filter(|(at, text)| !text.is_empty() || (*at == last && !subtree));
        let mut path: String = kept.flat_map(|(_, text)| ["/", text]).collect();
        if subtree || path.is_empty() {
            path.push_str(if subtree { "/**" } else { "/" });
        }
        path
    });
    let host = prop_oneof![
        3 => Just(HostPattern::Any),
        1 => Just(HostPattern::Exact("x.b.c".to_owned())),
        1 => Just(HostPattern::Suffix(".b.c".to_owned())),
        1 => Just(HostPattern::Suffix(".c".to_owned())),
    ];
    let listeners = prop_oneof![4 => Just(&[][..]), 1 => Just(&["a"][..]), 1 => Just(&["b"][..]), 1 => Just(&["a", "b"][..])];
    let methods = proptest::sample::subsequence(vec!["GET", "HEAD", "POST"], 0..=2);
    let headers = prop_oneof![
        4 => Just(&[][..]), 1 => Just(&["x"][..]), 1 => Just(&["x=1"][..]), 1 => Just(&["y"][..]), 1 => Just(&["x", "y"][..]),
    ];
    let priority = prop_oneof![4 => Just(0), 1 => Just(1)];
    let option = || prop_oneof![3 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let spelling = [option(), option()];
    (path, host, listeners, methods, headers, priority, spelling).prop_map(
        |(path, host, listeners, methods, headers, priority, spelling)| {
            let [case_insensitive, trailing_slash_same] = spelling;
            let spelling = Spelling { case_insensitive, trailing_slash_same };
            RouteMatch {
                name: format!(
                    "{priority} {listeners:?} {host:?} {methods:?} {path} {headers:?} {spelling:?}"
                ),
                host,
                listeners: listeners.iter().map(|&name| name.into()).collect(),
                methods: methods.into_iter().map(method).collect(),
                priority,
                spelling,
                ..with_headers(headers, &path)
            }
        },
    )
}

/// Every request that the routes of [`any_route`] can distinguish: `z`, `1` and DELETE represent all others.
fn all_requests() -> Vec<Request> {
    let mut paths = vec!["/".to_owned()];
    let mut longer = vec![String::new()];
    for _ in 0..4 {
        longer = longer
            .iter()
            .flat_map(|path| ["a", "A", "b", "B", "z"].map(|segment| format!("{path}/{segment}")))
            .collect();
        paths.extend(longer.iter().flat_map(|path| [path.clone(), format!("{path}/")]));
    }
    let mut header_sets = vec![HeaderMap::new(), field("x", "1"), field("x", "2"), field("y", "1")];
    for value in ["1", "2"] {
        let mut both = field("x", value);
        both.insert("y", HeaderValue::from_static("1"));
        header_sets.push(both);
    }
    let mut requests = Vec::new();
    for listener in ["a", "b", "z"] {
        for host in ["x.b.c", "z.b.c", "z.c", "z"] {
            for path in &paths {
                for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE] {
                    let all = header_sets.iter();
                    requests.extend(
                        all.map(|headers| (listener, host, path.clone(), method.clone(), headers.clone())),
                    );
                }
            }
        }
    }
    requests
}

/// The routes without those that conflict.
fn without_conflicts(mut routes: Vec<RouteMatch>) -> Vec<RouteMatch> {
    while let Err(conflicts) = Router::compile(&routes) {
        routes.remove(conflicts[0].route);
    }
    routes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn the_router_agrees_with_the_oracle(
        routes in proptest::collection::vec(any_route(), 1..12),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        thread_local! { static REQUESTS: Vec<Request> = all_requests(); }
        let routes = without_conflicts(routes);
        let compiled = compile(&routes);
        REQUESTS.with(|requests| {
            for pick in picks {
                let request = pick.get(requests);
                let (listener, host, path, method, headers) = request;
                let expected = winner(&routes, request);
                let found = compiled.lookup(listener, host, path, method, headers);
                let agrees = match (&found, expected) {
                    (Match::Route(route), Some(expected)) => *route == expected,
                    (Match::Route(_), None) | (_, Some(_)) => false,
                    (refused, None) => {
                        // The answer is 405 exactly if some method would be accepted, and then `Allow` has
                        // those.
                        let others = [Method::GET, Method::HEAD, Method::POST];
                        let allowed: Vec<&str> = others.iter()
                            .filter(|other| {
                                let request = (*listener, *host, path.clone(), (*other).clone(), headers.clone());
                                winner(&routes, &request).is_some()
                            })
                            .map(Method::as_str).collect();
                        let allow = allowed.join(", ");
                        *refused == if allow.is_empty() { Match::NotFound } else {
                            Match::MethodNotAllowed(allow.parse().expect("a value"))
                        }
                    }
                };
                prop_assert!(agrees, "{listener} {method} {host}{path} {headers:?}: {found:?}, expected {expected:?}");
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn exactly_the_routes_that_no_request_reaches_are_dead(
        routes in proptest::collection::vec(any_route(), 1..8),
    ) {
        let found = Router::compile(&routes).err().unwrap_or_default();
        let reached: std::collections::HashSet<usize> = all_requests().iter()
            .filter_map(|request| winner(&routes, request))
            .collect();
        for (at, route) in routes.iter().enumerate() {
            let kinds: Vec<ConflictKind> =
                found.iter().filter(|conflict| conflict.route == at).map(|conflict| conflict.kind).collect();
            if kinds.contains(&ConflictKind::Dead) {
                prop_assert!(!reached.contains(&at), "{} is reached", route.name);
            } else if kinds.is_empty() {
                prop_assert!(reached.contains(&at), "{} is not reached", route.name);
            }
        }
    }
}
