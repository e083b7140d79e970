//! What is compared is what services compare: paths with their encodings decoded, in the spellings that services take.
//!
//! Before: `/%40me`, `/v1/things%3Apurge` and `/admin%3Bx` fell to the open catch-all, and the closed handler ran (Flask,
//! Starlette, Django; Tomcat behind nginx).

use http::HeaderName;

use crate::support::{
    backend::Backend,
    client::{Connection, get, header, request, status},
    gateway::TestGateway,
    tokens::{self, GOOD},
};

async fn gateway(backend: &Backend, routes: &str) -> TestGateway {
    let config = format!(
        "auth:\n  main: {{hs256_secret_file: secret.key, audience: api}}\n{routes}\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    TestGateway::start_in(tokens::folder(), &config).await
}

const CLOSED: &str = "routes:\n  - {path: /**, service: one, auth: none}\n  - {path: /@me, service: one, auth: main}\n  \
                      - {path: \"POST /v1/things:purge\", service: one, auth: main}\n  \
                      - {path: /admin/**, service: one, auth: main}\n";

/// A path beyond ASCII is one that clients send encoded.
#[tokio::test]
async fn a_closed_path_beyond_ascii_is_closed_however_it_is_encoded() {
    let backend = Backend::named("one").await;
    let routes = "routes:\n  - {path: /**, service: one, auth: none}\n  - {path: /café/**, service: one, auth: main}\n";
    let gateway = gateway(&backend, routes).await;
    for path in ["/caf%C3%A9", "/caf%c3%a9/x", "/%63af%C3%a9;v=1", "/caf%C3%A9%3Bv=1/x"] {
        assert_eq!(status(gateway.http, path).await, 401, "{path}");
    }
    for path in ["/cafe", "/caf%C3%A8", "/caf%C3%89"] {
        assert_eq!(status(gateway.http, path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn an_encoded_spelling_of_a_closed_path_needs_the_token_of_the_closed_path() {
    let backend = Backend::named("one").await;
    let gateway = gateway(&backend, CLOSED).await;
    let mut client = Connection::open(gateway.http).await;
    for (method, path) in [
        ("GET", "/@me"),
        ("GET", "/%40me"),
        ("GET", "/%40%6de"),
        ("GET", "/@me;x"),
        ("GET", "/%40me%3Bx"),
        ("POST", "/v1/things:purge"),
        ("POST", "/v1/things%3Apurge"),
        ("POST", "/v1/things%3apurge"),
        ("GET", "/admin%3Bx/users"),
        ("GET", "/admin%3bx"),
        ("GET", "/%61dmin;a=b/%75sers"),
    ] {
        assert_eq!(client.send(request(method, path, "")).await.status(), 401, "{method} {path}");
    }
    assert_eq!(backend.served(), 0);
    // A path that is not a spelling of a closed path stays open, and goes on as it came.
    for path in ["/%40you", "/x%3Ay/a%21", "/caf%C3%A9%20x", "/100%25", "/v1/things%3Apurge"] {
        assert_eq!(client.send(get(path)).await.status(), 200, "{path}");
        assert_eq!(backend.only_seen().uri(), path);
    }
}

#[tokio::test]
async fn a_prefix_is_stripped_in_every_spelling_that_its_route_takes() {
    let backend = Backend::named("one").await;
    let rewrite = "rewrite: {strip: /api/@v1, add: /x}";
    let routes = format!(
        "routes:\n  - {{path: /api/@v1/**, service: one, auth: none, {rewrite}, case_insensitive: true}}\n  \
         - {{path: /to/**, redirect: \"https://a.example{{path}}\", auth: none, rewrite: {{strip: /to}}}}\n"
    );
    let gateway = gateway(&backend, &routes).await;
    let mut client = Connection::open(gateway.http).await;
    for (path, forwarded) in [
        ("/api/@v1/users", "/x/users"),
        ("/api;v=1/%40v1/users;a=%40", "/x/users;a=%40"),
        ("/%61p%69/%40v1%3Bx/%40?q=%40", "/x/%40?q=%40"),
        ("/API/@V1/Users", "/x/Users"),
        ("/api/%40v1", "/x"),
        ("/api/%40v1/", "/x/"),
    ] {
        assert_eq!(client.send(get(path)).await.status(), 200, "{path}");
        assert_eq!(backend.only_seen().uri(), forwarded, "{path}");
    }
    let reply = client.send(get("/t%6f;x/there")).await;
    assert_eq!(header(&reply, "location"), "https://a.example/there");
}

#[tokio::test]
async fn a_lenient_route_is_closed_in_every_spelling_that_a_lenient_service_takes() {
    let backend = Backend::named("one").await;
    let lenient = "case_insensitive: true, trailing_slash: same";
    let routes = format!(
        "routes:\n  - {{path: /**, service: one, auth: none}}\n  - {{path: /exact/**, service: one, auth: none}}\n  \
         - {{path: /exact/me, service: one, auth: main, {lenient}}}\n  \
         - {{path: /admin/**, service: one, auth: main, {lenient}}}\n"
    );
    let gateway = gateway(&backend, &routes).await;
    let mut client = Connection::open(gateway.http).await;
    for path in
        ["/exact/me", "/exact/me/", "/EXACT/me", "/Exact/ME/", "/%45xact/me;x/", "/ADMIN", "/Admin/x/"]
    {
        assert_eq!(client.send(get(path)).await.status(), 401, "{path}");
    }
    for path in ["/exact", "/exact/me/x", "/exacT/you/"] {
        assert_eq!(client.send(get(path)).await.status(), 200, "{path}");
    }
}

/// Before: the first was verified, and the service read ROOT.
#[tokio::test]
async fn a_second_token_in_another_spelling_is_refused_and_an_empty_place_is_none() {
    let backend = Backend::named("one").await;
    let provider = |from: &str| format!("{{hs256_secret_file: secret.key, audience: api, from: [{from}]}}");
    let config = format!(
        "auth:\n  one: {}\n  bearer: {}\n  cookie: {}\nroutes:\n  - {{path: /one, service: one, auth: one}}\n  \
         - {{path: /both, service: one, auth: [bearer, cookie]}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
        provider("bearer, \"query:access_token\", \"cookie:session\""),
        provider("bearer"),
        provider("\"cookie:session\""),
        backend.addr
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let token = |subject| tokens::token(gateway.dir.path(), GOOD, subject);
    let (good, root) = (token("good"), token("root"));
    let mut client = Connection::open(gateway.http).await;
    for (path, authorization, cookie, status) in [
        (format!("/one?access_token={good}&access%5Ftoken={root}"), None, None, 400),
        ("/one".into(), None, Some(format!("session ={root}; session={good}")), 400),
        (format!("/one?access_token={good}"), Some(format!("Bearer\t{root}")), None, 400),
        ("/both".into(), Some(format!("Bearer {good}")), Some(format!("session={root}")), 400),
        (format!("/one?access%5Ftoken={good}"), None, None, 200),
        ("/one".into(), Some(format!("Bearer\t{good}")), Some(format!("session={good}; SESSION=")), 200),
        ("/one".into(), Some(format!("Bearer {good}")), Some("session=".into()), 200),
        ("/both".into(), Some(format!("Bearer {good}")), Some("session=".into()), 200),
        ("/one".into(), None, Some("session=".into()), 401),
    ] {
        let mut request = get(&path);
        for (name, value) in [("authorization", authorization), ("cookie", cookie)] {
            request
                .headers_mut()
                .extend(value.map(|value| (HeaderName::from_static(name), value.parse().unwrap())));
        }
        let shown = format!("{path} {:?}", request.headers()).replace(&good, "GOOD").replace(&root, "ROOT");
        assert_eq!(client.send(request).await.status(), status, "{shown}");
    }
}
