//! Local replies: responses of the gateway itself, with the fields of both protocols.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Version, header};

use super::{
    error::Error,
    exchange::Exchange,
    grpc,
    head::upstream_target,
    response_body::ResponseBody,
    tunnel::{Tunnel, TunnelRequest},
};
use crate::{
    admission::{self, Admitted, Scheme},
    body::ClientBody,
    certificate::issued::HttpAnswers,
    headers,
    listen::Listener,
    message::names,
    metrics::Rare,
    policy::redirect::Redirect,
    snapshot::{LocalRoute, LocalSnapshot},
    upstream::protocol::{Answered, Content},
};

/// The local reply for `error`, which is also logged and counted. The route's rules for responses apply to it, too
/// (without a route those of `defaults`): without the CORS fields, a browser shows a script no status.
pub(crate) fn refusal(
    error: Error,
    mut exchange: Box<Exchange>,
    snapshot: &LocalSnapshot,
) -> Response<ResponseBody> {
    if error == Error::ClientGone {
        return farewell(error, &exchange);
    }
    let reason = error.reason();
    exchange.refused(reason);
    let route = exchange.route().map(|route| &*route.shared().name);
    exchange.worker().metrics.count(Rare::LocalReply, route.unwrap_or("(none)"), reason);
    let detail = error.to_string();
    let mut response = error.into_response(exchange.request.id.as_str(), route);
    let rules = exchange.route().map_or(&snapshot.unrouted_rules, |route| &route.response_rules);
    if !rules.is_empty() {
        headers::apply_rules_to_local_reply(response.headers_mut(), rules, &exchange.facts());
    }
    let status = response.status();
    if let Some(call) = exchange.request.grpc {
        response = grpc::into_error(response, call, &detail);
        exchange.refused_call(grpc::status_in(response.headers()));
    }
    reply(response, status, exchange)
}

/// A service's response. If it refuses a request that was not read whole, the connection closes, as after a local reply.
pub(crate) fn upstream_reply(
    mut response: Response<Content>,
    exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let refuses = response.status().is_client_error() || response.status().is_server_error();
    if refuses && exchange.must_close() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| ResponseBody::upstream(body, exchange))
}

/// The response that begins a tunnel. On HTTP/1.1 the connection becomes the tunnel when this response is written; on HTTP/2 the
/// stream does, and its task takes the tunnel from the response.
pub(crate) fn tunnel_reply(
    answered: Answered,
    asked: Option<TunnelRequest>,
    stream: Option<ClientBody>,
    (mut exchange, snapshot): (Box<Exchange>, &LocalSnapshot),
) -> Response<ResponseBody> {
    let Answered { response, .. } = answered;
    let (parts, content) = response.into_parts();
    let (Some(asked), Some(service)) = (asked, content.switched()) else {
        return refusal(Error::Internal, exchange, snapshot);
    };
    exchange.responds(parts.status);
    let is_http2 = exchange.request.version == Version::HTTP_2;
    let connection = exchange.connection();
    let tunnel = Box::new(Tunnel::begin(asked, service, stream, exchange));
    let body = if is_http2 {
        ResponseBody::tunnel(tunnel)
    } else {
        *connection.tunnel.borrow_mut() = Some(tunnel);
        ResponseBody::bare(Bytes::new())
    };
    Response::from_parts(parts, body)
}

/// The response to a request whose client has left. The exchange is dropped unanswered, and is counted and logged as such.
/// A client that has closed only its own side of the connection still gets the response.
fn farewell(error: Error, exchange: &Exchange) -> Response<ResponseBody> {
    let mut response = error.into_response(exchange.request.id.as_str(), None).map(ResponseBody::bare);
    if exchange.request.version == Version::HTTP_2 {
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

/// Sends a response in which no service has a part.
pub(crate) fn local_reply(response: Response<Bytes>, exchange: Box<Exchange>) -> Response<ResponseBody> {
    let status = response.status();
    reply(response, status, exchange)
}

/// As [`local_reply`]. `status` is the one for log and metrics: a gRPC call that is refused gets 200.
fn reply(
    response: Response<Bytes>,
    status: StatusCode,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let (mut parts, bytes) = response.into_parts();
    exchange.responds(status);
    parts.headers.insert(&names::X_REQUEST_ID, exchange.request.id.0.clone());
    if exchange.must_close() {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if exchange.request.version == Version::HTTP_2 {
        // RFC 9113 §8.2.2: connection-specific fields are malformed in HTTP/2.
        parts.headers.remove(header::CONNECTION);
    }
    // RFC 9110 §9.3.2: the fields of a response to GET, without content.
    let bytes = if exchange.request.method == Method::HEAD {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Bytes::new()
    } else {
        bytes
    };
    Response::from_parts(parts, ResponseBody::local(bytes, exchange))
}

/// The response of a route that redirects (RFC 9110 §15.4). The path is the one that a service would get.
pub(super) fn redirect_reply(
    redirect: &Redirect,
    route: &LocalRoute,
    admitted: &Admitted,
    exchange: &Exchange,
) -> Result<Response<Bytes>, Error> {
    let (target, _) = upstream_target(route.shared(), admitted.target())?;
    let authority = admitted.authority();
    let port = authority.port_text().to_str().map_err(|_| Error::Internal)?;
    let location = redirect.location((authority.host(), port), target.path(), target.query());
    let mut response = redirection(redirect.status, location.ok_or(Error::Internal)?);
    headers::apply_rules(response.headers_mut(), &route.response_rules);
    headers::apply_made(response.headers_mut(), &route.response_rules, &exchange.facts());
    Ok(response)
}

pub(super) fn redirection(status: StatusCode, location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The response to `OPTIONS *`, which is about the gateway itself (RFC 9110 §9.3.7).
pub(super) fn options_reply() -> Response<Bytes> {
    let mut response = no_content();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(admission::ALLOW));
    response
}

/// The answer to an authority that verifies a host (RFC 8555 §8.3): to a pending token, in cleartext. `None`: the request goes its usual
/// way, so a service that orders certificates itself still answers for its own tokens, and nothing of a request is repeated.
pub(super) fn challenge_reply(
    answers: &HttpAnswers,
    method: &Method,
    (listener, admitted): (&Listener, &Admitted),
) -> Option<Response<Bytes>> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let token = admitted.path().strip_prefix("/.well-known/acme-challenge/")?;
    let body = answers.get(token).filter(|_| is_read && listener.scheme == Scheme::Http)?;
    let mut response = Response::new(body.clone());
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

pub(super) fn no_content() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
