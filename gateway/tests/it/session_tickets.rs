//! Sessions that clients resume: with any worker, after a renewed certificate and a restart, and with another gateway that has the keys.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig,
    HandshakeKind::{self, Full, Resumed},
};

use crate::support::{
    authority::{Authority, blind_client, blind_client_of, blind_client_with},
    backend::Backend,
    client::{get, send, text},
    gateway::TestGateway,
    tls::{Session, connect, replace, replace_pair},
};

/// Keys of 32 bytes in base64.
const KEYS: [&str; 2] =
    ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "//////////////////////////////////////////8="];

async fn start(https: &str, keys: &[&str], authority: &Authority) -> TestGateway {
    let dir = tempfile::tempdir().unwrap();
    replace_pair(dir.path(), "gw", &Authority::new().certify("gw"));
    replace(dir.path(), "clients.pem", authority.pem());
    replace(dir.path(), "tickets", keys.join("\n"));
    let backend = Backend::named("one").await;
    TestGateway::start_in(dir, &config(https, &backend)).await
}

fn config(https: &str, backend: &Backend) -> String {
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", \
         https: {{bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key{https}}}}}\n\
         routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

/// The kind of the handshake of a new connection. A request on it gives the client tickets for the next ones.
async fn handshake(client: &Arc<ClientConfig>, at: SocketAddr) -> HandshakeKind {
    let stream = connect(client, at, "gw").await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut session = Session::over(stream).await.unwrap();
    session.get("gw", "/x", &[]).await.unwrap();
    kind
}

#[tokio::test]
async fn a_session_is_resumed_by_every_worker_and_after_a_renewed_certificate() {
    let gateway = start("", &KEYS, &Authority::new()).await;
    let at = gateway.https_addr().unwrap();
    let old = blind_client_of(&[&rustls::version::TLS12]);
    for client in [blind_client(&[b"h2"]), old] {
        assert_eq!(handshake(&client, at).await, Full);
        // There are two workers, and the kernel chooses.
        for _ in 0..8 {
            assert_eq!(handshake(&client, at).await, Resumed);
        }
        replace_pair(gateway.dir.path(), "gw", &Authority::new().certify("gw"));
        gateway.reload().await.unwrap();
        assert_eq!(handshake(&client, at).await, Resumed);
    }
    let metrics = send(gateway.admin(), get("/metrics")).await;
    assert!(text(&metrics).contains("\nmillgate_tls_resumed_total 18\n"), "{}", text(&metrics));
}

#[tokio::test]
async fn gateways_with_the_same_keys_resume_the_sessions_of_each_other() {
    let https = ", ticket_keys_file: tickets";
    let authority = Authority::new();
    let (mut one, two) = (start(https, &KEYS, &authority).await, start(https, &KEYS[1..], &authority).await);
    let client = blind_client(&[b"h2"]);
    assert_eq!(handshake(&client, two.https_addr().unwrap()).await, Full);
    assert_eq!(handshake(&client, one.https_addr().unwrap()).await, Resumed, "its second key decrypts");
    // The ticket that the first gateway has given last has its first key, which the second gateway does not have yet.
    let client = blind_client(&[b"h2"]);
    assert_eq!(handshake(&client, one.https_addr().unwrap()).await, Full);
    assert_eq!(handshake(&client, two.https_addr().unwrap()).await, Full);
    replace(two.dir.path(), "tickets", KEYS.join("\n"));
    two.reload().await.unwrap();
    assert_eq!(handshake(&client, one.https_addr().unwrap()).await, Resumed);
    assert_eq!(handshake(&client, two.https_addr().unwrap()).await, Resumed);
    one.restart().await;
    assert_eq!(handshake(&client, one.https_addr().unwrap()).await, Resumed, "after a restart");
    // A file that cannot be used changes nothing.
    replace(two.dir.path(), "tickets", "no key");
    let report = two.reload().await.unwrap_err();
    assert!(report.contains("line 1 is not 32 bytes") && !report.contains("no key\n"), "{report}");
    assert_eq!(handshake(&client, two.https_addr().unwrap()).await, Resumed);
    replace(two.dir.path(), "tickets", "# none\nISEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISE=");
    two.reload().await.unwrap();
    assert_eq!(handshake(&client, two.https_addr().unwrap()).await, Full, "the key is gone");
}

/// A resumed session is not verified again: keys of a file must not carry a client past other authorities.
#[tokio::test]
async fn a_gateway_with_other_authorities_does_not_resume_a_session_although_it_has_the_keys() {
    let https = ", ticket_keys_file: tickets, client_ca_file: clients.pem, client_auth: optional";
    let (first, second) = (Authority::new(), Authority::new());
    let (one, same, other) = (
        start(https, &KEYS, &first).await,
        start(https, &KEYS, &first).await,
        start(https, &KEYS, &second).await,
    );
    let client = blind_client_with(&[b"h2"], &first.certify_client("a", vec![], 1));
    assert_eq!(handshake(&client, one.https_addr().unwrap()).await, Full);
    assert_eq!(handshake(&client, same.https_addr().unwrap()).await, Resumed);
    let stream = connect(&client, other.https_addr().unwrap(), "gw").await;
    let Ok(stream) = stream else { return };
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(Full));
    let reply = async { Session::over(stream).await?.get("gw", "/x", &[]).await };
    assert!(reply.await.is_err(), "its certificate is verified, and refused");
}

/// Early data can be replayed (RFC 8446 §8).
#[tokio::test]
async fn early_data_is_neither_offered_nor_taken() {
    let gateway = start(", ticket_keys_file: tickets", &KEYS, &Authority::new()).await;
    let at = gateway.https_addr().unwrap();
    let mut client = Arc::unwrap_or_clone(blind_client(&[b"http/1.1"]));
    client.enable_early_data = true;
    let client = Arc::new(client);
    assert_eq!(handshake(&client, at).await, Full);
    // The client would send some if a ticket allowed it.
    let mut next = rustls::ClientConnection::new(Arc::clone(&client), "gw".try_into().unwrap()).unwrap();
    assert!(next.early_data().is_none());
    assert_eq!(handshake(&client, at).await, Resumed);
}
