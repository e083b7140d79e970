//! Clients that prove who they are in the TLS handshake: which certificates are accepted, what of them is an identity, what services
//! get of them, and how a changed authority or revocation reaches clients that are connected or come back.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::SanType;
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::support::{
    authority::{Authority, Certified, blind_client, blind_client_with},
    backend::Backend,
    client::{Reply, get, header, json, send, text},
    eventually,
    gateway::TestGateway,
    tls::{Session, connect, replace, replace_pair},
};

const DAY: Duration = Duration::from_hours(24);

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// A gateway, its service, and the authority of its clients.
struct Guarded {
    gateway: TestGateway,
    backend: Backend,
    authority: Authority,
}

impl Guarded {
    async fn start(https: &str, rest: &str) -> Self {
        let (authority, own) = (Authority::new(), Authority::new());
        let dir = tempfile::tempdir().unwrap();
        replace_pair(dir.path(), "gw", &own.certify("gw"));
        replace(dir.path(), "clients.pem", authority.pem());
        replace(dir.path(), "revoked.pem", authority.revoke(&[], now() + 30 * DAY));
        let backend = Backend::named("one").await;
        let gateway = TestGateway::start_in(dir, &config(&backend, https, "", rest)).await;
        Self { gateway, backend, authority }
    }

    fn at(&self) -> SocketAddr {
        self.gateway.https_addr().unwrap()
    }

    /// The reply on a new connection of this client; `None`: the handshake, or the first request, fails.
    async fn ask(&self, client: &Arc<ClientConfig>, path: &str, fields: &[(&str, &str)]) -> Option<Reply> {
        let stream = connect(client, self.at(), "gw").await.ok()?;
        // In TLS 1.3, a server refuses a certificate after the client believes that the handshake is over.
        let mut session = Session::over(stream).await.ok()?;
        session.get("gw", path, fields).await.ok()
    }

    /// Whether this client gets a response from the service.
    async fn is_served(&self, client: &Arc<ClientConfig>, path: &str) -> bool {
        self.ask(client, path, &[]).await.is_some_and(|reply| reply.status() == 200)
    }
}

fn config(backend: &Backend, https: &str, listen: &str, rest: &str) -> String {
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{listen}, \
         https: {{bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key, {https}}}}}\n{rest}\
         services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

const OPTIONAL: &str = "client_ca_file: clients.pem, client_auth: optional";
const REQUIRED: &str = "client_ca_file: clients.pem";
const ROUTES: &str = "auth:\n  \
    partners: {mtls: {names: [\"*.partners.example\", \"spiffe://shop.example/ns/*\"]}, forward: {sub: X-Client, ou: X-Unit}}\n\
    routes:\n  - {path: /open/**, service: one, auth: none}\n  - {path: /closed/**, service: one, auth: partners}\n  \
    - {path: /few/**, service: one, auth: partners, rate_limit: 1/h per user}\n  \
    - {path: /units/**, service: one, auth: partners, require: {claim: {ou: others}}}\n";

/// Clients of both protocols with this certificate.
fn both(own: &Certified) -> [Arc<ClientConfig>; 2] {
    [b"http/1.1".as_slice(), b"h2"].map(|protocol| blind_client_with(&[protocol], own))
}

