//! The messages about services without an endpoint, and about data whose registry does not answer.

use millgate_registry::ServiceRegistration;

use crate::{
    discovery::Registry,
    support::{
        backend::Backend,
        client::{get, json, send, text},
        eventually,
        gateway::TestGateway,
    },
};

async fn detail(gateway: &TestGateway, path: &str) -> String {
    let reply = send(gateway.http, get(path)).await;
    assert_eq!(json(&reply)["code"], "no_healthy_endpoint");
    json(&reply)["detail"].as_str().unwrap().to_owned()
}

/// The metric's value for the service.
async fn value(gateway: &TestGateway, name: &str) -> Option<f64> {
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let line = format!("{name}{{service=\"web\"}} ");
    text(&metrics).lines().find_map(|shown| shown.strip_prefix(&line)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_service_has_no_endpoint_is_said_and_the_log_names_the_subset() {
    let a = Backend::named("a").await;
    let registry = Registry::embedded().await.unwrap();
    let instance = ServiceRegistration::http("web", "a", "127.0.0.1", a.addr.port()).tags(["v2"]);
    registry.client().register(&instance).await.unwrap();
    let log = tempfile::tempdir().unwrap();
    let file = log.path().join("access.log");
    let gateway = registry
        .gateway_with(&format!(
            "access_log: {{format: json, file: {}}}\nroutes:\n  - {{path: /v3, service: web, subset: v3}}\n  - {{path: /none, service: none}}\n\
             services:\n  web: {{subsets: {{v3: {{tag: v3}}}}}}\n",
            file.display()
        ))
        .await;
    gateway.ready().await;
    assert_eq!(detail(&gateway, "/v3").await, "Subset `v3` of the service matches 0 of 1 healthy instances.");
    assert_eq!(detail(&gateway, "/none").await, "No healthy instance of the service is registered.");
    let is_logged =
        || async { std::fs::read_to_string(&file).is_ok_and(|log| log.contains("\"subset\":\"v3\"")) };
    eventually("the log names the subset", is_logged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_never_answered_is_not_said_to_have_no_instance() {
    let mut registry = Registry::embedded().await.unwrap();
    registry.kill().await;
    let gateway = registry.gateway_with("routes:\n  - {path: /**, service: web}\n").await;
    assert_eq!(detail(&gateway, "/x").await, "The registry has not answered for this service yet.");
    let is_there = || async { value(&gateway, "millgate_discovery_age_seconds").await > Some(0.0) };
    eventually("its age is a series from the start", is_there).await;
    assert_eq!(value(&gateway, "millgate_discovery_last_success_timestamp_seconds").await, None);
    let error = || async {
        let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
        services["services"][0]["watch"]["last_error"].as_str().is_some_and(|error| error.contains("refused"))
    };
    eventually("the error is shown", error).await;
    let said = || async {
        let ready = send(gateway.admin(), get("/readyz")).await;
        let why = "[!] the registry has not answered for 1 of the services: ";
        text(&ready).lines().any(|line| line.starts_with(why) && line.contains("refused"))
    };
    eventually("and why it is not ready", said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_from_disk_has_its_age_and_is_said_not_to_be_fresh() {
    let a = Backend::named("a").await;
    let mut registry = Registry::embedded().await.unwrap();
    registry.register("a", &a).await;
    let mut gateway = registry.gateway_with("routes:\n  - {path: /**, service: web}\n").await;
    eventually("a is routed to", || async { send(gateway.http, get("/x")).await.status() == 200 }).await;
    // The state of the first answer, and not what a later look found.
    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    assert_eq!(services["services"][0]["watch"]["state"], "fresh");
    registry.kill().await;
    gateway.restart().await;
    make_older(gateway.dir.path());
    gateway.restart().await;
    let age = value(&gateway, "millgate_discovery_age_seconds").await;
    assert!(age > Some(3600.0) && age < Some(3700.0), "{age:?}");
    let verbose = send(gateway.admin(), get("/readyz?verbose")).await;
    let said = text(&verbose);
    assert!(said.contains("[!] services whose last query was not answered (yet): 1;"), "{said}");
    assert!(gateway.shows("millgate_discovery_fresh{service=\"web\"} 0").await);
}

/// What is kept of instances was written an hour earlier.
fn make_older(dir: &std::path::Path) {
    for registry in std::fs::read_dir(dir.join("state")).unwrap() {
        let file = registry.unwrap().path().join("web.json");
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let saved_at = record["saved_at"].as_u64().unwrap();
        record["saved_at"] = (saved_at - 3600).into();
        std::fs::write(&file, record.to_string()).unwrap();
    }
}
