//! Routes of some listeners: who reaches them, what comes first, and which of them contradict each other.

use super::*;

/// As [`route`], for requests of these listeners only.
fn on_listeners(listeners: &[&str], route: RouteMatch) -> RouteMatch {
    let name = format!("{} on {listeners:?}", route.name);
    RouteMatch { name, listeners: listeners.iter().map(|&name| name.into()).collect(), ..route }
}

#[test]
fn a_route_of_a_listener_takes_no_request_of_another_one() {
    let routes = [
        route("/a"),
        on_listeners(&["internal"], route("/a")),
        on_listeners(&["internal", "partners"], route("/a")),
        on_listeners(&["internal"], route("POST /only")),
        on_listeners(&["internal"], route("/a/**")),
        on_listeners(&["internal"], route("/x/**")),
        route("/x/y"),
    ];
    let compiled = compile(&routes);
    let lookup = |listener, method: &str, path| {
        compiled.lookup(listener, "gw", path, &self::method(method), &HeaderMap::new())
    };
    let allowed = |text: &'static str| Match::MethodNotAllowed(HeaderValue::from_static(text));
    for (listener, method, path, expected) in [
        ("http", "GET", "/a", Match::Route(0)),
        ("internal", "GET", "/a", Match::Route(1)),
        ("partners", "GET", "/a", Match::Route(2)),
        // The methods of other listeners' routes are not shown.
        ("http", "GET", "/only", Match::NotFound),
        ("internal", "GET", "/only", allowed("POST")),
        ("http", "GET", "/a/b", Match::NotFound),
        ("internal", "GET", "/a/b", Match::Route(4)),
        // The path decides before the listener does.
        ("internal", "GET", "/x/y", Match::Route(6)),
        ("intern", "GET", "/x/z", Match::NotFound),
    ] {
        assert_eq!(lookup(listener, method, path), expected, "{listener} {method} {path}");
    }
}

#[test]
fn a_client_does_not_leave_the_route_of_its_listener_by_a_header() {
    let routes = [on_listeners(&["internal"], route("/a")), with_headers(&["x-beta=1", "x-user"], "GET /a")];
    let mut headers = field("x-beta", "1");
    headers.insert("x-user", HeaderValue::from_static("u"));
    let found = |listener| compile(&routes).lookup(listener, "gw", "/a", &Method::GET, &headers);
    assert_eq!((found("internal"), found("http")), (Match::Route(0), Match::Route(1)));
}

#[test]
fn routes_conflict_only_where_one_listener_leads_to_both() {
    use ConflictKind::{Ambiguous, Dead, Duplicate};
    let on = |listeners: &[&str]| on_listeners(listeners, route("/a"));
    for (routes, expected) in [
        (vec![on(&["a"]), on(&["b"])], vec![]),
        (vec![on(&["a"]), route("/a")], vec![]),
        (vec![on(&["a"]), on(&["a"])], vec![(Duplicate, 1, 0)]),
        (vec![on(&["a", "b"]), on(&["b", "c"])], vec![(Ambiguous, 1, 0)]),
        (vec![on(&["a", "b"]), on(&["c", "d"])], vec![]),
        (vec![on(&["a"]), on(&["b"]), on(&["a", "b"])], vec![(Dead, 2, 0)]),
        (vec![on(&["a"]), on(&["b"]), route("/a")], vec![]),
        (vec![on_listeners(&["a"], with_priority(1, "/**")), on(&["a"])], vec![(Dead, 1, 0)]),
        (vec![on_listeners(&["a"], with_priority(1, "/**")), on(&["a", "b"])], vec![]),
        (vec![with_priority(1, "/**"), on(&["a"])], vec![(Dead, 1, 0)]),
    ] {
        let names: Vec<&str> = routes.iter().map(|route| &*route.name).collect();
        assert_eq!(conflicts(&routes), expected, "{names:?}");
    }
}
