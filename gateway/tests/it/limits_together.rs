//! A request is charged to all of its limits or to none of them, and a limit stays the same one wherever it is written.
//!
//! Before: each limit was checked and charged by itself, in the order of the list. One address that was limited used up what its
//! route had for all clients: 40 of its requests, 35 of which got 429, and then 12 other addresses got 429, too. With the same
//! limits nginx 1.22 (`limit_req` twice, in either order) answers 200 to all 12, HAProxy 2.6 (two stick tables) 429.

use http::Request;
use http_body_util::Full;

use crate::support::{
    backend::Backend,
    client::{Connection, Reply, get, header, json},
    gateway::TestGateway,
    tokens::{self, GOOD, bearing, token},
};

const LISTEN: &str =
    "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}\n";

struct Limited {
    gateway: TestGateway,
    backend: Backend,
}

/// Limits that need no identity can also stand on a route without a token.
fn config(backend: &Backend, limits: &str) -> String {
    let open = format!("  - {{path: /open, service: one, auth: none, rate_limit: {limits}}}\n");
    let needs_token = limits.contains("per user") || limits.contains("per claim");
    format!(
        "{LISTEN}auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\n\
         routes:\n  - {{path: /closed, service: one, auth: main, rate_limit: {limits}}}\n{}\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        if needs_token { "" } else { &*open },
        backend.addr
    )
}

impl Limited {
    async fn with(limits: &str) -> Self {
        let backend = Backend::named("one").await;
        let gateway = TestGateway::start_in(tokens::folder(), &config(&backend, limits)).await;
        Self { gateway, backend }
    }

    async fn client(&self) -> Connection {
        Connection::open(self.gateway.http).await
    }

    fn token(&self, user: &str) -> String {
        token(self.gateway.dir.path(), GOOD, user)
    }
}

fn from(address: &str, path: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = get(path);
    request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
    request.headers_mut().insert("user-agent", "test".parse().unwrap());
    request
}

/// What the limit that refused is called.
fn violated(reply: &Reply) -> String {
    json(reply)["violated-policies"][0].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_address_that_is_limited_takes_nothing_of_what_its_route_has_for_others() {
    for limits in [
        "[100/h burst 20 per route, 10/h burst 5 per ip]",
        "[10/h burst 5 per ip, 100/h burst 20 per route]",
        "[100/h burst 20 per service, 10/h burst 5 per ip]",
        "[\"100/h burst 20 per header:User-Agent\", 10/h burst 5 per ip]",
    ] {
        let limited = Limited::with(limits).await;
        let mut client = limited.client().await;
        for n in 1..=40 {
            let reply = client.send(from("198.51.100.7", "/open")).await;
            assert_eq!(reply.status(), if n <= 5 { 200 } else { 429 }, "{limits}: request {n}");
            if n > 5 {
                assert_eq!(violated(&reply), "ip", "{limits}");
            }
        }
        for host in 1..=12 {
            let reply = client.send(from(&format!("203.0.113.{host}"), "/open")).await;
            assert_eq!(reply.status(), 200, "{limits}: address {host}");
        }
        assert_eq!(limited.backend.served(), 17);
    }
}

#[tokio::test]
async fn a_user_who_is_limited_takes_nothing_of_the_limits_that_come_before_the_token() {
    for limits in [
        "[100/h burst 20 per route, 10/h burst 5 per user]",
        "[10/h burst 5 per user, 100/h burst 20 per route]",
        "[\"10/h burst 5 per claim:sub\", 100/h burst 20 per ip]",
    ] {
        let limited = Limited::with(limits).await;
        let mut client = limited.client().await;
        let mallory = limited.token("mallory");
        for n in 1..=40 {
            let reply = client.send(bearing(from("198.51.100.7", "/closed"), &mallory)).await;
            assert_eq!(reply.status(), if n <= 5 { 200 } else { 429 }, "{limits}: request {n}");
        }
        for n in 1..=12 {
            let user = limited.token(&format!("user-{n}"));
            let reply = client.send(bearing(from("198.51.100.7", "/closed"), &user)).await;
            assert_eq!(reply.status(), 200, "{limits}: user {n}");
        }
        assert_eq!(limited.backend.served(), 17);
    }
}

#[tokio::test]
async fn the_client_is_told_to_wait_for_the_limit_that_refuses_longest() {
    for limits in ["[1/h per ip, 1/m per route]", "[1/m per route, 1/h per ip]"] {
        let limited = Limited::with(limits).await;
        let mut client = limited.client().await;
        assert_eq!(client.send(from("198.51.100.7", "/open")).await.status(), 200);
        let reply = client.send(from("198.51.100.7", "/open")).await;
        assert_eq!((reply.status().as_u16(), violated(&reply)), (429, "ip".into()), "{limits}");
        assert!(header(&reply, "retry-after").parse::<u64>().unwrap() > 3000, "{limits}: {reply:?}");
    }
}

#[tokio::test]
async fn limits_that_are_written_in_another_order_keep_what_they_have_counted() {
    let backend = Backend::named("one").await;
    let mut gateway: Option<TestGateway> = None;
    // `/a` and `/b` write the same limit per service; its name is another one where a route has several.
    let a = |path: &str| format!("{{path: {path}, service: one, rate_limit: 3/h per service}}");
    let b = "{path: /b, service: one, rate_limit: [3/h per service, 90/h per ip, 9/h per ip]}";
    let moved = "{path: /b, service: one, rate_limit: [9/h per ip, 90/h per ip, 3/h per service]}";
    for (round, routes) in
        [[a("/a"), b.into(), a("/c")], [b.into(), a("/c"), a("/a")], [a("/c"), moved.into(), a("/a")]]
            .iter()
            .enumerate()
    {
        let routes = routes.join(", ");
        let config =
            format!("{LISTEN}routes: [{routes}]\nservices: {{one: {{hosts: [\"{}\"]}}}}\n", backend.addr);
        let running = match gateway.take() {
            None => TestGateway::start(&config).await,
            Some(running) => {
                running.rewrite(&config);
                running.reload().await.unwrap();
                running
            }
        };
        let mut client = Connection::open(running.http).await;
        let mut statuses = Vec::new();
        for path in ["/a", "/c"] {
            statuses.push(client.send(get(path)).await.status().as_u16());
        }
        let of_b = client.send(get("/b")).await;
        // Two of three are taken in each round of `/a` and `/c`, one of three of `/b`.
        let expected = [[200, 200], [200, 429], [429, 429]][round];
        assert_eq!((&statuses[..], of_b.status().as_u16()), (&expected[..], 200), "{routes}");
        assert!(header(&of_b, "ratelimit").starts_with(&format!("\"service\";r={};", 2 - round)), "{of_b:?}");
        gateway = Some(running);
    }
}
