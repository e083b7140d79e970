//! What the control plane keeps and what it gives up when the configuration changes or the gateway stops.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use millgate::token::{MintOptions, mint};
use millgate_registry::{Client, ClientConfig, EmbeddedRegistry, RegistryOptions, ServiceRegistration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls};

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend},
    client::{get, json, send, status, text},
    eventually,
    gateway::TestGateway,
    within,
};

fn config(backend: &Backend, routes: &str, more: &str) -> String {
    format!("{more}routes:\n{routes}services:\n  one: {{hosts: [\"{}\"]}}\n", backend.addr)
}

const GUARDED: &str = "  - {path: /**, service: one, auth: main}\n";
const OPEN: &str = "  - {path: /**, service: one}\n";

/// An issuer's key: its JWK set, and a token that it signed.
struct Issuer {
    jwks: String,
    token: String,
}

impl Issuer {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
        let jwk = serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x});
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("signing.key");
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let token = mint(&MintOptions {
            key_file,
            key_id: Some("k1".into()),
            subject: "alice".into(),
            audience: Some("api".into()),
            ttl: Duration::from_mins(1),
            ..MintOptions::default()
        });
        Self { jwks: serde_json::json!({ "keys": [jwk] }).to_string(), token: token.unwrap() }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = get("/x");
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    async fn served(&self) -> Backend {
        let jwks = self.jwks.clone();
        Backend::with(move |_| Response::new(Bytes::from(jwks.clone()))).await
    }
}

#[tokio::test]
async fn a_reload_does_not_ask_an_issuer_again_whose_source_stays() {
    let (issuer, backend) = (Issuer::new(), Backend::named("one").await);
    let (main, other) = (issuer.served().await, issuer.served().await);
    let provider = |name: &str, issuer: &Backend| {
        format!("  {name}: {{jwks: \"http://{}/jwks\", audience: api}}\n", issuer.addr)
    };
    let first = format!("auth:\n{}", provider("main", &main));
    let gateway = TestGateway::start(&config(&backend, GUARDED, &first)).await;
    let passes = || async { send(gateway.http, issuer.request()).await.status() == 200 };
    eventually("the keys arrive", passes).await;
    let routes = format!("{GUARDED}  - {{path: /other, service: one, auth: other}}\n");
    gateway.rewrite(&config(&backend, &routes, &format!("{first}{}", provider("other", &other))));
    gateway.reload().await.unwrap();
    // Providers are started in the order of the file: a fetch for `main` would have begun before this one.
    eventually("the new issuer is asked", || async { other.served() > 0 }).await;
    assert_eq!(main.served(), 1);
    assert!(passes().await, "the keys stay in use");
}

