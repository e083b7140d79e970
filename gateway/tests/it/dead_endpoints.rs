//! An endpoint that cannot be reached costs no request, and is left out until it can.
//!
//! Peers with one dead endpoint of two, defaults, 100 requests a second: nginx 1.30, HAProxy 3.2 (`redispatch`) and Envoy 1.40
//! (`retry_on: connect-failure`) fail none.

mod closing_ports;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    authority::Authority,
    backend::{Backend, RawBackend, closed_port},
    client::{Connection, get, json, request, send, status, text},
    eventually,
    gateway::TestGateway,
};

pub(crate) fn hosts(addrs: impl IntoIterator<Item = SocketAddr>) -> String {
    let quoted: Vec<_> = addrs.into_iter().map(|addr| format!("\"{addr}\"")).collect();
    quoted.join(", ")
}

pub(crate) fn to(hosts: &str, route: &str, service: &str) -> String {
    format!("routes:\n  - {{path: /**, service: s{route}}}\nservices:\n  s: {{hosts: [{hosts}]{service}}}\n")
}

/// Every other request is a POST with a body. Sent at `rate` a second whatever becomes of them; a client opens a new
/// connection after each answer that was not 200.
async fn failures_of(gateway: SocketAddr, path: String, rate: u32, lasting: Duration) -> Vec<String> {
    let clients = 8;
    let pause = Duration::from_secs(1) * clients / rate;
    let ends = Instant::now() + lasting;
    let mut running = JoinSet::new();
    for at in 0..clients {
        let path = path.clone();
        running.spawn(async move {
            let mut due = tokio::time::interval_at(Instant::now() + pause * at / clients, pause);
            let (mut failed, mut open) = (Vec::new(), Connection::open(gateway).await);
            for turn in 0_u32.. {
                if due.tick().await >= ends {
                    break;
                }
                let is_post = turn % 2 == 0;
                let one = if is_post { request("POST", &path, "body") } else { get(&path) };
                match open.try_send(one).await {
                    Ok(reply) if reply.status() == 200 => {}
                    Ok(reply) => {
                        failed.push(format!("{} {}", reply.status(), text(&reply)));
                        open = Connection::open(gateway).await;
                    }
                    Err(error) => {
                        failed.push(format!("{error:?}"));
                        open = Connection::open(gateway).await;
                    }
                }
            }
            failed
        });
    }
    running.join_all().await.concat()
}

