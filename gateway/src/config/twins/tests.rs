//! Which twins are found, and that the named cure removes them.

mod places;

use std::path::Path;

use crate::{config::load, syntax::diagnostics::code};

const SERVICES: &str = "services: {s: {hosts: [\"127.0.0.1:1\"]}, other: {hosts: [\"127.0.0.1:2\"]}, \
     both: {hosts: [\"127.0.0.1:3\", \"127.0.0.1:1\"]}, \
     near: {hosts: [\"localhost:1\"]}, v6: {hosts: [\"[::1]:1\"]}, \
     all: {consul: {name: api}}, tagged: {consul: {name: api, tag: v1}}}\n";

/// Message, label and help of each warning.
fn warned(rest: &str) -> Vec<(String, String, String)> {
    let text = format!(
        "version: 1\nauth: {{main: {{jwks: \"http://127.0.0.1:1/jwks\", audience: api}}, partner: {{jwks: \"http://127.0.0.1:1/jwks\", audience: p}}}}\n\
         {rest}{SERVICES}"
    );
    let loaded = load::parse("routes.yaml", &text, Path::new(""), &|_| None);
    let all = loaded.unwrap_or_else(|report| panic!("{report}")).warnings;
    let all = all.into_iter().filter(|warning| warning.code == code::OPEN_TWIN);
    all.map(|warning| (warning.message, warning.label, warning.help.unwrap_or_default())).collect()
}

fn list(routes: &[&str]) -> String {
    let routes: Vec<String> = routes.iter().map(|route| format!("  - {{{route}}}\n")).collect();
    routes.concat()
}

/// Label and help of each warning about these routes.
fn found(routes: &[&str]) -> Vec<(String, String)> {
    warned(&format!("routes:\n{}", list(routes))).into_iter().map(|(_, label, help)| (label, help)).collect()
}

/// Label and help of each warning about an open route and a closed one.
fn beside(open: &str, closed: &str) -> Vec<(String, String)> {
    found(&[&format!("{open}, auth: none"), &format!("{closed}, auth: main")])
}

#[track_caller]
fn one(found: Vec<(String, String)>, what: &str) -> (String, String) {
    let [one] = <[_; 1]>::try_from(found).unwrap_or_else(|all| panic!("one warning for {what}: {all:#?}"));
    one
}

const CATCH_ALL: &str = "path: /**, service: s, auth: none";
/// Fields of a route whose service distinguishes all spellings.
const EXACT: &str = "case_insensitive: false, trailing_slash: exact";

#[test]
fn an_open_route_that_takes_another_spelling_of_a_closed_path_is_found_and_one_cure_ends_it() {
    for (closed, examples, cure, more) in [
        (
            "path: /exact",
            "`/EXACT`, `/exact/`, `/exact.json`",
            "add `case_insensitive: true` and `trailing_slash: same` to",
            "case_insensitive: true, trailing_slash: same",
        ),
        (
            "path: /exact",
            "`/EXACT`, `/exact/`, `/exact.json`",
            "or `case_insensitive: false` and `trailing_slash: exact` if",
            EXACT,
        ),
        (
            "path: /admin/**",
            "`/ADMIN`, `/admin.json`",
            "add `case_insensitive: true` to",
            "case_insensitive: true",
        ),
        (
            "path: /admin/**",
            "`/ADMIN`, `/admin.json`",
            "or `case_insensitive: false` and `trailing_slash: exact` if",
            EXACT,
        ),
        ("path: \"/1/{id}\"", "`/1/{id}/`", "add `trailing_slash: same` to", "trailing_slash: same"),
        (
            "path: /exact, case_insensitive: true",
            "`/exact/`",
            "add `trailing_slash: same`",
            "trailing_slash: same",
        ),
        (
            "path: /exact, trailing_slash: same",
            "`/EXACT`, `/exact.json`",
            "add `case_insensitive: true`",
            "case_insensitive: true",
        ),
        (
            "path: /app.js",
            "`/APP.JS`, `/app.js/`",
            "add `case_insensitive: true`",
            "case_insensitive: true, trailing_slash: same",
        ),
    ] {
        let closed = format!("{closed}, service: s, auth: main");
        let (label, help) = one(found(&[CATCH_ALL, &closed]), &closed);
        assert_eq!(label, format!("{examples} would pass it unchecked"), "{closed}");
        assert!(help.contains(cure), "{closed}: {help}");
        assert_eq!(found(&[CATCH_ALL, &format!("{closed}, {more}")]), [], "{closed} with {more}");
    }
    // Only one of the two segments in another case reaches the open route.
    let (label, _) = one(beside("path: /api/**, service: s", "path: /api/admin/**, service: s"), "a segment");
    assert!(label.contains("`/api/ADMIN`"), "{label}");
}

