//! Routing by examples. [`oracle`] and [`spelling`] have the property tests.

mod listeners;
mod oracle;
mod spelling;

use http::HeaderName;

use super::{HostPattern, reading::Spelling, *};

/// A route for `METHOD|METHOD /path`, as in the configuration.
fn route(spec: &str) -> RouteMatch {
    let (methods, path) = match spec.split_once(' ') {
        Some((methods, path)) => (methods.split('|').map(method).collect(), path),
        None => (vec![], spec),
    };
    RouteMatch { name: spec.to_owned(), methods, path: path.to_owned(), ..RouteMatch::default() }
}

/// As [`route`], with other spellings of its path that it takes.
fn lenient(case_insensitive: bool, trailing_slash: bool, spec: &str) -> RouteMatch {
    let spelling =
        Spelling { case_insensitive: Some(case_insensitive), trailing_slash_same: Some(trailing_slash) };
    RouteMatch { name: format!("{spec} {spelling:?}"), spelling, ..route(spec) }
}

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).expect("a method")
}

fn on_host(host: &str, spec: &str) -> RouteMatch {
    let host = match host.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
        None => HostPattern::Exact(host.to_owned()),
    };
    RouteMatch { name: format!("{host:?} {spec}"), host, ..route(spec) }
}

fn with_priority(priority: i32, spec: &str) -> RouteMatch {
    RouteMatch { priority, ..route(spec) }
}

/// As [`route`], with a condition for each `name` or `name=value`.
fn with_headers(conditions: &[&str], spec: &str) -> RouteMatch {
    let condition = |text: &&str| {
        let (name, value) = text.split_once('=').map_or((*text, None), |(name, value)| (name, Some(value)));
        HeaderCondition {
            name: HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            value: value.map(|value| HeaderValue::from_str(value).expect("a value")),
        }
    };
    RouteMatch { headers: conditions.iter().map(condition).collect(), ..route(spec) }
}

fn compile(routes: &[RouteMatch]) -> Router {
    Router::compile(routes).expect("routes without conflict")
}

fn conflicts(routes: &[RouteMatch]) -> Vec<(ConflictKind, usize, usize)> {
    let found = Router::compile(routes).err().unwrap_or_default();
    found.into_iter().map(|conflict| (conflict.kind, conflict.route, conflict.other)).collect()
}

fn field(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
    headers
}

/// The route that `METHOD host/path` takes: its index, 405 as `Err(allow)`, 404 as `Err("")`.
fn check(routes: &[RouteMatch], rows: &[(&str, Result<usize, &str>)]) {
    let compiled = compile(routes);
    for (request, expected) in rows {
        let (name, target) = request.split_once(' ').expect("a method");
        let (host, path) = target.split_at(target.find('/').expect("a path"));
        let found = match compiled.lookup("http", host, path, &method(name), &HeaderMap::new()) {
            Match::Route(route) => Ok(route),
            Match::MethodNotAllowed(allow) => Err(allow.to_str().expect("ASCII").to_owned()),
            Match::NotFound => Err(String::new()),
        };
        assert_eq!(found, expected.map_err(str::to_owned), "{request}");
    }
}

#[test]
fn each_kind_of_pattern_matches_what_it_says() {
    let routes = ["/", "/exact/b", "/star/*", "/named/{id}", "/tree/**", "/slash/b/"].map(route);
    check(
        &routes,
        &[
            ("GET gw/", Ok(0)),
            ("GET gw/exact/b", Ok(1)),
            ("GET gw/exact/b/", Err("")),
            ("GET gw/exact", Err("")),
            ("GET gw/exact/b/c", Err("")),
            ("GET gw/star/x", Ok(2)),
            ("GET gw/star/", Err("")),
            ("GET gw/star", Err("")),
            ("GET gw/star/x/y", Err("")),
            ("GET gw/named/x", Ok(3)),
            ("GET gw/named/", Err("")),
            ("GET gw/tree", Ok(4)),
            ("GET gw/tree/", Ok(4)),
            ("GET gw/tree/a/b/c/", Ok(4)),
            ("GET gw/treex", Err("")),
            ("GET gw/slash/b/", Ok(5)),
            ("GET gw/slash/b", Err("")),
            ("GET gw/EXACT/b", Err("")),
        ],
    );
    check(&[route("/**")], &[("GET gw/", Ok(0)), ("GET gw/a/b", Ok(0))]);
}

