//! Routes that services declare with tags, the same suite against the embedded registry and a real Consul 1.8.7.

use std::time::Duration;

use millgate_registry::ServiceRegistration;
use serde_json::Value;

use crate::{
    discovery::Registry,
    support::{
        authority::Authority,
        backend::Backend,
        client::{get, header, json, request, send, status, text},
        eventually,
        federation::pass,
        gateway::TestGateway,
    },
};

crate::discovery::scenarios![
    a_tag_makes_a_route_and_takes_it_away,
    what_is_refused_is_reported_with_its_reason_and_instances,
    a_route_that_works_is_not_dropped_for_another_service,
    declared_routes_are_there_at_a_start_without_the_registry,
    a_service_that_is_gone_answers_503_and_not_404,
    a_declared_route_is_closed_where_there_is_auth,
    a_declared_route_goes_live_with_its_instances,
    a_declared_route_does_not_wait_for_ever_for_its_instances,
    a_canary_gets_the_share_that_its_tag_says,
    metadata_makes_a_route_where_a_tag_points_to_it,
    a_tag_can_name_the_host_and_narrow_the_clients,
    instances_are_spoken_with_as_their_own_tags_say,
    what_weakens_a_route_needs_the_operators_trust,
    metadata_is_read_after_a_reload_that_allows_it,
];

const TTL: Duration = Duration::from_mins(1);

async fn register(registry: &Registry, service: &str, id: &str, backend: &Backend, tags: &[&str]) {
    let registration = ServiceRegistration::http(service, id, "127.0.0.1", backend.addr.port())
        .tags(tags.iter().copied())
        .ttl(TTL);
    let client = registry.client();
    client.register(&registration).await.unwrap();
    client.check_pass(&registration.ttl_check_id()).await.unwrap();
}

async fn gateway(registry: &Registry, auto: &str, more: &str) -> TestGateway {
    TestGateway::start(&format!(
        "discovery: {{consul: {{address: \"{}\", auto_routes: {{sources: [native, fabio], {auto}}}}}}}\n{more}",
        registry.url()
    ))
    .await
}

const ALL: &str = "allow_hosts: \"*\", allow_paths: /**";

async fn answers(gateway: &TestGateway, path: &str, name: &str) -> bool {
    let reply = send(gateway.http, get(path)).await;
    reply.status() == 200 && text(&reply) == name
}

async fn admin(gateway: &TestGateway, path: &str) -> Value {
    json(&send(gateway.admin(), get(path)).await)
}

async fn a_tag_makes_a_route_and_takes_it_away(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, "orders", "a", &a, &["millgate.route=GET /orders/**"]).await;
    let gateway = gateway(&registry, ALL, "routes: []\n").await;
    gateway.ready().await;
    assert!(answers(&gateway, "/orders/1", "a").await, "ready means with what is declared");
    assert_eq!(send(gateway.http, request("POST", "/orders/1", "")).await.status(), 405);
    let routes = admin(&gateway, "/api/v1/routes").await;
    assert_eq!(routes["routes"][0]["origin"], "consul:dc1/orders");
    assert_eq!(routes["routes"][0]["name"], "consul:dc1/orders GET /orders/**");
    // A deploy: both until the old instance is gone.
    register(&registry, "orders", "b", &b, &["urlprefix-/v2"]).await;
    eventually("the new route answers", || async { status(gateway.http, "/v2/x").await == 200 }).await;
    assert_eq!(status(gateway.http, "/orders/1").await, 200);
    registry.client().deregister("a").await.unwrap();
    eventually("the old route is gone", || async { status(gateway.http, "/orders/1").await == 404 }).await;
    eventually("only b is left", || answers(&gateway, "/v2/x", "b")).await;
    let events = admin(&gateway, "/api/v1/events").await;
    let kinds: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["route_declared", "route_declared", "route_withdrawn"], "{events}");
}

