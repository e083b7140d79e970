//! JWT, rate limits, retries, balancing and breakers through a running gateway.

use std::{
    collections::HashMap,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use millgate::token::MintOptions;

use crate::support::{
    backend::{Backend, RawBackend, closed_port},
    client::{Connection, Reply, get, header, json, request, send, status, text},
    eventually,
    gateway::TestGateway,
    tokens::{self, GOOD, bearing, token_with},
};

fn token(dir: &std::path::Path, change: impl FnOnce(&mut MintOptions)) -> String {
    token_with(dir, GOOD, |options| {
        options.subject = "alice".into();
        options.scopes = vec!["orders:read".into()];
        options.issuer = Some("https://issuer.test".into());
        change(options);
    })
}

struct Guarded {
    gateway: TestGateway,
    backend: Backend,
}

async fn guarded(routes: &str) -> Guarded {
    let backend = Backend::named("one").await;
    let config = format!(
        "auth:\n  main:\n    hs256_secret_file: secret.key\n    issuer: https://issuer.test\n    audience: api\n    \
         forward: {{sub: X-User-Id, scope: X-Scopes}}\n{routes}services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    );
    Guarded { gateway: TestGateway::start_in(tokens::folder(), &config).await, backend }
}

impl Guarded {
    async fn ask(&self, path: &str, token: &str) -> Reply {
        send(self.gateway.http, bearing(get(path), token)).await
    }

    fn token(&self, change: impl FnOnce(&mut MintOptions)) -> String {
        token(self.gateway.dir.path(), change)
    }
}

const ORDERS: &str =
    "routes:\n  - {path: /orders/**, service: one, auth: main, require: {scope: orders:read}}\n";

#[tokio::test]
async fn a_valid_token_passes_and_its_claims_become_headers() {
    let guarded = guarded(ORDERS).await;
    let token = guarded.token(|_| {});
    for _ in 0..2 {
        // The second time the token comes from the cache.
        let mut request = bearing(get("/orders/1"), &token);
        request.headers_mut().insert("x-user-id", "mallory".parse().unwrap());
        assert_eq!(send(guarded.gateway.http, request).await.status(), 200);
        let seen = guarded.backend.only_seen();
        assert_eq!(seen.headers().get_all("x-user-id").iter().collect::<Vec<_>>(), ["alice"]);
        assert_eq!(seen.headers()["x-scopes"], "orders:read");
    }
}

#[tokio::test]
async fn each_wrong_token_gets_its_status_code_and_challenge() {
    let guarded = guarded(ORDERS).await;
    let missing = send(guarded.gateway.http, get("/orders/1")).await;
    assert_eq!((missing.status().as_u16(), json(&missing)["code"].as_str()), (401, Some("token_missing")));
    assert_eq!(header(&missing, "www-authenticate"), r#"Bearer realm="api""#);
    let good = guarded.token(|_| {});
    let mut forged = good.clone();
    forged.replace_range(good.len() - 4.., "AAAA");
    let cases = [
        ("not.a.token".to_owned(), 401, "token_invalid"),
        (forged, 401, "token_invalid"),
        (guarded.token(|t| t.audience = Some("other".into())), 401, "token_invalid"),
        (guarded.token(|t| t.issuer = Some("https://evil.test".into())), 401, "token_invalid"),
        (guarded.token(|t| t.audience = None), 401, "token_invalid"),
        (guarded.token(|t| t.scopes = vec!["other".into()]), 403, "insufficient_scope"),
    ];
    for (token, status, code) in cases {
        let reply = guarded.ask("/orders/1", &token).await;
        assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (status, Some(code)), "{token}");
        let challenge = header(&reply, "www-authenticate");
        assert!(challenge.starts_with(r#"Bearer realm="api", error=""#), "{challenge}");
    }
    assert_eq!(guarded.backend.served(), 0);
}

#[tokio::test]
async fn without_auth_on_the_route_nothing_is_asked() {
    let guarded = guarded("routes:\n  - {path: /open, service: one, auth: none}\n").await;
    assert_eq!(status(guarded.gateway.http, "/open").await, 200);
}

#[tokio::test]
async fn only_the_addresses_that_a_route_allows_get_through() {
    let backend = Backend::named("one").await;
    let config = |listen: &str| {
        format!(
            "{listen}workers: 1\naccess_log: {{format: json, file: access.log}}\ndefaults: {{clients: {{deny: [198.51.100.0/24]}}}}\n\
             policies: {{internal: {{clients: {{allow: [127.0.0.0/8]}}}}}}\n\
             routes:\n\
             \x20 - {{path: /inside, service: one, use: internal}}\n\
             \x20 - {{path: /partner, service: one, clients: {{allow: 203.0.113.0/24}}}}\n\
             \x20 - {{path: /all, service: one}}\n\
             \x20 - {{path: /open, service: one, use: internal, clients: any}}\n\
             services: {{one: {{hosts: [\"{}\"]}}}}\n",
            backend.addr
        )
    };
    let unknown = TestGateway::start(&config("")).await;
    let trusting = TestGateway::start(&config(
        "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}\n",
    ))
    .await;
    let mut denied = Vec::new();
    let (own, many) = ("127.0.0.1", vec!["127.0.0.1"; 65].join(","));
    for (path, forwarded, [from_unknown, from_trusted], address) in [
        ("/inside", None, [200, 200], ""),
        // A load balancer that no list names does not let every client in.
        ("/inside", Some("203.0.113.9"), [403, 403], "203.0.113.9"),
        ("/inside", Some("127.0.0.9"), [200, 200], ""),
        ("/partner", None, [403, 403], own),
        // Only a trusted proxy's word opens anything.
        ("/partner", Some("203.0.113.9"), [403, 200], own),
        ("/partner", Some("203.0.113.8, 203.0.113.9, 127.0.0.1"), [403, 200], own),
        ("/partner", Some("10.0.0.1, 203.0.113.9"), [403, 403], "127.0.0.1|10.0.0.1"),
        ("/partner", Some("203.0.113.9, 10.0.0.1"), [403, 403], "127.0.0.1|10.0.0.1"),
        ("/all", Some("203.0.113.9"), [200, 200], ""),
        ("/all", Some("198.51.100.7"), [403, 403], "198.51.100.7"),
        ("/open", Some("198.51.100.7"), [200, 200], ""),
        ("/all", Some("unknown"), [200, 200], ""),
        ("/inside", Some("unknown"), [403, 403], "unreadable"),
        ("/inside", Some(&*many), [403, 200], "too_many"),
    ] {
        for (gateway, expected, is_trusting) in
            [(&unknown, from_unknown, false), (&trusting, from_trusted, true)]
        {
            let mut request = get(path);
            if let Some(forwarded) = forwarded {
                request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
            }
            let reply = send(gateway.http, request).await;
            assert_eq!(reply.status(), expected, "{path} {forwarded:?}");
            if expected == 403 {
                assert_eq!(json(&reply)["code"], "client_denied");
                let of = address.split('|').nth(usize::from(is_trusting));
                let address = of.or(address.split('|').next()).unwrap().to_owned();
                assert!(!text(&reply).contains(&address), "the client is not told: {}", text(&reply));
                denied.push((is_trusting, address));
            }
        }
    }
    for (is_trusting, gateway) in [(false, &unknown), (true, &trusting)] {
        let expected: Vec<&String> =
            denied.iter().filter(|(of, _)| *of == is_trusting).map(|(_, address)| address).collect();
        let log = gateway.dir.path().join("access.log");
        let lines = || -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.filter(|line: &serde_json::Value| line["flags"] == "client_denied").collect()
        };
        eventually("each refusal is logged", || async { lines().len() == expected.len() }).await;
        let named: Vec<String> =
            lines().iter().map(|line| line["denied_address"].as_str().unwrap().to_owned()).collect();
        assert!(named.iter().eq(expected), "{named:?}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_503_and_work_as_soon_as_they_can() {
    let available = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&available);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let x = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, key.public_key_raw());
    let jwks =
        serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x}]}).to_string();
    let issuer = Backend::with(move |_| {
        if switch.load(Ordering::SeqCst) {
            Response::new(Bytes::from(jwks.clone()))
        } else {
            Response::builder().status(500).body(Bytes::new()).unwrap()
        }
    })
    .await;
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret.key"), key.serialize_pem()).unwrap();
    let token = token(dir.path(), |t| t.key_id = Some("k1".into()));
    let config = format!(
        "auth:\n  main: {{jwks: \"http://{}/jwks.json\", audience: api}}\n\
         routes:\n  - {{path: /**, service: one, auth: main}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        issuer.addr, backend.addr
    );
    let gateway = TestGateway::start_in(dir, &config).await;
    let reply = send(gateway.http, bearing(get("/x"), &token)).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (503, Some("keys_unavailable")));
    available.store(true, Ordering::SeqCst);
    eventually("the keys arrive", || async {
        send(gateway.http, bearing(get("/x"), &token)).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn past_the_limit_a_user_gets_429_with_the_headers_of_the_draft() {
    let routes = "routes:\n  - {path: /**, service: one, auth: main, rate_limit: 3/m burst 3 per user}\n";
    let guarded = guarded(routes).await;
    let alice = guarded.token(|_| {});
    for left in [2, 1, 0] {
        let reply = guarded.ask("/x", &alice).await;
        assert_eq!(reply.status(), 200);
        assert_eq!(header(&reply, "ratelimit-policy"), r#""default";q=3;w=60"#);
        assert!(header(&reply, "ratelimit").starts_with(&format!(r#""default";r={left};t="#)), "{reply:?}");
    }
    let refused = guarded.ask("/x", &alice).await;
    assert_eq!((refused.status().as_u16(), json(&refused)["code"].as_str()), (429, Some("rate_limited")));
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(header(&refused, "ratelimit"), format!(r#""default";r=0;t={wait}"#));
    assert_eq!(json(&refused)["violated-policies"][0], "default");
    let bob = guarded.token(|t| t.subject = "bob".into());
    assert_eq!(guarded.ask("/x", &bob).await.status(), 200, "another user has a limit of their own");
}

#[tokio::test]
async fn a_reload_keeps_what_a_limit_has_counted() {
    let backend = Backend::named("one").await;
    let config = |note: &str| {
        format!(
            "# {note}\nroutes:\n  - {{path: /**, service: one, rate_limit: 2/h per ip}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
            backend.addr
        )
    };
    let gateway = TestGateway::start(&config("first")).await;
    assert_eq!(status(gateway.http, "/x").await, 200);
    gateway.rewrite(&config("second"));
    gateway.reload().await.unwrap();
    assert_eq!(status(gateway.http, "/x").await, 200);
    assert_eq!(status(gateway.http, "/x").await, 429);
}

fn two(first: std::net::SocketAddr, second: std::net::SocketAddr, service: &str, route: &str) -> String {
    format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s{route}}}\nservices:\n  s: {{hosts: [\"{first}\", \"{second}\"]{service}}}\n"
    )
}

async fn spread(gateway: &TestGateway, requests: usize) -> HashMap<String, usize> {
    let mut client = Connection::open(gateway.http).await;
    let mut counts = HashMap::new();
    for _ in 0..requests {
        *counts.entry(text(&client.send(get("/x")).await).to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn round_robin_takes_turns() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let gateway = TestGateway::start(&two(a.addr, b.addr, "", "")).await;
    let mut client = Connection::open(gateway.http).await;
    let mut turns = Vec::new();
    for _ in 0..40 {
        turns.push(text(&client.send(get("/x")).await).to_owned());
    }
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
}

#[tokio::test]
async fn p2c_goes_to_the_endpoint_that_has_fewer_requests() {
    let (busy, free) = (RawBackend::held(b"", false).await, Backend::named("free").await);
    let gateway =
        TestGateway::start(&two(busy.addr, free.addr, ", balance: p2c, outlier: off", ", retry: off")).await;
    let mut waiting = tokio::task::JoinSet::new();
    // Until one of them has a request; both are as good before.
    while busy.requests() == 0 {
        let (http, before) = (gateway.http, free.served());
        waiting.spawn(async move { status(http, "/x").await });
        eventually("it is somewhere", || async { busy.requests() == 1 || free.served() > before }).await;
    }
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..40 {
        assert_eq!(text(&client.send(get("/x")).await), "free");
    }
}

#[tokio::test]
async fn a_connect_failure_goes_to_another_endpoint_even_with_a_body() {
    let free = closed_port();
    let good = Backend::named("good").await;
    let gateway =
        TestGateway::start(&two(free, good.addr, ", breaker: off", ", retry: {budget: 100%}")).await;
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..6 {
        let reply = client.send(request("POST", "/x", "body")).await;
        assert_eq!((reply.status(), text(&reply)), (StatusCode::OK, "good"));
    }
    assert!(good.take_seen().iter().all(|seen| &seen.body()[..] == b"body"));
}

/// Those of ten seconds that are free, and a share of the requests, which counts in steps of 64 requests.
#[tokio::test]
async fn the_retry_budget_is_a_share_of_the_requests_when_everything_fails() {
    for (budget, least, most) in [("0%", 100, 100), ("20%", 126, 140), ("50%", 165, 180)] {
        let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let (a, b) = (RawBackend::answering(busy, false).await, RawBackend::answering(busy, false).await);
        // Short pauses: all of it must be over before the first of the free retries are given anew, after ten seconds.
        let quick = format!(", retry: {{backoff: 1ms..1ms, budget: {budget}}}");
        let gateway = TestGateway::start(&two(a.addr, b.addr, ", breaker: off, outlier: off", &quick)).await;
        let mut client = Connection::open(gateway.http).await;
        for _ in 0..200 {
            // The service's own answer is passed on, not one of ours.
            assert_eq!(client.send(get("/x")).await.status(), 503);
        }
        let retries = a.requests() + b.requests() - 200;
        assert!((least..=most).contains(&retries), "{budget}: {retries}");
        for (name, expected) in [
            ("millgate_retries_total{service=\"s\",reason=\"status\"}", retries),
            ("millgate_retry_budget_exhausted_total{service=\"s\"}", 200 - retries),
        ] {
            let line = format!("{name} {expected}");
            eventually(&line, || gateway.shows(&line)).await;
        }
    }
}

#[tokio::test]
async fn a_post_that_was_sent_is_never_sent_again() {
    let closing = RawBackend::answering(b"", true).await;
    let other = Backend::named("other").await;
    let gateway =
        TestGateway::start(&two(closing.addr, other.addr, ", breaker: off, outlier: off", "")).await;
    let mut client = Connection::open(gateway.http).await;
    let mut failed = 0;
    for _ in 0..4 {
        let reply = client.send(request("POST", "/x", "body")).await;
        failed += usize::from(reply.status() == 502);
    }
    assert_eq!((failed, other.served()), (2, 2), "round robin sent two to each; none was repeated");
}

#[tokio::test]
async fn a_failing_endpoint_trips_its_breaker_and_recovers_through_a_probe() {
    let broken = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&broken);
    let flaky = Backend::with(move |_| {
        let status = if switch.load(Ordering::SeqCst) { 500 } else { 200 };
        Response::builder().status(status).body(Bytes::from_static(b"flaky")).unwrap()
    })
    .await;
    let good = Backend::named("good").await;
    let service = ", breaker: {errors: 50%, min: 5, window: 10s, open: 300ms, probes: 1, count: 5xx}";
    let gateway = TestGateway::start(&two(flaky.addr, good.addr, service, "")).await;
    let mut client = Connection::open(gateway.http).await;
    while flaky.served() < 5 {
        client.send(get("/x")).await;
    }
    let counts = spread(&gateway, 10).await;
    assert_eq!(counts.get("good"), Some(&10), "an open breaker keeps its endpoint out: {counts:?}");
    broken.store(false, Ordering::SeqCst);
    eventually("the endpoint is back", || async { spread(&gateway, 4).await.get("flaky") == Some(&2) }).await;
}

#[tokio::test]
async fn when_every_breaker_is_open_the_answer_is_at_once_503_with_retry_after() {
    let down = Backend::with(|_| Response::builder().status(500).body(Bytes::new()).unwrap()).await;
    let also = Backend::with(|_| Response::builder().status(500).body(Bytes::new()).unwrap()).await;
    let service = ", breaker: {errors: 50%, min: 4, window: 10s, open: 30s, count: 5xx, max_by_status: 100%}";
    let gateway = TestGateway::start(&two(down.addr, also.addr, service, ", retry: off")).await;
    eventually("both breakers open", || async { status(gateway.http, "/x").await == 503 }).await;
    let served = down.served() + also.served();
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (503, Some("breaker_open")));
    let wait: u64 = header(&reply, "retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(down.served() + also.served(), served, "nothing reached the service");
}

#[tokio::test]
async fn past_max_inflight_requests_are_refused_at_once() {
    let silent = RawBackend::answering(b"", false).await;
    let config = format!(
        "routes:\n  - {{path: /**, service: s}}\nservices:\n  s: {{hosts: [\"{}\"], max_inflight: 1}}\n",
        silent.addr
    );
    let gateway = TestGateway::start(&config).await;
    let http = gateway.http;
    let waiting = tokio::spawn(async move { send(http, get("/x")).await });
    eventually("the first is under way", || async { !silent.received.lock().unwrap().is_empty() }).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!((reply.status().as_u16(), json(&reply)["code"].as_str()), (503, Some("overloaded")));
    assert_eq!(header(&reply, "retry-after"), "1");
    waiting.abort();
}

#[tokio::test]
async fn a_connection_that_the_service_closed_while_idle_is_replaced_without_a_failure() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    // Closes after every answer without announcing it.
    let closing = RawBackend::answering(answer, true).await;
    let config = format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s}}\nservices:\n  s: {{hosts: [\"{}\"]}}\n",
        closing.addr
    );
    let gateway = TestGateway::start(&config).await;
    let mut client = Connection::open(gateway.http).await;
    for n in 1..=20 {
        assert_eq!(client.send(get("/x")).await.status(), 200, "request {n}");
    }
}
