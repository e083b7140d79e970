//! A small HTTP client for the control plane: Consul, JSON Web Key Sets, health checks of the embedded registry.
//!
//! Every exchange has one hard deadline over everything (name look-up, connect, TLS, head, body) and one limit
//! on the body, so that a peer which accepts and never answers costs a bounded time and a bounded memory.
//! Dropping the future of an exchange that is under way closes its connection; nothing lingers at the peer.
//!
//! Not for the data plane: the pool behind this client is shared and locked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::OnceCell;

/// How an [`HttpClient`] is built.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// A PEM file with certificate authorities that are trusted beside the system's own.
    pub ca_file: Option<PathBuf>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// The URL cannot be used: not absolute, or neither `http` nor `https`.
    #[error("invalid URL `{url}`: {detail}")]
    InvalidUrl { url: String, detail: String },
    /// No connection came about: refused, unreachable, unknown name, failed TLS handshake.
    #[error("{0}")]
    Connect(String),
    /// The whole exchange took longer than its deadline.
    #[error("no complete answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The connection broke before the answer was whole.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer's body is larger than the caller allows.
    #[error("the answer is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    /// The certificates that TLS needs could not be read.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

type Plain = Client<HttpConnector, Full<Bytes>>;
type Secure = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The client; clones share one connection pool. It belongs to the tokio runtime on which it is first used.
#[derive(Debug, Clone)]
pub struct HttpClient {
    plain: Plain,
    /// Made at the first `https` URL: whoever speaks plain HTTP needs no certificate store at all.
    secure: Arc<OnceCell<Secure>>,
    extra_roots: Arc<[CertificateDer<'static>]>,
}

impl HttpClient {
    /// Builds the client. Only a `ca_file` that cannot be read, or that holds no certificate, is an error.
    pub fn new(options: &HttpOptions) -> Result<Self, HttpError> {
        let extra_roots = match &options.ca_file {
            Some(path) => read_certificates(path)?,
            None => Vec::new(),
        };
        let plain = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector());
        Ok(Self { plain, secure: Arc::new(OnceCell::new()), extra_roots: extra_roots.into() })
    }

    /// Sends one request and reads the whole answer, within `deadline` and `body_bytes_max`.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Duration,
        body_bytes_max: usize,
    ) -> Result<HttpResponse, HttpError> {
        let uri = parse_url(url)?;
        let secure = uri.scheme_str() == Some("https");
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let exchange = async {
            let response = if secure {
                self.secure().await?.request(request).await
            } else {
                self.plain.request(request).await
            };
            read_whole(response.map_err(|error| classify(&error))?, body_bytes_max).await
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(HttpError::Timeout(deadline)))
    }

    /// `GET url` without further headers.
    pub async fn get(
        &self,
        url: &str,
        deadline: Duration,
        body_bytes_max: usize,
    ) -> Result<HttpResponse, HttpError> {
        self.send(Method::GET, url, HeaderMap::new(), Bytes::new(), deadline, body_bytes_max).await
    }

    async fn secure(&self) -> Result<&Secure, HttpError> {
        self.secure.get_or_try_init(|| build_secure(self.extra_roots.clone())).await
    }
}

/// Reading the system's store takes milliseconds of file access, so it happens on a blocking thread.
async fn build_secure(extra_roots: Arc<[CertificateDer<'static>]>) -> Result<Secure, HttpError> {
    let config = tokio::task::spawn_blocking(move || tls_config(&extra_roots))
        .await
        .map_err(|error| HttpError::Tls(error.to_string()))??;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_all_versions()
        .wrap_connector(connector());
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build(connector))
}

fn tls_config(extra_roots: &[CertificateDer<'static>]) -> Result<rustls::ClientConfig, HttpError> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    // A store with one unreadable certificate among a hundred is still a store.
    roots.add_parsable_certificates(native.certs);
    roots.add_parsable_certificates(extra_roots.iter().cloned());
    if roots.is_empty() {
        let detail =
            native.errors.first().map_or_else(|| "the store is empty".to_owned(), ToString::to_string);
        return Err(HttpError::Tls(format!(
            "no trusted certificate authority: {detail}; install the system's CA certificates or name a CA file"
        )));
    }
    // Passed explicitly: a process-wide default would depend on who links what.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let failed = |detail: String| HttpError::Tls(format!("CA file `{}`: {detail}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // A blocking query is silent for a minute; without probes a peer that vanished is noticed at the deadline only.
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector
}

fn parse_url(url: &str) -> Result<Uri, HttpError> {
    let invalid = |detail: &str| HttpError::InvalidUrl { url: url.to_owned(), detail: detail.to_owned() };
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        Some(_) => Err(invalid("the scheme must be http or https")),
        None => Err(invalid("it must begin with http:// or https://")),
    }
}

async fn read_whole(response: Response<Incoming>, limit: usize) -> Result<HttpResponse, HttpError> {
    let (head, mut body) = response.into_parts();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| HttpError::Broken(root_cause(&error)))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(HttpError::BodyTooLarge { limit });
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(HttpResponse { status: head.status, headers: head.headers, body: whole.freeze() })
}

fn classify(error: &hyper_util::client::legacy::Error) -> HttpError {
    let cause = root_cause(error);
    if error.is_connect() { HttpError::Connect(cause) } else { HttpError::Broken(cause) }
}

/// The innermost cause says what happened ("connection refused"); the outer ones say only where.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
        _ => cause.to_string(),
    }
}

/// Longer than any healthy network needs, shorter than the kernel's two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Below the idle timeouts that proxies in front of a registry commonly have (60 s).
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_must_be_absolute_and_http() {
        for bad in ["", "consul:8500", "/v1/x", "ftp://h/", "http://a b/"] {
            assert!(matches!(parse_url(bad), Err(HttpError::InvalidUrl { .. })), "{bad}");
        }
        assert!(parse_url("http://127.0.0.1:8500/v1/x?y=1").is_ok());
    }

    #[test]
    fn a_ca_file_that_is_absent_is_named_in_the_error() {
        let options = HttpOptions { ca_file: Some("/nonexistent/ca.pem".into()) };
        let error = HttpClient::new(&options).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_connect_error_that_says_so() {
        let client = HttpClient::new(&HttpOptions::default()).unwrap();
        // Bound and dropped: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/");
        let error = client.get(&url, Duration::from_secs(5), 100).await.unwrap_err();
        assert!(matches!(&error, HttpError::Connect(detail) if detail == "connection refused"), "{error:?}");
    }

    #[tokio::test]
    async fn a_server_that_never_answers_meets_the_deadline() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = HttpClient::new(&HttpOptions::default()).unwrap();
        let error = client.get(&url, Duration::from_millis(50), 100).await.unwrap_err();
        assert!(matches!(error, HttpError::Timeout(_)), "{error:?}");
    }
}