#[test]
fn an_extension_that_a_closed_route_takes_is_not_asked_for_again() {
    let rails = "service: s, auth: main, case_insensitive: false, trailing_slash: same";
    let closed = format!("path: /admin, {rails}");
    let (label, help) = one(found(&[CATCH_ALL, &closed]), "the extension");
    assert_eq!(label, "`/admin.json` would pass it unchecked");
    assert!(help.contains("a closed route for `/admin.json`"), "{help}");
    assert_eq!(found(&[CATCH_ALL, &closed, &format!("path: /admin.json, {rails}")]), []);
}

#[test]
fn a_route_for_the_beginning_of_a_closed_subtree_hides_nothing() {
    let closed = "path: /admin/**, service: s, auth: main";
    let (label, _) = one(found(&[CATCH_ALL, "path: /admin, service: s, auth: none", closed]), "below");
    assert_eq!(label, "`/ADMIN/**` would pass it unchecked");
}

#[test]
fn hosts_that_a_client_may_name_are_found() {
    let closed = |more: &str| format!("path: /admin/**, service: s, auth: main, {EXACT}{more}");
    let (any, shop) = (closed(""), closed(", host: shop.example"));
    let open_shop = "path: /**, host: shop.example, service: s, auth: none";
    let wild = "path: /**, host: \"*.shop.example\", service: s, auth: none";
    for (open, closed, example, cure, cured) in [
        (
            CATCH_ALL,
            &shop,
            "`/admin/** of another host`",
            "close this path without `host` as well",
            vec![CATCH_ALL, &shop, &any],
        ),
        (
            open_shop,
            &any,
            "`/admin/** of shop.example`",
            "close this path with `host: shop.example` as well",
            vec![open_shop, &any, &shop],
        ),
        (
            wild,
            &closed(", host: www.shop.example"),
            "`/admin/** of \"*.shop.example\"`",
            "close this path with `host: \"*.shop.example\"` as well",
            vec![wild, &closed(", host: \"*.shop.example\"")],
        ),
        (
            "path: /**, host: www.shop.example, service: s, auth: none",
            &shop,
            "`/admin/** of www.shop.example`",
            "close this path with `host: www.shop.example` as well",
            vec![
                "path: /**, host: www.shop.example, service: s, auth: none",
                &shop,
                &closed(", host: www.shop.example"),
            ],
        ),
        (
            "path: /admin/**, host: shop.example, service: s, auth: none",
            &any,
            "`/admin/** of shop.example`",
            "close the open route as well",
            vec!["path: /admin/**, host: shop.example, service: s, auth: main", &any],
        ),
        (
            "path: /**, service: s, auth: none",
            &"path: /**, host: shop.example, service: s, auth: main".to_owned(),
            "`/** of another host`",
            "name the `host` of the open route",
            vec![
                "path: /**, host: www.example, service: s, auth: none",
                "path: /**, host: shop.example, service: s, auth: main",
            ],
        ),
    ] {
        let (label, help) = one(found(&[open, closed]), closed);
        assert_eq!(label, format!("{example} would pass it unchecked"), "{closed}");
        assert!(help.contains(cure), "{closed}: {help}");
        assert_eq!(found(&cured), [], "{cured:?}");
    }
}

