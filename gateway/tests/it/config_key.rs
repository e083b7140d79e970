//! Configuration from a key in Consul's KV, the same suite against the embedded registry and a real Consul 1.8.7.

use std::{path::Path, time::Duration};

use millgate::{ConfigSource, Gateway, RunOptions, StartError, config::source::ConfigKey};
use millgate_registry::{ClientConfig, ServiceRegistration};

use crate::{
    discovery::Registry,
    support::{
        DEADLINE,
        backend::Backend,
        client::{get, send, status, text},
        eventually,
    },
};

const KEY: &str = "edge/routes.yaml";

crate::discovery::scenarios![
    a_change_of_the_key_is_a_change_of_the_routes_of_every_gateway,
    a_broken_text_and_a_deleted_key_take_nothing_away,
    a_gateway_starts_with_the_last_accepted_text_while_consul_is_away,
    a_start_without_consul_waits_for_it,
    services_are_found_through_the_connection_of_the_key_and_no_other,
];

/// One route to `service`, at `path`.
fn config(path: &str, service: &Backend) -> String {
    format!(
        "version: 1\nworkers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", admin_hosts: [gw]}}\naccess_log: {{format: off}}\n\
         routes:\n  - {{path: {path}, service: one}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    )
}

async fn put(registry: &Registry, text: &str) {
    registry.client().kv_put(KEY, text.to_owned()).await.unwrap();
}

async fn start(registry: &Registry, state: &Path) -> Result<Gateway, StartError> {
    start_at(registry.url(), state).await
}

async fn start_at(url: String, state: &Path) -> Result<Gateway, StartError> {
    let key = ConfigKey { key: KEY.to_owned(), consul: ClientConfig::new(url) };
    Gateway::start(RunOptions { config: ConfigSource::Key(Box::new(key)), state_dir: Some(state.to_owned()) })
        .await
}

async fn answers(gateway: &Gateway, path: &str) -> bool {
    status(gateway.http_addr().unwrap(), path).await == 200
}

async fn metric(gateway: &Gateway, line: &str) -> bool {
    let reply = send(gateway.admin_addr().unwrap(), get("/metrics")).await;
    text(&reply).lines().any(|found| found == line)
}

async fn a_change_of_the_key_is_a_change_of_the_routes_of_every_gateway(registry: Registry) {
    let (backend, states) = (Backend::named("one").await, tempfile::tempdir().unwrap());
    put(&registry, &config("/first", &backend)).await;
    let mut gateways = Vec::new();
    for name in ["a", "b"] {
        gateways.push(start(&registry, &states.path().join(name)).await.unwrap());
    }
    for path in ["/second", "/third"] {
        put(&registry, &config(path, &backend)).await;
        for gateway in &gateways {
            eventually("the new route answers", || answers(gateway, path)).await;
            assert!(!answers(gateway, "/first").await);
        }
    }
}

async fn a_broken_text_and_a_deleted_key_take_nothing_away(registry: Registry) {
    let (backend, state) = (Backend::named("one").await, tempfile::tempdir().unwrap());
    put(&registry, &config("/first", &backend)).await;
    let gateway = start(&registry, state.path()).await.unwrap();
    put(&registry, &config("/first", &backend).replace("service: one", "servic: one")).await;
    let refused = || metric(&gateway, "millgate_config_last_reload_successful 0");
    eventually("the text is refused", refused).await;
    assert!(answers(&gateway, "/first").await);
    let report = gateway.reload().await.unwrap_err();
    assert!(report.contains("consul://edge/routes.yaml:6:20") && report.contains("service"), "{report}");
    put(&registry, &config("/second", &backend)).await;
    eventually("a good text is taken over", || answers(&gateway, "/second")).await;
    registry.client().kv_delete(KEY).await.unwrap();
    eventually("it is deleted", || metric(&gateway, "millgate_config_key_present 0")).await;
    assert!(answers(&gateway, "/second").await);
    gateway.reload().await.unwrap();
    assert!(answers(&gateway, "/second").await);
    put(&registry, &config("/third", &backend)).await;
    eventually("a key that came back is followed", || answers(&gateway, "/third")).await;
}

async fn a_gateway_starts_with_the_last_accepted_text_while_consul_is_away(mut registry: Registry) {
    let (backend, state) = (Backend::named("one").await, tempfile::tempdir().unwrap());
    let missing = start(&registry, state.path()).await.err().unwrap().to_string();
    assert!(
        missing.contains("there is no key `edge/routes.yaml`") && missing.contains("consul kv put"),
        "{missing}"
    );
    put(&registry, &config("/first", &backend)).await;
    start(&registry, state.path()).await.unwrap().shutdown().await;
    registry.kill().await;
    let gateway = start(&registry, state.path()).await.unwrap();
    assert!(answers(&gateway, "/first").await);
    assert!(
        metric(&gateway, "millgate_config_last_reload_successful 0").await,
        "it is not what the key says"
    );
    registry.restart().await;
    put(&registry, &config("/first", &backend)).await;
    let accepted = || metric(&gateway, "millgate_config_last_reload_successful 1");
    eventually("the key says what runs already, so nothing is wrong", accepted).await;
    put(&registry, &config("/second", &backend)).await;
    eventually("the key is followed again", || answers(&gateway, "/second")).await;
    // A broken text at the next start: the last one that was accepted runs.
    put(&registry, "version: 1\n").await;
    let gateway = start(&registry, state.path()).await.unwrap();
    assert!(answers(&gateway, "/second").await);
    put(&registry, &config("/third", &backend)).await;
    eventually("it is followed", || answers(&gateway, "/third")).await;
}

async fn services_are_found_through_the_connection_of_the_key_and_no_other(registry: Registry) {
    let (backend, state) = (Backend::named("one").await, tempfile::tempdir().unwrap());
    let instance = ServiceRegistration::http("one", "one-1", "127.0.0.1", backend.addr.port());
    registry.client().register(&instance).await.unwrap();
    let text = config("/first", &backend);
    let text = text.split("services:").next().unwrap();
    put(&registry, text).await;
    let gateway = start(&registry, state.path()).await.unwrap();
    eventually("its instance is found", || answers(&gateway, "/first")).await;
    let other = Backend::named("not Consul").await;
    put(&registry, &format!("{text}discovery: {{consul: {{address: \"http://{}\"}}}}\n", other.addr)).await;
    let refused = || metric(&gateway, "millgate_config_last_reload_successful 0");
    eventually("the text is refused", refused).await;
    let report = gateway.reload().await.unwrap_err();
    assert!(report.contains("E006") && report.contains("cannot set `discovery.consul.address`"), "{report}");
    assert!(answers(&gateway, "/first").await);
    assert_eq!(other.connections(), 0);
}

async fn a_start_without_consul_waits_for_it(mut registry: Registry) {
    let (backend, state) = (Backend::named("one").await, tempfile::tempdir().unwrap());
    registry.kill().await;
    let waiting = start_at(registry.url(), state.path());
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "there is nothing to start with");
    // No query is sent meanwhile: a future does nothing until it is polled.
    registry.restart().await;
    put(&registry, &config("/first", &backend)).await;
    let gateway = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(answers(&gateway, "/first").await);
}
