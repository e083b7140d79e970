//! Answers and refusals in the form that Consul gives them: JSON without a line feed, errors as bare text,
//! success without an object as an empty body.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use http_body_util::Full;
use serde_json::Value;

use crate::server::{go, usage};
use crate::store::StoreError;

/// A whole answer; the registry does not stream.
pub(crate) type Response = http::Response<Full<Bytes>>;

/// What a handler returns.
pub(crate) type Answer = Result<Response, Refusal>;

/// What a handler returns instead of an answer: a status and Consul's text for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// Refused after it reached the catalog: such answers carry `X-Consul-Index: 1`, which a client must not
    /// take for an index.
    pub(crate) dispatched: bool,
    /// The limit that was hit, if it was one: see [`usage`](crate::server::usage).
    pub(crate) limit: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), dispatched: false, limit: None }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    pub(crate) fn too_many(limit: &'static str, text: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, text).at(limit)
    }

    pub(crate) fn too_large(size: usize, limit: usize) -> Self {
        let text = format!(
            "Request body({size} bytes) too large, max size: {limit} bytes. See \
             https://www.consul.io/docs/agent/options.html#kv_max_value_size."
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text).at(usage::BODY)
    }

    /// Names the limit that caused the refusal.
    pub(crate) fn at(self, limit: &'static str) -> Self {
        Self { limit: Some(limit), ..self }
    }

    pub(crate) fn dispatched(self) -> Self {
        Self { dispatched: true, ..self }
    }

    /// The refusal for an error that is the same in all imitated releases.
    pub(crate) fn store(error: &StoreError) -> Self {
        let refusal = Self::internal(error.to_string());
        match error {
            StoreError::Full { what, .. } => refusal.at(what),
            _ => refusal,
        }
    }

    pub(crate) fn into_response(self) -> Response {
        let mut response = text(self.status, self.text);
        if self.dispatched {
            let headers = response.headers_mut();
            headers.insert(INDEX, HeaderValue::from_static("1"));
            headers.insert(KNOWN_LEADER, HeaderValue::from_static("false"));
            headers.insert(LAST_CONTACT, HeaderValue::from_static("0"));
        }
        response
    }
}

/// 200 without a body: the answer to most writes.
pub(crate) fn done() -> Response {
    Response::new(Full::default())
}

/// 200 with JSON.
pub(crate) fn json(value: &Value, pretty: bool) -> Response {
    let mut response = Response::new(Full::from(go::write_json(value, pretty)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Bare text; without a body if it is empty.
pub(crate) fn text(status: StatusCode, text: String) -> Response {
    let typed = !text.is_empty();
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    if typed {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
    }
    response
}

/// The headers of an answer from the catalog or the key/value store.
pub(crate) fn with_index(response: Response, index: u64) -> Response {
    let mut response = with_leader(response);
    response.headers_mut().insert(INDEX, HeaderValue::from(index));
    response
}

/// The headers of an answer without an index, for which a query cannot wait.
pub(crate) fn with_leader(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(KNOWN_LEADER, HeaderValue::from_static("true"));
    // Always: Go's client stops reading these headers at the first that is absent.
    headers.insert(LAST_CONTACT, HeaderValue::from_static("0"));
    response
}

pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