pub(crate) async fn metric(gateway: &TestGateway, name: &str) -> f64 {
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let lines = text(&metrics).lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

pub(crate) async fn endpoint(gateway: &TestGateway, addr: SocketAddr) -> Value {
    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    let endpoints = services["services"][0]["endpoints"].as_array().unwrap().clone();
    let is_it = |endpoint: &Value| endpoint["address"] == addr.to_string();
    endpoints.into_iter().find(is_it).unwrap_or_default()
}

#[tokio::test]
async fn no_budget_of_retries_is_asked_for_a_connect() {
    let dead = closed_port();
    let mut backends = Vec::new();
    for _ in 0..3 {
        backends.push(Backend::named("one").await);
    }
    let all = hosts(backends.iter().map(|one| one.addr).chain([dead]));
    for budget in ["0%", "100%"] {
        let service = ", breaker: off, outlier: off";
        let gateway = TestGateway::start(&to(&all, &format!(", retry: {{budget: {budget}}}"), service)).await;
        let mut client = Connection::open(gateway.http).await;
        // More than the free retries of ten seconds would cover.
        for n in 0..600 {
            let one = if n % 2 == 0 { request("POST", "/x", "body") } else { get("/x") };
            assert_eq!(client.send(one).await.status(), 200, "request {n} with a budget of {budget}");
        }
        eventually("its connects were tried", || async {
            metric(&gateway, "millgate_retries_total{service=\"s\",reason=\"connect\"}").await >= 140.0
        })
        .await;
    }
}

/// The addresses of a name that only one of them serves.
#[tokio::test]
async fn a_service_on_one_address_family_of_two_fails_no_request() {
    let good = Backend::named("one").await;
    let port = good.addr.port();
    let all = format!("\"127.0.0.1:{port}\", \"[::1]:{port}\"");
    let gateway = TestGateway::start(&to(&all, "", ", breaker: off, outlier: off")).await;
    let mut client = Connection::open(gateway.http).await;
    for n in 0..40 {
        assert_eq!(client.send(request("POST", "/x", "body")).await.status(), 200, "request {n}");
    }
}

/// Nothing accepts, and the backlog is full: a SYN gets no answer.
#[tokio::test]
async fn a_connect_that_times_out_is_as_free_as_one_that_is_refused() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let full = socket.listen(1).unwrap();
    let addr = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(addr)).await
    {
        waiting.push(stream);
        assert!(waiting.len() < 50, "the backlog never fills");
    }
    let good = Backend::named("one").await;
    let route = ", timeout: {total: 5s, connect: 100ms}, retry: {budget: 0%}";
    let gateway = TestGateway::start(&to(&hosts([addr, good.addr]), route, ", breaker: off")).await;
    let mut client = Connection::open(gateway.http).await;
    for n in 0..20 {
        assert_eq!(client.send(request("POST", "/x", "body")).await.status(), 200, "request {n}");
    }
    assert_eq!(endpoint(&gateway, addr).await["outlier"]["state"], "ejected");
    let connects = metric(&gateway, "millgate_retries_total{service=\"s\",reason=\"connect\"}").await;
    assert!((3.0..5.0).contains(&connects), "{connects} requests waited for it");
}

#[tokio::test]
async fn an_ejection_is_seen_everywhere_with_its_numbers_and_ends_with_one_connect() {
    let dead = closed_port();
    let good = Backend::named("good").await;
    let service = ", breaker: off, outlier: {pause: 300ms}";
    let gateway =
        TestGateway::start(&format!("workers: 1\n{}", to(&hosts([dead, good.addr]), "", service))).await;
    eventually("it is ejected", || async {
        let _ = status(gateway.http, "/x").await;
        metric(&gateway, "millgate_ejections_total").await >= 1.0
    })
    .await;
    let shown = endpoint(&gateway, dead).await["outlier"].clone();
    assert_eq!(shown["reason"], "connect_failures");
    assert!(shown["connect_failures"].as_u64() >= Some(3), "{shown}");
    let ejected = format!("millgate_endpoint_ejected{{service=\"s\",instance=\"{dead}\"}}");
    assert!((metric(&gateway, &ejected).await - 1.0).abs() < f64::EPSILON);
    eventually("the event is there", || async {
        let events = send(gateway.admin(), get("/api/v1/events")).await;
        text(&events).contains("endpoint_ejected")
            && text(&events).contains("3 connect failures in a row; left out for 300ms until ")
    })
    .await;
    let back = Backend::named_at("back", dead).await;
    eventually("it has requests again", || async {
        assert_eq!(status(gateway.http, "/x").await, 200);
        back.served() > 0
    })
    .await;
    assert_eq!(endpoint(&gateway, dead).await["outlier"]["state"], "in");
    let events = send(gateway.admin(), get("/api/v1/events")).await;
    assert!(text(&events).contains("endpoint_returned"), "{}", text(&events));
}

#[tokio::test]
async fn no_more_than_their_share_of_the_endpoints_is_out_and_those_left_serve_every_request() {
    let good = Backend::named("good").await;
    let mut all = vec![good.addr];
    for _ in 0..3 {
        all.push(closed_port());
    }
    let gateway = TestGateway::start(&to(&hosts(all), "", ", breaker: off")).await;
    let failed = failures_of(gateway.http, "/x".to_owned(), 200, Duration::from_millis(500)).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert!((metric(&gateway, "millgate_endpoint_ejected").await - 2.0).abs() < f64::EPSILON);
    eventually("the third one is spared", || async {
        metric(&gateway, "millgate_ejections_spared_total").await >= 1.0
    })
    .await;
}

