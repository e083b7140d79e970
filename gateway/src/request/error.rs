//! Every failure that the gateway answers itself, and one table of the responses.
//!
//! Codes are stable: the same word stands in the problem body, the access log, the metric and the dashboard.
//! Statuses follow the recommendations of RFC 9209 §2.3 (Proxy-Status error types); a comment gives the reason
//! where a row differs from them. The client gets the code and one sentence; internal detail goes to the log.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::exchange::flags;
use crate::{
    admission::{self, Refusal},
    auth::{credentials::BadPlacement, rejection::AcceptedKinds},
    message::names,
    policy::concurrency::Overloaded,
    upstream::cluster::Absence,
};

/// A failure of one request that the gateway answers itself. [`Error::row`] has the status and the words of each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{}", .0.detail())]
    Refused(Refusal),
    #[error("no route matches this request")]
    RouteNotFound,
    #[error("the route exists, the method is not allowed on it")]
    MethodNotAllowed { allow: HeaderValue },
    #[error("clients at this address may not use this route")]
    ClientDenied,
    #[error("{0} is required")]
    TokenMissing(AcceptedKinds),
    #[error("the {} is not acceptable", .0.credential())]
    TokenInvalid(AcceptedKinds),
    #[error("the {} {}", .0.credential(), .1.cure())]
    TokenPlacement(AcceptedKinds, BadPlacement),
    #[error("the {} has expired", .0.credential())]
    TokenExpired(AcceptedKinds),
    #[error("the {} lacks what this route requires", .accepted.credential())]
    InsufficientScope { accepted: AcceptedKinds, scope: Option<HeaderValue> },
    /// The route accepts nothing but certificates of clients, for which HTTP has no challenge.
    #[error("{}", if *.is_there { "the client certificate of this connection is not accepted here" } else { "a client certificate is required" })]
    Certificate { is_there: bool },
    #[error("the keys to verify tokens are not available yet")]
    KeysUnavailable,
    #[error("the limit of this route is used up")]
    RateLimited(Box<RateLimited>),
    #[error(
        "the client asks for another protocol, and this route, or its service, takes none of those that it names"
    )]
    UpgradeUnsupported,
    #[error(
        "the handshake of another protocol is not valid: it is a GET without content, and WebSocket needs one Sec-WebSocket-Key of 16 bytes"
    )]
    UpgradeInvalid,
    #[error("a page of another site may not open a WebSocket with this user's cookies")]
    OriginDenied,
    #[error("too many tunnels to the service are open")]
    TunnelsFull,
    #[error("the request body is larger than this route accepts")]
    BodyTooLarge,
    #[error("{0}")]
    NoHealthyEndpoint(Absence),
    #[error("every instance of the service is failing; the circuit breaker is open")]
    BreakerOpen { retry_after: Duration },
    #[error("too many requests to the service are in flight")]
    Overloaded,
    /// The connection (or, with `client`, all connections of the client together) has its share of the slots; the
    /// rest is for others.
    #[error("too many requests to the service are in flight for this {}", if *.client { "client" } else { "connection" })]
    ShareUsed { client: bool },
    #[error("too many uploads to the service are in flight")]
    UploadsFull,
    #[error("as many uploads are in flight as the files allow that the gateway may have open")]
    UploadFilesFull,
    #[error("the gateway has no socket left for another connection")]
    OutOfSockets,
    #[error("the service's instance refused the connection")]
    ConnectFailed,
    #[error("the service's instance did not accept the connection in time")]
    ConnectTimeout,
    /// `certificate`: the endpoint speaks TLS, and its certificate was not accepted.
    #[error("no trusted TLS connection to the service's instance")]
    UpstreamTls { certificate: bool },
    #[error("the service's instance closed the connection before answering")]
    UpstreamReset,
    #[error("the service did not answer in time")]
    ResponseTimeout,
    #[error("the service's answer is not valid HTTP")]
    UpstreamProtocolError,
    #[error("this request has passed through this gateway before")]
    LoopDetected,
    #[error("no byte of the request body arrived for {0:?}")]
    RequestSilent(Duration),
    #[error("the request body came slower than {0} bytes/s")]
    RequestSlow(u64),
    #[error("the request body is not valid")]
    RequestBodyInvalid,
    #[error("the client left before the end of its request")]
    ClientGone,
    /// `drain.timeout` is over. The response has no `Retry-After`, since the service may have processed the
    /// request.
    #[error("the gateway is shutting down, and this request has not ended in time")]
    DrainTimeout,
    #[error("the gateway failed on this request")]
    Internal,
}

