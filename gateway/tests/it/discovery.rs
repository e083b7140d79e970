//! Discovery, the same suite against the embedded registry and a real Consul 1.8.7.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use millgate_registry::{
    CheckStatus, Client, ClientConfig, EmbeddedRegistry, RegistryOptions, ServiceRegistration,
    testing::{self, ConsulProcess},
};

use crate::support::{
    backend::Backend,
    client::{Connection, get, json, send, status, text},
    eventually,
    gateway::TestGateway,
    within,
};

/// How soon a change in the registry must be a change in routing.
const SOON: Duration = Duration::from_secs(1);
/// The check that a registration with a TTL makes.
pub(crate) const TTL: Duration = Duration::from_mins(1);

pub(crate) enum Registry {
    Embedded { running: Option<EmbeddedRegistry>, addr: SocketAddr },
    Consul(ConsulProcess),
}

impl Registry {
    pub(crate) async fn embedded() -> Option<Self> {
        // It is started again on the same port, see there.
        let listen = ([127, 0, 0, 1], testing::restartable_port()).into();
        let start = || EmbeddedRegistry::start(RegistryOptions { listen, ..RegistryOptions::default() });
        let running = testing::on_freed_port(start).await;
        let addr = running.addr();
        Some(Self::Embedded { running: Some(running), addr })
    }

    /// `None`: Consul is not on this machine. The rig has printed that, or fails if servers are required.
    pub(crate) async fn consul() -> Option<Self> {
        ConsulProcess::start().await.map(Self::Consul)
    }

    /// Another one of the kind, with a history of its own.
    pub(crate) async fn another(&self) -> Self {
        match self {
            Self::Embedded { .. } => Self::embedded().await.unwrap(),
            Self::Consul(_) => Self::consul().await.unwrap(),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Embedded { addr, .. } => format!("http://{addr}"),
            Self::Consul(process) => process.url(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(ClientConfig::new(self.url())).unwrap()
    }

    pub(crate) async fn kill(&mut self) {
        match self {
            Self::Embedded { running, .. } => running.take().unwrap().shutdown().await,
            Self::Consul(process) => process.kill(),
        }
    }

    /// Comes back on the same address, empty, with a low index.
    pub(crate) async fn restart(&mut self) {
        match self {
            Self::Embedded { running, addr } => {
                let start = || {
                    EmbeddedRegistry::start(RegistryOptions { listen: *addr, ..RegistryOptions::default() })
                };
                *running = Some(testing::on_freed_port(start).await);
            }
            Self::Consul(process) => process.restart().await,
        }
    }

    pub(crate) async fn register(&self, id: &str, backend: &Backend) {
        let registration = ServiceRegistration::http("web", id, "127.0.0.1", backend.addr.port()).ttl(TTL);
        self.client().register(&registration).await.unwrap();
        self.set(id, CheckStatus::Passing).await;
    }

    pub(crate) async fn set(&self, id: &str, status: CheckStatus) {
        // Only the id matters for the name of the check.
        let check = ServiceRegistration::http("web", id, "", 0).ttl(TTL).ttl_check_id();
        self.client().check_update(&check, status, "set by a test").await.unwrap();
    }

    async fn gateway(&self) -> TestGateway {
        self.gateway_with("routes:\n  - {path: /**, service: web}\n").await
    }

    /// `routes` and `services` of a configuration.
    pub(crate) async fn gateway_with(&self, config: &str) -> TestGateway {
        TestGateway::start(&format!("discovery: {{consul: {{address: \"{}\"}}}}\n{config}", self.url())).await
    }
}

/// Runs a scenario against both registries.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Registry::embedded().await.unwrap()).await;
            })*
        }
        mod consul_1_8_7 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(registry) = super::Registry::consul().await {
                    super::$name(registry).await;
                }
            })*
        }
    };
}

pub(crate) use scenarios;

scenarios![
    registered_instances_share_the_requests,
    a_critical_instance_gets_no_request_within_a_second,
    with_both_gone_the_answer_is_503_and_the_route_stays,
    requests_keep_flowing_while_the_registry_is_down,
    a_registry_that_comes_back_with_a_lower_index_is_followed_again,
    an_instance_with_a_higher_weight_gets_more,
    a_gateway_that_starts_without_the_registry_serves_what_was_known,
];

async fn spread(gateway: &TestGateway, requests: usize) -> HashMap<String, usize> {
    let mut client = Connection::open(gateway.http).await;
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let reply = client.send(get("/x")).await;
        *counts.entry(format!("{} {}", reply.status().as_u16(), text(&reply))).or_default() += 1;
    }
    counts
}

async fn reaches(gateway: &TestGateway, names: &[&str]) -> bool {
    let counts = spread(gateway, 8).await;
    counts.len() == names.len() && names.iter().all(|name| counts.contains_key(&format!("200 {name}")))
}

async fn registered_instances_share_the_requests(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    registry.register("a", &a).await;
    registry.register("b", &b).await;
    let gateway = registry.gateway().await;
    gateway.ready().await;
    eventually("both are routed to", || reaches(&gateway, &["a", "b"])).await;
    let counts = spread(&gateway, 40).await;
    assert!(counts["200 a"] >= 18 && counts["200 b"] >= 18, "{counts:?}");
}

