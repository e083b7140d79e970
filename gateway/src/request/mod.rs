//! The way of one request, read top to bottom.
//!
//! [`serve`] is the infallible shell: id, timing, panic guard, local replies. [`forward`] is the fallible core,
//! phase by phase in the order in which they happen; each phase is one call into the module that decides it.
//! The order of policies is this code, not a stack of types.

mod attempt;
pub mod error;
pub mod exchange;
mod lease;
pub(crate) mod probe;
mod reply;
pub(crate) mod response_body;
mod search;
mod send;
mod silence;
mod spare;
pub(crate) mod tried;
mod verdict;

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header, request::Parts,
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use ipnet::IpNet;
use rand::Rng;

use self::{
    error::Error,
    exchange::{DeclaredBody, Exchange, RequestId},
    reply::{local_reply, refusal, upstream_reply},
    response_body::ResponseBody,
    search::Plan,
    send::{Answered, body_failed},
};
use crate::{
    access::{self, QuotaFields},
    admission::{self, Admission, Admitted, Framing, Oddities, Scheme},
    body::{Activity, ClientBody, Limits, RequestBody, UploadLimits},
    config::settings::UpstreamHost,
    connection::ConnectionContext,
    headers::{self, ForwardContext, Found, ResponseContext, names},
    metrics::Rare,
    policy::{
        client_address,
        redirect::{self, Redirect},
    },
    router::{Match, reading},
    snapshot::{LocalRoute, LocalSnapshot, Route, own_value},
    worker::WorkerState,
};

