//! The changes of a route to a request: its path, its forwarding fields, and values that contain facts of the
//! request.

use http::Request;
use http_body_util::Full;

use crate::support::{
    backend::Backend,
    client::{get, header, http2, request, send},
    gateway::TestGateway,
    tokens::{self, GOOD, bearing, token_with},
};

async fn gateway(head: &str, routes: &str) -> (TestGateway, Backend) {
    let backend = Backend::named("one").await;
    let config = format!("{head}routes:\n{routes}services: {{one: {{hosts: [\"{}\"]}}}}\n", backend.addr);
    (TestGateway::start_in(tokens::folder(), &config).await, backend)
}

fn with(
    mut request: Request<Full<bytes::Bytes>>,
    name: &'static str,
    value: &str,
) -> Request<Full<bytes::Bytes>> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

const TRUSTING: &str =
    "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}\n";

#[tokio::test]
async fn a_stripped_prefix_is_said_to_the_service_and_leaves_no_slash_behind() {
    let routes = "  - {path: /api/**, service: one, rewrite: {strip: /api}}\n\
                  \x20 - {path: /old/**, service: one, rewrite: {strip: /old, add: /v2}}\n\
                  \x20 - {path: /more/**, service: one, rewrite: {add: /v2}}\n";
    let strangers = gateway("", routes).await;
    let trusting = gateway(TRUSTING, routes).await;
    for (path, forwarded, prefix) in [
        ("/api/users?x=1", "/users?x=1", Some("/api")),
        ("/api;v=1/users", "/users", Some("/api;v=1")),
        ("/api", "/", Some("/api")),
        ("/api?x=1", "/?x=1", Some("/api")),
        ("/api/", "/", Some("/api")),
        ("/old", "/v2", Some("/old")),
        ("/old?x=1", "/v2?x=1", Some("/old")),
        ("/old/", "/v2/", Some("/old")),
        ("/old/a", "/v2/a", Some("/old")),
        ("/more", "/v2/more", None),
    ] {
        for ((gateway, backend), before) in [(&strangers, ""), (&trusting, "/shop")] {
            let reply = send(gateway.http, with(get(path), "x-forwarded-prefix", "/shop/")).await;
            assert_eq!(reply.status(), 200, "{path}");
            let seen = backend.only_seen();
            assert_eq!(seen.uri(), forwarded, "{path}");
            let said = seen.headers().get_all("x-forwarded-prefix").iter().cloned().collect::<Vec<_>>();
            let expected = match (prefix, before) {
                (Some(prefix), _) => vec![format!("{before}{prefix}")],
                (None, "") => vec![],
                // The value of a trusted proxy passes as it is.
                (None, _) => vec!["/shop/".to_owned()],
            };
            assert_eq!(said, expected, "{path}");
        }
    }
}

#[tokio::test]
async fn values_of_header_rules_may_have_something_of_the_request_in_them() {
    let (gateway, backend) = gateway(
        "auth: {main: {hs256_secret_file: secret.key, audience: api}}\n",
        "  - {path: /open, service: one, auth: none, headers: {request: {set: {X-Ip: \"ip={client}\", X-Who: \"{claim:sub}\"}}, \
         response: {set: {X-Id: \"{request_id}\"}}}}\n\
         \x20 - {path: /closed, service: one, auth: main, rate_limit: 2/h per user, headers: {request: \
         {set: {X-Who: \"{claim:sub}/{claim:aud}\", X-None: \"{claim:none}\"}, add: {X-Ip: \"{client}\"}}, \
         response: {set: {X-Who: \"{claim:sub}\"}}}}\n",
    )
    .await;
    let forged = |path| with(with(get(path), "x-who", "root"), "x-none", "root");
    let reply = send(gateway.http, forged("/open")).await;
    let seen = backend.only_seen();
    assert_eq!(
        (&seen.headers()["x-ip"], seen.headers().get("x-who")),
        (&"ip=127.0.0.1".parse().unwrap(), None)
    );
    assert_eq!(header(&reply, "x-id"), header(&reply, "x-request-id"));
    let token = token_with(gateway.dir.path(), GOOD, |options| options.subject = "ann".into());
    let reply = send(gateway.http, bearing(with(forged("/closed"), "x-ip", "1.2.3.4"), &token)).await;
    let seen = backend.only_seen();
    assert_eq!((&seen.headers()["x-who"], seen.headers().get("x-none")), (&"ann/api".parse().unwrap(), None));
    assert_eq!(seen.headers().get_all("x-ip").iter().collect::<Vec<_>>(), ["1.2.3.4", "127.0.0.1"]);
    assert_eq!(header(&reply, "x-who"), "ann");
    // What the gateway itself answers has them, too.
    send(gateway.http, bearing(get("/closed"), &token)).await;
    let refused = send(gateway.http, bearing(get("/closed"), &token)).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "x-who")), (429, "ann"));
    assert_eq!(send(gateway.http, get("/closed")).await.headers().get("x-who"), None);
}

