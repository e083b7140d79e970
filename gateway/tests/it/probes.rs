//! The request that finds out whether an ejected endpoint is back.
//!
//! HAProxy probes with health checks, nginx with whatever request comes first after `fail_timeout`, Envoy with all of
//! them: with one broken endpoint of two and `POST`s alone, five fail there for each ejection.

use std::time::{Duration, Instant};

use http::Response;

use crate::{
    dead_endpoints::{endpoint, hosts, metric, to},
    support::{
        backend::{Backend, RawBackend, closed_port},
        client::{Connection, get, request, send, status},
        eventually,
        gateway::TestGateway,
    },
};

/// One worker, so that its requests come in order.
fn two(bad: &RawBackend, good: &Backend, route: &str, service: &str) -> String {
    format!("workers: 1\n{}", to(&hosts([bad.addr, good.addr]), route, service))
}

/// By `GET`s.
async fn eject(gateway: &TestGateway) {
    eventually("it is ejected", || async {
        let _ = status(gateway.http, "/x").await;
        metric(gateway, "millgate_ejections_total").await >= 1.0
    })
    .await;
}

/// Three `POST`s for each `GET`, until there were this many ejections. All of them must succeed.
/// The pauses of these tests are long: a client that stands still for another pause makes a `POST` the probe, as it should.
async fn mixed_traffic(gateway: &TestGateway, ejections: f64) {
    let mut client = Connection::open(gateway.http).await;
    let began = Instant::now();
    while metric(gateway, "millgate_ejections_total").await < ejections {
        for n in 0..40 {
            let one = if n % 4 == 3 { get("/x") } else { request("POST", "/x", "body") };
            let method = one.method().clone();
            assert_eq!(client.send(one).await.status(), 200, "{method} after {:?}", began.elapsed());
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it is never probed");
    }
}

#[tokio::test]
async fn no_post_is_the_probe_of_an_endpoint_that_breaks_while_there_are_requests_to_repeat() {
    let (bad, good) = (RawBackend::answering(b"", true).await, Backend::named("good").await);
    let service = ", breaker: off, outlier: {gateway_failures: 2, pause: 500ms}";
    let gateway = TestGateway::start(&two(&bad, &good, "", service)).await;
    eject(&gateway).await;
    mixed_traffic(&gateway, 4.0).await;
}

/// What it answers is what it was left out for, and no `retry.on` names 502.
#[tokio::test]
async fn no_get_is_lost_to_the_probe_of_an_endpoint_that_answers_502() {
    let bad = Backend::with(|_| Response::builder().status(502).body("bad".into()).unwrap()).await;
    let good = Backend::named("good").await;
    let service = ", breaker: off, outlier: {gateway_failures: 2, pause: 500ms}";
    let config = format!("workers: 1\n{}", to(&hosts([bad.addr, good.addr]), "", service));
    let gateway = TestGateway::start(&config).await;
    eject(&gateway).await;
    mixed_traffic(&gateway, 4.0).await;
    assert!(bad.served() >= 5, "it was probed");
}

/// The probe has half of the time, so that the other half is enough to go elsewhere.
#[tokio::test]
async fn no_request_is_lost_to_the_probe_of_an_endpoint_that_hangs_while_there_are_some_to_repeat() {
    let (bad, good) = (RawBackend::answering(b"", false).await, Backend::named("good").await);
    let service = ", breaker: off, outlier: {gateway_failures: 1, pause: 500ms}";
    let gateway = TestGateway::start(&two(&bad, &good, ", timeout: 2s", service)).await;
    eject(&gateway).await;
    mixed_traffic(&gateway, 3.0).await;
}

/// What a retry could still do counts, and not the method: its body is not kept, or its route repeats nothing.
#[tokio::test]
async fn where_nothing_can_be_repeated_a_request_is_the_probe_after_another_pause() {
    for (route, method) in [("", "POST"), (", retry: off", "GET"), (", retry: {on: [connect]}", "GET")] {
        let (bad, good) = (RawBackend::answering(b"", true).await, Backend::named("good").await);
        let service = ", breaker: off, outlier: {gateway_failures: 1, pause: 400ms}";
        let gateway = TestGateway::start(&two(&bad, &good, route, service)).await;
        eject(&gateway).await;
        let began = Instant::now();
        let mut client = Connection::open(gateway.http).await;
        let next = || if method == "GET" { get("/x") } else { request("POST", "/x", "body") };
        while client.send(next()).await.status() == 200 {
            assert!(began.elapsed() < Duration::from_secs(20), "it is never probed");
        }
        assert!(began.elapsed() > Duration::from_millis(600), "{method}{route}: {:?}", began.elapsed());
        // It is back, and that is found out without a request that could be repeated.
        let addr = bad.addr;
        drop(bad);
        let closed = async || tokio::net::TcpStream::connect(addr).await.is_err();
        eventually("the port is closed", closed).await;
        let back = Backend::named_at("back", addr).await;
        eventually("it has requests again", || async {
            assert_eq!(send(gateway.http, next()).await.status(), 200);
            back.served() > 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_service_without_traffic_finds_out_by_itself_that_a_port_is_open_again() {
    let (dead, good) = (closed_port(), Backend::named("good").await);
    let service = ", breaker: off, outlier: {pause: 500ms}";
    let gateway = TestGateway::start(&to(&hosts([dead, good.addr]), "", service)).await;
    eject(&gateway).await;
    let served = good.served();
    eventually("it was probed in vain", || async {
        endpoint(&gateway, dead).await["outlier"]["ejections"].as_u64() >= Some(2)
    })
    .await;
    let _back = Backend::named_at("back", dead).await;
    eventually("it is in", || async { endpoint(&gateway, dead).await["outlier"]["state"] == "in" }).await;
    assert_eq!(good.served(), served, "no request was sent");
    let events = send(gateway.admin(), get("/api/v1/events")).await;
    assert!(crate::support::client::text(&events).contains("endpoint_returned"));
}

#[tokio::test]
async fn what_waits_for_a_request_says_so_and_since_when() {
    let (bad, good) = (RawBackend::answering(b"", true).await, Backend::named("good").await);
    let service = ", breaker: off, outlier: {gateway_failures: 1, pause: 200ms}";
    let gateway = TestGateway::start(&two(&bad, &good, "", service)).await;
    eject(&gateway).await;
    eventually("its pause is over", || async {
        endpoint(&gateway, bad.addr).await["outlier"]["state"] == "due"
    })
    .await;
    let shown = endpoint(&gateway, bad.addr).await["outlier"].clone();
    let since = humantime::parse_rfc3339(shown["until"].as_str().unwrap()).unwrap();
    assert!(since < std::time::SystemTime::now(), "{shown}");
    assert_eq!(shown["reason"], "gateway_failures");
    let ejected = format!("millgate_endpoint_ejected{{service=\"s\",instance=\"{}\"}}", bad.addr);
    assert!((metric(&gateway, &ejected).await - 1.0).abs() < f64::EPSILON, "no request goes there yet");
}
