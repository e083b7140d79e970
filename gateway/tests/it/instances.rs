//! Which instances of a service get requests, and how many: against the embedded registry and a real Consul 1.8.7.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, Response, StatusCode};
use millgate_registry::{CheckStatus, Client, HttpClient, HttpOptions, ServiceRegistration};
use serde_json::{Value, json};

use crate::{
    discovery::{Registry, TTL, scenarios},
    support::{
        backend::Backend,
        client::{Connection, get, json, send, status, text},
        eventually,
        federation::Federation,
        gateway::TestGateway,
        within,
    },
};

/// How soon a change in the registry must be a change in routing.
const SOON: Duration = Duration::from_secs(1);

scenarios![
    tags_and_meta_select_instances_from_one_watch,
    the_policy_decides_whether_a_warning_is_good_enough,
    a_tagged_address_is_used_where_the_instance_has_one,
    a_host_name_is_resolved_and_what_cannot_be_connected_to_is_left_out_alone,
    a_failing_check_of_the_node_takes_its_instances_out,
    every_balancer_shares_by_weight,
    weights_hold_while_many_requests_are_under_way,
    a_change_of_weight_keeps_breakers_and_connections,
    a_share_of_zero_gets_nothing_though_no_other_is_left,
    a_subset_gets_only_its_own_instances_and_a_split_its_shares,
    a_canary_that_fails_leaves_its_share_to_the_others,
    a_canary_that_is_gone_costs_no_request,
    a_retry_that_finds_no_endpoint_keeps_the_answer_that_there_was,
    a_namespace_is_refused_by_the_open_source_edition_in_readable_words,
    only_passing_instances_are_asked_for_if_that_is_wanted,
];

pub(crate) async fn put(registry: &Registry, path: &str, body: Value) {
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let url = format!("{}{path}", registry.url());
    let body = body.to_string().into();
    let sent =
        http.send(Method::PUT, &url, HeaderMap::new(), body, Duration::from_secs(10), 1024).await.unwrap();
    assert_eq!(sent.status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&sent.body));
}

/// A registration without checks: it is passing.
fn web(id: &str, backend: &Backend) -> ServiceRegistration {
    ServiceRegistration::http("web", id, "127.0.0.1", backend.addr.port())
}

async fn register(registry: &Registry, instances: impl IntoIterator<Item = ServiceRegistration>) {
    let client = registry.client();
    for instance in instances {
        client.register(&instance).await.unwrap();
    }
}

/// Answers by status and body.
async fn spread(gateway: &TestGateway, path: &str, requests: u32) -> HashMap<String, u32> {
    answers(gateway.http, path.to_owned(), requests).await
}

async fn answers(gateway: SocketAddr, path: String, requests: u32) -> HashMap<String, u32> {
    let mut client = Connection::open(gateway).await;
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let reply = client.send(get(&path)).await;
        let key =
            if reply.status() == 200 { text(&reply).to_owned() } else { reply.status().as_str().to_owned() };
        *counts.entry(key).or_default() += 1;
    }
    counts
}

async fn reaches(gateway: &TestGateway, path: &str, names: &[&str]) -> bool {
    let counts = spread(gateway, path, 12).await;
    counts.len() == names.len() && names.iter().all(|name| counts.contains_key(*name))
}

async fn service(gateway: &TestGateway, name: &str) -> Value {
    let mut all = json(&send(gateway.admin(), get("/api/v1/services")).await);
    let list = all["services"].as_array_mut().unwrap();
    list.iter_mut().find(|service| service["name"] == name).map(Value::take).unwrap_or_default()
}

/// Whether `count` of `total` is about the share `expected`: within five standard deviations.
fn is_about(count: u32, total: u32, expected: f64) -> bool {
    let (count, total) = (f64::from(count), f64::from(total));
    (count - total * expected).abs() <= 5.0 * (total * expected * (1.0 - expected)).sqrt()
}

