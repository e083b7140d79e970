//! A small HTTP client for the control plane: Consul, JSON Web Key Sets, health checks of the embedded registry.
//!
//! Every exchange has one hard deadline over everything (name look-up, connect, TLS, head, body) and one limit
//! on the body, so that a peer which accepts and never answers costs a bounded time and a bounded memory.
//! Dropping the future of a running exchange closes its connection, so it does not linger at the peer.
//!
//! Not for the data plane: the pool behind this client is shared and locked.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::http::{HttpError, LOOK_EVERY, Stamp, TlsOptions};

/// Settings of an [`HttpClient`].
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// Certificates for URLs with `https`.
    pub tls: TlsOptions,
}

/// A complete answer of a server.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// The status code, whatever it is: a status is never an [`HttpError`].
    pub status: StatusCode,
    /// The version of HTTP that the server spoke.
    pub version: Version,
    /// All header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

type Plain = Client<HttpConnector, Full<Bytes>>;
type Secure = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The HTTP client of the control plane. Clones share one connection pool, which belongs to the tokio runtime on which it is
/// first used.
///
/// Every exchange has one deadline and one limit of its body. It is not retried, and redirects are not followed.
#[derive(Debug, Clone)]
pub struct HttpClient {
    plain: Plain,
    tls: Arc<TlsOptions>,
    /// Made at the first `https` URL: plain HTTP needs no certificate store.
    secure: Arc<Mutex<Option<SecureClient>>>,
}

/// A client with the certificates that the files held when it was made.
#[derive(Debug)]
struct SecureClient {
    client: Secure,
    stamps: [Stamp; 3],
    looked_at: Instant,
}

impl HttpClient {
    /// Builds the client without a connection. Fails if a file for TLS cannot be read or has no usable content.
    pub fn new(options: &HttpOptions) -> Result<Self, HttpError> {
        options.tls.check()?;
        Ok(Self::with(Arc::new(options.tls.clone())))
    }

    /// A client with the same settings and a connection pool of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(&self.tls))
    }

    fn with(tls: Arc<TlsOptions>) -> Self {
        let plain = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE_MAX)
            .build(connector());
        Self { plain, tls, secure: Arc::default() }
    }

    /// Sends one request and reads the whole answer, within `deadline` and `body_bytes_max`. Dropping the future closes the
    /// connection.
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
            // With TLS 1.3 a server refuses the client's certificate only after the handshake.
            if secure && response.is_err() {
                self.look_again();
            }
            read_whole(response.map_err(|error| classify(&error))?, body_bytes_max).await
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(HttpError::Timeout(deadline)))
    }

    /// Sends `GET url` without further headers; see [`HttpClient::send`].
    pub async fn get(
        &self,
        url: &str,
        deadline: Duration,
        body_bytes_max: usize,
    ) -> Result<HttpResponse, HttpError> {
        self.send(Method::GET, url, HeaderMap::new(), Bytes::new(), deadline, body_bytes_max).await
    }

    /// The client for `https`, made anew when a file that it depends on was replaced. Connections of the earlier client
    /// live until their exchanges end.
    async fn secure(&self) -> Result<Secure, HttpError> {
        let known = self.lock().as_ref().map(|known| (known.client.clone(), known.stamps, known.looked_at));
        let now = Instant::now();
        if let Some((client, _, looked_at)) = &known
            && now < *looked_at + LOOK_EVERY
        {
            return Ok(client.clone());
        }
        let tls = Arc::clone(&self.tls);
        let before = known.as_ref().map(|(_, stamps, _)| *stamps);
        let made = tokio::task::spawn_blocking(move || {
            let stamps = tls.stamps();
            if before == Some(stamps) { Ok(None) } else { build(&tls).map(|client| Some((client, stamps))) }
        })
        .await
        .map_err(|error| HttpError::Tls(error.to_string()))?;
        let (client, stamps) = match (made, known) {
            (Ok(Some(made)), known) => {
                if known.is_some() {
                    info!("the certificates for TLS changed");
                }
                made
            }
            (Ok(None), Some((client, stamps, _))) => (client, stamps),
            // Perhaps only half of a pair was replaced so far; the next look finds the other half.
            (Err(error), Some((client, stamps, _))) => {
                warn!("{error}; the certificates from before stay in use");
                (client, stamps)
            }
            (Err(error), None) => return Err(error),
            (Ok(None), None) => return Err(HttpError::Tls("no client".to_owned())),
        };
        *self.lock() = Some(SecureClient { client: client.clone(), stamps, looked_at: now });
        Ok(client)
    }

    /// A failure may come from an old certificate, so the files are looked at again before the next exchange.
    fn look_again(&self) {
        if let Some(known) = self.lock().as_mut()
            && let Some(long_ago) = known.looked_at.checked_sub(LOOK_EVERY)
        {
            known.looked_at = long_ago;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SecureClient>> {
        // The value is replaced in one step, so a panic leaves it whole.
        self.secure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(tls: &TlsOptions) -> Result<Secure, HttpError> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls.client_config()?).https_only();
    let connector = match &tls.server_name {
        None => builder.enable_all_versions().wrap_connector(connector()),
        Some(name) => {
            let name = ServerName::try_from(name.clone()).map_err(|_| {
                HttpError::Tls(format!("server name `{name}` is neither a DNS name nor an address"))
            })?;
            let resolver = FixedServerNameResolver::new(name);
            builder.with_server_name_resolver(resolver).enable_all_versions().wrap_connector(connector())
        }
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build(connector))
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // A blocking query is silent for a minute; without probes a peer that vanished is noticed only at the deadline.
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector.set_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES));
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

/// An answer that ends early is an error: one byte less than its length, a missing last chunk, TLS without `close_notify`. In
/// cleartext and with neither length nor chunks the end of the connection is the end of the body (RFC 9112 §6.3), and a
/// connection that ends early looks the same; JSON, which all callers of this client read, then does not parse.
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
    // RFC 9113 §8.1: only END_STREAM ends a response. The library treats a reset with NO_ERROR as a clean end.
    if head.version == Version::HTTP_2 && !body.is_end_stream() {
        return Err(HttpError::Broken("the stream was reset before the answer was whole".to_owned()));
    }
    Ok(HttpResponse {
        status: head.status,
        version: head.version,
        headers: head.headers,
        body: whole.freeze(),
    })
}

fn classify(error: &hyper_util::client::legacy::Error) -> HttpError {
    let cause = root_cause(error);
    if error.is_connect() { HttpError::Connect(cause) } else { HttpError::Broken(cause) }
}

/// The innermost cause names the failure ("connection refused"); the outer ones name only the place.
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

/// Longer than a healthy network needs, and shorter than the kernel's two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that vanished is noticed within half a minute; with the system's defaults it would be eleven minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE_RETRIES: u32 = 3;
/// Below the idle timeouts that proxies in front of a registry commonly have (60 s).
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A Consul agent counts idle connections among those that it admits.
const POOL_IDLE_MAX: usize = 4;

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
        let options = HttpOptions {
            tls: TlsOptions { ca_file: Some("/nonexistent/ca.pem".into()), ..TlsOptions::default() },
        };
        let error = HttpClient::new(&options).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_connect_error_that_says_so() {
        let client = HttpClient::new(&HttpOptions::default()).unwrap();
        // Bound and dropped, so connections are refused.
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
        let rounded = HttpError::Timeout(Duration::from_nanos(9_999_999_970)).to_string();
        assert_eq!(rounded, "no complete answer within 10s");
    }
}