#[test]
fn a_specific_pattern_that_does_not_fit_to_the_end_gives_way() {
    let routes =
        ["/users/**", "/users/{id}/orders", "/users/me/profile", "/*/me/orders", "/users/*/orders/{n}"]
            .map(route);
    check(
        &routes,
        &[
            ("GET gw/users/1/other", Ok(0)),
            ("GET gw/users/1/orders", Ok(1)),
            ("GET gw/users/me/profile", Ok(2)),
            ("GET gw/users/me/orders", Ok(1)),
            ("GET gw/users/me/nothing", Ok(0)),
            ("GET gw/shops/me/orders", Ok(3)),
            ("GET gw/users/1/orders/2", Ok(4)),
            ("GET gw/shops/me/other", Err("")),
        ],
    );
}

#[test]
fn a_more_specific_host_without_a_fitting_path_gives_way() {
    let routes = [
        route("/**"),
        on_host("*.shop.example", "/a/**"),
        on_host("*.eu.shop.example", "/a/b"),
        on_host("www.eu.shop.example", "/a/c"),
    ];
    check(
        &routes,
        &[
            ("GET www.eu.shop.example/a/c", Ok(3)),
            ("GET www.eu.shop.example/a/b", Ok(2)),
            ("GET www.eu.shop.example/a/x", Ok(1)),
            ("GET www.eu.shop.example/x", Ok(0)),
            ("GET a.b.c.shop.example/a", Ok(1)),
            ("GET shop.example/a", Ok(0)),
            ("GET myshop.example/a", Ok(0)),
            ("GET [::1]/a", Ok(0)),
        ],
    );
}

#[test]
fn methods_that_do_not_fit_give_way_and_405_names_the_methods_of_all_that_fit() {
    let routes = ["GET /products/**", "POST /products/{id}", "PUT|DELETE /products/{id}"].map(route);
    check(
        &routes,
        &[
            ("GET gw/products/1", Ok(0)),
            ("HEAD gw/products/1", Ok(0)),
            ("POST gw/products/1", Ok(1)),
            ("DELETE gw/products/1", Ok(2)),
            ("PATCH gw/products/1", Err("DELETE, GET, HEAD, POST, PUT")),
            ("PATCH gw/products", Err("GET, HEAD")),
            ("PATCH gw/other", Err("")),
        ],
    );
    let open = [route("GET /products/**"), route("/products/**")];
    check(&open, &[("GET gw/products/1", Ok(0)), ("PATCH gw/products/1", Ok(1))]);
}

#[test]
fn head_goes_to_the_route_that_names_it_and_else_to_get() {
    let routes = ["GET /a", "HEAD|PUT /a", "GET /b", "HEAD /b/**"].map(route);
    check(
        &routes,
        &[("HEAD gw/a", Ok(1)), ("GET gw/a", Ok(0)), ("HEAD gw/b", Ok(2)), ("HEAD gw/b/c", Ok(3))],
    );
    check(&[route("HEAD /a")], &[("GET gw/a", Err("HEAD"))]);
    check(&[route("GET /a"), route("/a")], &[("HEAD gw/a", Ok(0))]);
}

#[test]
fn priority_comes_before_everything() {
    let routes = [with_priority(1, "GET /**"), on_host("gw", "/a/b"), with_priority(-1, "/c")];
    check(
        &routes,
        &[("GET gw/a/b", Ok(0)), ("POST gw/a/b", Ok(1)), ("POST gw/c", Ok(2)), ("GET gw/c", Ok(0))],
    );
}

#[test]
fn header_conditions_select_among_routes_of_one_path() {
    let routes = [
        route("/a"),
        with_headers(&["x-canary"], "/a"),
        with_headers(&["x-canary=yes"], "/a"),
        with_headers(&["x-canary=yes", "x-user"], "GET /a"),
    ];
    let compiled = compile(&routes);
    let lookup = |headers: &HeaderMap| compiled.lookup("http", "gw", "/a", &Method::GET, headers);
    assert_eq!(lookup(&HeaderMap::new()), Match::Route(0));
    assert_eq!(lookup(&field("x-canary", "no")), Match::Route(1));
    assert_eq!(lookup(&field("x-canary", "yes")), Match::Route(2));
    let mut both = field("x-canary", "yes");
    both.append("x-canary", HeaderValue::from_static("no"));
    both.insert("x-user", HeaderValue::from_static("u"));
    assert_eq!(lookup(&both), Match::Route(3));
    let conditional = compile(&[with_headers(&["x-canary"], "GET /a")]);
    assert_eq!(conditional.lookup("http", "gw", "/a", &Method::POST, &HeaderMap::new()), Match::NotFound);
}

