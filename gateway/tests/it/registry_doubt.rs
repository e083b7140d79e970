//! A registry that comes back without its memory: what it forgot is doubted for a while, whatever the size of the service,
//! and then believed. The same suite against the embedded registry and a real Consul 1.8.7.

use std::time::{Duration, Instant};

use crate::{
    discovery::Registry,
    support::{
        backend::Backend,
        client::{get, json, send, status},
        eventually,
        gateway::TestGateway,
    },
};

crate::discovery::scenarios![
    one_instance_survives_a_registry_that_is_back_empty_and_is_then_believed_to_be_gone,
    an_instance_that_registers_again_is_never_missed,
    without_doubt_an_empty_registry_is_believed,
    a_service_that_is_deregistered_is_not_doubted,
];

async fn gateway(registry: &Registry, doubt: &str) -> TestGateway {
    let config = format!(
        "discovery: {{consul: {{address: \"{}\", doubt: {doubt}}}}}\nroutes:\n  - {{path: /**, service: web}}\n",
        registry.url()
    );
    TestGateway::start(&config).await
}

async fn answers(gateway: &TestGateway) -> bool {
    status(gateway.http, "/x").await == 200
}

/// A value of the gateway's watch.
async fn watch(gateway: &TestGateway, what: &str) -> u64 {
    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    services["services"][0]["watch"][what].as_u64().unwrap_or(0)
}

/// Until it has heard of the empty catalog, no request fails.
async fn doubts(gateway: &TestGateway) {
    let kept = || async {
        assert!(answers(gateway).await, "it is only doubted");
        watch(gateway, "kept").await == 1
    };
    eventually("the empty answer is doubted", kept).await;
}

async fn one_instance_survives_a_registry_that_is_back_empty_and_is_then_believed_to_be_gone(
    mut registry: Registry,
) {
    let a = Backend::named("a").await;
    registry.register("a", &a).await;
    let gateway = gateway(&registry, "3s").await;
    eventually("a is routed to", || answers(&gateway)).await;
    registry.kill().await;
    registry.restart().await;
    let begin = Instant::now();
    doubts(&gateway).await;
    eventually("in the end it is believed", || async { !answers(&gateway).await }).await;
    assert!(begin.elapsed() > Duration::from_secs(3), "{:?}", begin.elapsed());
}

async fn an_instance_that_registers_again_is_never_missed(mut registry: Registry) {
    let a = Backend::named("a").await;
    registry.register("a", &a).await;
    let gateway = gateway(&registry, "3s").await;
    eventually("a is routed to", || answers(&gateway)).await;
    registry.kill().await;
    registry.restart().await;
    doubts(&gateway).await;
    registry.register("a", &a).await;
    let settled = || async {
        assert!(answers(&gateway).await);
        watch(&gateway, "kept").await == 0
    };
    eventually("it is there again", settled).await;
    assert!(answers(&gateway).await);
}

/// A registry that does not report its cluster may be the same one, without its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_beside_an_empty_registry_doubts_it_too() {
    let mut registry = Registry::embedded().await.unwrap();
    let a = Backend::named("a").await;
    registry.register("a", &a).await;
    let mut gateway = gateway(&registry, "3s").await;
    eventually("a is routed to", || answers(&gateway)).await;
    registry.kill().await;
    registry.restart().await;
    gateway.restart().await;
    doubts(&gateway).await;
    eventually("in the end it is believed", || async { !answers(&gateway).await }).await;
}

async fn without_doubt_an_empty_registry_is_believed(mut registry: Registry) {
    let a = Backend::named("a").await;
    registry.register("a", &a).await;
    let gateway = gateway(&registry, "off").await;
    eventually("a is routed to", || answers(&gateway)).await;
    registry.kill().await;
    registry.restart().await;
    eventually("it is believed", || async { !answers(&gateway).await }).await;
    assert_eq!(watch(&gateway, "kept").await, 0);
}

async fn a_service_that_is_deregistered_is_not_doubted(registry: Registry) {
    let a = Backend::named("a").await;
    registry.register("a", &a).await;
    // Longer than the test may take.
    let gateway = gateway(&registry, "5m").await;
    eventually("a is routed to", || answers(&gateway)).await;
    registry.client().deregister("a").await.unwrap();
    eventually("it is believed", || async { !answers(&gateway).await }).await;
}