fn code(reply: &Reply) -> (u16, String) {
    (reply.status().as_u16(), json(reply)["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_certificate_is_an_identity_for_routes_that_ask_for_it() {
    let guarded = Guarded::start(OPTIONAL, ROUTES).await;
    let authority = &guarded.authority;
    let partner = authority.certify_client("a", vec![dns("a.partners.example")], 1);
    let workload = authority.certify_client(
        "b",
        vec![dns("b.other.example"), uri("spiffe://shop.example/ns/prod/b")],
        2,
    );
    let stranger = authority.certify_client("c", vec![dns("c.strangers.example")], 3);
    for (own, subject) in [(&partner, "a.partners.example"), (&workload, "spiffe://shop.example/ns/prod/b")] {
        for client in both(own) {
            // What a client says of itself does not count.
            let forged = [("x-client", "admin"), ("X_Client", "admin")];
            assert_eq!(guarded.ask(&client, "/closed/x", &forged).await.unwrap().status(), 200);
            let seen = guarded.backend.only_seen();
            let told: Vec<_> = seen.headers().get_all("x-client").iter().collect();
            assert_eq!(told, [subject]);
            assert!(!seen.headers().contains_key("x_client") && seen.headers()["x-unit"] == "partners");
        }
    }
    for client in both(&stranger) {
        let reply = guarded.ask(&client, "/closed/x", &[]).await.unwrap();
        assert_eq!(code(&reply), (403, "certificate_denied".to_owned()));
        assert!(!reply.headers().contains_key("www-authenticate"));
        assert!(guarded.is_served(&client, "/open/x").await);
    }
    for client in [b"http/1.1".as_slice(), b"h2"].map(|protocol| blind_client(&[protocol])) {
        let reply = guarded.ask(&client, "/closed/x", &[]).await.unwrap();
        assert_eq!(code(&reply), (403, "certificate_missing".to_owned()));
        assert!(guarded.is_served(&client, "/open/x").await);
    }
    // In cleartext there is no certificate, whatever the request says.
    let mut request = get("/closed/x");
    request.headers_mut().insert("client-cert", ":AAAA:".parse().unwrap());
    assert_eq!(code(&send(guarded.gateway.http, request).await), (403, "certificate_missing".to_owned()));
    // A certificate of another authority never gets as far as a request.
    let foreign = Authority::new().certify_client("a", vec![dns("a.partners.example")], 1);
    for client in both(&foreign) {
        assert!(guarded.ask(&client, "/open/x", &[]).await.is_none());
    }
    // Limits and requirements.
    let [client, _] = both(&partner);
    let statuses = async |client: &Arc<ClientConfig>, path| {
        guarded.ask(client, path, &[]).await.unwrap().status().as_u16()
    };
    assert_eq!((statuses(&client, "/few/x").await, statuses(&client, "/few/x").await), (200, 429));
    assert_eq!(statuses(&both(&workload)[0], "/few/x").await, 200, "another user");
    assert_eq!(statuses(&client, "/units/x").await, 403);
    let metrics = send(guarded.gateway.admin(), get("/metrics")).await;
    let line = "millgate_auth_failures_total{provider=\"partners\",reason=\"unknown_certificate\"} 2";
    assert!(text(&metrics).contains(line), "{}", text(&metrics));
}

#[tokio::test]
async fn a_route_may_accept_certificates_beside_keys_and_the_request_decides_first() {
    let rest = "auth:\n  partners: {mtls: any, forward: {cn: X-Client}}\n  keys: {api_keys_file: keys.yaml, forward: {sub: X-Client}}\n\
         routes:\n  - {path: /**, service: one, auth: [keys, partners]}\n";
    let (authority, own) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    replace_pair(dir.path(), "gw", &own.certify("gw"));
    replace(dir.path(), "clients.pem", authority.pem());
    // SHA-256 of `mgk_test`.
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"mgk_test");
    let hash = hash.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    replace(dir.path(), "keys.yaml", format!("keys:\n  - {{name: acme, sha256: {hash}}}\n"));
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start_in(dir, &config(&backend, OPTIONAL, "", rest)).await;
    let guarded = Guarded { gateway, backend, authority };
    let partner = guarded.authority.certify_client("a", vec![], 1);
    for client in both(&partner) {
        for (key, expected) in
            [(None, (200, "a")), (Some("mgk_test"), (200, "acme")), (Some("wrong"), (401, ""))]
        {
            let fields: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
            let reply = guarded.ask(&client, "/x", &fields).await.unwrap();
            let seen = guarded.backend.take_seen();
            let told = seen.first().map_or("", |seen| seen.headers()["x-client"].to_str().unwrap());
            assert_eq!((reply.status().as_u16(), told), expected, "{key:?}");
        }
    }
    let reply = guarded.ask(&blind_client(&[b"h2"]), "/x", &[]).await.unwrap();
    assert_eq!((reply.status().as_u16(), header(&reply, "www-authenticate")), (401, "ApiKey realm=\"api\""));
    assert!(
        json(&reply)["detail"].as_str().unwrap().contains("An API key or a client certificate"),
        "{}",
        text(&reply)
    );
}

#[tokio::test]
async fn a_listener_may_require_a_certificate_of_every_client() {
    let rest = "routes:\n  - {path: /**, service: one}\n";
    let guarded = Guarded::start(REQUIRED, rest).await;
    for protocol in [b"http/1.1".as_slice(), b"h2"] {
        assert!(guarded.ask(&blind_client(&[protocol]), "/x", &[]).await.is_none());
    }
    for client in both(&guarded.authority.certify_client("a", vec![], 1)) {
        assert!(guarded.is_served(&client, "/x").await);
    }
}

#[tokio::test]
async fn services_get_the_certificate_from_the_gateway_alone() {
    let rest = "routes:\n  - {path: /**, service: one}\n";
    let chain = format!("{OPTIONAL}, client_cert_header: chain");
    let guarded = Guarded::start(&chain, rest).await;
    let backend = &guarded.backend;
    let partner = guarded.authority.certify_client("a", vec![], 1);
    let der = CertificateDer::from_pem_slice(partner.cert.as_bytes()).unwrap();
    let expected = format!(":{}:", STANDARD.encode(&der));
    let forged =
        [("client-cert", ":Zm9yZ2Vk:"), ("client-cert-chain", ":Zm9yZ2Vk:"), ("Client_Cert", ":Zm9yZ2Vk:")];
    let got = |name: &str, seen: &http::Request<bytes::Bytes>| -> Vec<String> {
        seen.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    // Also with a list of untrusted fields that does not have these names, and with a Connection field that names them.
    for listen in ["", ", headers: {untrusted: []}"] {
        guarded.gateway.rewrite(&config(backend, &chain, listen, rest));
        guarded.gateway.reload().await.unwrap();
        for client in both(&partner) {
            assert_eq!(guarded.ask(&client, "/x", &forged).await.unwrap().status(), 200);
            let seen = backend.only_seen();
            assert_eq!(got("client-cert", &seen), std::slice::from_ref(&expected), "{listen}");
            assert!(got("client-cert-chain", &seen).is_empty() && got("client_cert", &seen).is_empty());
        }
        let named = [("connection", "client-cert"), ("client-cert", ":Zm9yZ2Vk:")];
        let reply = guarded.ask(&both(&partner)[0], "/x", &named).await.unwrap();
        if reply.status() == 200 {
            assert_eq!(got("client-cert", &backend.only_seen()), std::slice::from_ref(&expected));
        }
        // Without a certificate there is no field.
        guarded.ask(&blind_client(&[b"h2"]), "/x", &forged).await.unwrap();
        assert!(got("client-cert", &backend.only_seen()).is_empty());
    }
    // The certificate of a trusted proxy is not that of its clients. What it says of them stays.
    guarded.gateway.rewrite(&config(backend, &chain, ", trusted_proxies: [127.0.0.1]", rest));
    guarded.gateway.reload().await.unwrap();
    let [client, _] = both(&partner);
    guarded.ask(&client, "/x", &[]).await.unwrap();
    assert!(got("client-cert", &backend.only_seen()).is_empty());
    guarded.ask(&client, "/x", &forged[..1]).await.unwrap();
    assert_eq!(got("client-cert", &backend.only_seen()), [":Zm9yZ2Vk:"]);
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_connections_and_its_sessions() {
    let https = format!("{OPTIONAL}, crl_file: revoked.pem");
    let guarded = Guarded::start(&https, ROUTES).await;
    let dir = guarded.gateway.dir.path();
    let good = guarded.authority.certify_client("a", vec![dns("a.partners.example")], 1);
    let bad = guarded.authority.certify_client("b", vec![dns("b.partners.example")], 2);
    for protocol in [b"http/1.1".as_slice(), b"h2"] {
        replace(dir, "revoked.pem", guarded.authority.revoke(&[], now() + 30 * DAY));
        guarded.gateway.reload().await.unwrap();
        let [good, bad] = [&good, &bad].map(|own| blind_client_with(&[protocol], own));
        // Each client has a session that it can resume.
        for client in [&good, &bad] {
            assert!(guarded.is_served(client, "/closed/x").await);
            let stream = connect(client, guarded.at(), "gw").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            assert_eq!(
                Session::over(stream).await.unwrap().get("gw", "/closed/x", &[]).await.unwrap().status(),
                200
            );
        }
        let mut open = Session::over(connect(&bad, guarded.at(), "gw").await.unwrap()).await.unwrap();
        let mut other = Session::over(connect(&blind_client(&[protocol]), guarded.at(), "gw").await.unwrap())
            .await
            .unwrap();
        assert_eq!(open.get("gw", "/closed/x", &[]).await.unwrap().status(), 200);
        assert_eq!(other.get("gw", "/open/x", &[]).await.unwrap().status(), 200);
        replace(dir, "revoked.pem", guarded.authority.revoke(&[2], now() + 30 * DAY));
        eventually("the connection of the revoked certificate ends", || async { open.is_closed() }).await;
        assert!(!other.is_closed(), "a client without a certificate stays");
        assert!(guarded.ask(&bad, "/open/x", &[]).await.is_none(), "nor is its session resumed");
        let stream = connect(&good, guarded.at(), "gw").await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "verified anew");
        assert!(guarded.is_served(&good, "/closed/x").await);
    }
    let events = json(&send(guarded.gateway.admin(), get("/api/v1/events")).await).to_string();
    assert!(!events.contains("certificate_expire"), "{events}");
}

#[tokio::test]
async fn an_authority_that_is_replaced_ends_the_sessions_of_its_clients() {
    let guarded = Guarded::start(OPTIONAL, ROUTES).await;
    let client = blind_client_with(
        &[b"h2"],
        &guarded.authority.certify_client("a", vec![dns("a.partners.example")], 1),
    );
    assert!(guarded.is_served(&client, "/closed/x").await);
    let next = Authority::new();
    replace(guarded.gateway.dir.path(), "clients.pem", next.pem());
    eventually("the old authority is gone", || async {
        guarded.ask(&client, "/open/x", &[]).await.is_none()
    })
    .await;
    let client = blind_client_with(&[b"h2"], &next.certify_client("a", vec![dns("a.partners.example")], 1));
    assert!(guarded.is_served(&client, "/closed/x").await);
    // A broken file changes nothing, and is visible.
    replace(guarded.gateway.dir.path(), "clients.pem", "no certificate");
    guarded.gateway.reload().await.unwrap_err();
    assert!(guarded.is_served(&client, "/closed/x").await);
    let metrics = send(guarded.gateway.admin(), get("/metrics")).await;
    assert!(text(&metrics).contains("\nmillgate_config_refused{place="), "{}", text(&metrics));
}

/// A list that is out of date cannot say that a certificate is good.
#[tokio::test]
async fn a_list_that_is_out_of_date_or_of_another_authority_accepts_no_client_and_is_visible() {
    let https = format!("{OPTIONAL}, crl_file: revoked.pem");
    let guarded = Guarded::start(&https, ROUTES).await;
    let client = blind_client_with(
        &[b"h2"],
        &guarded.authority.certify_client("a", vec![dns("a.partners.example")], 1),
    );
    assert!(guarded.is_served(&client, "/closed/x").await);
    let end = Duration::from_secs((now() + 30 * DAY).as_secs());
    replace(guarded.gateway.dir.path(), "revoked.pem", guarded.authority.revoke(&[], end));
    guarded.gateway.reload().await.unwrap();
    let name = "CN=the authority of a test";
    let series = |end: Duration| {
        format!(
            "millgate_certificate_expiry_timestamp_seconds{{listener=\"https.crl_file\",name=\"{name}\"}} {}",
            end.as_secs()
        )
    };
    assert!(guarded.gateway.shows(&series(end)).await);
    let past = Duration::from_secs(now().saturating_sub(DAY).as_secs());
    replace(guarded.gateway.dir.path(), "revoked.pem", guarded.authority.revoke(&[], past));
    guarded.gateway.reload().await.unwrap();
    assert!(guarded.gateway.shows(&series(past)).await);
    assert!(guarded.ask(&client, "/open/x", &[]).await.is_none());
    assert!(guarded.is_served(&blind_client(&[b"h2"]), "/open/x").await, "others are served");
    let events = json(&send(guarded.gateway.admin(), get("/api/v1/events")).await).to_string();
    assert!(events.contains("certificate_expired") && events.contains("https.crl_file"), "{events}");
    replace(guarded.gateway.dir.path(), "revoked.pem", Authority::new().revoke(&[], now() + 30 * DAY));
    guarded.gateway.reload().await.unwrap();
    assert!(guarded.ask(&client, "/open/x", &[]).await.is_none(), "nothing is known of this certificate");
}

/// A browser proves itself with its certificate whichever page asks it to.
#[tokio::test]
async fn a_page_of_another_site_opens_no_websocket_with_the_users_certificate() {
    let guarded = Guarded::start(OPTIONAL, ROUTES).await;
    let partner = guarded.authority.certify_client("a", vec![dns("a.partners.example")], 1);
    let [client, _] = both(&partner);
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let with = |origin| [&handshake[..], &[("origin", origin)]].concat();
    let reply = guarded.ask(&client, "/closed/x", &with("https://evil.example")).await.unwrap();
    assert_eq!(code(&reply), (403, "origin_denied".to_owned()));
    // The service does not know WebSocket, and answers as to a plain request.
    assert_eq!(guarded.ask(&client, "/closed/x", &with("https://gw")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn one_certificate_of_a_listener_may_ask_for_what_another_does_not() {
    let own = Authority::new();
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    for name in ["*.example", "partners.example"] {
        replace_pair(dir.path(), &name.replace('*', "all"), &own.certify(name));
    }
    replace(dir.path(), "clients.pem", authority.pem());
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start_in(
        dir,
        &format!(
            "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", https: {{bind: \"127.0.0.1:0\", client_ca_file: clients.pem, \
             client_auth: off, cert_file: all.example.pem, key_file: all.example.key, certificates: \
             [{{cert_file: partners.example.pem, key_file: partners.example.key, client_auth: required}}]}}}}\n\
             routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
            backend.addr
        ),
    )
    .await;
    let at = gateway.https_addr().unwrap();
    let own = authority.certify_client("a", vec![], 1);
    for (plain, proved) in
        [b"http/1.1".as_slice(), b"h2"].map(|one| blind_client(&[one])).into_iter().zip(both(&own))
    {
        let status = async |client: &Arc<ClientConfig>, name: &str, host: &str| {
            let mut session = Session::over(connect(client, at, name).await.ok()?).await.ok()?;
            Some(session.get(host, "/x", &[]).await.ok()?.status().as_u16())
        };
        assert_eq!(status(&plain, "www.example", "www.example").await, Some(200), "it is not asked");
        assert_eq!(status(&plain, "partners.example", "partners.example").await, None);
        assert_eq!(status(&proved, "partners.example", "partners.example").await, Some(200));
        // The wildcard is valid for both, and a client without a name gets it: neither is a way around.
        for client in [&plain, &proved] {
            assert_eq!(status(client, "www.example", "partners.example").await, Some(421));
            assert_eq!(status(client, "127.0.0.1", "partners.example").await, Some(421));
            assert_eq!(status(client, "127.0.0.1", "www.example").await, Some(200));
        }
        assert_eq!(status(&proved, "partners.example", "www.example").await, Some(421));
    }
}

/// rustls verifies a certificate in a full handshake only.
#[tokio::test]
async fn a_certificate_that_ends_is_refused_on_its_connection_and_in_a_resumed_session() {
    let guarded = Guarded::start(OPTIONAL, ROUTES).await;
    let end = Duration::from_secs(now().as_secs() + 3);
    let partner = guarded.authority.certify_client_until("a", vec![dns("a.partners.example")], 1, end);
    let [resuming, staying] = [(); 2].map(|()| blind_client_with(&[b"h2"], &partner));
    let mut open = Session::over(connect(&staying, guarded.at(), "gw").await.unwrap()).await.unwrap();
    assert_eq!(open.get("gw", "/closed/x", &[]).await.unwrap().status(), 200);
    assert!(guarded.is_served(&resuming, "/open/x").await);
    // Each of these connections resumes the session, and gets new tickets.
    eventually("its session is not resumed", || async {
        guarded.ask(&resuming, "/open/x", &[]).await.is_none()
    })
    .await;
    assert!(now() > end);
    let reply = open.get("gw", "/closed/x", &[]).await.unwrap();
    assert_eq!(code(&reply), (403, "certificate_denied".to_owned()));
}