#[test]
fn headers_that_a_client_may_send_or_leave_out_are_found() {
    let closed = format!("path: /admin/**, service: s, auth: main, {EXACT}");
    let inside = "path: /admin/**, match_headers: {X-Internal: \"1\"}, service: s, auth: none";
    let beta = format!("path: /admin/**, match_headers: {{X-Beta: 1}}, service: s, auth: main, {EXACT}");
    let open = "path: /admin/**, service: s, auth: none";
    let roles =
        ["admin", "guest"].map(|role| format!("path: /admin, match_headers: {{X-Role: {role}}}, service: s"));
    let [admin, guest] = [format!("{}, auth: none", roles[0]), format!("{}, auth: main, {EXACT}", roles[1])];
    for (routes, example, name) in [
        ([inside, &closed], "`/admin/** with x-internal`", "x-internal"),
        ([open, &beta], "`/admin/** without x-beta`", "x-beta"),
        ([&admin, &guest], "`/admin with x-role`", "x-role"),
    ] {
        let (label, help) = one(found(&routes), routes[1]);
        assert_eq!(label, format!("{example} would pass it unchecked"));
        let cure = format!("listen: {{headers: {{untrusted: [default, {name}]}}}}");
        assert!(help.contains(&format!("or add `{cure}`")), "{help}");
        let cured = format!("{cure}\nroutes:\n  - {{{}}}\n  - {{{}}}\n", routes[0], routes[1]);
        assert_eq!(warned(&cured), [], "{cured}");
    }
}

#[test]
fn a_route_of_another_listener_is_meant_for_its_clients() {
    let listen = "listen: {http: [\"127.0.0.1:0\", {bind: \"127.0.0.1:0\", name: internal}]}\n";
    let with = |open: &str, closed: &str| {
        let routes = [
            format!("path: {open}, service: s, auth: none"),
            format!("path: {closed}, service: s, auth: main"),
        ];
        warned(&format!("{listen}routes:\n{}", list(&[&routes[0], &routes[1]]))).len()
    };
    assert_eq!(with("/**", "/admin/**"), 1);
    assert_eq!(with("/**, listener: internal", "/admin/**"), 0);
    assert_eq!(with("/admin/**, listener: internal", "/admin/**"), 0);
    // On the listener of the closed route, the open one takes the other spelling.
    assert_eq!(with("/**", "/admin/**, listener: internal"), 1);
    assert_eq!(with("/**, listener: internal", "/admin/**, listener: [http, internal]"), 1);
    assert_eq!(with("/**, listener: http", "/admin/**, listener: internal"), 0);
}

#[test]
fn methods_that_the_closed_route_leaves_out_or_the_open_one_names_are_found() {
    let closed = |path: &str| format!("path: {path}, service: s, auth: main, {EXACT}");
    let read = "path: GET /admin, service: s, auth: none";
    let first = "path: GET /**, priority: 1, service: s, auth: none";
    for (open, route, example, cure, cured) in [
        (CATCH_ALL, closed("GET|POST /admin"), "`PUT /admin`", "name no methods", closed("/admin")),
        (
            CATCH_ALL,
            closed("GET|POST|PUT|PATCH|DELETE /admin"),
            "`PROPFIND /admin`",
            "name no methods",
            closed("/admin"),
        ),
        (
            read,
            closed("/admin"),
            "`GET /admin`",
            "such as `methods: POST|PUT|PATCH|DELETE`",
            closed("/admin, methods: POST|PUT|PATCH|DELETE"),
        ),
        (first, closed("/admin"), "`GET /admin`", "add `priority: 2`", closed("/admin, priority: 2")),
    ] {
        let (label, help) = one(found(&[open, &route]), &route);
        assert_eq!(label, format!("{example} would pass it unchecked"), "{route}");
        assert!(help.contains(cure), "{route}: {help}");
        assert_eq!(found(&[open, &cured]), [], "{cured}");
    }
    // Beside a catch-all the closed route has to name no methods, and the open one names its own.
    assert_eq!(found(&[CATCH_ALL, read, &closed("/admin")]), []);
}