#[test]
fn parameters_and_encodings_do_not_slip_past_a_route() {
    let routes = ["/admin/**", "/**", "/caf%c3%a9", "/%61bc;v=1"].map(route);
    check(
        &routes,
        &[
            ("GET gw/admin;x/a", Ok(0)),
            ("GET gw/admin;", Ok(0)),
            ("GET gw/caf%C3%A9", Ok(2)),
            ("GET gw/abc", Ok(3)),
            ("GET gw/abc;v=2", Ok(3)),
        ],
    );
}

#[test]
fn a_lenient_route_takes_its_path_in_any_case_and_with_a_slash() {
    use ConflictKind::{Dead, Duplicate};
    let routes = [
        lenient(true, true, "/admin/{id}/Edit"),
        route("/**"),
        lenient(true, false, "/Shop/**"),
        lenient(false, true, "/exact"),
        route("/Exact"),
        route("/shop/open"),
        lenient(true, true, "/"),
    ];
    check(
        &routes,
        &[
            ("GET gw/ADMIN/x/eDIT", Ok(0)),
            ("GET gw/%41dmin/X/edit/", Ok(0)),
            ("GET gw/admin/x/edit/x", Ok(1)),
            ("GET gw/SHOP", Ok(2)),
            ("GET gw/shop/OPEN", Ok(2)),
            ("GET gw/shop/open", Ok(5)),
            ("GET gw/exact/", Ok(3)),
            ("GET gw/EXACT", Ok(1)),
            ("GET gw/Exact", Ok(4)),
            ("GET gw/", Ok(6)),
        ],
    );
    // A route that matches in any case is no less specific for that.
    let beside_an_open_one = [lenient(true, false, "/api/admin"), route("/api/**"), route("/API/open/**")];
    let rows = [
        ("GET gw/api/admin", Ok(0)),
        ("GET gw/API/Admin", Ok(0)),
        ("GET gw/api/other", Ok(1)),
        ("GET gw/API/other", Err("")),
        ("GET gw/API/open/x", Ok(2)),
        ("GET gw/api/open/x", Ok(1)),
    ];
    check(&beside_an_open_one, &rows);
    check(&[lenient(true, true, "GET /a")], &[("PUT gw/A/", Err("GET, HEAD"))]);
    check(&[lenient(true, false, "HEAD /a"), route("GET /a")], &[("HEAD gw/a", Ok(1)), ("HEAD gw/A", Ok(0))]);
    assert_eq!(conflicts(&[lenient(true, false, "/A/b"), lenient(true, true, "/a/B")]), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&[lenient(true, false, "/A"), route("/a")]), []);
    assert_eq!(conflicts(&[lenient(true, false, "/1"), route("/1")]), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&[with_priority(1, "/a"), lenient(false, true, "/a")]), [], "`/a/` is left");
    let both = RouteMatch { priority: 1, ..lenient(true, true, "/A") };
    assert_eq!(conflicts(&[both, lenient(false, true, "/a")]), [(Dead, 1, 0)]);
}

#[test]
fn an_encoded_pattern_is_the_same_pattern() {
    use ConflictKind::{Dead, Duplicate};
    assert_eq!(conflicts(&["/@me", "/%40me"].map(route)), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&["/x/a%3Bb", "/x/a"].map(route)), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&[with_priority(1, "/%40me/**"), route("/@me/x")]), [(Dead, 1, 0)]);
    check(&[route("GET /@me")], &[("PUT gw/%40me", Err("GET, HEAD"))]);
}

#[test]
fn the_table_lists_routes_in_match_order() {
    let routes = [
        route("/**"),
        route("/a/*"),
        route("/a/{id}/x"),
        route("/a/b"),
        with_headers(&["x"], "/a/b"),
        route("POST /a/b"),
        on_host("*.example", "/**"),
        on_host("gw", "/**"),
        with_priority(5, "PUT /**"),
    ];
    assert_eq!(compile(&routes).table(), [8, 7, 6, 4, 5, 3, 2, 1, 0]);
}

#[test]
fn routes_that_match_the_same_requests_are_duplicates() {
    use ConflictKind::{Ambiguous, Duplicate};
    assert_eq!(
        conflicts(&["/a", "/a", "/a"].map(route)),
        [(Duplicate, 1, 0), (Duplicate, 2, 0), (Duplicate, 2, 1)]
    );
    assert_eq!(conflicts(&["/a/{id}", "/a/{name}"].map(route)), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&["GET|POST /a", "POST|PUT /a"].map(route)), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&["/%61", "/a"].map(route)), [(Duplicate, 1, 0)]);
    let same_headers = [with_headers(&["x", "y=1"], "/a"), with_headers(&["y=1", "x"], "/a")];
    assert_eq!(conflicts(&same_headers), [(Duplicate, 1, 0)]);
    assert_eq!(conflicts(&[with_headers(&["x"], "/a"), with_headers(&["y"], "/a")]), [(Ambiguous, 1, 0)]);
    for apart in [
        ["GET /a", "POST /a"].map(route),
        ["GET /a", "/a"].map(route),
        ["/a", "/a/"].map(route),
        [route("/a"), on_host("gw", "/a")],
        [with_headers(&["x=1"], "/a"), with_headers(&["x=2"], "/a")],
        [with_headers(&["x"], "/a"), RouteMatch { priority: 1, ..with_headers(&["y"], "/a") }],
    ] {
        assert_eq!(conflicts(&apart), [], "{:?} {:?}", apart[0].name, apart[1].name);
    }
}

