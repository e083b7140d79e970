//! Breakers and idle connections of a service whose settings a reload changes: the new settings count at once, and the
//! state of its endpoints stays.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{
    backend::RawBackend,
    client::{Connection, get, json, send, status, text},
    eventually,
    gateway::TestGateway,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn config(addr: SocketAddr, service: &str) -> String {
    format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s, retry: off}}\n\
         services:\n  s: {{hosts: [\"{addr}\"], outlier: off{service}}}\n"
    )
}

async fn reload(gateway: &TestGateway, addr: SocketAddr, service: &str) {
    gateway.rewrite(&config(addr, service));
    gateway.reload().await.unwrap();
}

async fn endpoint(gateway: &TestGateway) -> Value {
    json(&send(gateway.admin(), get("/api/v1/services")).await)["services"][0]["endpoints"][0].clone()
}

async fn code(gateway: &TestGateway) -> String {
    json(&send(gateway.http, get("/x")).await)["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_stricter_breaker_counts_what_came_before_it_and_another_change_leaves_it_open() {
    let broken = RawBackend::answering(b"", true).await;
    let gateway =
        TestGateway::start(&config(broken.addr, ", breaker: {min: 1000, window: 5m, open: 10m}")).await;
    for _ in 0..10 {
        assert_eq!(code(&gateway).await, "upstream_reset");
    }
    let shown = endpoint(&gateway).await;
    assert_eq!((&shown["breaker"], &shown["breaker_window"]["failures"]), (&"closed".into(), &10.into()));
    reload(&gateway, broken.addr, ", breaker: {min: 11, window: 5m, open: 10m}").await;
    let shown = endpoint(&gateway).await;
    assert_eq!((&shown["breaker"], &shown["breaker_window"]["failures"]), (&"closed".into(), &10.into()));
    // The eleventh.
    assert_eq!(code(&gateway).await, "upstream_reset");
    assert_eq!(code(&gateway).await, "breaker_open");
    // A breaker that would never have opened, another balancer and another limit.
    for change in [
        "breaker: {min: 1000, window: 5m, open: 10m}",
        "breaker: {min: 11, open: 10m}, balance: least, max_inflight: 7",
    ] {
        reload(&gateway, broken.addr, &format!(", {change}")).await;
        assert_eq!(code(&gateway).await, "breaker_open", "{change}");
    }
    let line = format!(
        "millgate_breaker_transitions_total{{service=\"s\",instance=\"{}\",to=\"open\"}} 1",
        broken.addr
    );
    eventually("it has opened once", || gateway.shows(&line)).await;
}

/// Connections to services, idle ones included.
async fn connections(gateway: &TestGateway) -> usize {
    let shown = send(gateway.admin(), get("/metrics")).await;
    let name = "millgate_file_places_used{part=\"upstreams\"} ";
    text(&shown).lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn idle_connections_stay_through_a_reload_and_go_as_far_as_the_new_pool_has_no_place_for_them() {
    let service = RawBackend::held(OK, false).await;
    let gateway = TestGateway::start(&config(service.addr, "")).await;
    let (http, mut clients) = (gateway.http, JoinSet::new());
    for _ in 0..4 {
        clients.spawn(async move { status(http, "/x").await });
    }
    eventually("all four are at the service", || async { service.requests() == 4 }).await;
    service.release();
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    reload(&gateway, service.addr, ", pool: {max: 100}, balance: least").await;
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..8 {
        assert_eq!(client.send(get("/x")).await.status(), 200);
    }
    assert_eq!(
        (service.connections(), connections(&gateway).await),
        (4, 4),
        "no new one is opened, none closed"
    );
    reload(&gateway, service.addr, ", pool: {max: 1}").await;
    eventually("one is left", || async { connections(&gateway).await == 1 }).await;
    let line = "millgate_pool_full_total{service=\"s\"} 3";
    eventually(line, || gateway.shows(line)).await;
    assert_eq!(client.send(get("/x")).await.status(), 200);
    assert_eq!(service.connections(), 4, "it is one of those that were there");
    reload(&gateway, service.addr, ", pool: {idle: 100ms}").await;
    eventually("it was idle for too long", || async { connections(&gateway).await == 0 }).await;
    assert_eq!(client.send(get("/x")).await.status(), 200);
    assert_eq!(service.connections(), 5);
}
