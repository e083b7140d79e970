//! Certificates from an authority that speaks ACME: ordered, verified by both challenges, kept, renewed, and refused.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
    time::Duration,
};

use http::Request;
use http_body_util::Full;
use rustls::ClientConfig;

use crate::support::{
    acme::{AcmeServer, Conduct},
    authority::{Authority, blind_client},
    backend::Backend,
    client::{get, send, text},
    eventually,
    gateway::TestGateway,
    tls::{Session, connect, replace_pair},
};

/// A gateway, and the service behind it.
struct Started {
    gateway: TestGateway,
    _backend: Backend,
}

impl Deref for Started {
    type Target = TestGateway;

    fn deref(&self) -> &TestGateway {
        &self.gateway
    }
}

impl DerefMut for Started {
    fn deref_mut(&mut self) -> &mut TestGateway {
        &mut self.gateway
    }
}

/// A gateway whose certificates come from this authority; `https` has further fields of the listener, `acme` further ones of `acme`.
async fn start(server: &AcmeServer, https: &str, acme: &str) -> Started {
    let dir = tempfile::tempdir().unwrap();
    start_in(dir, server, https, acme).await
}

async fn start_in(dir: tempfile::TempDir, server: &AcmeServer, https: &str, acme: &str) -> Started {
    let backend = Backend::named("one").await;
    server.write_ca(dir.path());
    let gateway = TestGateway::start_in(dir, &config(server, &backend, https, acme)).await;
    let mut state = server.state();
    state.http.push(gateway.http);
    state.https.extend(gateway.https_addr());
    drop(state);
    Started { gateway, _backend: backend }
}

fn config(server: &AcmeServer, backend: &Backend, https: &str, acme: &str) -> String {
    let storage = if acme.contains("storage:") { "" } else { ", storage: {folder: acme}" };
    let hosts = if acme.contains("hosts:") { "" } else { ", hosts: [a.example, [b.example, c.example]]" };
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", https: {{bind: \"127.0.0.1:0\"{https}, \
         acme: {{directory: \"{}\", ca_file: ca.pem, terms_accepted: true{hosts}{storage}{acme}}}}}}}\n\
         routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        server.directory(),
        backend.addr
    )
}

/// Whether a client that trusts this authority gets a response for the host.
async fn serves(client: &Arc<ClientConfig>, at: SocketAddr, host: &str) -> bool {
    let Ok(stream) = connect(client, at, host).await else { return false };
    let Ok(mut session) = Session::over(stream).await else { return false };
    session.get(host, "/x", &[]).await.is_ok_and(|reply| reply.status() == 200)
}

async fn issued(server: &AcmeServer, gateway: &TestGateway, hosts: &[&str]) {
    let client = server.issuing().client(&[b"h2"]);
    for host in hosts {
        eventually(&format!("{host} has a certificate; {:?}", server.state().failures), || {
            serves(&client, gateway.https_addr().unwrap(), host)
        })
        .await;
    }
}

/// The certificates as the admin listener shows them.
async fn shown(gateway: &TestGateway) -> serde_json::Value {
    serde_json::from_slice(send(gateway.admin(), get("/api/v1/certificates")).await.body()).unwrap()
}

fn files(dir: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(dir.join("acme")).into_iter().flatten();
    all.map(|entry| entry.unwrap().path()).filter(|path| path.to_str().unwrap().ends_with(end)).collect()
}

