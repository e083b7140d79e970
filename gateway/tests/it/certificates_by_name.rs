//! Several certificates on one listener: a client gets the one for the name that it asks for, and requests for hosts of another
//! certificate belong on another connection (RFC 9110 §15.5.20).

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;
use rustls::{ClientConfig, ProtocolVersion};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::client::TlsStream;

use crate::support::{
    authority::{Authority, Certified},
    backend::Backend,
    client::{get, header, json, send, text},
    eventually,
    gateway::TestGateway,
    tls::{Session, connect, replace_pair},
};

/// A gateway whose listener has the certificates of these fields.
async fn start(dir: tempfile::TempDir, https: &str, more: &str) -> (TestGateway, Backend) {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start_in(dir, &config(&backend, https, more)).await;
    (gateway, backend)
}

fn config(backend: &Backend, https: &str, more: &str) -> String {
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{more}, https: {{bind: \"127.0.0.1:0\", {https}}}}}\n\
         routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

/// A client that does not check what is presented.
fn blind(protocols: &[&[u8]]) -> Arc<ClientConfig> {
    crate::support::authority::blind_client(protocols)
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn der(pair: &Certified) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()
}

/// Whether a client that asks for `name` is presented this certificate.
async fn presents(gateway: &TestGateway, name: &str, pair: &Certified) -> bool {
    let stream = connect(&blind(&[]), gateway.https_addr().unwrap(), name).await.unwrap();
    leaf(&stream) == der(pair)
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let [shop, wild, pay] =
        ["shop.example", "*.shop.example", "pay.shop.example"].map(|name| authority.certify(name));
    for (name, pair) in [("shop", &shop), ("wild", &wild), ("pay", &pay)] {
        replace_pair(dir.path(), name, pair);
    }
    let https = "cert_file: shop.pem, key_file: shop.key, certificates: [{cert_file: wild.pem, key_file: wild.key}, \
                 {cert_file: pay.pem, key_file: pay.key}]";
    let (gateway, _backend) = start(dir, https, "").await;
    for (name, expected) in [
        ("shop.example", &shop),
        ("SHOP.example", &shop),
        ("www.shop.example", &wild),
        ("pay.shop.example", &pay),
        ("a.www.shop.example", &shop),
        ("unknown.example", &shop),
        ("127.0.0.1", &shop),
        // The longest name that DNS has (RFC 1035 §2.3.4).
        (
            &[[b'a'; 63].as_slice(); 3].map(|label| String::from_utf8(label.to_vec()).unwrap()).join("."),
            &shop,
        ),
        ("xn--mnchen-3ya.shop.example", &wild),
        ("_odd-name_.shop.example", &wild),
    ] {
        assert!(presents(&gateway, name, expected).await, "{name}");
    }
    let metrics = send(gateway.admin(), get("/metrics")).await;
    for name in ["shop.example", "*.shop.example", "pay.shop.example"] {
        let series =
            format!("millgate_certificate_expiry_timestamp_seconds{{listener=\"https\",name=\"{name}\"}} ");
        assert!(text(&metrics).contains(&series), "{name}");
    }
    assert!(!text(&metrics).contains("unknown.example"), "no label comes from a client");
}

#[tokio::test]
async fn another_default_may_be_marked_and_unknown_names_may_be_refused() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (authority.certify("a.example"), authority.certify("b.example"));
    replace_pair(dir.path(), "a", &a);
    replace_pair(dir.path(), "b", &b);
    let both = |mark: &str| {
        format!(
            "certificates: [{{cert_file: a.pem, key_file: a.key}}, {{cert_file: b.pem, key_file: b.key{mark}}}]"
        )
    };
    let (gateway, backend) = start(dir, &both(", default: true"), "").await;
    assert!(presents(&gateway, "unknown.example", &b).await && presents(&gateway, "a.example", &a).await);
    gateway.rewrite(&config(&backend, &format!("{}, unknown_names: refuse", both("")), ""));
    gateway.reload().await.unwrap();
    assert!(presents(&gateway, "a.example", &a).await && presents(&gateway, "b.example", &b).await);
    let at = gateway.https_addr().unwrap();
    for name in ["unknown.example", "127.0.0.1"] {
        assert!(connect(&blind(&[]), at, name).await.is_err(), "{name}");
    }
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let line = "millgate_connection_errors_total{listener=\"https\",reason=\"tls_handshake\"} 2";
    assert!(text(&metrics).contains(line), "{}", text(&metrics));
}

#[tokio::test]
async fn the_client_chooses_between_keys_of_two_kinds_for_one_name() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let rsa = authority.certify_with("shop.example", &rcgen::PKCS_RSA_SHA256);
    let ecdsa = authority.certify("shop.example");
    replace_pair(dir.path(), "rsa", &rsa);
    replace_pair(dir.path(), "ecdsa", &ecdsa);
    let https = "certificates: [{cert_file: rsa.pem, key_file: rsa.key}, {cert_file: ecdsa.pem, key_file: ecdsa.key}]";
    let (gateway, _backend) = start(dir, https, "").await;
    let at = gateway.https_addr().unwrap();
    // Also without a name: the default certificate has a twin.
    for name in ["shop.example", "127.0.0.1"] {
        assert!(presents(&gateway, name, &ecdsa).await, "both fit: the cheaper one");
        let old = crate::support::authority::blind_client_of_rsa();
        assert_eq!(leaf(&connect(&old, at, name).await.unwrap()), der(&rsa), "{name}");
    }
}

#[tokio::test]
async fn a_listener_may_require_tls_1_3() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    replace_pair(dir.path(), "a", &authority.certify("a.example"));
    let https = "cert_file: a.pem, key_file: a.key";
    let (gateway, backend) = start(dir, https, "").await;
    let at = gateway.https_addr().unwrap();
    let old = crate::support::authority::blind_client_of(&[&rustls::version::TLS12]);
    let stream = connect(&old, at, "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    gateway.rewrite(&config(&backend, &format!("{https}, min_version: \"1.3\""), ""));
    gateway.reload().await.unwrap();
    assert!(connect(&old, at, "a.example").await.is_err());
    let stream = connect(&blind(&[]), at, "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_broken_pair_keeps_its_old_certificate_while_others_are_renewed() {
    let (before, after) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (before.certify("a.example"), before.certify("b.example"));
    replace_pair(dir.path(), "a", &a);
    replace_pair(dir.path(), "b", &b);
    let https = "certificates: [{cert_file: a.pem, key_file: a.key}, {cert_file: b.pem, key_file: b.key}]";
    let (gateway, _backend) = start(dir, https, "").await;
    let renewed = after.certify("a.example");
    std::fs::write(gateway.dir.path().join("b.key"), "broken").unwrap();
    replace_pair(gateway.dir.path(), "a", &renewed);
    eventually("the certificate that can be used is in use", || presents(&gateway, "a.example", &renewed))
        .await;
    assert!(presents(&gateway, "b.example", &b).await, "the broken one keeps what was there");
    eventually("the broken one is visible", || async {
        let shown =
            text(&send(gateway.admin(), get("/metrics")).await).contains("\nmillgate_config_refused{place=");
        let events = json(&send(gateway.admin(), get("/api/v1/events")).await).to_string();
        shown && events.contains("config_refused") && events.contains("b.key")
    })
    .await;
    let (c, d) = (after.certify("b.example"), after.certify("a.example"));
    replace_pair(gateway.dir.path(), "b", &c);
    replace_pair(gateway.dir.path(), "a", &d);
    eventually("all are in use", || async {
        presents(&gateway, "b.example", &c).await && presents(&gateway, "a.example", &d).await
    })
    .await;
}

