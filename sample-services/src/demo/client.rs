//! The smallest HTTP client that can speak to the gateway in each of its ways: HTTP/1.1 and HTTP/2, cleartext
//! and TLS. One connection per request. For probing and for tests, where it must be certain which protocol
//! was spoken.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A way to speak to a listener.
#[derive(Clone)]
pub struct Client {
    addr: SocketAddr,
    version: Version,
    tls: Option<Arc<ClientConfig>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    /// In cleartext, with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `null` where the body is not JSON.
    pub body: Value,
}

impl Client {
    pub fn cleartext(addr: SocketAddr, version: Version) -> Self {
        Self { addr, version, tls: None }
    }

    /// TLS that trusts the authority of `ca_pem` alone, and offers exactly `version` by ALPN.
    pub fn tls(addr: SocketAddr, version: Version, ca_pem: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![version.alpn().to_vec()];
        Ok(Self { addr, version, tls: Some(Arc::new(config)) })
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, token, None).await
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, token, Some(body)).await
    }

    /// Gives up after [`ANSWER_TIMEOUT`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        self.send_with(method, path, token, HeaderMap::new(), body).await
    }

    /// As [`Client::send`], with more headers; they replace those that it would send.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: HeaderMap,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let what = format!("{method} {path} at {}", self.addr);
        let mut request = self.request(method, path, token, body)?;
        request.headers_mut().extend(headers);
        let exchange = async {
            let stream = TcpStream::connect(self.addr).await?;
            match &self.tls {
                None => self.exchange(stream, request).await,
                Some(tls) => {
                    let name = ServerName::try_from("localhost")?;
                    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
                    let agreed = stream.get_ref().1.alpn_protocol();
                    ensure!(agreed == Some(self.version.alpn()), "the listener does not speak this version");
                    self.exchange(stream, request).await
                }
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .context("no answer in time")
            .flatten()
            .context(what)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let authority = format!("localhost:{}", self.addr.port());
        let mut request = match self.version {
            // RFC 9112 §3.2.1: origin form and `Host`; RFC 9113 §8.3.1: scheme and authority are pseudo-headers.
            Version::Http1 => Request::builder().uri(path).header(header::HOST, authority),
            Version::Http2 => {
                let parts = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
                Request::builder().uri(parts.build()?)
            }
        }
        .method(method);
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        Ok(request.body(Full::new(bytes))?)
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let response = match self.version {
            Version::Http1 => {
                let (mut sender, connection) = conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            }
            Version::Http2 => {
                let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

impl Version {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Longer than any request of the demo takes on a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