async fn what_is_refused_is_reported_with_its_reason_and_instances(registry: Registry) {
    let a = Backend::named("a").await;
    let tags = [
        "millgate.route=/shop/a",
        "urlprefix-/shop/b pxyproto=true",
        "millgate.route=/admin",
        "millgate.route=GTE /x",
    ];
    register(&registry, "shop", "shop-1", &a, &tags).await;
    register(&registry, "nothing-taken", "n-1", &a, &["millgate.route=/n"]).await;
    let gateway = gateway(
        &registry,
        "allow: [{services: \"shop*\", hosts: \"*\", paths: /shop/**}]",
        "routes: [{path: /shop/static, service: shop}]\n",
    )
    .await;
    eventually("the good one answers", || answers(&gateway, "/shop/a", "a")).await;
    assert_eq!(status(gateway.http, "/admin").await, 404);
    let named = || async {
        let refused = admin(&gateway, "/api/v1/routes").await["refused"].clone();
        let all: Vec<_> = refused
            .as_array()
            .unwrap()
            .iter()
            .map(|r| {
                (
                    r["reason"].as_str().unwrap().to_owned(),
                    r["instances"][0].as_str().unwrap_or("").to_owned(),
                )
            })
            .collect();
        let expected = [
            ("not_allowed", "n-1"),
            ("not_allowed", "shop-1"),
            ("invalid", "shop-1"),
            ("unsupported", "shop-1"),
        ];
        all == expected.map(|(reason, instance)| (reason.to_owned(), instance.to_owned()))
    };
    eventually("each is reported", named).await;
    let metrics = send(gateway.admin(), get("/metrics")).await;
    for line in ["millgate_declared_routes 1", "millgate_declared_routes_refused{reason=\"unsupported\"} 1"] {
        assert!(text(&metrics).lines().any(|found| found == line), "{line}");
    }
}

async fn a_route_that_works_is_not_dropped_for_another_service(registry: Registry) {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    register(&registry, "z-first", "z", &b, &["millgate.route=/x/**"]).await;
    let gateway = gateway(&registry, ALL, "routes: [{path: /fixed/**, service: z-first}]\n").await;
    eventually("it answers", || answers(&gateway, "/x/1", "b")).await;
    register(
        &registry,
        "a-later",
        "a",
        &a,
        &["millgate.route=/x/**", "millgate.route=/fixed/mine", "millgate.route=/y"],
    )
    .await;
    eventually("the rest of it is taken", || answers(&gateway, "/y", "a")).await;
    assert!(answers(&gateway, "/x/1", "b").await && answers(&gateway, "/fixed/mine", "b").await);
    registry.client().deregister("z").await.unwrap();
    register(&registry, "z-first", "z", &b, &[]).await;
    eventually("it moves when the first one gives it up", || answers(&gateway, "/x/1", "a")).await;
}

async fn declared_routes_are_there_at_a_start_without_the_registry(mut registry: Registry) {
    let a = Backend::named("a").await;
    register(&registry, "orders", "a", &a, &["millgate.route=/orders/**"]).await;
    let mut gateway = gateway(&registry, ALL, "routes: []\n").await;
    eventually("it answers", || answers(&gateway, "/orders/1", "a")).await;
    registry.kill().await;
    gateway.restart().await;
    assert!(answers(&gateway, "/orders/1", "a").await);
    assert_eq!(status(gateway.admin(), "/readyz").await, 200);
}

async fn a_service_that_is_gone_answers_503_and_not_404(registry: Registry) {
    let a = Backend::named("a").await;
    register(&registry, "orders", "a", &a, &["millgate.route=/orders/**"]).await;
    let gateway = gateway(&registry, ALL, "routes: []\n").await;
    eventually("it answers", || answers(&gateway, "/orders/1", "a")).await;
    registry.client().deregister("a").await.unwrap();
    eventually("no instance is left", || async { status(gateway.http, "/orders/1").await == 503 }).await;
    register(&registry, "orders", "a", &a, &["millgate.route=/orders/**"]).await;
    eventually("it is back", || answers(&gateway, "/orders/1", "a")).await;
}

async fn a_declared_route_is_closed_where_there_is_auth(registry: Registry) {
    let a = Backend::named("a").await;
    register(&registry, "orders", "a", &a, &["millgate.route=/orders/**", "millgate.route=/open auth=none"])
        .await;
    let secret = "auth: {main: {jwks: \"http://127.0.0.1:9/\", audience: api}}\nroutes: []\n";
    let gateway = gateway(&registry, &format!("{ALL}, auth: main"), secret).await;
    let answer = || async { [401, 503].contains(&status(gateway.http, "/orders/1").await.as_u16()) };
    eventually("it asks for a token", answer).await;
    assert_eq!(status(gateway.http, "/open").await, 404);
}

/// A proxy before a registry. It holds answers about instances back until it is opened.
struct Front {
    url: String,
    open: tokio::sync::watch::Sender<bool>,
    held: tokio::sync::watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    async fn before(registry: &Registry) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (open, opened) = tokio::sync::watch::channel(false);
        let (counter, held) = tokio::sync::watch::channel(0);
        let behind = registry.url();
        let forward = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let (mut opened, counter, behind) = (opened.clone(), counter.clone(), behind.clone());
            async move {
                if request.uri().path().starts_with("/v1/health/service/") {
                    counter.send_modify(|held| *held += 1);
                    let _ = opened.wait_for(|open| *open).await;
                }
                pass(&behind, request).await
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, forward).await.unwrap() });
        Self { url, open, held, task }
    }

    /// Waits until the gateway has queried the instances of a service.
    async fn asked(&mut self) {
        self.held.wait_for(|held| *held > 0).await.unwrap();
    }
}