/// The one that is left dies while the other one is out and has come back meanwhile.
#[tokio::test]
async fn an_ejected_endpoint_is_tried_when_no_other_is_left() {
    let first = closed_port();
    let second = Backend::named("second").await;
    let service = ", breaker: off, outlier: {pause: 1m}";
    let gateway = TestGateway::start(&to(&hosts([first, second.addr]), "", service)).await;
    eventually("the first one is ejected", || async {
        assert_eq!(status(gateway.http, "/x").await, 200);
        metric(&gateway, "millgate_endpoint_ejected").await > 0.0
    })
    .await;
    let _first = Backend::named_at("first", first).await;
    second.leave().await;
    for n in 0..10 {
        let reply = send(gateway.http, request("POST", "/x", "body")).await;
        assert!(reply.status() == 200, "request {n}: {}", text(&reply));
    }
}

#[tokio::test]
async fn an_answer_is_the_clients_at_once_where_no_other_endpoint_can_be_tried() {
    let busy =
        Backend::with(|_| Response::builder().status(503).body(Bytes::from_static(b"busy")).unwrap()).await;
    let dead = [closed_port(), closed_port()];
    let service = ", breaker: {min: 1, open: 5m, max_by_status: 0%}, outlier: off";
    let route = ", retry: {backoff: 500ms..500ms}";
    let gateway = TestGateway::start(&to(&hosts([busy.addr, dead[0], dead[1]]), route, service)).await;
    eventually("two breakers are open", || async {
        let _ = status(gateway.http, "/x").await;
        metric(&gateway, "millgate_breaker_state").await >= 4.0
    })
    .await;
    let (retries, asked) = (metric(&gateway, "millgate_retries_total").await, busy.served());
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..10 {
        let reply = client.send(get("/x")).await;
        assert_eq!((reply.status().as_u16(), text(&reply)), (503, "busy"));
    }
    assert_eq!(busy.served(), asked + 10);
    assert!(
        (metric(&gateway, "millgate_retries_total").await - retries).abs() < f64::EPSILON,
        "none was charged"
    );
    assert!(metric(&gateway, "millgate_retry_budget_exhausted_total").await < 1.0);
}

#[tokio::test]
async fn a_retry_that_cannot_begin_in_time_leaves_the_answer_in_hand() {
    let busy =
        Backend::with(|_| Response::builder().status(503).body(Bytes::from_static(b"busy")).unwrap()).await;
    let good = Backend::named("good").await;
    let route = ", timeout: 9s, retry: {backoff: 10s..10s}";
    let gateway =
        TestGateway::start(&to(&hosts([busy.addr, good.addr]), route, ", breaker: off, outlier: off")).await;
    let mut client = Connection::open(gateway.http).await;
    let began = Instant::now();
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(text(&client.send(get("/x")).await).to_owned());
    }
    assert!(began.elapsed() < Duration::from_secs(9), "no pause was waited for");
    let of_busy = answers.iter().filter(|answer| *answer == "busy").count();
    assert_eq!(of_busy + good.served(), 40, "whatever busy said stayed the answer: {answers:?}");
    assert!(of_busy > 0);
}

#[tokio::test]
async fn a_breaker_that_a_reload_switches_off_or_shortens_holds_nothing_back() {
    let broken = RawBackend::answering(b"", true).await;
    let config = |breaker: &str| {
        to(&hosts([broken.addr]), ", retry: off", &format!(", breaker: {breaker}, outlier: off"))
    };
    let gateway = TestGateway::start(&config("{min: 2, open: 10m}")).await;
    let code =
        async || json(&send(gateway.http, get("/x")).await)["code"].as_str().unwrap_or_default().to_owned();
    eventually("the breaker is open", || async { code().await == "breaker_open" }).await;
    gateway.rewrite(&config("{min: 2, open: 100ms}"));
    gateway.reload().await.unwrap();
    eventually("a shorter pause counts", || async { code().await == "upstream_reset" }).await;
    gateway.rewrite(&config("{min: 2, open: 10m}"));
    gateway.reload().await.unwrap();
    eventually("the breaker is open", || async { code().await == "breaker_open" }).await;
    gateway.rewrite(&config("off"));
    gateway.reload().await.unwrap();
    assert_eq!(code().await, "upstream_reset");
}

