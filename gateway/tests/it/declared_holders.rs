//! Which of two services that declare the same route has it: the one that can serve it. The same suite against the embedded
//! registry and a real Consul 1.8.7.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::{CheckStatus, HttpClient, HttpOptions, ServiceRegistration};

use crate::{
    discovery::Registry,
    support::{
        backend::Backend,
        client::{get, json, send, status, text},
        eventually,
        gateway::TestGateway,
    },
};

crate::discovery::scenarios![
    a_sidecar_that_is_registered_first_takes_no_route,
    a_sidecar_that_is_registered_later_takes_no_route,
    a_critical_holder_gives_its_route_to_a_passing_service_in_either_order,
    a_service_without_an_instance_keeps_a_route_that_no_other_can_serve,
];

const TTL: Duration = Duration::from_mins(1);
const TAG: &str = "millgate.route=/shop/**";

async fn gateway(registry: &Registry) -> TestGateway {
    TestGateway::start(&format!(
        "discovery: {{consul: {{address: \"{}\", auto_routes: {{allow_hosts: \"*\", allow_paths: /**}}}}}}\nroutes: []\n",
        registry.url()
    ))
    .await
}

fn registration(service: &str, backend: &Backend) -> ServiceRegistration {
    ServiceRegistration::http(service, service, "127.0.0.1", backend.addr.port()).tags([TAG]).ttl(TTL)
}

async fn register(registry: &Registry, service: &str, backend: &Backend, status: CheckStatus) {
    registry.client().register(&registration(service, backend)).await.unwrap();
    set(registry, service, backend, status).await;
}

async fn set(registry: &Registry, service: &str, backend: &Backend, status: CheckStatus) {
    let check = registration(service, backend).ttl_check_id();
    registry.client().check_update(&check, status, "set by a test").await.unwrap();
}

/// As Consul registers the proxy of a service: with its tags.
async fn register_sidecar(registry: &Registry, service: &str) {
    let body = serde_json::json!({
        "ID": service, "Name": service, "Kind": "connect-proxy", "Address": "127.0.0.1", "Port": 21000, "Tags": [TAG],
        "Proxy": {"DestinationServiceName": "web", "DestinationServiceID": "web", "LocalServicePort": 80},
    });
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let url = format!("{}/v1/agent/service/register", registry.url());
    let body = Bytes::from(body.to_string());
    let answer = http.send(Method::PUT, &url, HeaderMap::new(), body, TTL, 1 << 16).await.unwrap();
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

async fn answers(gateway: &TestGateway, name: &str) -> bool {
    let reply = send(gateway.http, get("/shop/1")).await;
    reply.status() == 200 && text(&reply) == name
}

/// `service reason` of what was refused.
async fn refused(gateway: &TestGateway) -> Vec<String> {
    let routes = json(&send(gateway.admin(), get("/api/v1/routes")).await);
    let word = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    let refused = routes["refused"].as_array().unwrap().iter();
    refused.map(|one| format!("{} {}", word(one, "service"), word(one, "reason"))).collect()
}

async fn the_web_has_the_route(registry: &mut Registry, gateway: &mut TestGateway) {
    eventually("the service has the route", || answers(gateway, "web")).await;
    eventually("the proxy is refused", || proxy_is_refused(gateway)).await;
    for _ in 0..20 {
        assert!(answers(gateway, "web").await);
    }
    gateway.restart().await;
    assert!(answers(gateway, "web").await, "at once after a restart");
    eventually("the proxy is refused again", || proxy_is_refused(gateway)).await;
    assert!(answers(gateway, "web").await);
    registry.kill().await;
    gateway.restart().await;
    assert!(answers(gateway, "web").await, "without the registry");
}

async fn proxy_is_refused(gateway: &TestGateway) -> bool {
    refused(gateway).await == ["a-sidecar-proxy unsupported"]
}

async fn a_sidecar_that_is_registered_first_takes_no_route(mut registry: Registry) {
    let web = Backend::named("web").await;
    register_sidecar(&registry, "a-sidecar-proxy").await;
    let mut gateway = gateway(&registry).await;
    eventually("the proxy is refused", || proxy_is_refused(&gateway)).await;
    assert_eq!(status(gateway.http, "/shop/1").await, 404);
    register(&registry, "web", &web, CheckStatus::Passing).await;
    the_web_has_the_route(&mut registry, &mut gateway).await;
}

async fn a_sidecar_that_is_registered_later_takes_no_route(mut registry: Registry) {
    let web = Backend::named("web").await;
    register(&registry, "web", &web, CheckStatus::Passing).await;
    let mut gateway = gateway(&registry).await;
    eventually("the service has the route", || answers(&gateway, "web")).await;
    register_sidecar(&registry, "a-sidecar-proxy").await;
    the_web_has_the_route(&mut registry, &mut gateway).await;
}

async fn a_critical_holder_gives_its_route_to_a_passing_service_in_either_order(registry: Registry) {
    let (blue, green) = (Backend::named("blue").await, Backend::named("green").await);
    register(&registry, "blue", &blue, CheckStatus::Critical).await;
    let mut gateway = gateway(&registry).await;
    eventually("blue holds it", || async { status(gateway.http, "/shop/1").await == 503 }).await;
    register(&registry, "green", &green, CheckStatus::Passing).await;
    eventually("green has it", || answers(&gateway, "green")).await;
    // It stays where it is served.
    set(&registry, "blue", &blue, CheckStatus::Passing).await;
    eventually("blue is refused", || async { refused(&gateway).await == ["blue conflict"] }).await;
    assert!(answers(&gateway, "green").await);
    gateway.restart().await;
    assert!(answers(&gateway, "green").await);
    gateway.ready().await;
    eventually("blue is refused again", || async { refused(&gateway).await == ["blue conflict"] }).await;
    assert!(answers(&gateway, "green").await);
    // The route goes to the other service when its holder has no healthy instance any more.
    set(&registry, "green", &green, CheckStatus::Critical).await;
    eventually("blue has it", || answers(&gateway, "blue")).await;
    gateway.restart().await;
    assert!(answers(&gateway, "blue").await);
}

async fn a_service_without_an_instance_keeps_a_route_that_no_other_can_serve(registry: Registry) {
    let (blue, green) = (Backend::named("blue").await, Backend::named("green").await);
    register(&registry, "blue", &blue, CheckStatus::Passing).await;
    let gateway = gateway(&registry).await;
    eventually("blue has it", || answers(&gateway, "blue")).await;
    register(&registry, "green", &green, CheckStatus::Critical).await;
    eventually("green is refused", || async { refused(&gateway).await == ["green conflict"] }).await;
    set(&registry, "blue", &blue, CheckStatus::Critical).await;
    eventually("no instance is left", || async { status(gateway.http, "/shop/1").await == 503 }).await;
    assert_eq!(refused(&gateway).await, ["green conflict"]);
    set(&registry, "blue", &blue, CheckStatus::Passing).await;
    eventually("blue serves it again", || answers(&gateway, "blue")).await;
}