async fn gateway_behind(front: &Front) -> TestGateway {
    TestGateway::start(&format!(
        "discovery: {{consul: {{address: \"{}\", auto_routes: {{{ALL}}}}}}}\nroutes: []\n",
        front.url
    ))
    .await
}

async fn a_declared_route_goes_live_with_its_instances(registry: Registry) {
    let a = Backend::named("a").await;
    let mut front = Front::before(&registry).await;
    let gateway = gateway_behind(&front).await;
    gateway.ready().await;
    register(&registry, "orders", "a", &a, &["millgate.route=/orders/**"]).await;
    front.asked().await;
    assert_eq!(status(gateway.http, "/orders/1").await, 404);
    let told =
        || async { admin(&gateway, "/api/v1/routes").await["waiting"] == serde_json::json!(["orders"]) };
    eventually("it is told that the route waits", told).await;
    front.open.send_replace(true);
    let live = || async {
        let status = status(gateway.http, "/orders/1").await;
        assert!(status == 404 || status == 200, "{status}");
        status == 200
    };
    eventually("it is live", live).await;
    assert_eq!(admin(&gateway, "/api/v1/routes").await["waiting"], serde_json::json!([]));
}

async fn a_declared_route_does_not_wait_for_ever_for_its_instances(registry: Registry) {
    let a = Backend::named("a").await;
    register(&registry, "orders", "a", &a, &["millgate.route=/orders/**"]).await;
    let mut front = Front::before(&registry).await;
    let gateway = gateway_behind(&front).await;
    front.asked().await;
    eventually("it is live", || async { status(gateway.http, "/orders/1").await == 503 }).await;
    let events = admin(&gateway, "/api/v1/events").await;
    assert_eq!(events["events"][1]["kind"], "service_unknown", "{events}");
    // And then it is right as soon as the registry speaks.
    front.open.send_replace(true);
    eventually("it answers", || answers(&gateway, "/orders/1", "a")).await;
}

/// Each worker takes turns of its own, so that shares are exact only with one.
const ONE_WORKER: &str = "workers: 1\nroutes: []\n";

/// Of 200 requests, those that `name` answered.
async fn answered(gateway: &TestGateway, path: &str, name: &str) -> usize {
    let mut count = 0;
    for _ in 0..200 {
        count += usize::from(answers(gateway, path, name).await);
    }
    count
}

async fn a_canary_gets_the_share_that_its_tag_says(registry: Registry) {
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    let plain = ["urlprefix-/shop"];
    register(&registry, "shop", "a", &a, &plain).await;
    register(&registry, "shop", "b", &b, &plain).await;
    let gateway = gateway(&registry, ALL, ONE_WORKER).await;
    gateway.ready().await;
    eventually("both answer", || async { answered(&gateway, "/shop", "a").await == 100 }).await;
    // Ten of two hundred.
    register(&registry, "shop", "c", &c, &["urlprefix-/shop weight=0.05"]).await;
    eventually("5 %", || async { answered(&gateway, "/shop", "c").await == 10 }).await;
    assert_eq!(answered(&gateway, "/shop", "a").await, 95);
    let routes = admin(&gateway, "/api/v1/routes").await;
    assert_eq!(routes["routes"].as_array().unwrap().len(), 1, "{routes}");
    assert_eq!(routes["routes"][0]["subset"], "weighted /shop/**");
    register(&registry, "shop", "c", &c, &["urlprefix-/shop weight=0.5"]).await;
    eventually("50 %", || async { answered(&gateway, "/shop", "c").await == 100 }).await;
    // Whoever is left takes what was the others'.
    registry.client().deregister("a").await.unwrap();
    registry.client().deregister("b").await.unwrap();
    eventually("alone", || async { answered(&gateway, "/shop", "c").await == 200 }).await;
    let events = admin(&gateway, "/api/v1/events").await.to_string();
    assert!(events.contains("route_changed") && events.contains("50.00 % by `urlprefix"), "{events}");
}