/// The values that a limited client needs to slow down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimited {
    /// Ready value of `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// Ready value of `RateLimit`.
    pub state: HeaderValue,
    /// Name of the limit that refused.
    pub violated: Box<str>,
    /// Time until the limit takes a request again.
    pub retry_after: Duration,
}

/// The side that caused the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client.
    Downstream,
    /// The service, or the connection to it.
    Upstream,
    /// The gateway itself.
    Gateway,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Status of the response.
    pub status: StatusCode,
    /// Stable word (docs/ERRORS.md).
    pub code: &'static str,
    /// RFC 9209 §2.3 error type.
    pub proxy_status: &'static str,
    /// The side that caused the failure.
    pub blame: Blame,
}

impl Error {
    /// The row of this failure. The match has no wildcard, so a new variant does not compile without its row.
    pub fn row(&self) -> Row {
        use Blame::{Downstream, Gateway, Upstream};
        let denied = |code| row(StatusCode::FORBIDDEN, code, "http_request_denied", Downstream);
        match self {
            Self::Refused(refusal) => row(refusal.status(), refusal.code(), "http_request_error", Downstream),
            // RFC 9209 recommends 500 for destination_not_found; every gateway answers 404 for an unmatched route.
            Self::RouteNotFound => {
                row(StatusCode::NOT_FOUND, "route_not_found", "destination_not_found", Downstream)
            }
            Self::MethodNotAllowed { .. } => {
                row(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "http_request_error", Downstream)
            }
            Self::ClientDenied => denied("client_denied"),
            Self::TokenMissing(_) => {
                row(StatusCode::UNAUTHORIZED, "token_missing", "http_request_error", Downstream)
            }
            Self::TokenInvalid(_) => {
                row(StatusCode::UNAUTHORIZED, "token_invalid", "http_request_error", Downstream)
            }
            Self::TokenExpired(_) => {
                row(StatusCode::UNAUTHORIZED, "token_expired", "http_request_error", Downstream)
            }
            // RFC 9110 §15.5.2: a 401 must have a challenge, and there is no scheme for certificates. Envoy and Apache answer 403, too.
            Self::Certificate { is_there: true } => denied("certificate_denied"),
            Self::Certificate { is_there: false } => denied("certificate_missing"),
            Self::InsufficientScope { .. } => denied("insufficient_scope"),
            Self::KeysUnavailable => {
                row(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", "proxy_internal_error", Gateway)
            }
            Self::RateLimited(_) => {
                row(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "http_request_error", Downstream)
            }
            Self::UpgradeUnsupported => {
                row(StatusCode::NOT_IMPLEMENTED, "upgrade_unsupported", "http_request_error", Downstream)
            }
            Self::OriginDenied => denied("origin_denied"),
            Self::UpgradeInvalid => {
                row(StatusCode::BAD_REQUEST, "upgrade_invalid", "http_request_error", Downstream)
            }
            Self::BodyTooLarge => {
                row(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "http_request_error", Downstream)
            }
            Self::RequestSilent(_) | Self::RequestSlow(_) => {
                row(StatusCode::REQUEST_TIMEOUT, flags::REQUEST_TIMEOUT, "http_request_error", Downstream)
            }
            // RFC 6750 §3.1: invalid_request is a 400.
            Self::RequestBodyInvalid | Self::TokenPlacement(..) => {
                row(StatusCode::BAD_REQUEST, "bad_request", "http_request_error", Downstream)
            }
            // Sent because the client may still read; counted and logged as 499.
            Self::ClientGone => {
                row(StatusCode::BAD_REQUEST, flags::CLIENT_GONE, "http_request_error", Downstream)
            }
            Self::NoHealthyEndpoint(_) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_healthy_endpoint",
                "destination_unavailable",
                Upstream,
            ),
            Self::BreakerOpen { .. } => {
                row(StatusCode::SERVICE_UNAVAILABLE, "breaker_open", "destination_unavailable", Upstream)
            }
            Self::Overloaded
            | Self::ShareUsed { .. }
            | Self::UploadsFull
            | Self::UploadFilesFull
            | Self::TunnelsFull
            | Self::OutOfSockets => {
                row(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "connection_limit_reached", Gateway)
            }
            Self::ConnectFailed => {
                row(StatusCode::BAD_GATEWAY, "connect_failed", "connection_refused", Upstream)
            }
            Self::ConnectTimeout => {
                row(StatusCode::GATEWAY_TIMEOUT, "connect_timeout", "connection_timeout", Upstream)
            }
            Self::UpstreamTls { certificate: true } => {
                row(StatusCode::BAD_GATEWAY, "upstream_tls_error", "tls_certificate_error", Upstream)
            }
            Self::UpstreamTls { certificate: false } => {
                row(StatusCode::BAD_GATEWAY, "upstream_tls_error", "tls_protocol_error", Upstream)
            }
            Self::UpstreamReset => {
                row(StatusCode::BAD_GATEWAY, "upstream_reset", "connection_terminated", Upstream)
            }
            Self::ResponseTimeout => {
                row(StatusCode::GATEWAY_TIMEOUT, "response_timeout", "http_response_timeout", Upstream)
            }
            Self::UpstreamProtocolError => {
                row(StatusCode::BAD_GATEWAY, "upstream_protocol_error", "http_protocol_error", Upstream)
            }
            // RFC 9209 recommends 502; RFC 5842 §7.2 defines 508 for exactly this.
            Self::LoopDetected => {
                row(StatusCode::LOOP_DETECTED, "loop_detected", "proxy_loop_detected", Downstream)
            }
            Self::DrainTimeout => {
                row(StatusCode::SERVICE_UNAVAILABLE, flags::DRAIN_TIMEOUT, "proxy_internal_error", Gateway)
            }
            Self::Internal => {
                row(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "proxy_internal_error", Gateway)
            }
        }
    }

