//! Paths that some services need and that are refused unless a route allows them: `allow_in_path`.
//!
//! Before: `%2F`, `%25xx`, `//` and `|` were 400, and nothing could be done about it. nginx 1.22 and HAProxy 2.6 send all of
//! them on as they came. Beside `/admin/` that is denied, `//admin/x` and `/%2Fadmin/x` are denied by nginx, which compares what is
//! decoded and merged, and pass HAProxy (`path_beg`); `/%2561dmin/x` passes both.

use crate::support::{
    backend::Backend,
    client::{get, http2, json, raw, send},
    gateway::TestGateway,
    tokens,
};

const ALL: &str = "[encoded_slash, encoded_percent, double_slash, raw]";

async fn gateway(routes: &str) -> (TestGateway, Backend) {
    let backend = Backend::named("one").await;
    let config = format!(
        "auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\ndefaults: {{auth: none}}\n\
         routes:\n{routes}services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    (TestGateway::start_in(tokens::folder(), &config).await, backend)
}

async fn status_of(gateway: &TestGateway, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n");
    let patience = std::time::Duration::from_secs(10);
    let (answer, _) = raw(gateway.http, &[request.as_bytes()], false, patience).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_else(|_| panic!("{path}: {answer}"))
}

#[tokio::test]
async fn a_route_takes_the_paths_that_it_allows_and_others_do_not() {
    let (gateway, backend) = gateway(
        "  - {path: \"/api/v4/projects/{id}/**\", service: one, allow_in_path: encoded_slash}\n\
         \x20 - {path: /api/queues/**, service: one, allow_in_path: [encoded_slash, encoded_percent]}\n\
         \x20 - {path: /store/**, service: one, allow_in_path: [double_slash, raw], rewrite: {strip: /store}}\n\
         \x20 - {path: /plain/**, service: one}\n",
    )
    .await;
    for (path, status, forwarded) in [
        ("/api/v4/projects/group%2fname/issues?q=%2f", 200, "/api/v4/projects/group%2Fname/issues?q=%2f"),
        // Never a separator: `{id}` is one segment.
        ("/api/v4/projects/group%2Fname", 200, "/api/v4/projects/group%2Fname"),
        ("/api/queues/%2F/q", 200, "/api/queues/%2F/q"),
        ("/api/queues/%252F/100%2541", 200, "/api/queues/%252F/100%2541"),
        ("/store//a///b", 200, "//a///b"),
        ("/store/a|b", 200, "/a|b"),
        ("/api/v4/projects/a//b", 400, ""),
        ("/api/v4/projects/a|b", 400, ""),
        ("/api/v4/projects/100%2541", 400, ""),
        ("/store/a%2Fb", 400, ""),
        ("/plain/a%2Fb", 400, ""),
        ("/plain//a", 400, ""),
        ("/nowhere/a%2Fb", 400, ""),
        ("/nowhere/a", 404, ""),
        ("/api/queues/..%2Fx", 400, ""),
        ("/api/queues/%252e%252e%252fx", 400, ""),
        ("/api/queues/%5Cx", 400, ""),
        ("/api/queues/%00", 400, ""),
    ] {
        assert_eq!(status_of(&gateway, path).await, status, "{path}");
        if status == 200 {
            assert_eq!(backend.only_seen().uri(), forwarded, "{path}");
        }
    }
    let mut client = http2(gateway.http).await;
    for (path, status) in [("/api/queues/%2f/q", 200), ("/plain/a%2Fb", 400)] {
        let request = http::Request::builder().uri(format!("http://gw{path}"));
        let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_path_that_a_lenient_service_reads_as_one_of_a_closed_route_is_refused() {
    let (gateway, backend) = gateway(&format!(
        "  - {{path: /admin/**, service: one, auth: main}}\n\
         \x20 - {{path: /inside/**, service: one, clients: {{deny: 127.0.0.0/8}}}}\n\
         \x20 - {{path: /login, service: one, rate_limit: 5/m per ip}}\n\
         \x20 - {{path: \"/files/{{id}}\", service: one, auth: main, allow_in_path: encoded_slash}}\n\
         \x20 - {{path: /**, service: one, allow_in_path: {ALL}}}\n"
    ))
    .await;
    for path in [
        "//admin/users",
        "/%2Fadmin/users",
        "/admin%2Fusers",
        "/%2561dmin/users",
        "/admin%252Fusers",
        "/%252Fadmin",
        "///inside/x",
        "/inside%2fx",
        "//login",
        // Cut off before it is decoded, or before slashes are merged.
        "/%2F;x/admin/u",
        "/admin%2Fu;x",
        "/admin;x%2Fu",
        "/%252F%253Bx/admin/u",
        "//;x/inside/u",
        // Merged, with its encoded slash.
        "//files/g%2Fn",
        "/files//g%2Fn",
    ] {
        assert_eq!(status_of(&gateway, path).await, 400, "{path}");
    }
    assert_eq!(backend.served(), 0);
    for path in ["//adminx/users", "/a%2Fadmin", "/a//b", "/x|y"] {
        assert_eq!(status_of(&gateway, path).await, 200, "{path}");
    }
    for path in ["/admin/users", "/files/a", "/files/g%2Fn"] {
        assert_eq!(status_of(&gateway, path).await, 401, "{path}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_route_that_takes_such_a_path() {
    let (gateway, _backend) =
        gateway("  - {path: /q/**, service: one, allow_in_path: encoded_slash, auth: main}\n").await;
    let reply = send(gateway.http, get("/q/%2f")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["route"].as_str()), (401, Some("/q/**")));
}

/// Tomcat, Jetty and others write `/;jsessionid=A` into the links of a first page. nginx and HAProxy send it on.
#[tokio::test]
async fn a_last_segment_of_parameters_passes_where_both_of_its_readings_have_the_same_rules() {
    let (gateway, backend) = gateway(
        "  - {path: /admin/**, service: one, auth: main}\n\
         \x20 - {path: \"/users/{id}\", service: one, auth: main}\n\
         \x20 - {path: /exact, service: one, trailing_slash: same}\n\
         \x20 - {path: /**, service: one}\n",
    )
    .await;
    for path in ["/;jsessionid=A?q", "/app/;jsessionid=A", "/exact/;jsessionid=A", "/app/;"] {
        assert_eq!(status_of(&gateway, path).await, 200, "{path}");
        assert_eq!(backend.only_seen().uri(), path);
    }
    assert_eq!(status_of(&gateway, "/admin/;jsessionid=A").await, 401);
    // To a service without parameters `/users/;x` is the user `;x`, of a closed route.
    for path in ["/users/;x", "/app/%3Bx", "/;x/a", "/app//;x", "/..;/", "/app/.;x", "/app/%252e;x"] {
        assert_eq!(status_of(&gateway, path).await, 400, "{path}");
    }
}

/// A service whose URL parser takes the text after `//` for a host, as `new URL(target, base)` does (RFC 3986 §4.2).
#[tokio::test]
async fn what_follows_a_double_slash_may_be_a_host() {
    let (gateway, backend) = gateway(&format!(
        "  - {{path: /admin/**, service: one, auth: main}}\n\
         \x20 - {{path: /api/**, service: one, allow_in_path: {ALL}, rewrite: {{strip: /api}}}}\n\
         \x20 - {{path: /**, service: one, allow_in_path: {ALL}}}\n"
    ))
    .await;
    for path in
        ["//x/admin/u", "///x/admin/u", "//x//admin/u", "//u@x:1/admin", "/%2Fx/admin", "/%252Fx/admin"]
    {
        assert_eq!(status_of(&gateway, path).await, 400, "{path}");
    }
    assert_eq!(backend.served(), 0);
    // The last one gives what the plain `/api/admin/u` gives as well.
    for path in ["//x/adminx", "/x//admin/u", "//x", "/api//x/y", "/api//x/admin/u"] {
        assert_eq!(status_of(&gateway, path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn a_path_is_judged_by_what_the_service_gets_after_the_rewrite() {
    let (gateway, backend) = gateway(&format!(
        "  - {{path: \"/v/{{id}}\", service: one, allow_in_path: {ALL}, rewrite: {{strip: /v}}}}\n\
         \x20 - {{path: \"/w/{{id}}\", service: one, allow_in_path: {ALL}, rewrite: {{strip: /w, add: /in}}}}\n\
         \x20 - {{path: /u/**, service: one, auth: main}}\n\
         \x20 - {{path: /out/**, service: one, auth: main, rewrite: {{strip: /out, add: /in}}}}\n"
    ))
    .await;
    for path in ["/u/secret", "/out/secret/x"] {
        assert_eq!(status_of(&gateway, path).await, 401, "{path}");
    }
    for path in ["/v/u%2Fsecret", "/v/u%252Fsecret", "/w/secret%2Fx"] {
        assert_eq!(status_of(&gateway, path).await, 400, "{path}");
    }
    assert_eq!(backend.served(), 0);
    for (path, forwarded) in [("/v/a%2Fb", "/a%2Fb"), ("/v/a", "/a")] {
        assert_eq!(status_of(&gateway, path).await, 200, "{path}");
        assert_eq!(backend.only_seen().uri(), forwarded);
    }
}

#[tokio::test]
async fn a_reading_that_no_plain_path_would_give_is_refused() {
    let other = Backend::named("other").await;
    let backend = Backend::named("one").await;
    let config = format!(
        "auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\ndefaults: {{auth: none, rate_limit: 1000/s}}\n\
         routes:\n\
         # Any path of one segment, and no other of the service.\n\
         - {{host: a.test, path: \"/{{a}}\", service: one, allow_in_path: {ALL}}}\n\
         # `/admin` is answered elsewhere.\n\
         - {{host: b.test, path: /**, service: one, allow_in_path: {ALL}}}\n\
         - {{host: b.test, path: /admin/**, redirect: \"https://x.test/\"}}\n\
         - {{host: b.test, path: /shop/**, service: two}}\n\
         # Other methods of a path are another route's.\n\
         - {{host: c.test, path: \"GET|POST /files/{{id}}\", service: one, allow_in_path: {ALL}}}\n\
         - {{host: c.test, path: GET /files/**, service: one, auth: main}}\n\
         # As a team with GitLab writes it.\n\
         - {{host: d.test, path: \"/projects/{{id}}\", service: one, allow_in_path: encoded_slash}}\n\
         - {{host: e.test, path: \"/p/{{id}}\", service: one, allow_in_path: encoded_slash}}\n\
         - {{host: e.test, path: /p/**, service: one}}\n\
         # As a team with RabbitMQ writes it.\n\
         - {{host: f.test, path: \"GET /queues/{{vhost}}\", service: one, allow_in_path: encoded_slash}}\n\
         - {{host: f.test, path: \"GET|PUT|DELETE /queues/{{vhost}}/{{name}}\", service: one, allow_in_path: encoded_slash}}\n\
         services: {{one: {{hosts: [\"{}\"]}}, two: {{hosts: [\"{}\"]}}}}\n",
        backend.addr, other.addr
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let ask = async |method: &str, host: &str, path: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let (answer, _) =
            raw(gateway.http, &[request.as_bytes()], false, std::time::Duration::from_secs(10)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let detail = answer.split("\"detail\":\"").nth(1).and_then(|rest| rest.split('"').next());
        (answer[9..12].to_owned(), detail.unwrap_or_default().to_owned())
    };
    let ambiguous = "A service could read the path as one that this route does not give.";
    for (method, host, path) in [
        ("GET", "a.test", "/u%2Fsecret"),
        ("GET", "a.test", "/files%2Fx%2Fsecret"),
        ("GET", "b.test", "//admin/x"),
        ("GET", "b.test", "/admin%2Fx"),
        ("GET", "b.test", "//shop/x"),
        ("POST", "c.test", "/files/a%2Fsecret"),
        ("GET", "c.test", "/files/a%2Fsecret"),
    ] {
        let answer = ask(method, host, path).await;
        assert_eq!(answer, ("400".to_owned(), ambiguous.to_owned()), "{method} {host}{path}");
    }
    assert_eq!((backend.served(), other.served()), (0, 0));
    for (method, host, path) in [
        ("GET", "a.test", "/secret"),
        ("GET", "b.test", "//x"),
        ("POST", "c.test", "/files/a"),
        ("GET", "d.test", "/projects/group%2Fname"),
        ("GET", "e.test", "/p/a%2Fb"),
        ("PUT", "f.test", "/queues/%2F/q"),
        ("DELETE", "f.test", "/queues/%2F/q"),
        ("GET", "f.test", "/queues/%2F/q"),
    ] {
        assert_eq!(ask(method, host, path).await.0, "200", "{method} {host}{path}");
    }
}