#[test]
fn a_neighbour_that_asks_for_less_is_one_too() {
    let text = |neighbour: &str, closed: &str| {
        found(&[
            &format!("path: /**, service: s, {neighbour}"),
            &format!("path: /admin, service: s, trailing_slash: exact, {closed}"),
        ])
    };
    let staff = "auth: main, require: {role: staff}";
    let inside = "auth: none, clients: {allow: 10.0.0.0/8}";
    for (neighbour, closed) in [("auth: main", staff), ("auth: none, clients: {deny: 10.0.0.0/8}", inside)] {
        let (label, _) = one(text(neighbour, closed), closed);
        assert_eq!(label, "`/ADMIN` would pass it");
    }
    let narrow = "auth: none, clients: {allow: 10.1.0.0/16}";
    for (neighbour, closed) in [
        (staff, "auth: main"),
        (staff, staff),
        (inside, inside),
        (narrow, inside),
        ("auth: main, require: {role: staff, scope: a}", staff),
        ("auth: [partner, main]", "auth: [main, partner]"),
    ] {
        assert_eq!(text(neighbour, closed), [], "{neighbour} beside {closed}");
    }
}

#[test]
fn closed_routes_with_the_same_twins_are_one_warning_with_their_names() {
    let closed: Vec<String> = (0..48).map(|at| format!("path: /p{at}, service: s, auth: main")).collect();
    let closed = list(&closed.iter().map(String::as_str).collect::<Vec<_>>());
    let open = format!("  - {{{CATCH_ALL}}}\n");
    let [(message, label, help)] = &warned(&format!("routes:\n{open}{closed}"))[..] else {
        panic!("one warning")
    };
    assert_eq!(message, "an open route takes what a service may take for 48 closed ones");
    assert!(label.starts_with("`/P0`, `/p0/`, `/p0.json` would"), "{label}");
    assert!(
        help.contains("`/p0`, `/p1`,") && help.contains("`/p47`") && help.contains("or to `defaults`"),
        "{help}"
    );
    let defaults = "defaults: {case_insensitive: true, trailing_slash: same}\n";
    assert_eq!(warned(&format!("{defaults}routes:\n{open}{closed}")), []);
}

#[test]
fn nothing_is_said_where_the_closed_route_takes_them_or_the_service_tells_them_apart() {
    for (open, closed) in [
        (
            "path: /**, service: s",
            "path: /admin/**, service: s, case_insensitive: false, trailing_slash: exact",
        ),
        ("path: /**, service: other", "path: /exact, service: s"),
        ("path: GET /orders, service: s", "path: POST /orders, service: s, trailing_slash: same"),
        ("path: /public/**, service: s", "path: /exact, service: s"),
        (
            "path: /api/**, service: s",
            "path: /api/admin/**, service: s, case_insensitive: true, trailing_slash: exact",
        ),
        (
            "path: /exact, service: s",
            "path: /exact, service: s, match_headers: {Client-Cert: \"*\"}, case_insensitive: false, trailing_slash: exact",
        ),
        ("path: /**, redirect: \"https://a.example{path}\"", "path: /exact, service: s"),
        ("path: /admin/login, service: s", "path: /admin/**, service: s, case_insensitive: true"),
        ("path: /**, host: www.example, service: s", "path: /**, host: admin.example, service: s"),
        (
            "path: /public/**, service: s, rewrite: {strip: /public, add: /files}",
            "path: /admin/**, service: s",
        ),
    ] {
        assert_eq!(beside(open, closed), [], "{closed} beside {open}");
    }
    // Another provider for a header or a method of the same path is a decision.
    let closed = format!("path: /exact, service: s, auth: main, {EXACT}");
    for other in ["match_headers: {X-Partner: 1}", "methods: GET"] {
        assert_eq!(
            found(&[&closed, &format!("path: /exact, service: s, auth: partner, {other}, {EXACT}")]),
            [],
            "{other}"
        );
    }
}