#[tokio::test]
async fn both_challenges_bring_certificates_which_are_kept_for_the_next_start() {
    for challenge in ["tls-alpn-01", "http-01"] {
        let server = AcmeServer::start().await;
        server.state().bad_nonces = 2;
        let acme = format!(", challenge: {challenge}, email: ops@a.example");
        let mut gateway = start(&server, "", &acme).await;
        issued(&server, &gateway, &["a.example", "b.example", "c.example"]).await;
        assert_eq!(server.state().counts(), (1, 2, 2), "{challenge}");
        eventually("the challenges are gone", async || {
            files(gateway.dir.path(), ".challenges.json").is_empty()
        })
        .await;
        assert!(gateway.shows(r#"millgate_acme_orders_total{result="issued"} 2"#).await);
        gateway.restart().await;
        gateway.ready().await;
        let client = server.issuing().client(&[b"http/1.1"]);
        for host in ["a.example", "b.example", "c.example"] {
            assert!(
                serves(&client, gateway.https_addr().unwrap(), host).await,
                "at once after the start: {host}"
            );
        }
        assert_eq!(server.state().counts(), (1, 2, 2), "no new order");
        let shown = shown(&gateway).await;
        assert_eq!(shown["acme"][1]["names"], serde_json::json!(["b.example", "c.example"]));
        assert_eq!(shown["acme"][1]["state"], "issued");
        gateway.gateway.stop().await;
    }
}

#[tokio::test]
async fn names_without_a_certificate_are_refused_and_the_others_are_served() {
    let server = AcmeServer::start().await;
    server.state().conduct = Conduct::Down;
    let dir = tempfile::tempdir().unwrap();
    let own = Authority::new();
    replace_pair(dir.path(), "own", &own.certify("own.example"));
    let gateway = start_in(dir, &server, ", cert_file: own.pem, key_file: own.key", "").await;
    gateway.ready().await;
    let at = gateway.https_addr().unwrap();
    assert!(serves(&own.client(&[b"h2"]), at, "own.example").await);
    let error = connect(&blind_client(&[]), at, "b.example").await.unwrap_err();
    assert!(error.to_string().contains("alert"), "no other certificate is shown: {error}");
    assert!(
        gateway
            .shows(r#"millgate_connection_errors_total{listener="https",reason="certificate_awaited"} 1"#)
            .await
    );
    let refusals = text(&send(gateway.admin(), get("/api/v1/refusals")).await).to_owned();
    assert!(refusals.contains("the certificate for b.example is not issued yet"), "{refusals}");
    eventually("the failure is told", async || shown(&gateway).await["acme"][0]["failures"] == 1).await;
    assert!(shown(&gateway).await["acme"][0]["last_error"].as_str().unwrap().contains("maintenance"));
    // The pause is kept: there is one attempt for each certificate, also after a restart.
    eventually("both were tried", async || shown(&gateway).await["acme"][1]["failures"] == 1).await;
    let requests = server.state().requests;
    let mut gateway = gateway;
    gateway.restart().await;
    gateway.ready().await;
    assert_eq!(shown(&gateway).await["acme"][1]["failures"], 1);
    assert_eq!(server.state().requests, requests);
}

#[tokio::test]
async fn an_authoritys_limit_is_kept_to() {
    let server = AcmeServer::start().await;
    server.state().conduct = Conduct::RateLimited(7_200);
    let gateway = start(&server, "", ", hosts: [a.example]").await;
    eventually("refused", async || shown(&gateway).await["acme"][0]["failures"] == 1).await;
    let value = std::fs::read(&files(gateway.dir.path(), ".attempts.json")[0]).unwrap();
    let attempts: serde_json::Value = serde_json::from_slice(&value).unwrap();
    let pause = attempts["next"].as_u64().unwrap() - attempts["at"].as_u64().unwrap();
    assert!((7_199..=9_001).contains(&pause), "{pause}");
    assert!(gateway.shows(r#"millgate_acme_orders_total{result="rate_limited"} 1"#).await);
    // An operator who has removed the reason removes the file.
    server.state().conduct = Conduct::Honest;
    std::fs::remove_file(&files(gateway.dir.path(), ".attempts.json")[0]).unwrap();
    issued(&server, &gateway, &["a.example"]).await;
}

#[tokio::test]
async fn nothing_is_presented_that_was_not_asked_for() {
    let wrong = [Conduct::OtherName, Conduct::OtherKey, Conduct::Garbage, Conduct::Endless];
    for conduct in wrong {
        let server = AcmeServer::start().await;
        server.state().conduct = conduct;
        let gateway = start(&server, "", ", hosts: [a.example]").await;
        eventually("refused", async || shown(&gateway).await["acme"][0]["failures"] == 1).await;
        let shown = shown(&gateway).await;
        let expected = match conduct {
            Conduct::OtherName => "attacker.example, which is not what was asked for",
            Conduct::OtherKey => "not for the key of this order",
            Conduct::Garbage => "no certificate",
            _ => "262144",
        };
        let error = shown["acme"][0]["last_error"].as_str().unwrap();
        assert!(error.contains(expected), "{conduct:?}: {error}");
        assert!(gateway.shows(r#"millgate_acme_orders_total{result="unusable"} 1"#).await);
        assert!(connect(&blind_client(&[]), gateway.https_addr().unwrap(), "a.example").await.is_err());
        assert!(files(gateway.dir.path(), ".pem").is_empty());
    }
}

#[tokio::test]
async fn an_account_may_be_bound_to_one_from_elsewhere() {
    let server = AcmeServer::start().await;
    server.state().external = Some(("kid-1".to_owned(), b"0123456789abcdef0123456789abcdef".to_vec()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\n").unwrap();
    let acme = ", hosts: [a.example], external_account: {key_id: kid-1, hmac_key_file: good}";
    let gateway = start_in(dir, &server, "", acme).await;
    issued(&server, &gateway, &["a.example"]).await;
    let other = start(&server, "", ", hosts: [b.example]").await;
    eventually("refused", async || shown(&other).await["acme"][0]["failures"] == 1).await;
    let shown = shown(&other).await;
    assert!(shown["acme"][0]["last_error"].as_str().unwrap().contains("externalAccountRequired"), "{shown}");
}

#[tokio::test]
async fn validation_passes_a_listener_that_requires_certificates_and_lets_nothing_else_through() {
    let server = AcmeServer::start().await;
    let clients = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("clients.pem"), clients.pem()).unwrap();
    let gateway = start_in(dir, &server, ", client_ca_file: clients.pem", ", hosts: [a.example]").await;
    let at = gateway.https_addr().unwrap();
    eventually("the authority has certified the host", async || server.state().issued == 1).await;
    eventually("it is in use", async || shown(&gateway).await["acme"][0]["state"] == "issued").await;
    // TLS 1.3: the refusal of the missing certificate comes after the client's side of the handshake.
    let session = async {
        let stream = connect(&server.issuing().client(&[b"http/1.1"]), at, "a.example").await?;
        let mut session = Session::over(stream).await.map_err(std::io::Error::other)?;
        session.get("a.example", "/x", &[]).await.map_err(std::io::Error::other)
    };
    assert!(session.await.is_err(), "no request without a certificate");
    let error = connect(&blind_client(&[b"acme-tls/1"]), at, "a.example").await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn tokens_of_others_go_to_the_route_also_while_an_order_is_under_way() {
    let server = AcmeServer::start().await;
    let gateway = start(&server, "", ", hosts: [a.example], challenge: http-01").await;
    let path = "/.well-known/acme-challenge/another-one-of-a-service";
    eventually("a challenge is pending", async || !files(gateway.dir.path(), ".challenges.json").is_empty())
        .await;
    let pending = std::fs::read(&files(gateway.dir.path(), ".challenges.json")[0]).unwrap();
    let pending: serde_json::Value = serde_json::from_slice(&pending).unwrap();
    let challenge = &pending["challenges"][0];
    let own = format!("/.well-known/acme-challenge/{}", challenge["token"].as_str().unwrap());
    eventually("it is answered", async || {
        text(&send(gateway.http, get(&own)).await) == challenge["key_authorization"]
    })
    .await;
    assert!(text(&send(gateway.http, get(path)).await).contains("one"), "the service answers");
    let post = Request::post(&own).header("host", "gw").body(Full::default()).unwrap();
    assert_ne!(text(&send(gateway.http, post).await), challenge["key_authorization"]);
    issued(&server, &gateway, &["a.example"]).await;
    eventually("the token is forgotten", async || {
        text(&send(gateway.http, get(&own)).await) != challenge["key_authorization"]
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_after_two_thirds_of_its_life_and_no_handshake_fails() {
    let server = AcmeServer::start().await;
    server.state().life = (Duration::from_secs(9), Duration::ZERO);
    let gateway = start(&server, "", ", hosts: [a.example]").await;
    issued(&server, &gateway, &["a.example"]).await;
    let (client, at) = (server.issuing().client(&[b"h2"]), gateway.https_addr().unwrap());
    server.state().life = (Duration::from_hours(1), Duration::ZERO);
    let mut handshakes = 0;
    while server.state().issued < 2 || handshakes < 50 {
        assert!(serves(&client, at, "a.example").await, "after {handshakes}");
        handshakes += 1;
    }
    eventually("the new one is in use", async || {
        assert!(serves(&client, at, "a.example").await);
        gateway.shows(r#"millgate_acme_orders_total{result="issued"} 2"#).await
    })
    .await;
    assert_eq!(server.state().issued, 2);
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_certificate_in_use() {
    let server = AcmeServer::start().await;
    // Its renewal is due at once.
    server.state().life = (Duration::from_hours(9), Duration::from_hours(8));
    let gateway = start(&server, "", ", hosts: [a.example]").await;
    issued(&server, &gateway, &["a.example"]).await;
    server.state().conduct = Conduct::OtherKey;
    eventually("the renewal fails", async || shown(&gateway).await["acme"][0]["failures"] == 1).await;
    let client = server.issuing().client(&[b"h2"]);
    assert!(serves(&client, gateway.https_addr().unwrap(), "a.example").await);
    assert_eq!(shown(&gateway).await["acme"][0]["state"], "issued");
    let expiry = text(&send(gateway.admin(), get("/metrics")).await).to_owned();
    let name = r#"millgate_certificate_expiry_timestamp_seconds{listener="https",name="a.example"}"#;
    assert!(expiry.lines().any(|line| line.starts_with(name)), "it is watched as those from files are");
}

#[tokio::test]
async fn a_reload_orders_what_is_new_and_forgets_what_is_gone() {
    let server = AcmeServer::start().await;
    let gateway = start(&server, "", ", hosts: [a.example, b.example]").await;
    issued(&server, &gateway, &["a.example", "b.example"]).await;
    let config = std::fs::read_to_string(gateway.dir.path().join("routes.yaml")).unwrap();
    let renamed = config.replace("hosts: [a.example, b.example]", "hosts: [b.example, c.example]");
    let renamed = renamed.replace(", admin_hosts: [gw]", "");
    gateway.rewrite(renamed.split_once("workers: 2\n").unwrap().1);
    gateway.reload().await.unwrap();
    let client = server.issuing().client(&[b"h2"]);
    assert!(serves(&client, gateway.https_addr().unwrap(), "b.example").await, "it is never away");
    issued(&server, &gateway, &["c.example"]).await;
    assert!(!serves(&client, gateway.https_addr().unwrap(), "a.example").await);
    assert_eq!(server.state().counts(), (1, 3, 3));
    let shown = shown(&gateway).await;
    assert_eq!(shown["acme"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(files(gateway.dir.path(), ".pem").len(), 3, "what is gone stays in the storage");
}

#[tokio::test]
async fn floods_of_tokens_and_of_handshakes_for_validation_reach_nothing() {
    let server = AcmeServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let own = Authority::new();
    replace_pair(dir.path(), "own", &own.certify("own.example"));
    let gateway =
        start_in(dir, &server, ", cert_file: own.pem, key_file: own.key", ", hosts: [a.example]").await;
    let at = gateway.https_addr().unwrap();
    eventually("a challenge is pending", async || !files(gateway.dir.path(), ".challenges.json").is_empty())
        .await;
    let validation = blind_client(&[b"acme-tls/1"]);
    let both = blind_client(&[b"acme-tls/1", b"h2"]);
    for number in 0..200 {
        let name = if number % 2 == 0 { "own.example".to_owned() } else { format!("a{number}.example") };
        let error = connect(&validation, at, &name).await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{name}: {error}");
        let path = format!("/.well-known/acme-challenge/{number}");
        assert_eq!(text(&send(gateway.http, get(&path)).await), "one", "the route has it");
    }
    // Whoever offers more than this protocol is no authority.
    let stream = connect(&both, at, "own.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    issued(&server, &gateway, &["a.example"]).await;
    assert_eq!(server.state().failures, [""; 0]);
}
