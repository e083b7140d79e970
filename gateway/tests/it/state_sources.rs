//! The answers of one registry are never used as another's: two registries, one user, one state folder.

use std::path::{Path, PathBuf};

use millgate::{ConfigSource, Gateway, RunOptions, config::source::ConfigKey};
use millgate_registry::{ClientConfig, ServiceRegistration};

use crate::{
    discovery::Registry,
    support::{
        backend::Backend,
        client::{get, send, status, text},
        eventually,
        gateway::{config_path, write_config},
    },
};

crate::discovery::scenarios![
    instances_of_one_registry_are_not_served_for_another,
    a_reload_to_another_registry_takes_its_word_and_its_state,
    routes_that_were_declared_in_one_registry_are_not_anothers,
    a_key_of_another_registry_has_another_configuration,
];

/// A folder with the configurations of two gateways, and the state of both.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, registry: &Registry, config: &str) {
        let discovery = format!("address: \"{}\"", registry.url());
        write_config(&self.folder(name), &config.replace("CONSUL", &discovery));
    }

    async fn start(&self, name: &str) -> Gateway {
        start(ConfigSource::File(config_path(&self.folder(name))), &self.state()).await
    }

    async fn gateway(&self, name: &str, registry: &Registry) -> Gateway {
        self.write(name, registry, WEB);
        self.start(name).await
    }
}

async fn start(config: ConfigSource, state: &Path) -> Gateway {
    let options = RunOptions { config, state_dir: Some(state.to_owned()) };
    Gateway::start(options).await.unwrap_or_else(|error| panic!("{error}"))
}

const WEB: &str = "discovery: {consul: {CONSUL}}\nroutes:\n  - {path: /**, service: web}\n";

/// The name of the instance that answers, or the status.
async fn answer(gateway: &Gateway) -> String {
    answer_at(gateway, "/x").await
}

async fn answer_at(gateway: &Gateway, path: &str) -> String {
    let reply = send(gateway.http_addr().unwrap(), get(path)).await;
    if reply.status() == 200 { text(&reply).to_owned() } else { reply.status().as_u16().to_string() }
}

async fn is_ready(gateway: &Gateway) -> bool {
    status(gateway.admin_addr().unwrap(), "/readyz").await == 200
}

async fn instances_of_one_registry_are_not_served_for_another(mut one: Registry) {
    let (mut other, user) = (one.another().await, User::new());
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    one.register("a", &a).await;
    let gateway = user.gateway("one", &one).await;
    eventually("a is routed to", || async { answer(&gateway).await == "a" }).await;
    // Both run at once.
    other.kill().await;
    let gateway_of_other = user.gateway("other", &other).await;
    assert_eq!(answer(&gateway_of_other).await, "503");
    assert!(!is_ready(&gateway_of_other).await, "nothing is known of this registry");
    other.restart().await;
    eventually("the other registry answers", || is_ready(&gateway_of_other)).await;
    assert_eq!(answer(&gateway_of_other).await, "503", "it knows no instance");
    other.register("b", &b).await;
    eventually("b is routed to", || async { answer(&gateway_of_other).await == "b" }).await;
    gateway.shutdown().await;
    gateway_of_other.shutdown().await;
    // Each begins with the answers of its own registry.
    one.kill().await;
    other.kill().await;
    for (name, instance) in [("one", "a"), ("other", "b")] {
        let gateway = user.start(name).await;
        assert_eq!(answer(&gateway).await, instance, "{name}");
        gateway.shutdown().await;
    }
}

/// Consul reports its cluster, by the trust domain of its mesh; the embedded registry does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_at_the_same_address_is_another_registry() {
    let Some(mut registry) = Registry::consul().await else { return };
    let (a, user) = (Backend::named("a").await, User::new());
    registry.register("a", &a).await;
    let gateway = user.gateway("one", &registry).await;
    eventually("a is routed to", || async { answer(&gateway).await == "a" }).await;
    let folder = std::fs::read_dir(user.state()).unwrap().next().unwrap().unwrap().path();
    let is_kept = || async {
        std::fs::read_to_string(folder.join("cluster")).is_ok_and(|name| name.contains(".consul"))
    };
    eventually("the cluster is kept", is_kept).await;
    gateway.shutdown().await;
    // A development agent draws a name at each start.
    registry.kill().await;
    registry.restart().await;
    let gateway = user.start("one").await;
    eventually("what another cluster said is not used", || async { answer(&gateway).await == "503" }).await;
    registry.register("a", &a).await;
    eventually("the new one is followed", || async { answer(&gateway).await == "a" }).await;
    gateway.shutdown().await;
}