async fn a_critical_instance_gets_no_request_within_a_second(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    registry.register("a", &a).await;
    registry.register("b", &b).await;
    let gateway = registry.gateway().await;
    eventually("both are routed to", || reaches(&gateway, &["a", "b"])).await;
    registry.set("b", CheckStatus::Critical).await;
    within(SOON, "only a is routed to", || reaches(&gateway, &["a"])).await;
    registry.set("b", CheckStatus::Passing).await;
    eventually("b is back", || reaches(&gateway, &["a", "b"])).await;
    what_happened_is_told(&gateway).await;
}

async fn what_happened_is_told(gateway: &TestGateway) {
    let watch = || async {
        let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
        services["services"][0]["watch"].clone()
    };
    // Taken over once a second.
    eventually("the change is told", || async { watch().await["wakeups"].as_u64() >= Some(2) }).await;
    let watch = watch().await;
    assert_eq!((watch["state"].as_str(), watch["mode"].as_str()), (Some("fresh"), Some("blocking")));
    let history = watch["history"].as_array().unwrap();
    let of_b = history.iter().find(|instance| instance["id"] == "b").unwrap();
    let told: Vec<_> = of_b["transitions"].as_array().unwrap().iter().map(|t| t["state"].as_str()).collect();
    assert!(told.ends_with(&[Some("critical"), Some("passing")]), "{told:?}");
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let metrics = text(&metrics);
    for line in [
        "millgate_discovery_fresh{service=\"web\"} 1",
        "millgate_discovery_polling{service=\"web\"} 0",
        "millgate_discovery_held_up_instances{service=\"web\"} 0",
        "millgate_discovery_update_duration_seconds_count ",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

async fn with_both_gone_the_answer_is_503_and_the_route_stays(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    registry.register("a", &a).await;
    registry.register("b", &b).await;
    let gateway = registry.gateway().await;
    eventually("both are routed to", || reaches(&gateway, &["a", "b"])).await;
    registry.client().deregister("a").await.unwrap();
    registry.client().deregister("b").await.unwrap();
    // An empty answer is confirmed by another query before it is used.
    eventually("no instance is left", || async { status(gateway.http, "/x").await == 503 }).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!(json(&reply)["code"], "no_healthy_endpoint");
    assert_eq!(json(&reply)["route"], "/**");
    registry.register("a", &a).await;
    eventually("a is back", || reaches(&gateway, &["a"])).await;
}

async fn requests_keep_flowing_while_the_registry_is_down(mut registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    registry.register("a", &a).await;
    registry.register("b", &b).await;
    let gateway = registry.gateway().await;
    eventually("both are routed to", || reaches(&gateway, &["a", "b"])).await;
    registry.kill().await;
    let errors = || async {
        let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
        services["services"][0]["watch"]["errors"].as_u64().unwrap_or(0)
    };
    // The gateway has noticed, and goes on with what it knew.
    eventually("the watch fails", || async { errors().await >= 2 }).await;
    let counts = spread(&gateway, 100).await;
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert_eq!(counts["200 a"] + counts["200 b"], 100, "{counts:?}");
    assert_eq!(status(gateway.admin(), "/readyz").await, 200);
}

async fn a_registry_that_comes_back_with_a_lower_index_is_followed_again(mut registry: Registry) {
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    registry.register("a", &a).await;
    for _ in 0..30 {
        // A high index, which the restart loses.
        registry.set("a", CheckStatus::Warning).await;
        registry.set("a", CheckStatus::Passing).await;
    }
    let gateway = registry.gateway().await;
    eventually("a is routed to", || reaches(&gateway, &["a"])).await;
    registry.kill().await;
    registry.restart().await;
    registry.register("b", &b).await;
    // What the registry has forgotten stays for a while.
    eventually("b is routed to", || reaches(&gateway, &["a", "b"])).await;
    registry.register("c", &c).await;
    eventually("changes are seen again", || reaches(&gateway, &["a", "b", "c"])).await;
}

async fn an_instance_with_a_higher_weight_gets_more(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    registry.register("a", &a).await;
    let heavy = ServiceRegistration::http("web", "b", "127.0.0.1", b.addr.port()).ttl(TTL).weights(3, 1);
    registry.client().register(&heavy).await.unwrap();
    registry.set("b", CheckStatus::Passing).await;
    let gateway = registry.gateway().await;
    eventually("both are routed to", || reaches(&gateway, &["a", "b"])).await;
    // One worker's turn of the schedule is 4 requests; both workers may serve the connection's.
    let counts = spread(&gateway, 40).await;
    assert_eq!((counts["200 a"], counts["200 b"]), (10, 30), "{counts:?}");
}

async fn a_gateway_that_starts_without_the_registry_serves_what_was_known(mut registry: Registry) {
    let a = Backend::named("a").await;
    registry.register("a", &a).await;
    let mut gateway = registry.gateway().await;
    eventually("a is routed to", || reaches(&gateway, &["a"])).await;
    registry.kill().await;
    gateway.restart().await;
    assert_eq!(status(gateway.http, "/x").await, 200);
    assert_eq!(status(gateway.admin(), "/readyz").await, 200);
}