async fn metadata_makes_a_route_where_a_tag_points_to_it(registry: Registry) {
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    let registration = |id: &str, backend: &Backend, tags: &[&str], meta: &[(&str, &str)]| {
        let meta = meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut registration = ServiceRegistration::http("shop", id, "127.0.0.1", backend.addr.port())
            .tags(tags.iter().copied())
            .ttl(TTL);
        registration.meta.extend(meta);
        registration
    };
    let add = async |registration: ServiceRegistration| {
        registry.client().register(&registration).await.unwrap();
        registry.client().check_pass(&registration.ttl_check_id()).await.unwrap();
    };
    add(registration("a", &a, &["millgate"], &[("millgate-route-1", "GET /shop/**")])).await;
    add(registration("b", &b, &[], &[("millgate-route-1", "/unasked")])).await;
    let gateway = gateway(&registry, "allow_hosts: \"*\", allow_paths: /shop/**", ONE_WORKER).await;
    gateway.ready().await;
    eventually("it is declared", || async { status(gateway.http, "/shop/1").await == 200 }).await;
    assert_eq!(status(gateway.http, "/unasked").await, 404);
    assert_eq!(answered(&gateway, "/shop", "a").await, 100, "a route leads to all instances");
    let canary =
        [("millgate-route-1", "GET /shop/** weight=0.1"), ("millgate-route-2", "/admin"), ("note", "/x")];
    add(registration("c", &c, &["millgate"], &canary)).await;
    eventually("10 %", || async { answered(&gateway, "/shop", "c").await == 20 }).await;
    eventually("what is refused is named with its instance", || async {
        let refused = admin(&gateway, "/api/v1/routes").await["refused"].clone();
        let one = &refused[0];
        refused.as_array().unwrap().len() == 1
            && one["tag"] == "millgate-route-2=/admin"
            && one["reason"] == "not_allowed"
            && one["instances"][0] == "c"
    })
    .await;
    registry.client().deregister("c").await.unwrap();
    add(registration("a", &a, &["millgate"], &[("millgate-route-1", "GET /shop/new")])).await;
    eventually("the old route is gone", || async { status(gateway.http, "/shop/1").await == 404 }).await;
    assert_eq!(status(gateway.http, "/shop/new").await, 200);
}

async fn a_tag_can_name_the_host_and_narrow_the_clients(registry: Registry) {
    let shop = Backend::named("shop").await;
    let tags = [
        "urlprefix-shop.$DC.test/dc",
        "urlprefix-/own host=dst",
        "urlprefix-/named host=shop.internal",
        "urlprefix-/inside allow=ip:127.0.0.0/8",
        "millgate.route=/outside deny=127.0.0.1",
        "millgate.route=/wider allow=127.0.0.0/8,::1 strip=/wider",
    ];
    register(&registry, "shop", "shop-1", &shop, &tags).await;
    let rules = "auth: none, use: rules";
    let auto = format!("{ALL}, {rules}");
    let file = "routes: []\npolicies: {rules: {clients: {deny: [203.0.113.0/24]}, rewrite: {add: /v2}}}\n";
    let gateway = gateway(&registry, &auto, file).await;
    gateway.ready().await;
    for (path, status, seen) in [
        ("/own", 200, Some((shop.addr.to_string(), "/v2/own"))),
        ("/named", 200, Some(("shop.internal".to_owned(), "/v2/named"))),
        ("/inside", 200, Some(("gw".to_owned(), "/v2/inside"))),
        ("/outside", 403, None),
        ("/wider", 200, Some(("gw".to_owned(), "/v2"))),
    ] {
        assert_eq!(send(gateway.http, get(path)).await.status(), status, "{path}");
        if let Some((host, target)) = seen {
            let seen = shop.only_seen();
            assert_eq!((seen.headers()["host"].to_str().unwrap(), seen.uri().path()), (&*host, target));
        }
    }
    let mut by_datacenter = get("/dc");
    by_datacenter.headers_mut().insert("host", "shop.dc1.test".parse().unwrap());
    assert_eq!(send(gateway.http, by_datacenter).await.status(), 200);
    // What the file denies, no tag allows.
    let mut denied = get("/inside");
    denied.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
    assert_eq!(send(gateway.http, denied).await.status(), 403);
    let routes = admin(&gateway, "/api/v1/routes").await;
    let require = |path: &str| {
        let routes = routes["routes"].as_array().unwrap();
        routes.iter().find(|route| route["path"] == path).unwrap()["require"].clone()
    };
    assert_eq!(
        require("/inside/**"),
        serde_json::json!(["client not in 203.0.113.0/24", "client in 127.0.0.0/8"])
    );
}