#[test]
fn routes_that_nothing_reaches_are_dead() {
    use ConflictKind::Dead;
    assert_eq!(conflicts(&[route("GET /users/{id}"), with_priority(10, "/users/**")]), [(Dead, 0, 1)]);
    assert_eq!(conflicts(&["/a/{id}", "/a/*"].map(route)), [(Dead, 1, 0)]);
    assert_eq!(conflicts(&["GET /a/{id}", "POST|PUT /a/{id}", "GET|PUT /a/*"].map(route)), [(Dead, 2, 0)]);
    assert_eq!(conflicts(&["GET /a/{id}", "HEAD /a/*"].map(route)), [(Dead, 1, 0)]);
    assert_eq!(conflicts(&[with_priority(1, "/**"), on_host("*.example", "/a")]), [(Dead, 1, 0)]);
    assert_eq!(conflicts(&[with_priority(1, "/a/**"), with_headers(&["x"], "/a")]), [(Dead, 1, 0)]);
    // Several routes may together cover a subtree.
    assert_eq!(conflicts(&["/", "/{x}/**", "/**"].map(route)), [(Dead, 2, 0)]);
    assert_eq!(
        conflicts(&["/a", "/a/", "/a/{x}", "/a/{x}/", "/a/*/{y}/**", "/a/**"].map(route)),
        [(Dead, 5, 1)]
    );
    assert_eq!(conflicts(&["/a/", "/a/{x}/**", "/a/**"].map(route)), [], "`/a` is left");
    let shadowing = [with_priority(2, "/**"), route("/a"), route("/b/{id}"), route("/c/**")];
    assert_eq!(conflicts(&shadowing), [(Dead, 1, 0), (Dead, 2, 0), (Dead, 3, 0)]);
    for alive in [
        [route("GET /a/{id}"), route("/a/*")],
        [with_priority(1, "GET /**"), route("/a")],
        [with_priority(1, "/a/*"), route("/a/**")],
        [with_priority(1, "/a/*"), route("/a/")],
        [RouteMatch { priority: 1, ..on_host("*.example", "/**") }, route("/a")],
        [RouteMatch { priority: 1, ..with_headers(&["x=1"], "/**") }, with_headers(&["x"], "/a")],
    ] {
        assert_eq!(conflicts(&alive), [], "{:?} {:?}", alive[0].name, alive[1].name);
    }
}

#[test]
fn a_conflict_names_the_other_route() {
    let found = Router::compile(&[route("GET /users/{id}"), with_priority(10, "/users/**")])
        .expect_err("a dead route");
    assert_eq!(found[0].message, "everything it matches goes to route `/users/**` first");
}

#[test]
fn ten_thousand_routes_are_as_near_as_one() {
    let mut routes: Vec<RouteMatch> = (0..10_000).map(|n| route(&format!("/r{n}/{{id}}/x"))).collect();
    routes.push(route("/**"));
    let compiled = compile(&routes);
    let mut lists = 0;
    let _ = compiled.visit_matching("gw", "/r7777/1/x", &mut |_| {
        lists += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(lists, 2);
    assert_eq!(
        compiled.lookup("http", "gw", "/r7777/1/x", &Method::GET, &HeaderMap::new()),
        Match::Route(7777)
    );
    assert_eq!(
        compiled.lookup("http", "gw", "/r7777/1/y", &Method::GET, &HeaderMap::new()),
        Match::Route(10_000)
    );
}

/// The longest path that admission accepts, against patterns that invite backtracking.
#[test]
fn a_path_of_thousands_of_segments_ends_with_the_deepest_pattern() {
    let routes = ["/a/**", "/a/{x}/{y}/{z}/end", "/a/*/*/*/*/end", "/{a}/{b}/{c}/{d}/{e}/{f}/g"].map(route);
    let path = "/a".repeat(4_096);
    check(&routes, &[(&format!("GET gw{path}"), Ok(0))]);
}