#[tokio::test]
async fn retry_off_is_one_attempt() {
    let dead = closed_port();
    let good = Backend::named("good").await;
    let gateway =
        TestGateway::start(&to(&hosts([dead, good.addr]), ", retry: off", ", breaker: off, outlier: off"))
            .await;
    let mut failed = 0;
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..10 {
        failed += usize::from(client.send(get("/x")).await.status() == 502);
    }
    assert_eq!((failed, good.served()), (5, 5));
}

/// A certificate that is not trusted is found out before a byte of the request is sent.
#[tokio::test]
async fn an_endpoint_without_tls_behind_a_service_with_tls_costs_no_request() {
    let plain = Backend::named("plain").await;
    let authority = Authority::new();
    let good = Backend::over_tls("good", authority.server("127.0.0.1")).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let service = ", protocol: https, tls: {ca_file: ca.pem}";
    let config = to(&hosts([plain.addr, good.addr]), ", retry: {budget: 0%}", service);
    let gateway = TestGateway::start_in(dir, &config).await;
    let mut client = Connection::open(gateway.http).await;
    for n in 0..20 {
        assert_eq!(client.send(request("POST", "/x", "body")).await.status(), 200, "request {n}");
    }
    assert_eq!(endpoint(&gateway, plain.addr).await["outlier"]["reason"], "connect_failures");
}

/// Refused connects opened the breakers of all endpoints, and for ten seconds nothing was tried.
#[tokio::test]
async fn endpoints_that_are_back_are_tried_at_once_however_long_all_of_them_were_gone() {
    let addrs = [closed_port(), closed_port()];
    for hosts in [hosts(addrs), hosts([addrs[0]])] {
        let gateway = TestGateway::start(&to(&hosts, "", ", breaker: {min: 5, open: 10m}")).await;
        let mut client = Connection::open(gateway.http).await;
        for n in 0..60 {
            let one = if n % 2 == 0 { request("POST", "/x", "body") } else { get("/x") };
            let reply = client.send(one).await;
            assert_eq!(json(&reply)["code"], "connect_failed", "request {n}");
        }
        let _back = Backend::named_at("back", addrs[0]).await;
        for n in 0..20 {
            assert_eq!(client.send(request("POST", "/x", "body")).await.status(), 200, "request {n}");
        }
    }
}

/// Not HTTP, and two other endpoints; one of them goes while the retry waits.
#[tokio::test]
async fn a_retry_whose_endpoint_goes_during_the_pause_finds_another_one() {
    let garbage = RawBackend::answering(b"\x15\x03\x01\x00\x02\x02\x46", true).await;
    let (leaving, good) = (Backend::named("leaving").await, Backend::named("good").await);
    let route = ", retry: {retries: 3, backoff: 300ms..300ms, budget: 100%}";
    let service = ", breaker: off, outlier: {connect_failures: 1, gateway_failures: off}";
    let all = hosts([garbage.addr, leaving.addr, good.addr]);
    let gateway = TestGateway::start(&format!("workers: 1\n{}", to(&all, route, service))).await;
    let mut running = JoinSet::new();
    for _ in 0..6 {
        let http = gateway.http;
        running.spawn(async move { send(http, get("/x")).await.status().as_u16() });
    }
    eventually("the first attempts are over", || async { garbage.connections() > 0 }).await;
    leaving.leave().await;
    for _ in 0..6 {
        let http = gateway.http;
        running.spawn(async move { send(http, get("/x")).await.status().as_u16() });
    }
    assert_eq!(running.join_all().await, [200; 12]);
}
