//! What the gateway itself answers carries the rules that a route has for responses.
//!
//! Before: a browser's script saw a CORS failure where the gateway had answered 401, 404, 413 or 429. nginx needs
//! `add_header … always` for the same.

use crate::support::{
    backend::{Backend, closed_port},
    client::{Reply, get, header, request, send},
    gateway::TestGateway,
    tokens,
};

async fn gateway() -> (TestGateway, Backend) {
    let backend = Backend::named("one").await;
    let config = format!(
        "auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\n\
         defaults: {{auth: none, headers: {{response: {{set: {{Access-Control-Allow-Origin: \"*\"}}}}}}}}\n\
         policies:\n  cached: {{headers: {{response: {{set: {{Cache-Control: \"max-age=3600\", Retry-After: \"0\", \
         Content-Type: text/html, Server: ours}}, add: {{Vary: Origin}}, remove: [Proxy-Status, WWW-Authenticate]}}}}}}\n\
         routes:\n\
         \x20 - {{path: /closed, service: one, auth: main, use: cached}}\n\
         \x20 - {{path: /small, service: one, body_limit: 1B, use: cached}}\n\
         \x20 - {{path: /often, service: one, rate_limit: 1/h per route, use: cached}}\n\
         \x20 - {{path: GET /read, service: one, use: cached}}\n\
         \x20 - {{path: /gone, service: gone, use: cached}}\n\
         \x20 - {{path: /inside, service: one, clients: {{deny: 127.0.0.0/8}}, use: cached}}\n\
         services: {{one: {{hosts: [\"{}\"]}}, gone: {{hosts: [\"{}\"]}}}}\n",
        backend.addr,
        closed_port()
    );
    (TestGateway::start_in(tokens::folder(), &config).await, backend)
}

fn assert_cors(reply: &Reply, status: u16) {
    assert_eq!(reply.status(), status, "{reply:?}");
    assert_eq!(header(reply, "access-control-allow-origin"), "*", "{reply:?}");
    assert_eq!(header(reply, "content-type"), "application/problem+json", "{reply:?}");
    assert_eq!(header(reply, "cache-control"), "no-store", "{reply:?}");
    assert!(!header(reply, "x-request-id").is_empty(), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_has_the_fields_that_the_route_sets_and_keeps_its_own() {
    let (gateway, _backend) = gateway().await;
    assert_eq!(send(gateway.http, get("/often")).await.status(), 200);
    for (request, status) in [
        (get("/closed"), 401),
        (request("POST", "/small", "more than one byte"), 413),
        (get("/often"), 429),
        (get("/gone"), 502),
        (get("/inside"), 403),
    ] {
        let reply = send(gateway.http, request).await;
        assert_cors(&reply, status);
        assert_eq!((header(&reply, "vary"), header(&reply, "server")), ("Origin", "ours"), "{reply:?}");
        assert!(reply.headers().get("proxy-status").is_none(), "{reply:?}");
        assert_eq!(reply.headers().contains_key("www-authenticate"), status == 401, "{reply:?}");
        let wait = reply.headers().get_all("retry-after").iter().collect::<Vec<_>>();
        assert!(if status == 429 { wait.len() == 1 && wait[0] != "0" } else { wait == ["0"] }, "{reply:?}");
    }
}

#[tokio::test]
async fn where_no_route_takes_a_request_the_rules_of_the_defaults_hold() {
    let (gateway, _backend) = gateway().await;
    for (request, status) in
        [(get("/nowhere"), 404), (request("POST", "/read", ""), 405), (get("/a/%2e%2e/b"), 400)]
    {
        let reply = send(gateway.http, request).await;
        assert_cors(&reply, status);
        assert_eq!((header(&reply, "vary"), header(&reply, "server")), ("", "millgate"), "{reply:?}");
    }
    let plain = TestGateway::start(&format!(
        "routes: [{{path: /x, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
        closed_port()
    ))
    .await;
    let reply = send(plain.http, get("/nowhere")).await;
    assert!(reply.status() == 404 && reply.headers().get("access-control-allow-origin").is_none());
}