/// Statuses of requests for these hosts, on one connection whose handshake named `name`.
async fn statuses(at: SocketAddr, name: &str, is_http2: bool, hosts: &[&str]) -> Vec<(StatusCode, String)> {
    let protocol: &[u8] = if is_http2 { b"h2" } else { b"http/1.1" };
    let open = async || Session::over(connect(&blind(&[protocol]), at, name).await.unwrap()).await.unwrap();
    let mut found = Vec::new();
    let mut session = open().await;
    for host in hosts {
        let reply = session.get(host, "/x", &[]).await.unwrap();
        let is_refused = reply.status() == StatusCode::MISDIRECTED_REQUEST;
        assert_eq!(header(&reply, "connection") == "close", is_refused && !is_http2, "{host}");
        if is_refused && !is_http2 {
            session = open().await;
        }
        let code = if is_refused { json(&reply)["code"].as_str().unwrap().to_owned() } else { String::new() };
        found.push((reply.status(), code));
    }
    found
}

#[tokio::test]
async fn a_host_of_another_certificate_belongs_on_another_connection() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.example", "*.a.example", "b.example"] {
        replace_pair(dir.path(), &name.replace('*', "wild"), &authority.certify(name));
    }
    let https = "certificates: [{cert_file: a.example.pem, key_file: a.example.key}, \
                 {cert_file: wild.a.example.pem, key_file: wild.a.example.key}, \
                 {cert_file: b.example.pem, key_file: b.example.key}]";
    let (gateway, backend) = start(dir, https, "").await;
    let at = gateway.https_addr().unwrap();
    let (good, misdirected) = (
        (StatusCode::OK, String::new()),
        (StatusCode::MISDIRECTED_REQUEST, "misdirected_request".to_owned()),
    );
    for is_http2 in [false, true] {
        for (name, host, is_good) in [
            ("a.example", "a.example", true),
            ("a.example", "A.example:8443", true),
            ("a.example", "b.example", false),
            ("b.example", "a.example", false),
            ("b.example", "www.a.example", false),
            // A browser may use one connection for all names of its certificate (RFC 9113 §9.1.1).
            ("x.a.example", "y.a.example", true),
            ("x.a.example", "a.example", false),
            // Names of no certificate share the default one.
            ("a.example", "unknown.example", true),
            ("unknown.example", "a.example", true),
            ("unknown.example", "b.example", false),
            ("b.example", "unknown.example", false),
            // A client that names no host.
            ("127.0.0.1", "a.example", true),
            ("127.0.0.1", "b.example", true),
        ] {
            let expected = if is_good { &good } else { &misdirected };
            // Twice: what is remembered of the first request must not admit the second.
            let found = statuses(at, name, is_http2, &[host, host]).await;
            assert_eq!(found, [expected.clone(), expected.clone()], "{name} {host} h2: {is_http2}");
        }
    }
    // In the middle of a connection, after a request that belongs there.
    let found = statuses(at, "a.example", true, &["a.example", "b.example", "a.example"]).await;
    assert_eq!(found, [good.clone(), misdirected, good.clone()]);
    let sees = "millgate_local_replies_total{route=\"(none)\",reason=\"misdirected_request\"}";
    let metrics = send(gateway.admin(), get("/metrics")).await;
    assert!(text(&metrics).contains(sees), "{}", text(&metrics));
    // A trusted proxy may have one name for all handshakes.
    gateway.rewrite(&config(&backend, https, ", trusted_proxies: [127.0.0.1]"));
    gateway.reload().await.unwrap();
    assert_eq!(statuses(at, "a.example", true, &["b.example"]).await, [good]);
}

