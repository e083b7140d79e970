//! What is fetched or written on the word of another is trusted no more than that word.
//!
//! Before: the key URL of an `https` issuer was fetched in clear text and believed, and U+0085, U+2028 and bidi marks of `sub`
//! stood raw in the access log.

use std::{
    process::Stdio,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    commands::millgate,
    support::{
        DEADLINE,
        authority::Authority,
        backend::Backend,
        client::{get, send},
        eventually,
        gateway::{TestGateway, write_config},
        tokens::{self, GOOD, bearing, token},
    },
};

/// An issuer over TLS, whose discovery document has this URL for its keys. `None`: a URL of its own.
async fn issuer(authority: &Authority, keys: Option<String>) -> Backend {
    let own: Arc<OnceLock<String>> = Arc::default();
    let url = Arc::clone(&own);
    let answer = move |request: &Request<Bytes>| {
        let issuer = url.get().cloned().unwrap_or_default();
        let body = if request.uri().path() == "/keys" {
            serde_json::json!({"keys": []})
        } else {
            let keys = keys.clone().unwrap_or_else(|| format!("{issuer}/keys"));
            serde_json::json!({"issuer": issuer, "jwks_uri": keys})
        };
        Response::new(Bytes::from(body.to_string()))
    };
    let backend = Backend::with_tls(authority.server("127.0.0.1"), answer).await;
    own.set(format!("https://{}", backend.addr)).unwrap();
    backend
}

#[tokio::test]
async fn an_issuer_over_tls_cannot_have_its_keys_read_in_clear_text() {
    let authority = Authority::new();
    let clear = Backend::named("{\"keys\": []}").await;
    let careless = issuer(&authority, Some(format!("http://{}/keys", clear.addr))).await;
    let careful = issuer(&authority, None).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let config = format!(
        "auth:\n  careless: {{issuer: \"https://{}\", audience: api}}\n  careful: {{issuer: \"https://{}\", audience: api}}\n\
         routes:\n  - {{path: /**, service: one, auth: [careless, careful]}}\nservices: {{one: {{hosts: [\"127.0.0.1:9\"]}}}}\n",
        careless.addr, careful.addr
    );
    write_config(dir.path(), &config);
    let mut run = millgate(dir.path(), &["run", "-c", "routes.yaml"]);
    let run =
        run.env("SSL_CERT_FILE", dir.path().join("ca.pem")).env("SSL_CERT_DIR", dir.path().join("none"));
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let refused = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("careless") && line.contains("clear text") {
                return line;
            }
        }
        panic!("the gateway ended");
    };
    let line = tokio::time::timeout(DEADLINE, refused).await.expect("it says why");
    assert!(line.contains(&format!("http://{}/keys", clear.addr)), "{line}");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    eventually("keys over TLS are read", || async {
        careful.take_seen().iter().any(|request| request.uri().path() == "/keys")
    })
    .await;
    assert_eq!(clear.connections(), 0);
    child.kill().await.unwrap();
}

/// Controls of both sets, line separators and the marks that turn the direction of writing.
const HIDDEN: &str = "\u{7f}\u{80}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\
                      \u{2066}\u{2067}\u{2068}\u{2069}";

#[tokio::test]
async fn what_cannot_be_seen_is_escaped_in_the_access_log() {
    let backend = Backend::named("one").await;
    let subject = format!("ann{HIDDEN}é\"\\ \u{1}");
    for format in ["json", "combined"] {
        let config = format!(
            "auth:\n  main: {{hs256_secret_file: secret.key, audience: api}}\naccess_log: {{format: {format}, file: access.log}}\n\
             routes:\n  - {{path: /**, service: one, auth: main}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
            backend.addr
        );
        let gateway = TestGateway::start_in(tokens::folder(), &config).await;
        let request = bearing(get("/x"), &token(gateway.dir.path(), GOOD, &subject));
        assert_eq!(send(gateway.http, request).await.status(), 200);
        let file = gateway.dir.path().join("access.log");
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        eventually("the line is written", || async { read().ends_with('\n') }).await;
        let text = read();
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(|c: char| c.is_control() || HIDDEN.contains(c)), "{line:?}");
        if format == "json" {
            let fields: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(fields["user"], subject, "nothing is lost");
        }
    }
}