    /// The word in the access log and the metric: the code, or the limit that was met, if the code does not name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ShareUsed { client: false } => "connection_share",
            Self::ShareUsed { client: true } => "client_share",
            Self::UploadsFull => "uploads_share",
            Self::UploadFilesFull => "uploads_files",
            Self::TunnelsFull => "max_tunnels",
            _ => self.row().code,
        }
    }

    /// The local reply: RFC 9457 problem body, `Proxy-Status`, and the fields that the status requires.
    pub fn into_response(self, request_id: &str, route: Option<&str>) -> Response<Bytes> {
        let row = self.row();
        let retry_after = self.retry_after().map(whole_seconds);
        let mut body = json!({
            "type": self.problem_type(),
            "title": row.status.canonical_reason().unwrap_or("Error"),
            "status": row.status.as_u16(),
            "code": row.code,
            "detail": sentence(&self.to_string()),
            "instance": format!("urn:uuid:{request_id}"),
            "request_id": request_id,
        });
        if let Some(route) = route {
            body["route"] = json!(route);
        }
        if let Some(seconds) = retry_after {
            body["retry_after"] = json!(seconds);
        }
        if let Self::RateLimited(limited) = &self {
            body["violated-policies"] = json!([limited.violated]);
        }
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = row.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::SERVER, HeaderValue::from_static("millgate"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        set(headers, &names::PROXY_STATUS, &format!("millgate; error={}", row.proxy_status));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        self.add_headers(headers);
        response
    }

    fn add_headers(self, headers: &mut HeaderMap) {
        match self {
            Self::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, allow);
            }
            Self::Refused(refusal) => {
                // RFC 9110 §15.5.6: a 405 MUST carry Allow.
                if refusal.status() == StatusCode::METHOD_NOT_ALLOWED {
                    headers.insert(header::ALLOW, HeaderValue::from_static(admission::ALLOW));
                }
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // Bytes that the client sends next, in the expected protocol, would be read as a request.
            Self::ClientGone | Self::UpgradeUnsupported | Self::UpgradeInvalid => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // RFC 6750 §3: a challenge has no error code if the request has no token.
            Self::TokenMissing(accepted) => challenge(headers, &accepted, ""),
            Self::TokenPlacement(accepted, _) => {
                challenge(headers, &accepted, r#", error="invalid_request""#);
            }
            Self::TokenInvalid(accepted) => challenge(headers, &accepted, r#", error="invalid_token""#),
            Self::TokenExpired(accepted) => {
                let expired = r#", error="invalid_token", error_description="expired""#;
                challenge(headers, &accepted, expired);
            }
            Self::InsufficientScope { accepted, scope } => {
                let scope = scope.as_ref().and_then(|scope| scope.to_str().ok());
                let scope = scope.map_or(String::new(), |scope| format!(r#", scope="{scope}""#));
                challenge(headers, &accepted, &format!(r#", error="insufficient_scope"{scope}"#));
            }
            Self::RateLimited(limited) => {
                headers.insert(&names::RATE_LIMIT_POLICY, limited.policy);
                headers.insert(&names::RATE_LIMIT, limited.state);
            }
            _ => {}
        }
    }

    /// How long the client should wait, if the gateway can compute it.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(limited) => Some(limited.retry_after),
            Self::BreakerOpen { retry_after } => Some(*retry_after),
            Self::Overloaded
            | Self::ShareUsed { .. }
            | Self::UploadsFull
            | Self::UploadFilesFull
            | Self::OutOfSockets
            | Self::TunnelsFull
            | Self::KeysUnavailable => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn problem_type(&self) -> Cow<'static, str> {
        match self {
            // The problem type of draft-ietf-httpapi-ratelimit-headers-11.
            Self::RateLimited(_) => "https://iana.org/assignments/http-problem-types#quota-exceeded".into(),
            _ => format!("urn:millgate:error:{}", self.row().code).into(),
        }
    }
}

impl From<Overloaded> for Error {
    fn from(overloaded: Overloaded) -> Self {
        match overloaded {
            Overloaded::Service => Self::Overloaded,
            Overloaded::Connection => Self::ShareUsed { client: false },
            Overloaded::Client => Self::ShareUsed { client: true },
            Overloaded::Uploads => Self::UploadsFull,
            Overloaded::UploadFiles => Self::UploadFilesFull,
        }
    }
}

/// Whole seconds, rounded up, at least one (RFC 9110 §10.2.3).
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn row(status: StatusCode, code: &'static str, proxy_status: &'static str, blame: Blame) -> Row {
    Row { status, code, proxy_status, blame }
}

fn challenge(headers: &mut HeaderMap, accepted: &AcceptedKinds, parameters: &str) {
    if accepted.has_challenge() {
        set(headers, &header::WWW_AUTHENTICATE, &accepted.challenge(parameters));
    }
}

/// The words of an error as a sentence: with a capital letter and a full stop.
fn sentence(words: &str) -> String {
    let mut rest = words.chars();
    let first = rest.next().map(|first| first.to_ascii_uppercase());
    let end = if words.ends_with('.') { "" } else { "." };
    first.into_iter().chain(rest).chain(end.chars()).collect()
}

/// Sets a field. Text from the configuration can contain bytes that are not allowed in a header value; then the
/// field is left out.
fn set(headers: &mut HeaderMap, name: &http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{CredentialKind as _, jwt::Jwt};

    fn accepted() -> AcceptedKinds {
        AcceptedKinds::new([("Bearer", Jwt::WORDS)])
    }

    fn limited() -> Error {
        Error::RateLimited(Box::new(RateLimited {
            policy: HeaderValue::from_static("\"default\";q=1;w=1"),
            state: HeaderValue::from_static("\"default\";r=0;t=3"),
            violated: "default".into(),
            retry_after: Duration::from_millis(2100),
        }))
    }

    /// The rows are the contract with clients.
    #[test]
    fn every_failure_has_its_row() {
        use Blame::{Downstream, Gateway, Upstream};
        let allow = HeaderValue::from_static("GET");
        let rows = [
            (Error::Refused(Refusal::HostMissing), 400, "bad_request", "http_request_error", Downstream),
            (Error::Refused(Refusal::TargetTooLong), 414, "uri_too_long", "http_request_error", Downstream),
            (
                Error::Refused(Refusal::TooManyHeaders),
                431,
                "headers_too_large",
                "http_request_error",
                Downstream,
            ),
            (
                Error::Refused(Refusal::Misdirected),
                421,
                "misdirected_request",
                "http_request_error",
                Downstream,
            ),
            (Error::RouteNotFound, 404, "route_not_found", "destination_not_found", Downstream),
            (Error::MethodNotAllowed { allow }, 405, "method_not_allowed", "http_request_error", Downstream),
            (Error::ClientDenied, 403, "client_denied", "http_request_denied", Downstream),
            (Error::TokenMissing(accepted()), 401, "token_missing", "http_request_error", Downstream),
            (Error::TokenInvalid(accepted()), 401, "token_invalid", "http_request_error", Downstream),
            (Error::TokenExpired(accepted()), 401, "token_expired", "http_request_error", Downstream),
            (
                Error::TokenPlacement(accepted(), BadPlacement::Repeated),
                400,
                "bad_request",
                "http_request_error",
                Downstream,
            ),
            (
                Error::InsufficientScope { accepted: accepted(), scope: None },
                403,
                "insufficient_scope",
                "http_request_denied",
                Downstream,
            ),
            (
                Error::Certificate { is_there: false },
                403,
                "certificate_missing",
                "http_request_denied",
                Downstream,
            ),
            (
                Error::Certificate { is_there: true },
                403,
                "certificate_denied",
                "http_request_denied",
                Downstream,
            ),
            (Error::KeysUnavailable, 503, "keys_unavailable", "proxy_internal_error", Gateway),
            (limited(), 429, "rate_limited", "http_request_error", Downstream),
            (Error::UpgradeUnsupported, 501, "upgrade_unsupported", "http_request_error", Downstream),
            (Error::BodyTooLarge, 413, "body_too_large", "http_request_error", Downstream),
            (Error::RequestSilent(Duration::ZERO), 408, "request_timeout", "http_request_error", Downstream),
            (Error::RequestSlow(240), 408, "request_timeout", "http_request_error", Downstream),
            (Error::ClientGone, 400, "client_gone", "http_request_error", Downstream),
            (Error::RequestBodyInvalid, 400, "bad_request", "http_request_error", Downstream),
            (
                Error::NoHealthyEndpoint(Absence::Tried),
                503,
                "no_healthy_endpoint",
                "destination_unavailable",
                Upstream,
            ),
            (
                Error::BreakerOpen { retry_after: Duration::ZERO },
                503,
                "breaker_open",
                "destination_unavailable",
                Upstream,
            ),
            (Error::Overloaded, 503, "overloaded", "connection_limit_reached", Gateway),
            (Error::OutOfSockets, 503, "overloaded", "connection_limit_reached", Gateway),
            (Error::ConnectFailed, 502, "connect_failed", "connection_refused", Upstream),
            (Error::ConnectTimeout, 504, "connect_timeout", "connection_timeout", Upstream),
            (
                Error::UpstreamTls { certificate: true },
                502,
                "upstream_tls_error",
                "tls_certificate_error",
                Upstream,
            ),
            (
                Error::UpstreamTls { certificate: false },
                502,
                "upstream_tls_error",
                "tls_protocol_error",
                Upstream,
            ),
            (Error::UpstreamReset, 502, "upstream_reset", "connection_terminated", Upstream),
            (Error::ResponseTimeout, 504, "response_timeout", "http_response_timeout", Upstream),
            (Error::UpstreamProtocolError, 502, "upstream_protocol_error", "http_protocol_error", Upstream),
            (Error::LoopDetected, 508, "loop_detected", "proxy_loop_detected", Downstream),
            (Error::DrainTimeout, 503, "drain_timeout", "proxy_internal_error", Gateway),
            (Error::Internal, 500, "internal_error", "proxy_internal_error", Gateway),
        ];
        for (error, status, code, proxy_status, blame) in rows {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(error.row(), Row { status, code, proxy_status, blame }, "{error:?}");
        }
    }

    #[test]
    fn a_reply_tells_the_client_how_long_to_wait_and_why() {
        let response = limited().into_response("0198", Some("/orders/**"));
        let field = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(field("retry-after"), "3", "rounded up");
        assert_eq!(field("proxy-status"), "millgate; error=http_request_error");
        assert_eq!(field("ratelimit"), "\"default\";r=0;t=3");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["violated-policies"], json!(["default"]));
        assert_eq!((&body["retry_after"], &body["route"]), (&json!(3), &json!("/orders/**")));
    }

    #[test]
    fn challenges_have_the_forms_of_rfc_6750() {
        let challenge = |error: Error| {
            let response = error.into_response("0198", None);
            response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        assert_eq!(challenge(Error::TokenMissing(accepted())), r#"Bearer realm="api""#);
        let scope = Some(HeaderValue::from_static("catalog:write"));
        assert_eq!(
            challenge(Error::InsufficientScope { accepted: accepted(), scope }),
            r#"Bearer realm="api", error="insufficient_scope", scope="catalog:write""#
        );
    }
}
