//! An issuer of tokens that a test can make slow or take down, and the keys with which it signs.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use millgate::token::{MintOptions, mint};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How the issuer treats a request for its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// It answers with the keys that it had when the request arrived, and only after the mode has changed.
    Slow,
    /// 500.
    Down,
}

/// Publishes a set of keys at every path.
pub(crate) struct Issuer {
    addr: SocketAddr,
    jwks: Arc<Mutex<String>>,
    mode: watch::Sender<Mode>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Issuer {
    pub(crate) async fn publishing(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (jwks, asked) = (Arc::<Mutex<String>>::default(), Arc::<AtomicUsize>::default());
        let mode = watch::channel(Mode::Up).0;
        let (published, count, modes) = (Arc::clone(&jwks), Arc::clone(&asked), mode.subscribe());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&published), Arc::clone(&count), modes.clone()));
            }
        });
        let issuer = Self { addr, jwks, mode, asked, task };
        issuer.publish(keys);
        issuer
    }

    /// Replaces its keys by these.
    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        self.publish_beside(keys, &[]);
    }

    /// As [`Self::publish`], with further members of the set that are not signing keys.
    pub(crate) fn publish_beside(&self, keys: &[&SigningKey], others: &[Value]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).chain(others.iter().cloned()).collect();
        *self.jwks.lock().unwrap() = json!({ "keys": keys }).to_string();
    }

    pub(crate) fn is(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The number of requests for its keys.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.addr)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    jwks: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    mut mode: watch::Receiver<Mode>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
            return;
        }
    }
    let body = jwks.lock().unwrap().clone();
    asked.fetch_add(1, Ordering::SeqCst);
    let Ok(mode) = mode.wait_for(|mode| *mode != Mode::Slow).await.map(|mode| *mode) else { return };
    let status = if mode == Mode::Down { "500 Internal Server Error" } else { "200 OK" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // A client that has left does not need an answer.
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A key pair, with or without a name.
pub(crate) struct SigningKey {
    dir: TempDir,
    kid: Option<String>,
    x: String,
}

impl SigningKey {
    pub(crate) fn new(kid: Option<&str>) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("signing.key"), pair.serialize_pem()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        Self { dir, kid: kid.map(str::to_owned), x }
    }

    /// A key set that has only this key.
    pub(crate) fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    fn jwk(&self) -> Value {
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": self.x});
        if let Some(kid) = &self.kid {
            jwk["kid"] = json!(kid);
        }
        jwk
    }

    /// A token for the audience `api`.
    pub(crate) fn token(&self, subject: &str) -> String {
        self.token_with(subject, |_| {})
    }

    pub(crate) fn token_with(&self, subject: &str, change: impl FnOnce(&mut MintOptions)) -> String {
        let key_file: PathBuf = self.dir.path().join("signing.key");
        let mut options = MintOptions {
            key_file,
            key_id: self.kid.clone(),
            subject: subject.to_owned(),
            audience: Some("api".into()),
            ttl: Duration::from_mins(5),
            ..MintOptions::default()
        };
        change(&mut options);
        mint(&options).unwrap()
    }

    /// A token with exactly these claims.
    pub(crate) fn signed(&self, claims: &Value) -> String {
        let pem = std::fs::read(self.dir.path().join("signing.key")).unwrap();
        let key = jsonwebtoken::EncodingKey::from_ed_pem(&pem).unwrap();
        let header = jsonwebtoken::Header {
            kid: self.kid.clone(),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}