async fn tags_and_meta_select_instances_from_one_watch(registry: Registry) {
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    register(
        &registry,
        [
            web("a", &a).tags(["V1"]).meta([("tier", "gold")]),
            web("b", &b).tags(["v1", "eu"]),
            web("c", &c).tags(["v2"]).meta([("tier", "gold")]),
        ],
    )
    .await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /all, service: web}\n  - {path: /v1, service: v1}\n\
             \x20 - {path: /both, service: both}\n  - {path: /gold, service: gold}\n\
             services:\n  v1: {consul: {name: web, tag: v1}}\n  both: {consul: {name: web, tag: [v1, eu]}}\n\
             \x20 gold: {consul: {name: web, meta: {tier: gold}}}\n",
        )
        .await;
    for (path, names) in
        [("/all", &["a", "b", "c"][..]), ("/v1", &["a", "b"]), ("/both", &["b"]), ("/gold", &["a", "c"])]
    {
        eventually(path, || reaches(&gateway, path, names)).await;
    }
    // A tag is part of what is watched, and losing the last match is believed at once.
    register(&registry, [web("b", &b).tags(["eu"])]).await;
    within(SOON, "no instance has both", || async { status(gateway.http, "/both").await == 503 }).await;
    eventually("b has left v1", || reaches(&gateway, "/v1", &["a"])).await;
}

async fn the_policy_decides_whether_a_warning_is_good_enough(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, [web("a", &a).weights(1, 1).ttl(TTL), web("b", &b).weights(1, 3).ttl(TTL)]).await;
    registry.set("a", CheckStatus::Passing).await;
    registry.set("b", CheckStatus::Warning).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /any, service: web}\n  - {path: /strict, service: strict}\n\
             services: {strict: {consul: {name: web, policy: passing}}}\n",
        )
        .await;
    eventually("both", || reaches(&gateway, "/any", &["a", "b"])).await;
    eventually("only a", || reaches(&gateway, "/strict", &["a"])).await;
    let counts = spread(&gateway, "/any", 40).await;
    assert_eq!((counts["a"], counts["b"]), (10, 30), "the weight while warning: {counts:?}");
    registry.set("b", CheckStatus::Passing).await;
    eventually("b is good again", || reaches(&gateway, "/strict", &["a", "b"])).await;
    let counts = spread(&gateway, "/any", 40).await;
    assert_eq!((counts["a"], counts["b"]), (20, 20), "the weight while passing: {counts:?}");
    // Weight 0 while warning: out.
    register(&registry, [web("b", &b).weights(1, 0).ttl(TTL)]).await;
    registry.set("b", CheckStatus::Warning).await;
    within(SOON, "b is out", || reaches(&gateway, "/any", &["a"])).await;
}

async fn a_tagged_address_is_used_where_the_instance_has_one(registry: Registry) {
    let (lan, wan) = (Backend::named("lan").await, Backend::named("wan").await);
    let other = json!({"wan": {"Address": "127.0.0.1", "Port": wan.addr.port()}});
    let body = json!({"Name": "web", "ID": "a", "Address": "127.0.0.1", "Port": lan.addr.port(), "TaggedAddresses": other});
    put(&registry, "/v1/agent/service/register", body).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /plain, service: web}\n  - {path: /wan, service: wan}\n\
             \x20 - {path: /none, service: none}\n\
             services:\n  wan: {consul: {name: web, address: wan}}\n  none: {consul: {name: web, address: vpn}}\n",
        )
        .await;
    eventually("plain", || reaches(&gateway, "/plain", &["lan"])).await;
    eventually("wan", || reaches(&gateway, "/wan", &["wan"])).await;
    eventually("the ordinary one", || reaches(&gateway, "/none", &["lan"])).await;
}