/// Answers one request; whatever goes wrong inside becomes a local reply.
pub async fn serve(
    connection: Rc<ConnectionContext>,
    request: Request<ClientBody>,
    activity: Option<Rc<Activity>>,
) -> Result<Response<ResponseBody>, Infallible> {
    let version = request.version();
    // 4. One snapshot for the whole request.
    let snapshot = connection.worker.snapshot();
    let mut exchange = begin(&connection, &snapshot, &request, activity);
    let mut unread = None;
    let result = {
        // Pinned here, so that the state of a request is never moved.
        let forward = pin!(forward(&connection, &snapshot, request, &mut unread, &mut exchange));
        guarded(&connection.worker.is_out_of_time, forward).await
    };
    let mut response = match result {
        Ok(Ok(Answer::Upstream(response))) => {
            exchange.status = Some(response.status());
            upstream_reply(response, exchange)
        }
        Ok(Ok(Answer::Local(response))) => {
            exchange.leave(unread);
            local_reply(response, exchange)
        }
        Ok(Err(error)) => {
            exchange.leave(unread);
            refusal(error, exchange, &snapshot)
        }
        Err(Panicked) => {
            connection.worker.metrics.count(Rare::Panic, "", "");
            refusal(Error::Internal, exchange, &snapshot)
        }
    };
    if version == Version::HTTP_2 {
        return Ok(response);
    }
    connection.state.response_begins();
    // HTTP/2 connections are told by GOAWAY instead.
    if connection.is_closing() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What the core came to.
enum Answer {
    /// Its connection is the exchange's.
    Upstream(Response<Incoming>),
    Local(Response<Bytes>),
}

/// Step 3: the facts that are known when the head is complete.
fn begin(
    connection: &Rc<ConnectionContext>,
    snapshot: &LocalSnapshot,
    request: &Request<ClientBody>,
    activity: Option<Rc<Activity>>,
) -> Box<Exchange> {
    let worker = &connection.worker;
    let started = worker.clock.now();
    let proxies = &snapshot.shared.table.listen.trusted_proxies;
    let peer = connection.peer.ip();
    let trusted = headers::is_trusted(peer, proxies);
    let client =
        if trusted { headers::client_ip(peer, request.headers(), proxies) } else { peer.to_canonical() };
    let id = headers::trusted_request_id(request.headers(), trusted)
        .map_or_else(|| new_request_id(worker, started), |id| RequestId(id.clone()));
    let mut exchange = Exchange::new(Rc::clone(connection), id, started, client, activity);
    connection.state.close_after(snapshot.shared.table.listen.max_requests_per_connection);
    exchange.peer_is_trusted = trusted;
    exchange.method = request.method().clone();
    exchange.version = request.version();
    exchange.body = DeclaredBody::of(request);
    exchange
}

/// Steps 5 to 12. `unread`: where the request's body is until something reads it.
async fn forward(
    connection: &ConnectionContext,
    snapshot: &LocalSnapshot,
    request: Request<ClientBody>,
    unread: &mut Option<ClientBody>,
    exchange: &mut Exchange,
) -> Result<Answer, Error> {
    let (mut parts, body) = request.into_parts();
    let body = unread.insert(body);

    // Admission: what has two readings is refused before anything is decided on it, and what the sender cannot know goes.
    let peer_is_trusted = exchange.peer_is_trusted;
    let admitted = match admit(connection, snapshot, &parts, exchange)? {
        Entrance::Open(admitted) => admitted,
        Entrance::Answered(response) => return Ok(Answer::Local(response)),
    };
    if admitted.survey().has(Found::Via) && headers::is_loop(&parts.headers) {
        return Err(Error::LoopDetected);
    }

    if admitted.survey().has_claimed(peer_is_trusted) {
        headers::remove_claimed(&mut parts.headers, &snapshot.shared.table.names, peer_is_trusted);
    }

    // 5. Route.
    let route = find_route(snapshot, &parts, admitted)?;
    let framing = admitted.framing().resolve(body.is_end_stream());
    let asks_for_upgrade = admitted.survey().has(Found::Upgrade);
    exchange.route = Some(Rc::clone(&route));
    let compiled = route.shared();

    // 6. Request policies, in this order: where from, who is it and may they, how often, how much.
    if !compiled.clients.is_empty() {
        check_address(compiled, &snapshot.shared.table.listen.trusted_proxies, &parts, exchange)?;
    }
    let quota = access::check(snapshot, &route, &parts, exchange).await?;
    if let Some(redirect) = &compiled.redirect {
        let mut response = redirect_reply(redirect, &route, exchange)?;
        add_quota(response.headers_mut(), quota);
        return Ok(Answer::Local(response));
    }
    // After everything that another protocol would have to pass, too.
    if asks_for_upgrade && admission::needs_upgrade(&parts) {
        return Err(Error::UpgradeUnsupported);
    }
    if compiled.body_bytes_max.is_some_and(|max| body.length().unwrap_or(0) > max) {
        return Err(Error::BodyTooLarge);
    }

    // 7. Request headers, and the target: the canonical path that was authorised is the one that is sent.
    write_upstream_head(&mut parts, snapshot, &route, framing, exchange, connection)?;
    exchange.limit(Limits { idle: compiled.timeouts.idle(), min_rate: compiled.timeouts.min_rate() });
    let keep_max = compiled.retry.kept_bytes(&parts.method);
    let limits = UploadLimits { bytes_max: compiled.body_bytes_max, keep_max };
    let (body, upload) = RequestBody::new(unread, limits, exchange);
    if let Some(upload) = &upload {
        exchange.upload = Some(Rc::clone(upload));
        // A slot, an instance and a connection are not for waiting for a client.
        if compiled.gathers_body {
            upload.gather().await.map_err(body_failed)?;
        }
        exchange.ready = exchange.worker().clock.now();
    }

    // 8 to 11. Endpoint, connection, exchange with the upstream, outcome; again where that is safe and allowed.
    let plan = Plan { snapshot, route: compiled, worker: &connection.worker };
    let mut unsent = Some(Request::from_parts(parts, body));
    let Answered { mut response, framing } =
        attempt::run(&plan, &mut unsent, upload.as_ref(), exchange).await?;
    if let Some(upload) = &upload {
        upload.release();
    }

    // 12. Response headers.
    let (version, rules) = (response.version(), &route.response_rules);
    let context = ResponseContext { framing, version, request_id: &exchange.id.0, rules };
    let fields = response.headers_mut();
    headers::apply_response(fields, &context);
    if !rules.made.is_empty() {
        headers::apply_made(fields, rules, &exchange.facts());
    }
    // RFC 9112 §2.6: an intermediary answers in its own version, not in the service's.
    *response.version_mut() = Version::HTTP_11;
    add_quota(response.headers_mut(), quota);
    Ok(Answer::Upstream(response))
}

/// What becomes of a request before any route.
enum Entrance<'a> {
    Open(&'a Admitted),
    /// `OPTIONS *`, or a client that is to come over TLS.
    Answered(Response<Bytes>),
}

/// The request's one reading, kept in the exchange.
fn admit<'a>(
    connection: &ConnectionContext,
    snapshot: &LocalSnapshot,
    parts: &Parts,
    exchange: &'a mut Exchange,
) -> Result<Entrance<'a>, Error> {
    let limits = &snapshot.shared.table.admission;
    let mut last = connection.authority.borrow_mut();
    let verdict = admission::admit(parts, limits, connection.arrival(exchange), last.as_ref());
    if !matches!(verdict, Ok(Admission::Forward(_))) {
        exchange.refused_target = parts.uri.path_and_query().cloned();
    }
    match verdict {
        Ok(Admission::Forward(admitted)) => {
            if !last.as_ref().is_some_and(|last| Rc::ptr_eq(last, admitted.authority())) {
                *last = Some(Rc::clone(admitted.authority()));
            }
            let is_trusted = exchange.peer_is_trusted;
            let admitted = exchange.admitted.insert(admitted);
            match snapshot.shared.table.listen.https_redirect {
                Some(port) if !came_over_tls(admitted, &parts.headers, is_trusted) => {
                    let location = redirect::to_https(admitted.host(), port, admitted.target());
                    let location = location.ok_or(Error::Internal)?;
                    Ok(Entrance::Answered(redirection(redirect::TO_HTTPS, location)))
                }
                _ => Ok(Entrance::Open(admitted)),
            }
        }
        Ok(Admission::LocalOptions) => Ok(Entrance::Answered(options_reply())),
        Err(refusal) => Err(Error::Refused(refusal)),
    }
}