async fn a_reload_to_another_registry_takes_its_word_and_its_state(mut one: Registry) {
    let (mut other, user) = (one.another().await, User::new());
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    one.register("a", &a).await;
    let gateway = user.gateway("one", &one).await;
    eventually("a is routed to", || async { answer(&gateway).await == "a" }).await;
    user.write("one", &other, WEB);
    gateway.reload().await.unwrap();
    eventually("no instance is registered there", || async { answer(&gateway).await == "503" }).await;
    other.register("b", &b).await;
    eventually("b is routed to", || async { answer(&gateway).await == "b" }).await;
    gateway.shutdown().await;
    one.kill().await;
    other.kill().await;
    for (registry, instance) in [(&one, "a"), (&other, "b")] {
        let gateway = user.gateway("one", registry).await;
        assert_eq!(answer(&gateway).await, instance);
        gateway.shutdown().await;
    }
}

async fn routes_that_were_declared_in_one_registry_are_not_anothers(mut one: Registry) {
    let (mut other, user) = (one.another().await, User::new());
    let declares = |path: &str, backend: &Backend| {
        ServiceRegistration::http("web", "w", "127.0.0.1", backend.addr.port())
            .tags([format!("millgate.route={path}")])
    };
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    one.client().register(&declares("/one", &a)).await.unwrap();
    other.client().register(&declares("/other", &b)).await.unwrap();
    let auto =
        "discovery: {consul: {CONSUL, auto_routes: {allow_hosts: \"*\", allow_paths: /**}}}\nroutes: []\n";
    user.write("one", &one, auto);
    let gateway = user.start("one").await;
    eventually("it is declared", || async { answer_at(&gateway, "/one").await == "a" }).await;
    user.write("one", &other, auto);
    gateway.reload().await.unwrap();
    eventually("the other registry's is declared", || async { answer_at(&gateway, "/other").await == "b" })
        .await;
    assert_eq!(answer_at(&gateway, "/one").await, "404", "it is not declared there");
    gateway.shutdown().await;
    one.kill().await;
    other.kill().await;
    for (registry, path, missing, instance) in
        [(&one, "/one", "/other", "a"), (&other, "/other", "/one", "b")]
    {
        user.write("one", registry, auto);
        let gateway = user.start("one").await;
        assert_eq!(answer_at(&gateway, path).await, instance);
        assert_eq!(answer_at(&gateway, missing).await, "404");
        gateway.shutdown().await;
    }
}

async fn a_key_of_another_registry_has_another_configuration(mut one: Registry) {
    let (other, user) = (one.another().await, User::new());
    let backend = Backend::named("a").await;
    let config = |path: &str| {
        format!(
            "version: 1\nworkers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}}\naccess_log: {{format: off}}\n\
             routes:\n  - {{path: {path}, service: one}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
            backend.addr
        )
    };
    let source = |registry: &Registry| {
        let key = ConfigKey { key: "edge".to_owned(), consul: ClientConfig::new(registry.url()) };
        ConfigSource::Key(Box::new(key))
    };
    one.client().kv_put("edge", config("/one")).await.unwrap();
    start(source(&one), &user.state()).await.shutdown().await;
    // It has no such key, and is not given the other's.
    let options = RunOptions { config: source(&other), state_dir: Some(user.state()) };
    let missing = Gateway::start(options).await.err().unwrap().to_string();
    assert!(missing.contains("there is no key `edge`"), "{missing}");
    other.client().kv_put("edge", config("/other")).await.unwrap();
    start(source(&other), &user.state()).await.shutdown().await;
    one.kill().await;
    let gateway = start(source(&one), &user.state()).await;
    assert_eq!(answer_at(&gateway, "/one").await, "a");
    gateway.shutdown().await;
}
