//! The path of one request through the gateway, to be read from top to bottom.
//!
//! [`serve`] is the infallible shell: id, timing, panic guard, local replies. [`forward`] is the fallible core, phase by
//! phase in the order in which they happen; each phase is one call into the module that decides it. The order of policies
//! is the order of this code, not a stack of types.

mod attempt;
mod attempts;
mod auth;
mod context;
mod entrance;
pub mod error;
pub mod exchange;
pub(crate) mod facts;
mod grpc;
mod guard;
mod head;
pub(crate) mod id;
mod picked;
pub(crate) mod probe;
mod readings;
mod reply;
pub(crate) mod response_body;
mod search;
mod send;
mod silence;
mod taken;
mod tunnel;
mod verdict;

use std::{convert::Infallible, pin::pin, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header, request::Parts};
use http_body::Body as _;
use ipnet::IpNet;

pub use self::context::ConnectionContext;
pub(crate) use self::tunnel::Tunnel;
use self::{
    auth::QuotaFields,
    entrance::{Entrance, admit, find_route_or_preflight, preflight_reply},
    error::Error,
    exchange::Exchange,
    facts::{DeclaredBody, GrpcWeb, RequestFacts},
    guard::{Panicked, guarded},
    head::{HeadFacts, write_client_head, write_upstream_head},
    id::{RequestId, new_request_id},
    reply::{local_reply, redirect_reply, refusal, tunnel_reply, upstream_reply},
    response_body::ResponseBody,
    search::Plan,
    send::{AnswerSlot, body_failed},
    tunnel::TunnelRequest,
};
use crate::{
    admission::{self, Admitted},
    body::{Activity, ClientBody, Limits, RequestBody, Upload, UploadLimits},
    headers::{self, AnnouncedTrailers},
    message::{Found, names},
    metrics::Rare,
    policy::{
        body_start::BodyStart,
        clients::{self, ClientRule},
        cors::{self, Cors},
    },
    snapshot::{LocalRoute, LocalSnapshot},
    upstream::{
        protocol::{Answered, UpstreamRequest},
        settings::ServiceSettings,
    },
};

