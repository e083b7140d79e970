//! `Cache-Control` and `If-None-Match` (RFC 9110 §13.1.2, RFC 9111) for every GET: a client that has the
//! current version gets 304 without a body.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::etag::IfNoneMatch;

/// Middleware around the routes.
pub(super) async fn revalidate(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let condition = match IfNoneMatch::parse(request.headers()) {
        Ok(condition) => condition,
        Err(problem) => return problem.into_response(),
    };
    let mut response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(CACHE_CONTROL);
    let current = response.headers().get(header::ETAG);
    if current.zip(condition).is_none_or(|(etag, condition)| !condition.has(etag)) {
        return response;
    }
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    // RFC 9110 §15.4.5: what describes the body that is not sent is left out.
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::empty())
}

/// Answers depend on the user, and stock changes with each order: a client may keep a copy, and must revalidate it
/// before each use.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