#[tokio::test]
async fn a_host_name_that_does_not_resolve_does_not_keep_the_gateway_unready() {
    let backend = Backend::named("one").await;
    let text = format!(
        "routes:\n  - {{path: /good, service: good}}\n  - {{path: /bad, service: bad}}\nservices:\n  \
         good: {{hosts: [\"{}\"]}}\n  bad: {{hosts: [\"nobody.invalid:80\"]}}\n",
        backend.addr
    );
    let gateway = TestGateway::start(&text).await;
    tokio::time::timeout(DEADLINE, gateway.ready()).await.expect("the failed look-up counts as heard");
    assert_eq!(status(gateway.admin(), "/readyz").await, 200);
    assert_eq!(status(gateway.http, "/good").await, 200);
    assert_eq!(status(gateway.http, "/bad").await, 503);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_reload_that_waits_for_the_registry() {
    let backend = Backend::named("one").await;
    let silent = RawBackend::answering(b"", false).await;
    let gateway = TestGateway::start(&config(&backend, OPEN, "")).await;
    gateway.rewrite(&format!(
        "discovery: {{consul: {{address: \"http://{}\"}}}}\nroutes:\n  - {{path: /**, service: web}}\n",
        silent.addr
    ));
    // The file watcher sees the change; the reload queries the registry and waits for its first answer.
    eventually("the registry is asked", || async { silent.connections() > 0 }).await;
    let stopped = tokio::time::timeout(Duration::from_secs(2), gateway.stop()).await;
    assert_eq!(stopped.expect("the drain ends the wait"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_followed_until_the_listeners_close() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let listen = "127.0.0.1:0".parse().unwrap();
    let registry =
        EmbeddedRegistry::start(RegistryOptions { listen, ..RegistryOptions::default() }).await.unwrap();
    let client = Client::new(ClientConfig::new(format!("http://{}", registry.addr()))).unwrap();
    let register = async |id: &str, backend: &Backend| {
        // Without a check an instance is healthy.
        let instance = ServiceRegistration::http("web", id, "127.0.0.1", backend.addr.port());
        client.register(&instance).await.unwrap();
    };
    register("a", &a).await;
    let gateway = TestGateway::start(&format!(
        "drain: {{notice: 5s, timeout: 1s}}\ndiscovery: {{consul: {{address: \"http://{}\"}}}}\n\
         routes:\n  - {{path: /**, service: web}}\n",
        registry.addr()
    ))
    .await;
    let (http, admin) = (gateway.http, gateway.admin());
    eventually("a is routed to", || async { status(http, "/x").await == 200 }).await;
    let stopping = tokio::spawn(gateway.stop());
    eventually("the drain has begun", || async { status(admin, "/readyz").await == 503 }).await;
    register("b", &b).await;
    let sees_b = || async { text(&send(http, get("/x")).await) == "b" };
    within(Duration::from_secs(4), "b is routed to during the notice", sees_b).await;
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_registry_that_hides_everything_takes_no_known_instance_away() {
    let a = Backend::named("a").await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let registry =
        EmbeddedRegistry::start(RegistryOptions { listen, ..RegistryOptions::default() }).await.unwrap();
    let client = Client::new(ClientConfig::new(format!("http://{}", registry.addr()))).unwrap();
    client.register(&ServiceRegistration::http("web", "a", "127.0.0.1", a.addr.port())).await.unwrap();
    // What Consul answers to a token without the right to read the service.
    let denying = Backend::with(|_| {
        Response::builder()
            .header("x-consul-index", "7")
            .header("x-consul-knownleader", "true")
            .header("x-consul-results-filtered-by-acls", "true")
            .body(Bytes::from_static(b"[]"))
            .unwrap()
    })
    .await;
    let following = |registry: SocketAddr| {
        format!(
            "discovery: {{consul: {{address: \"http://{registry}\"}}}}\nroutes:\n  - {{path: /**, service: web}}\n"
        )
    };
    let gateway = TestGateway::start(&following(registry.addr())).await;
    eventually("a is routed to", || async { status(gateway.http, "/x").await == 200 }).await;
    gateway.rewrite(&following(denying.addr));
    gateway.reload().await.unwrap();
    let held = || async {
        let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
        services["services"][0]["watch"]["empty_held"].as_u64().unwrap_or(0)
    };
    eventually("the empty answer is not believed", || async { held().await > 0 }).await;
    assert_eq!(status(gateway.http, "/x").await, 200);
}

#[tokio::test]
async fn without_its_key_in_the_file_the_tls_listener_serves_until_the_restart() {
    let backend = Backend::named("one").await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("server.key"), made.signing_key.serialize_pem()).unwrap();
    let listen = |https: &str| format!("listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{https}}}\n");
    let https = ", https: {bind: \"127.0.0.1:0\", cert_file: server.pem, key_file: server.key}";
    let gateway = TestGateway::start_in(dir, &config(&backend, OPEN, &listen(https))).await;
    let address = gateway.https_addr().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    assert!(shakes_hands(&connector, address).await);
    gateway.rewrite(&config(&backend, OPEN, &listen("")));
    gateway.reload().await.unwrap();
    assert!(shakes_hands(&connector, address).await);
}

async fn shakes_hands(connector: &TlsConnector, address: SocketAddr) -> bool {
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.is_ok()
}

#[tokio::test]
async fn a_file_that_was_missing_heals_a_refused_configuration_when_it_appears() {
    let (issuer, backend) = (Issuer::new(), Backend::named("one").await);
    let gateway = TestGateway::start(&config(&backend, OPEN, "")).await;
    gateway.rewrite(&config(
        &backend,
        GUARDED,
        "auth:\n  main: {jwks_file: keys/jwks.json, audience: api}\n",
    ));
    let report = gateway.reload().await.unwrap_err();
    assert!(report.contains("cannot read the key set"), "{report}");
    assert_eq!(status(gateway.http, "/x").await, 200, "the running configuration stays");
    // Its folder is new, too, so there is no event of the file system: the file is found by a periodic look.
    let folder = gateway.dir.path().join("keys");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("jwks.json"), &issuer.jwks).unwrap();
    eventually("the route is guarded", || async { status(gateway.http, "/x").await == 401 }).await;
    assert_eq!(send(gateway.http, issuer.request()).await.status(), 200);
}

#[tokio::test]
async fn two_views_of_one_registered_service_are_two_series() {
    let gateway = TestGateway::start(
        "discovery: {consul: {address: \"http://127.0.0.1:1\"}}\nroutes:\n  \
         - {path: /one, service: one}\n  - {path: /two, service: two}\nservices:\n  \
         one: {consul: {name: web, tag: blue}}\n  two: {consul: {name: web, tag: green}}\n",
    )
    .await;
    let series = || async {
        let reply = send(gateway.admin(), get("/metrics")).await;
        let names = text(&reply).lines().filter(|line| line.starts_with("millgate_discovery_queries_total{"));
        names.map(|line| line.split(' ').next().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    let expected =
        ["one", "two"].map(|name| format!("millgate_discovery_queries_total{{service=\"{name}\"}}"));
    eventually("both are counted", || async { series().await == expected }).await;
}

#[tokio::test]
async fn a_start_forgets_what_was_known_of_services_that_no_route_names_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state/consul+http%3A%2F%2F127.0.0.1%3A1");
    std::fs::create_dir_all(&folder).unwrap();
    let kept = |service: &str| folder.join(format!("{service}.json"));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(24 * 40);
    for service in ["web", "gone"] {
        let record = format!(r#"{{"version":1,"service":"{service}","datacenter":null,"instances":[]}}"#);
        std::fs::write(kept(service), record).unwrap();
        std::fs::File::options().append(true).open(kept(service)).unwrap().set_modified(long_ago).unwrap();
    }
    let (web, gone) = (kept("web"), kept("gone"));
    let config =
        "discovery: {consul: {address: \"http://127.0.0.1:1\"}}\nroutes: [{path: /web, service: web}]\n";
    let _gateway = TestGateway::start_in(dir, config).await;
    assert!(web.exists() && !gone.exists());
}
