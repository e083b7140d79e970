//! The connection to the authority: the control plane's own HTTP client, with a deadline and a limit for each client.
//!
//! Every URL of an order comes from the authority. Only `https` is followed (RFC 8555 §6.1), and no redirect.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, Problem};
use millgate_registry::HttpClient;

use crate::clock;

/// An error that is no problem document, or one about an unsigned request.
#[derive(Debug, thiserror::Error)]
#[error("the authority answered {status} {detail}")]
pub(super) struct ErrorStatus {
    pub(super) status: StatusCode,
    detail: String,
}

/// The client of one order.
#[derive(Clone)]
pub(super) struct AuthorityClient {
    http: HttpClient,
    /// `Retry-After` of the last answer that was an error. The library drops it.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl AuthorityClient {
    pub(super) fn new(http: HttpClient) -> Self {
        Self { http, retry_after: Arc::default() }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl instant_acme::HttpClient for AuthorityClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let own = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            if parts.uri.scheme_str() != Some("https") {
                return Err(Error::Other("the authority names a URL that is not https".into()));
            }
            parts.headers.insert(header::USER_AGENT, USER_AGENT);
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let is_unsigned = parts.method != Method::POST;
            let url = parts.uri.to_string();
            let sent = own.http.send(parts.method, &url, parts.headers, body, DEADLINE, ANSWER_BYTES_MAX);
            let answer = sent.await.map_err(|error| Error::Other(Box::new(error)))?;
            if answer.status.is_client_error() || answer.status.is_server_error() {
                let after = answer.headers.get(header::RETRY_AFTER).and_then(after);
                *own.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = after;
                let problem = serde_json::from_slice::<Problem>(&answer.body).ok();
                // The library reads the status only of answers to signed requests.
                if is_unsigned || problem.as_ref().is_none_or(|problem| problem.r#type.is_none()) {
                    let detail = problem.and_then(|problem| problem.detail).unwrap_or_default();
                    return Err(Error::Other(Box::new(ErrorStatus { status: answer.status, detail })));
                }
            }
            let mut response = http::Response::new(());
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(answer.body) })
        })
    }
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(clock::unix_now()))
}

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("millgate/", env!("CARGO_PKG_VERSION"), " instant-acme"));
/// Authorities verify a host before they answer, some of them.
const DEADLINE: Duration = Duration::from_secs(30);
/// An order of a hundred names has about 30 KiB, a chain fewer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