/// With one certificate, which name a client used has never mattered.
#[tokio::test]
async fn one_certificate_serves_every_host_unless_unknown_names_are_refused() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    replace_pair(dir.path(), "a", &authority.certify("a.example"));
    let https = "cert_file: a.pem, key_file: a.key";
    let (gateway, backend) = start(dir, https, "").await;
    let at = gateway.https_addr().unwrap();
    let status = async |name, host| statuses(at, name, true, &[host]).await.remove(0).0;
    assert_eq!(status("a.example", "b.example").await, 200);
    assert_eq!(status("b.example", "a.example").await, 200);
    gateway.rewrite(&config(&backend, &format!("{https}, unknown_names: refuse"), ""));
    gateway.reload().await.unwrap();
    assert_eq!(status("a.example", "a.example").await, 200);
    assert_eq!(status("a.example", "b.example").await, 421);
}

/// What is no name ends the handshake, and costs nothing that stays.
#[tokio::test]
async fn names_that_are_none_end_the_handshake() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    replace_pair(dir.path(), "a", &authority.certify("a.example"));
    let (gateway, _backend) = start(dir, "cert_file: a.pem, key_file: a.key", "").await;
    let at = gateway.https_addr().unwrap();
    let blind = blind(&[]);
    for name in
        [&b"a\0b.example"[..], b"a b.example", b"..", b"\xff\xfe.example", b"{a}\"\n.example", &[b'a'; 4000]]
    {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let hello = hello_with_name(&blind, name);
        tokio::io::AsyncWriteExt::write_all(&mut stream, &hello).await.unwrap();
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(std::time::Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        read.expect("the connection ends").unwrap();
        // A fatal alert (RFC 8446 §6): content type 21, level 2.
        assert_eq!((answer.first(), answer.get(5)), (Some(&21), Some(&2)), "{name:?}: {answer:?}");
    }
    let stream = connect(&blind, at, "a.example").await.unwrap();
    assert!(stream.get_ref().1.peer_certificates().is_some(), "others are served");
}

/// The first flight of a client, with these bytes as the name.
fn hello_with_name(client: &Arc<ClientConfig>, name: &[u8]) -> Vec<u8> {
    const PLACEHOLDER: &str = "placeholder.example";
    let mut session =
        rustls::ClientConnection::new(Arc::clone(client), PLACEHOLDER.try_into().unwrap()).unwrap();
    let mut flight = Vec::new();
    session.write_tls(&mut flight).unwrap();
    let at = flight.windows(PLACEHOLDER.len()).position(|bytes| bytes == PLACEHOLDER.as_bytes()).unwrap();
    let more = name.len().cast_signed() - PLACEHOLDER.len().cast_signed();
    flight.splice(at..at + PLACEHOLDER.len(), name.iter().copied());
    // The lengths that contain the name: of the record, the handshake message, the extensions, the extension, its list, the name.
    let lengthen = |flight: &mut Vec<u8>, place: usize| {
        let old = isize::from(i16::from_be_bytes([flight[place], flight[place + 1]]));
        flight[place..place + 2].copy_from_slice(&u16::try_from(old + more).unwrap().to_be_bytes());
    };
    let extensions = extensions_length_at(&flight);
    for place in [3, 7, extensions, at - 7, at - 5, at - 2] {
        lengthen(&mut flight, place);
    }
    flight
}

/// The place of the length of all extensions in a record with a ClientHello (RFC 8446 §4.1.2).
fn extensions_length_at(flight: &[u8]) -> usize {
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + usize::from(flight[session]);
    let methods = suites + 2 + usize::from(u16::from_be_bytes([flight[suites], flight[suites + 1]]));
    methods + 1 + usize::from(flight[methods])
}