async fn instances_are_spoken_with_as_their_own_tags_say(registry: Registry) {
    let authority = Authority::new();
    let clear = Backend::named("clear").await;
    let secure = Backend::over_tls("secure", authority.server("127.0.0.1")).await;
    let own = Backend::over_tls("own", authority.server("own.internal")).await;
    register(&registry, "shop", "clear-1", &clear, &["urlprefix-/shop"]).await;
    let https = "urlprefix-/shop proto=https tlsskipverify=true";
    register(&registry, "shop", "secure-1", &secure, &[https]).await;
    // The settings of a service in the file apply to its declared routes, too.
    register(&registry, "own", "own-1", &own, &["millgate.route=/own"]).await;
    register(&registry, "unproven", "unproven-1", &secure, &["millgate.route=/unproven proto=https"]).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let config = format!(
        "{ONE_WORKER}discovery: {{consul: {{address: \"{}\", auto_routes: {{sources: [native, fabio], trust: full, {ALL}}}}}}}\n\
         services: {{own: {{protocol: https, tls: {{ca_file: ca.pem, server_name: own.internal}}}}}}\n",
        registry.url()
    );
    let gateway = TestGateway::start_in(dir, &config).await;
    gateway.ready().await;
    assert_eq!((answered(&gateway, "/shop", "clear").await, clear.served()), (100, 100));
    assert_eq!((secure.served(), secure.connections()), (100, 1));
    let services = admin(&gateway, "/api/v1/services").await.to_string();
    assert!(
        services.contains("\"protocol\":\"https\"") && services.contains("\"protocol\":\"http\""),
        "{services}"
    );
    assert!(answers(&gateway, "/own", "own").await);
    let reply = send(gateway.http, get("/unproven")).await;
    assert_eq!(json(&reply)["code"], "upstream_tls_error");
    let connections = secure.connections();
    gateway.reload().await.unwrap();
    assert_eq!(answered(&gateway, "/shop", "secure").await, 100);
    assert_eq!(secure.connections(), connections, "a reload costs none");
    // The deploy is over.
    registry.client().deregister("clear-1").await.unwrap();
    eventually("all are asked over TLS", || async { answered(&gateway, "/shop", "secure").await == 200 })
        .await;
    let metrics = send(gateway.admin(), get("/metrics")).await;
    assert!(text(&metrics).contains("service=\"shop/https /shop/**\""), "{}", text(&metrics));
}

async fn what_weakens_a_route_needs_the_operators_trust(registry: Registry) {
    let secure = Backend::over_tls("secure", Authority::new().server("127.0.0.1")).await;
    let tags = [
        "urlprefix-/a proto=https tlsskipverify=true",
        "urlprefix-/moved strip=/moved redirect=302,https://new.test$path",
        "millgate.route=/b",
    ];
    register(&registry, "shop", "shop-1", &secure, &tags).await;
    let limited = gateway(&registry, ALL, "routes: []\n").await;
    limited.ready().await;
    let refused = admin(&limited, "/api/v1/routes").await["refused"].clone();
    for (at, path) in ["/a", "/moved"].into_iter().enumerate() {
        assert_eq!(status(limited.http, path).await, 404);
        assert_eq!(refused[at]["reason"], "not_allowed");
        assert!(refused[at]["detail"].as_str().unwrap().contains("`trust: full`"), "{refused}");
    }
    let full = gateway(&registry, &format!("trust: full, {ALL}"), "routes: []\n").await;
    full.ready().await;
    assert!(answers(&full, "/a", "secure").await);
    let moved = send(full.http, get("/moved/on?x=1")).await;
    assert_eq!((moved.status().as_u16(), header(&moved, "location")), (302, "https://new.test/on?x=1"));
}

async fn metadata_is_read_after_a_reload_that_allows_it(registry: Registry) {
    let shop = Backend::named("shop").await;
    let registration = ServiceRegistration::http("shop", "shop-1", "127.0.0.1", shop.addr.port())
        .tags(["millgate"])
        .meta([("millgate-route", "/shop/**")])
        .ttl(TTL);
    registry.client().register(&registration).await.unwrap();
    registry.client().check_pass(&registration.ttl_check_id()).await.unwrap();
    let config = |paths: &str| {
        format!(
            "discovery: {{consul: {{address: \"{}\", auto_routes: {{allow: [{{services: {paths}, hosts: \"*\", paths: /**}}]}}}}}}\n\
             routes: []\n",
            registry.url()
        )
    };
    let gateway = TestGateway::start(&config("other")).await;
    gateway.ready().await;
    assert_eq!(status(gateway.http, "/shop/1").await, 404);
    // Rewritten once: the change of the file is seen, and nothing else happens after it.
    gateway.rewrite(&config("shop"));
    eventually("the route is there", || answers(&gateway, "/shop/1", "shop")).await;
}