/// Answers one request. Every failure inside becomes a local reply.
pub async fn serve(
    connection: Rc<ConnectionContext>,
    request: Request<ClientBody>,
    activity: Option<Rc<Activity>>,
) -> Result<Response<ResponseBody>, Infallible> {
    let version = request.version();
    // One snapshot for the whole request.
    let snapshot = connection.worker.snapshot();
    let mut exchange = begin(&connection, &snapshot, &request, activity);
    // Head and future stay here, so that the state of a request is never moved.
    let (mut parts, body) = request.into_parts();
    let (mut unread, mut cors, mut answer, mut asked) = (Some(body), None, None, None);
    let result = {
        let left = Left { unread: &mut unread, cors: &mut cors, answer: &mut answer, asked: &mut asked };
        let forward = pin!(forward(&connection, &snapshot, &mut parts, left, &mut exchange));
        guarded(&connection.worker.is_out_of_time, forward).await
    };
    let mut response = match (result, answer) {
        (Ok(Ok(Answer::Upstream)), Some(Answered { response, .. })) => {
            if asked.is_some() {
                // The service does not switch: nothing reads what the client sends on its stream.
                exchange.leave(unread);
            }
            exchange.responds(response.status());
            upstream_reply(response, exchange)
        }
        (Ok(Ok(Answer::Tunnel)), Some(answered)) => {
            tunnel_reply(answered, asked, unread, (exchange, &snapshot))
        }
        (Ok(Ok(Answer::Local(response))), _) => {
            exchange.leave(unread);
            local_reply(response, exchange)
        }
        (Ok(Err(error)), _) => {
            exchange.leave(unread);
            refusal(error, exchange, &snapshot)
        }
        (Err(Panicked) | Ok(Ok(Answer::Upstream | Answer::Tunnel)), _) => {
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
    // An HTTP/2 connection gets a GOAWAY instead.
    if connection.is_closing() && connection.tunnel.borrow().is_none() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// How [`forward`] ends when it does not fail.
enum Answer {
    /// A service's response, which is in [`Left::answer`]. The exchange has its connection.
    Upstream,
    /// The same, and the service has switched to the protocol of [`Left::asked`].
    Tunnel,
    /// A response of the gateway itself.
    Local(Response<Bytes>),
}

/// The parts of a request that outlive [`forward`], also when it ends with an error or a panic.
struct Left<'a> {
    /// The request's body, until it is read.
    unread: &'a mut Option<ClientBody>,
    /// The CORS fields of the response, a service's or a local one.
    cors: &'a mut Option<cors::Answer>,
    /// The service's response.
    answer: &'a mut AnswerSlot,
    /// The tunnel that the client asks for.
    asked: &'a mut Option<TunnelRequest>,
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
        .map_or_else(|| new_request_id(worker, started), |id| RequestId::of(id.clone()));
    let body = DeclaredBody::of(request);
    let facts = RequestFacts {
        id,
        started,
        client,
        peer_is_trusted: trusted,
        method: request.method().clone(),
        version: request.version(),
        body,
        grpc: if body == DeclaredBody::None { None } else { grpc::call(request.headers()) },
    };
    let exchange = Exchange::new(Rc::clone(connection), facts, activity);
    connection.state.close_after(snapshot.shared.table.listen.max_requests_per_connection);
    exchange
}

/// Steps 4 to 12.
async fn forward(
    connection: &ConnectionContext,
    snapshot: &LocalSnapshot,
    parts: &mut Parts,
    Left { unread, cors, answer, asked }: Left<'_>,
    exchange: &mut Exchange,
) -> Result<Answer, Error> {
    let Some(body) = unread else { return Err(Error::Internal) };
    *cors = Cors::answer(snapshot.shared.table.unrouted.cors.as_deref(), &parts.headers, None);

    // 4. Admission: a message with two readings is refused before anything is decided on it, and claims of the sender are removed.
    let peer_is_trusted = exchange.request.peer_is_trusted;
    let admitted = match admit(connection, snapshot, parts, exchange)? {
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
    let (route, preflight) = find_route_or_preflight(snapshot, parts, (connection.listener(), &admitted))?;
    let framing = admitted.framing().resolve(body.is_end_stream());
    exchange.routed(route);
    let policies = &route.shared().policies;
    if policies.cors.is_some() || cors.is_some() {
        *cors = Cors::answer(policies.cors.as_deref(), &parts.headers, preflight.as_ref());
    }

    // 6. Request policies, in this order: address, CORS preflight, identity and requirement, limits, redirect, upgrade, body size.
    if !policies.clients.is_empty() {
        check_address(&policies.clients, &snapshot.shared.table.listen.trusted_proxies, parts, exchange)?;
    }
    if preflight.is_some() {
        return Ok(Answer::Local(preflight_reply(route, exchange)));
    }
    let (identity, quota) = auth::check(snapshot, route, parts, exchange).await?;
    if let Some(redirect) = &policies.redirect {
        let mut response = redirect_reply(redirect, route, &admitted, exchange)?;
        add_quota(response.headers_mut(), quota);
        return Ok(Answer::Local(response));
    }
    // After all policies, which a request for another protocol has to pass, too.
    if admitted.survey().has(Found::Upgrade) || admission::is_extended_connect(parts) {
        *asked = tunnel::ask((parts, body), route, snapshot, (connection, admitted.authority()))?;
    }
    if policies.body_limit.is_some_and(|max| body.length().unwrap_or(0) > max) {
        return Err(Error::BodyTooLarge);
    }

    // 7. The body, then the head: its target is the canonical path that was authorised.
    let upload = begin_upload(unread, asked.as_ref(), (&admitted, parts), (snapshot, route), exchange);
    let body = upload.as_ref().map_or_else(RequestBody::default, |upload| RequestBody::of(Rc::clone(upload)));
    if let Some(upload) = &upload {
        // A request waits for its client before it takes a slot, an instance or a connection, unless its client waits for the service.
        if policies.body == BodyStart::Gather && !exchange.is_call && !upload.is_held() {
            upload.gather().await.map_err(body_failed)?;
        }
        exchange.waited(exchange.worker().clock.now());
    }
    // Only now is it certain whether a body of unknown length has any content.
    let seen = HeadFacts {
        admitted: &admitted,
        framing,
        has_content: !body.is_end_stream(),
        identity: identity.as_deref(),
    };
    let handshake = asked.as_ref().map(|asked| &asked.handshake);
    let head = write_upstream_head(&parts.headers, snapshot, route, (seen, handshake), exchange, connection)?;
    let memory = emptied(parts);

    // 8 to 11. Endpoint, connection, exchange with the upstream, outcome; another attempt if that is safe and allowed.
    let plan = Plan { snapshot, route: route.shared(), worker: &connection.worker };
    let mut request = UpstreamRequest::new(head, body, memory);
    attempt::run(&plan, &mut request, answer, upload.as_ref(), exchange).await?;
    if let Some(upload) = &upload {
        upload.release();
    }

    // 12. Response head.
    answer_client(answer, asked.as_ref(), quota, route, exchange)
}

/// Step 12: the head of a service's response becomes the one that the client gets.
fn answer_client(
    answer: &mut AnswerSlot,
    asked: Option<&TunnelRequest>,
    quota: Option<QuotaFields>,
    route: &LocalRoute,
    exchange: &mut Exchange,
) -> Result<Answer, Error> {
    let Some(Answered { response, framing }) = answer else { return Err(Error::Internal) };
    let switches = tunnel::switches(response, asked, exchange)?;
    if let Some(status) = grpc::status_in(response.headers()).filter(|_| exchange.is_call) {
        exchange.call_ended(status);
    }
    exchange.trailers.pass = framing.trailers != AnnouncedTrailers::Confined
        && (exchange.trailers.taken || exchange.web.is_some() || exchange.request.version == Version::HTTP_2);
    // gRPC-Web has them in the body.
    let has_trailers = framing.trailers == AnnouncedTrailers::Some
        && exchange.trailers.pass
        && exchange.web.is_none()
        && response.body().may_have_trailers();
    if has_trailers && exchange.request.version != Version::HTTP_2 {
        // Only chunks have a trailer section (RFC 9112 §7.1.2).
        framing.content_length = None;
        response.headers_mut().remove(header::CONTENT_LENGTH);
        exchange.trailers.announced = true;
    }
    write_client_head(response, (*framing, has_trailers), route, exchange);
    if let Some(web) = exchange.web {
        grpc::with_web(response.headers_mut(), web);
    }
    add_quota(response.headers_mut(), quota);
    Ok(if switches { Answer::Tunnel } else { Answer::Upstream })
}

/// The client's head is not needed any more. The memory of its fields is used for those of the response; that of its bytes is
/// free for the client's connection.
fn emptied(parts: &mut Parts) -> HeaderMap {
    parts.uri = Uri::default();
    parts.headers.clear();
    std::mem::take(&mut parts.headers)
}

/// Begins to receive the request's body. `None`: it has none, as most requests, and then there is nothing to wait for.
fn begin_upload(
    unread: &mut Option<ClientBody>,
    asked: Option<&TunnelRequest>,
    (admitted, parts): (&Admitted, &Parts),
    (snapshot, route): (&LocalSnapshot, &LocalRoute),
    exchange: &mut Exchange,
) -> Option<Rc<Upload>> {
    let (survey, fields) = (admitted.survey(), &parts.headers);
    exchange.trailers.taken = survey.has(Found::Te)
        && exchange.request.version >= Version::HTTP_11
        && headers::takes_trailers(fields);
    let policies = &route.shared().policies;
    let cluster = route.shared().cluster.and_then(|at| snapshot.clusters.get(at));
    let service = cluster.map(|cluster| &cluster.shared.settings);
    let call = exchange.request.grpc.filter(|_| service.is_some_and(ServiceSettings::takes_calls));
    exchange.is_call = call.is_some();
    // A service that is none of gRPC gets gRPC-Web as it comes, and reads it itself.
    exchange.web = call.and_then(|call| call.web);
    let min_rate = policies.timeout.min_rate().filter(|_| !exchange.is_call);
    exchange.limit(Limits { idle: policies.timeout.idle(), min_rate });
    // What comes through a tunnel is no body.
    let mut body = unread.take_if(|body| asked.is_none() && !body.is_end_stream())?;
    let proves = service.is_some_and(ServiceSettings::may_speak_http2);
    let keep_max = policies.retry.kept_bytes(&exchange.request.method, proves);
    if exchange.web == Some(GrpcWeb::Text) {
        body = body.decoded();
    }
    let bytes_max = policies.body_limit.filter(|_| !exchange.is_call);
    // gRPC-Web has none.
    let drops_trailers =
        exchange.web.is_some() || (survey.has(Found::Connection) && headers::confines_fields(fields));
    let trailers = (!drops_trailers).then(|| Rc::clone(&snapshot.request_trailers));
    let upload = exchange.receive(body, UploadLimits { bytes_max, keep_max, trailers });
    // HTTP/1.0 has no 100 (RFC 9110 §10.1.1).
    if survey.has(Found::Expect) && exchange.request.version >= Version::HTTP_11 {
        upload.hold();
    }
    Some(upload)
}

fn check_address(
    rules: &[ClientRule],
    trusted_proxies: &[IpNet],
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<(), Error> {
    let claimed = headers::claimed(&parts.headers, trusted_proxies);
    let addresses = std::iter::once(Some(exchange.request.client)).chain(claimed);
    clients::check(rules, addresses).map_err(|denied| {
        // The response does not name the address.
        exchange.denied(denied);
        Error::ClientDenied
    })
}

fn add_quota(headers: &mut HeaderMap, quota: Option<QuotaFields>) {
    if let Some((policy, state)) = quota {
        headers.insert(&names::RATE_LIMIT_POLICY, policy);
        headers.insert(&names::RATE_LIMIT, state);
    }
}
