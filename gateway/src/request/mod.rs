//! The way of one request, read top to bottom.
//!
//! [`serve`] is the infallible shell: id, timing, panic guard, local replies. [`forward`] is the fallible core,
//! phase by phase in the order in which they happen; each phase is one call into the module that decides it.
//! The order of policies is this code, not a stack of types.

mod attempt;
mod auth;
mod context;
mod entrance;
pub mod error;
pub mod exchange;
mod guard;
mod head;
pub(crate) mod id;
mod log_line;
mod picked;
pub(crate) mod probe;
mod readings;
mod reply;
pub(crate) mod response_body;
mod search;
mod send;
mod silence;
mod spare;
mod taken;
pub(crate) mod tried;
mod verdict;

use std::{convert::Infallible, pin::pin, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header, request::Parts};
use ipnet::IpNet;

pub use self::context::ConnectionContext;
use self::{
    auth::QuotaFields,
    entrance::{Entrance, admit, find_route_or_preflight, preflight_reply},
    error::Error,
    exchange::{DeclaredBody, Exchange},
    guard::{Panicked, guarded},
    head::{write_client_head, write_upstream_head},
    id::{RequestId, new_request_id},
    reply::{local_reply, redirect_reply, refusal, upstream_reply},
    response_body::ResponseBody,
    search::Plan,
    send::body_failed,
};
use crate::{
    admission,
    body::{Activity, ClientBody, Limits, RequestBody, UploadLimits},
    headers,
    message::{Found, names},
    metrics::Rare,
    policy::{
        body_start::BodyStart,
        clients::{self, ClientRule},
        cors::{self, Cors},
    },
    snapshot::LocalSnapshot,
    upstream::protocol::{Answered, Content},
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
    let (mut unread, mut cors) = (None, None);
    let result = {
        // Pinned here, so that the state of a request is never moved.
        let forward = pin!(forward(&connection, &snapshot, request, (&mut unread, &mut cors), &mut exchange));
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
    if let Some(answer) = cors {
        answer.apply(response.headers_mut());
    }
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
    Upstream(Response<Content>),
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

/// Steps 5 to 12. `unread`: where the request's body is until something reads it. `cors`: what the response says to a browser,
/// whoever makes it.
async fn forward(
    connection: &ConnectionContext,
    snapshot: &LocalSnapshot,
    request: Request<ClientBody>,
    (unread, cors): (&mut Option<ClientBody>, &mut Option<cors::Answer>),
    exchange: &mut Exchange,
) -> Result<Answer, Error> {
    let (mut parts, body) = request.into_parts();
    let body = unread.insert(body);
    *cors = Cors::answer(snapshot.shared.table.unrouted.cors.as_deref(), &parts.headers, None);

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
    let (route, preflight) = find_route_or_preflight(snapshot, &parts, admitted)?;
    let framing = admitted.framing().resolve(body.is_end_stream());
    let asks_for_upgrade = admitted.survey().has(Found::Upgrade);
    exchange.route = Some(Rc::clone(&route));
    let policies = &route.shared().policies;
    *cors = Cors::answer(policies.cors.as_deref(), &parts.headers, preflight.as_ref());

    // 6. Request policies, in this order: where from, which page, who is it and may they, how often, how much.
    if !policies.clients.is_empty() {
        check_address(&policies.clients, &snapshot.shared.table.listen.trusted_proxies, &parts, exchange)?;
    }
    if preflight.is_some() {
        return Ok(Answer::Local(preflight_reply(&route, exchange)));
    }
    let quota = auth::check(snapshot, &route, &parts, exchange).await?;
    if let Some(redirect) = &policies.redirect {
        let mut response = redirect_reply(redirect, &route, exchange)?;
        add_quota(response.headers_mut(), quota);
        return Ok(Answer::Local(response));
    }
    // After everything that another protocol would have to pass, too.
    if asks_for_upgrade && admission::needs_upgrade(&parts) {
        return Err(Error::UpgradeUnsupported);
    }
    if policies.body_limit.is_some_and(|max| body.length().unwrap_or(0) > max) {
        return Err(Error::BodyTooLarge);
    }

    // 7. Request headers, and the target: the canonical path that was authorised is the one that is sent.
    write_upstream_head(&mut parts, snapshot, &route, framing, exchange, connection)?;
    exchange.limit(Limits { idle: policies.timeout.idle(), min_rate: policies.timeout.min_rate() });
    let keep_max = policies.retry.kept_bytes(&parts.method);
    let limits = UploadLimits { bytes_max: policies.body_limit, keep_max };
    // Most requests have no body, and then there is nothing to wait for.
    let received = unread.take_if(|body| !body.is_end_stream());
    let upload = received.map(|body| exchange.receive(body, limits));
    let body = upload.as_ref().map_or_else(RequestBody::default, |upload| RequestBody::of(Rc::clone(upload)));
    if let Some(upload) = &upload {
        // A slot, an instance and a connection are not for waiting for a client.
        if policies.body == BodyStart::Gather {
            upload.gather().await.map_err(body_failed)?;
        }
        exchange.ready = exchange.worker().clock.now();
    }

    // 8 to 11. Endpoint, connection, exchange with the upstream, outcome; again where that is safe and allowed.
    let plan = Plan { snapshot, route: route.shared(), worker: &connection.worker };
    let mut unsent = Some(Request::from_parts(parts, body));
    let Answered { mut response, framing } =
        attempt::run(&plan, &mut unsent, upload.as_ref(), exchange).await?;
    if let Some(upload) = &upload {
        upload.release();
    }

    // 12. Response headers.
    write_client_head(&mut response, framing, &route, exchange);
    add_quota(response.headers_mut(), quota);
    Ok(Answer::Upstream(response))
}

fn check_address(
    rules: &[ClientRule],
    trusted_proxies: &[IpNet],
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<(), Error> {
    let claimed = headers::claimed(&parts.headers, trusted_proxies);
    let addresses = std::iter::once(Some(exchange.client)).chain(claimed);
    clients::check(rules, addresses).map_err(|denied| {
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
