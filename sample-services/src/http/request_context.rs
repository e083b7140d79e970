//! The request id: taken from the gateway or made here, logged, passed on and sent back.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;
use uuid::Uuid;

/// The ids that tie the log lines of one request together across services.
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub request_id: HeaderValue,
    /// W3C Trace Context, passed on as it came.
    pub traceparent: Option<HeaderValue>,
}

impl RequestContext {
    /// The headers to send along with a request to another service.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, self.request_id.clone());
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, traceparent.clone());
        }
        headers
    }

    /// The context of work without a request.
    pub(crate) fn of_background_work() -> Self {
        Self { request_id: new_request_id(), traceparent: None }
    }

    fn from_headers(headers: &HeaderMap) -> Self {
        let accepted = headers.get(REQUEST_ID).filter(|id| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        let request_id = accepted.cloned().unwrap_or_else(new_request_id);
        Self { request_id, traceparent: headers.get(TRACEPARENT).cloned() }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::from_headers(&parts.headers)))
    }
}

/// Middleware: opens the request's span, and sends the id back.
pub(super) async fn track(service: &'static str, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_headers(request.headers());
    // A span is dropped by the same filter as a line: one below the level of a line would leave that line without
    // its ids.
    let span = tracing::error_span!(
        "request",
        service,
        request_id = context.request_id.to_str().unwrap_or_default(),
        traceparent = context.traceparent.as_ref().and_then(|value| value.to_str().ok()),
        user = request.headers().get("x-user-id").and_then(|value| value.to_str().ok()),
        method = %request.method(),
        path = request.uri().path(),
    );
    let request_id = context.request_id.clone();
    request.extensions_mut().insert(context);
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| tracing::info!(status = response.status().as_u16(), "answered"));
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

fn new_request_id() -> HeaderValue {
    // Hexadecimal digits and hyphens are always a valid header value.
    HeaderValue::try_from(Uuid::now_v7().to_string()).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longer ids are replaced, because they would only make the log longer.
const REQUEST_ID_BYTES_MAX: usize = 128;