async fn a_host_name_is_resolved_and_what_cannot_be_connected_to_is_left_out_alone(registry: Registry) {
    let a = Backend::named("a").await;
    let named = json!({"Name": "web", "ID": "named", "Address": "localhost", "Port": a.addr.port()});
    put(&registry, "/v1/agent/service/register", named).await;
    for (id, port) in [("none", 0), ("high", 99_999), ("low", -1)] {
        let body = json!({"Name": "web", "ID": id, "Address": "127.0.0.1", "Port": port});
        put(&registry, "/v1/agent/service/register", body).await;
    }
    let side = json!({"Name": "web", "ID": "side", "Kind": "connect-proxy", "Address": "127.0.0.1", "Port": 1,
        "Proxy": {"DestinationServiceName": "other"}});
    put(&registry, "/v1/agent/service/register", side).await;
    let lost = json!({"Name": "web", "ID": "lost", "Address": "host.invalid", "Port": 80});
    put(&registry, "/v1/agent/service/register", lost).await;
    let gateway = registry.gateway_with("routes:\n  - {path: /**, service: web}\n").await;
    // `localhost` may be two addresses; the backend listens on one of them, and a refused one is retried.
    eventually("a", || reaches(&gateway, "/", &["a"])).await;
    let skipped = || async { service(&gateway, "web").await["watch"]["skipped_instances"] == 4 };
    eventually("three ports and a proxy are counted", skipped).await;
    // A level, not a sum of all answers: it falls when the last of them is corrected.
    assert!(gateway.shows(r#"millgate_discovery_skipped_instances{service="web"} 4"#).await);
    assert!(gateway.shows("# TYPE millgate_discovery_skipped_instances gauge").await);
    let endpoints = service(&gateway, "web").await["endpoints"].to_string();
    assert!(!endpoints.contains("#lost") && !endpoints.contains("#side"), "{endpoints}");
}

async fn a_failing_check_of_the_node_takes_its_instances_out(registry: Registry) {
    let a = Backend::named("a").await;
    register(&registry, [web("a", &a)]).await;
    let gateway = registry.gateway_with("routes:\n  - {path: /**, service: web}\n").await;
    eventually("a", || reaches(&gateway, "/", &["a"])).await;
    put(&registry, "/v1/agent/check/register", json!({"ID": "disk", "Name": "disk", "TTL": "60s"})).await;
    within(SOON, "the node's check is critical", || async { status(gateway.http, "/").await == 503 }).await;
    put(&registry, "/v1/agent/check/pass/disk", Value::Null).await;
    within(SOON, "it passes", || reaches(&gateway, "/", &["a"])).await;
}

async fn every_balancer_shares_by_weight(registry: Registry) {
    const REQUESTS: u32 = 800;
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    register(&registry, [web("a", &a).weights(1, 1), web("b", &b).weights(3, 1), web("c", &c).weights(6, 1)])
        .await;
    let schemes = ["round_robin", "p2c", "least", "random"];
    let routes = schemes.map(|scheme| format!("  - {{path: /{scheme}, service: {scheme}}}\n"));
    let services =
        schemes.map(|scheme| format!("  {scheme}: {{consul: {{name: web}}, balance: {scheme}}}\n"));
    let config = format!("routes:\n{}services:\n{}", routes.concat(), services.concat());
    let gateway = registry.gateway_with(&config).await;
    for scheme in schemes {
        let path = format!("/{scheme}");
        eventually("all are routed to", || reaches(&gateway, &path, &["a", "b", "c"])).await;
        let counts = spread(&gateway, &path, REQUESTS).await;
        for (name, tenths) in [("a", 1), ("b", 3), ("c", 6)] {
            let share = f64::from(tenths) / 10.0;
            assert!(is_about(counts[name], REQUESTS, share), "{scheme}: {counts:?}");
        }
        if scheme == "round_robin" {
            assert_eq!((counts["a"], counts["b"], counts["c"]), (80, 240, 480), "smooth: {counts:?}");
        }
    }
}

/// Those that look at requests in flight, with some of them in flight.
async fn weights_hold_while_many_requests_are_under_way(registry: Registry) {
    const CLIENTS: u32 = 20;
    const REQUESTS: u32 = 50;
    let names = ["a", "b"];
    let (a, b) = (slow(names[0]).await, slow(names[1]).await);
    let instance =
        |id: &str, port, weight| ServiceRegistration::http("web", id, "127.0.0.1", port).weights(weight, 1);
    register(&registry, [instance("a", a, 1), instance("b", b, 4)]).await;
    for scheme in ["p2c", "least"] {
        let gateway = registry
            .gateway_with(&format!(
                "workers: 1\nroutes:\n  - {{path: /**, service: web}}\nservices: {{web: {{balance: {scheme}}}}}\n"
            ))
            .await;
        eventually("both are routed to", || reaches(&gateway, "/", &names)).await;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(answers(gateway.http, "/".to_owned(), REQUESTS));
        }
        let counts = clients.join_all().await;
        let of_b: u32 = counts.iter().filter_map(|counts| counts.get("b")).sum();
        // Four of five; the pace of two backends is never quite the same.
        let share = f64::from(of_b) / f64::from(CLIENTS * REQUESTS);
        assert!((0.7..0.9).contains(&share), "{scheme}: {share}");
    }
}

/// A backend that answers its name after some milliseconds, for as long as the test runs; its port.
async fn slow(name: &'static str) -> u16 {
    let answer = move || async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        name
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    port
}

/// Answers 500.
async fn sick() -> Backend {
    Backend::with(|_| {
        let mut response = Response::new(bytes::Bytes::new());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await
}

async fn a_canary_that_fails_leaves_its_share_to_the_others(registry: Registry) {
    let (a, b) = (Backend::named("a").await, sick().await);
    register(&registry, [web("a", &a).tags(["v1"]), web("b", &b).tags(["v2"])]).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /**, service: web, split: {v1: 50, canary: 50}, retry: off}\n\
             services:\n  web:\n    breaker: {errors: 50%, min: 5, open: 5m, count: 5xx, max_by_status: 100%}\n\
             \x20   subsets: {v1: {tag: v1}, canary: {tag: v2}}\n",
        )
        .await;
    eventually("the canary's breaker is open", || reaches(&gateway, "/", &["a"])).await;
    let counts = spread(&gateway, "/", 50).await;
    assert_eq!(counts["a"], 50, "{counts:?}");
    assert!(b.served() >= 5);
}

async fn a_canary_that_is_gone_costs_no_request(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, [web("a", &a).tags(["v1"]), web("b", &b).tags(["v2"])]).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /**, service: web, split: {v1: 1, canary: 100000}}\n\
             services: {web: {subsets: {v1: {tag: v1}, canary: {tag: v2}}}}\n",
        )
        .await;
    eventually("the canary is routed to", || reaches(&gateway, "/", &["b"])).await;
    // The registry has not noticed: the retry goes to the other subset. Few enough for the budget of retries.
    drop(b);
    let counts = spread(&gateway, "/", 6).await;
    assert_eq!(counts.get("a"), Some(&6), "{counts:?}");
}

async fn a_retry_that_finds_no_endpoint_keeps_the_answer_that_there_was(registry: Registry) {
    let busy = Backend::with(|_| {
        let mut response = Response::new(bytes::Bytes::from_static(b"come back later"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    let b = sick().await;
    register(&registry, [web("a", &busy).tags(["v1"]), web("b", &b).tags(["v2"])]).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /canary, service: web, subset: canary, retry: off}\n\
             \x20 - {path: /split, service: web, split: {v1: 100000, canary: 1}, retry: {backoff: 2s}}\n\
             services:\n  web:\n    breaker: {errors: 50%, min: 1, open: 5m, count: 5xx, max_by_status: 100%}\n\
             \x20   subsets: {v1: {tag: v1}, canary: {tag: v2}}\n",
        )
        .await;
    for name in ["web/v1", "web/canary"] {
        let known =
            || async { service(&gateway, name).await["endpoints"].as_array().map(Vec::len) == Some(1) };
        eventually("its instance is known", known).await;
    }
    let split = tokio::spawn(send(gateway.http, get("/split")));
    let retries = r#"millgate_retries_total{service="web/v1",reason="status"} 1"#;
    eventually("v1 has answered", || gateway.shows(retries)).await;
    // While the retry waits, the only other subset is taken out.
    assert_eq!(status(gateway.http, "/canary").await, 500);
    let reply = split.await.unwrap();
    assert_eq!((reply.status().as_u16(), text(&reply)), (503, "come back later"));
}

async fn a_share_of_zero_gets_nothing_though_no_other_is_left(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, [web("a", &a).tags(["v1"]), web("b", &b).tags(["v2"])]).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /all, service: web}\n  - {path: /split, service: web, split: {canary: 0, v1: 100}}\n\
             services: {web: {subsets: {v1: {tag: v1}, canary: {tag: v2}}}}\n",
        )
        .await;
    eventually("both are routed to", || reaches(&gateway, "/all", &["a", "b"])).await;
    assert!(reaches(&gateway, "/split", &["a"]).await);
    registry.client().deregister("a").await.unwrap();
    within(SOON, "a is gone", || reaches(&gateway, "/all", &["b"])).await;
    let reply = send(gateway.http, get("/split")).await;
    assert_eq!(json(&reply)["code"], "no_healthy_endpoint");
}

async fn a_change_of_weight_keeps_breakers_and_connections(registry: Registry) {
    let (a, b) = (Backend::named("a").await, sick().await);
    register(&registry, [web("a", &a), web("b", &b)]).await;
    let gateway = registry
        .gateway_with(
            "workers: 1\nroutes:\n  - {path: /**, service: web, retry: off}\n\
             services: {web: {breaker: {errors: 50%, min: 5, open: 5m, count: 5xx, max_by_status: 100%}}}\n",
        )
        .await;
    let of = |service: &Value, id: &str, field: &str| {
        let found = service["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .find(|endpoint| endpoint["instance"].as_str().unwrap().ends_with(id));
        found.map_or(Value::Null, |endpoint| endpoint[field].clone())
    };
    let opened = || async {
        spread(&gateway, "/", 4).await;
        of(&service(&gateway, "web").await, "#b", "breaker") == "open"
    };
    eventually("b's breaker opens", opened).await;
    let connections = a.connections();
    register(&registry, [web("a", &a).weights(5, 1), web("b", &b).weights(7, 1)]).await;
    let heavier = || async { of(&service(&gateway, "web").await, "#b", "weight") == 7 };
    eventually("the weights are known", heavier).await;
    assert_eq!(of(&service(&gateway, "web").await, "#b", "breaker"), "open");
    let counts = spread(&gateway, "/", 50).await;
    assert_eq!(counts["a"], 50, "{counts:?}");
    assert_eq!(a.connections(), connections, "the pool is the same");
}

async fn a_subset_gets_only_its_own_instances_and_a_split_its_shares(registry: Registry) {
    const REQUESTS: u32 = 1_000;
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    let next = |weight| web("c", &c).meta([("version", "2")]).weights(weight, 1);
    register(&registry, [web("a", &a).tags(["v1"]), web("b", &b).tags(["v1"]), next(1)]).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /all, service: web}\n  - {path: /canary, service: web, subset: canary}\n\
             \x20 - {path: /split, service: web, split: {v1: 80, canary: 20}}\n\
             services: {web: {subsets: {v1: {tag: v1}, canary: {meta: {version: 2}}}}}\n\
             access_log: {file: access.log}\n",
        )
        .await;
    eventually("all", || reaches(&gateway, "/all", &["a", "b", "c"])).await;
    eventually("the canary", || reaches(&gateway, "/canary", &["c"])).await;
    // Shares are of requests and not of instances.
    let counts = spread(&gateway, "/split", REQUESTS).await;
    assert!(is_about(counts["c"], REQUESTS, 0.2), "{counts:?}");
    assert!(counts["a"].abs_diff(counts["b"]) <= 1, "{counts:?}");
    let name = r#"millgate_upstream_requests_total{service="web/canary",code="200"}"#;
    let metrics = send(gateway.admin(), get("/metrics")).await;
    assert!(text(&metrics).contains(name), "each subset has its own numbers");
    let logged = || async {
        let log = std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
        // The last one may be half written.
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let of = |line: &Value, path: &str, subset: &Value| line["path"] == path && line["subset"] == *subset;
        let lines: Vec<Value> = lines.collect();
        let is_there = |path, subset: Value| lines.iter().any(|line| of(line, path, &subset));
        is_there("/split", json!("v1"))
            && is_there("/split", json!("canary"))
            && is_there("/all", Value::Null)
    };
    eventually("the log tells the subset", logged).await;
    assert_eq!(service(&gateway, "web/canary").await["endpoints"].as_array().unwrap().len(), 1);

    // If the subset is empty, its share goes to the others, and a route that names it gets 503.
    registry.client().deregister("c").await.unwrap();
    within(SOON, "no canary", || async { status(gateway.http, "/canary").await == 503 }).await;
    assert!(reaches(&gateway, "/split", &["a", "b"]).await);
    let reply = send(gateway.http, get("/canary")).await;
    assert_eq!(json(&reply)["code"], "no_healthy_endpoint");
    register(&registry, [next(9)]).await;
    within(SOON, "the canary is back", || reaches(&gateway, "/canary", &["c"])).await;
}

async fn a_namespace_is_refused_by_the_open_source_edition_in_readable_words(registry: Registry) {
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /**, service: web}\nservices: {web: {consul: {namespace: team, partition: eu}}}\n",
        )
        .await;
    let failed = || async { service(&gateway, "web").await["watch"]["errors"].as_u64().unwrap_or(0) > 0 };
    eventually("the watch fails", failed).await;
    assert_eq!(status(gateway.http, "/").await, 503);
    let options =
        millgate_registry::QueryOptions { namespace: Some("team".to_owned()), ..Default::default() };
    let error = registry.client().health_service("web", &options).await.unwrap_err().to_string();
    assert!(error.contains("Namespaces are a Consul Enterprise feature"), "{error}");
}

async fn only_passing_instances_are_asked_for_if_that_is_wanted(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, [web("a", &a).ttl(TTL), web("b", &b).ttl(TTL)]).await;
    registry.set("a", CheckStatus::Passing).await;
    registry.set("b", CheckStatus::Warning).await;
    let gateway = registry
        .gateway_with(
            "routes:\n  - {path: /**, service: web}\nservices: {web: {consul: {only_passing: true}}}\n",
        )
        .await;
    eventually("a", || reaches(&gateway, "/", &["a"])).await;
    registry.set("b", CheckStatus::Passing).await;
    within(SOON, "b", || reaches(&gateway, "/", &["a", "b"])).await;
}

/// Not in the embedded registry's part of the API yet, so only here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_of_an_instance_or_its_node_takes_it_out() {
    let Some(registry) = Registry::consul().await else { return };
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, [web("a", &a), web("b", &b)]).await;
    let gateway = registry.gateway_with("routes:\n  - {path: /**, service: web}\n").await;
    eventually("both", || reaches(&gateway, "/", &["a", "b"])).await;
    let maintain = |path: &'static str, enable: bool| {
        let (registry, path) = (&registry, format!("/v1/agent/{path}?enable={enable}"));
        async move { put(registry, &path, Value::Null).await }
    };
    maintain("service/maintenance/b", true).await;
    within(SOON, "b is out", || reaches(&gateway, "/", &["a"])).await;
    maintain("service/maintenance/b", false).await;
    within(SOON, "b is back", || reaches(&gateway, "/", &["a", "b"])).await;
    maintain("maintenance", true).await;
    within(SOON, "the node is out", || async { status(gateway.http, "/").await == 503 }).await;
    maintain("maintenance", false).await;
    within(SOON, "the node is back", || reaches(&gateway, "/", &["a", "b"])).await;
}

mod failover {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn embedded() {
        another_datacenter_serves_while_the_preferred_one_cannot(Federation::embedded().await.unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn consul_1_8_7() {
        if let Some(federation) = Federation::consul().await {
            another_datacenter_serves_while_the_preferred_one_cannot(federation).await;
        }
    }

    async fn set(client: &Client, id: &str, status: CheckStatus) {
        client.check_update(&format!("service:{id}:ttl"), status, "set by a test").await.unwrap();
    }

    async fn another_datacenter_serves_while_the_preferred_one_cannot(federation: Federation) {
        let (a, b) = (Backend::named("a").await, Backend::named("b").await);
        federation.dc1.register(&web("a", &a).ttl(TTL)).await.unwrap();
        federation.dc2.register(&web("b", &b).ttl(TTL)).await.unwrap();
        set(&federation.dc1, "a", CheckStatus::Passing).await;
        set(&federation.dc2, "b", CheckStatus::Passing).await;
        let gateway = TestGateway::start(&format!(
            "discovery: {{consul: {{address: \"{}\"}}}}\nroutes:\n  - {{path: /**, service: web}}\n\
             services: {{web: {{consul: {{failover: dc2}}}}}}\n",
            federation.url
        ))
        .await;
        eventually("dc1 serves", || reaches(&gateway, "/", &["a"])).await;
        assert_eq!(
            service(&gateway, "web").await["failover"],
            json!([{"datacenter": null, "active": true}, {"datacenter": "dc2", "active": false}])
        );

        set(&federation.dc1, "a", CheckStatus::Critical).await;
        within(SOON, "dc2 serves", || reaches(&gateway, "/", &["b"])).await;
        assert_eq!(service(&gateway, "web").await["datacenter"], "dc2");
        assert!(gateway.shows(r#"millgate_failover_position{service="web"} 1"#).await);

        // Back, but not before it has been well for ten seconds; and no request is lost meanwhile.
        set(&federation.dc1, "a", CheckStatus::Passing).await;
        let well = Instant::now();
        let lost = std::cell::Cell::new(0);
        eventually("dc1 serves again", async || {
            let counts = spread(&gateway, "/", 5).await;
            let others = counts.keys().filter(|answer| *answer != "a" && *answer != "b");
            lost.set(lost.get() + others.count());
            counts.contains_key("a")
        })
        .await;
        assert!(well.elapsed() > Duration::from_secs(9), "held for {:?} only", well.elapsed());
        assert_eq!(lost.get(), 0);
        assert!(gateway.shows(r#"millgate_failover_position{service="web"} 0"#).await);
    }
}