#[tokio::test]
async fn a_redirect_names_the_host_without_its_port_and_the_port_beside_it() {
    let (gateway, _backend) = gateway(
        "",
        "  - {path: /tls, redirect: \"https://{host}{path}\"}\n  - {path: /same, redirect: \"http://{host}:{port}{path}\"}\n",
    )
    .await;
    for (host, path, location) in [
        ("shop.test:8080", "/tls?x=1", "https://shop.test/tls?x=1"),
        ("[::1]:8080", "/tls", "https://[::1]/tls"),
        ("shop.test", "/tls", "https://shop.test/tls"),
        ("shop.test:8080", "/same", "http://shop.test:8080/same"),
        ("shop.test", "/same", "http://shop.test:80/same"),
    ] {
        let reply = send(gateway.http, with(get(path), "host", host)).await;
        assert_eq!((reply.status().as_u16(), header(&reply, "location")), (308, location), "{host}{path}");
    }
}

#[tokio::test]
async fn a_cleartext_listener_can_send_every_client_to_the_one_with_tls() {
    let listen = |port: &str| {
        format!(
            "listen: {{http: {{bind: [\"127.0.0.1:0\"], redirect: \"{port}\"}}, admin: \"127.0.0.1:0\", \
             trusted_proxies: [127.0.0.2]}}\n"
        )
    };
    for (port, location) in [("https:443", "https://gw"), ("https:8443", "https://gw:8443")] {
        let (gateway, backend) = gateway(&listen(port), "  - {path: /**, service: one}\n").await;
        for (method, path) in [("GET", "/a/%2A?x=%2F"), ("POST", "/"), ("HEAD", "/nowhere")] {
            let reply = send(gateway.http, request(method, path, "")).await;
            assert_eq!(
                (reply.status().as_u16(), header(&reply, "location")),
                (308, &*format!("{location}{path}")),
                "{method} {path}"
            );
        }
        let mut client = http2(gateway.http).await;
        let h2 = Request::builder().uri("http://gw/x").body(Full::<bytes::Bytes>::default()).unwrap();
        let reply = client.send_request(h2).await.unwrap();
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["location"]),
            (308, &format!("{location}/x").parse().unwrap())
        );
        // A stranger's word is not believed: it may have come in clear.
        let reply = send(gateway.http, with(get("/x"), "x-forwarded-proto", "https")).await;
        assert_eq!(reply.status(), 308);
        assert_eq!(backend.served(), 0);
        assert_eq!(send(gateway.admin(), get("/livez")).await.status(), 200);
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_got_over_tls_is_not_sent_there_again() {
    let head = "listen: {http: {bind: \"127.0.0.1:0\", redirect: \"https:443\"}, admin: \"127.0.0.1:0\", \
                trusted_proxies: [127.0.0.1]}\n";
    let (gateway, backend) = gateway(head, "  - {path: /**, service: one}\n").await;
    for (proto, status) in [("https", 200), ("HTTPS", 200), ("http", 308)] {
        let reply = send(gateway.http, with(get("/x"), "x-forwarded-proto", proto)).await;
        assert_eq!(reply.status(), status, "{proto}");
    }
    assert_eq!(send(gateway.http, get("/x")).await.status(), 308);
    assert_eq!(backend.served(), 2);
}