/// To this gateway, or to a trusted proxy in front, which would be sent in a circle otherwise.
fn came_over_tls(admitted: &Admitted, headers: &HeaderMap, peer_is_trusted: bool) -> bool {
    let stated = || headers.get(&names::X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
    admitted.scheme() == Scheme::Https
        || (peer_is_trusted && stated().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https")))
}

fn find_route(snapshot: &LocalSnapshot, parts: &Parts, admitted: &Admitted) -> Result<Rc<LocalRoute>, Error> {
    let router = &snapshot.shared.table.router;
    let lookup = |path: &str| router.lookup(admitted.host(), path, &parts.method, &parts.headers);
    let found = match lookup(admitted.path()) {
        Match::Route(index) => snapshot.routes.get(index).ok_or(Error::RouteNotFound),
        Match::MethodNotAllowed(allow) => Err(Error::MethodNotAllowed { allow }),
        Match::NotFound => Err(Error::RouteNotFound),
    };
    let Some(odd) = admitted.odd() else { return found.map(Rc::clone) };
    let refused = Error::Refused(odd.refusal);
    let route =
        found.ok().filter(|route| route.shared().allow_in_path.with(Oddities::ALWAYS).contains(odd.found));
    let route = route.ok_or_else(|| refused.clone())?;
    // Where the service reads the path in the other way, it must not be a path that only others may use, or not as often.
    for reading in admission::lenient_readings(admitted.path(), odd.found).map_err(Error::Refused)? {
        let other = match lookup(&reading) {
            Match::Route(index) => snapshot.routes.get(index),
            Match::MethodNotAllowed(_) | Match::NotFound => None,
        };
        if other.is_some_and(|other| !route.shared().is_as_strict_as(other.shared())) {
            return Err(refused);
        }
    }
    Ok(Rc::clone(route))
}

fn check_address(
    route: &Route,
    trusted_proxies: &[IpNet],
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<(), Error> {
    let claimed = headers::claimed(&parts.headers, trusted_proxies);
    let addresses = std::iter::once(Some(exchange.client)).chain(claimed);
    client_address::check(&route.clients, addresses).map_err(|denied| {
        // The client is not told which of its addresses it was.
        exchange.denied = Some(denied);
        Error::ClientDenied
    })
}

fn add_quota(headers: &mut HeaderMap, quota: Option<QuotaFields>) {
    if let Some((policy, state)) = quota {
        headers.insert(&names::RATE_LIMIT_POLICY, policy);
        headers.insert(&names::RATE_LIMIT, state);
    }
}

/// RFC 9110 §15.4. The path is the one that a service would get.
fn redirect_reply(
    redirect: &Redirect,
    route: &LocalRoute,
    exchange: &Exchange,
) -> Result<Response<Bytes>, Error> {
    let admitted = exchange.admitted.as_ref().ok_or(Error::Internal)?;
    let (target, _) = upstream_target(route.shared(), admitted.target())?;
    let authority = admitted.authority();
    let port = authority.port_text().to_str().map_err(|_| Error::Internal)?;
    let location = redirect.location((authority.host(), port), target.path(), target.query());
    let mut response = redirection(redirect.status, location.ok_or(Error::Internal)?);
    headers::apply_rules(response.headers_mut(), &route.response_rules);
    headers::apply_made(response.headers_mut(), &route.response_rules, &exchange.facts());
    Ok(response)
}

fn redirection(status: StatusCode, location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Makes the request's head what the upstream is to see.
fn write_upstream_head(
    parts: &mut Parts,
    snapshot: &LocalSnapshot,
    route: &LocalRoute,
    framing: Framing,
    exchange: &Exchange,
    connection: &ConnectionContext,
) -> Result<(), Error> {
    let admitted = exchange.admitted.as_ref().ok_or(Error::Internal)?;
    let (target, prefix) = upstream_target(route.shared(), admitted.target())?;
    let context = ForwardContext {
        prefix,
        survey: admitted.survey(),
        peer: &connection.peer_text,
        peer_is_trusted: exchange.peer_is_trusted,
        scheme: admitted.scheme(),
        authority: admitted.authority(),
        method: &exchange.method,
        version: exchange.version,
        framing,
        request_id: &exchange.id.0,
        names: &snapshot.shared.table.names,
        forward: exchange.identity.as_ref().map_or(&[][..], |identity| &identity.forward),
        rules: &route.request_rules,
    };
    headers::apply_request(&mut parts.headers, &context);
    if !route.request_rules.made.is_empty() {
        headers::apply_made(&mut parts.headers, &route.request_rules, &exchange.facts());
    }
    // Where it is the instance's address, each attempt has its own.
    if let Some(UpstreamHost::Name(host)) = route.shared().upstream_host() {
        parts.headers.insert(header::HOST, own_value(host));
    }
    parts.uri = target;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(())
}

/// Origin-form target (RFC 9112 §3.2.1), rewritten where the route says so, and the prefix that was stripped from it.
fn upstream_target<'a>(route: &Route, target: &'a PathAndQuery) -> Result<(Uri, Option<&'a str>), Error> {
    let Some(rewrite) = &route.rewrite else { return Ok((Uri::from(target.clone()), None)) };
    let written = target.path();
    let stripped =
        rewrite.strip.as_deref().and_then(|prefix| reading::strip(written, prefix, route.any_case));
    let path = stripped.unwrap_or(written);
    let prefix = stripped.and_then(|rest| written.strip_suffix(rest));
    let add = rewrite.add.as_deref().unwrap_or("").trim_end_matches('/');
    // Where the prefix was all of the path, what is added stands alone, and something must stand there.
    let slash = if add.is_empty() && path.is_empty() { "/" } else { "" };
    let query = target.query().map_or(String::new(), |query| format!("?{query}"));
    // All parts were valid in a target, so their joint is one.
    let joint = PathAndQuery::try_from(format!("{add}{path}{slash}{query}"));
    Ok((joint.map(Uri::from).map_err(|_| Error::Internal)?, prefix))
}

/// UUID version 7 (RFC 9562 §5.7): sorts by time; from the worker's clock and random numbers.
fn new_request_id(worker: &WorkerState, now: Instant) -> RequestId {
    let millis = u64::try_from(worker.clock.unix(now).as_millis()).unwrap_or(u64::MAX);
    let mut random = [0; 10];
    worker.rng.borrow_mut().fill_bytes(&mut random);
    let mut buffer = uuid::Uuid::encode_buffer();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let text = id.as_hyphenated().encode_lower(&mut buffer);
    // Cut from a buffer of the worker: made and cloned (service, client, log) without an allocation of its own.
    let mut ids = worker.ids.borrow_mut();
    if ids.capacity() < text.len() {
        ids.reserve(ID_BUFFER_BYTES);
    }
    ids.extend_from_slice(text.as_bytes());
    let text = ids.split().freeze();
    // UUID text is visible ASCII; the fallback is never taken.
    RequestId(HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("-")))
}

/// A hundred ids; an old buffer goes when the last of its ids does.
const ID_BUFFER_BYTES: usize = 3600;

/// `OPTIONS *` asks about the gateway itself (RFC 9110 §9.3.7).
fn options_reply() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(admission::ALLOW));
    response
}

/// A panic inside one request.
struct Panicked;

/// Runs a request's future so that a panic ends that request only; the worker and its other requests go on. One that has no
/// answer when the drain's time is over gets one from the gateway.
fn guarded<T>(
    is_out_of_time: &Cell<bool>,
    mut future: Pin<&mut impl Future<Output = Result<T, Error>>>,
) -> impl Future<Output = Result<Result<T, Error>, Panicked>> {
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        if is_out_of_time.get() {
            return Poll::Ready(Ok(Err(Error::DrainTimeout)));
        }
        // Unwind safety: after a panic the future is never polled again, and what it borrowed is plain data.
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_own_future_only() {
        let in_time = Cell::new(false);
        let caught = guarded::<()>(&in_time, pin!(async { panic!("on purpose") })).await;
        assert!(caught.is_err());
        assert!(matches!(guarded(&in_time, pin!(async { Ok(7) })).await, Ok(Ok(7))));
    }
}
