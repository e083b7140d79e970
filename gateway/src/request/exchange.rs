//! The facts of one request, from its first byte to the last byte of its response.
//!
//! An [`Exchange`] is made when a request head is complete. However the request ends (response sent, client gone, panic),
//! the exchange is dropped, and the drop counts the request and writes its access-log line, so no path can leave that out.

pub mod flags;
mod grpc_status;
mod log_line;

use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
    time::Instant,
};

use http::{StatusCode, Version, uri::PathAndQuery};

use super::{
    ConnectionContext,
    attempts::Attempts,
    facts::{DeclaredBody, GrpcWeb, RequestFacts, ResponseTrailers},
    taken::Taken,
};
use crate::{
    admission::{Admitted, Scheme},
    auth::Identity,
    body::{Activity, Cause, ClientBody, Limits, Surroundings, Upload, UploadLimits, Watch},
    headers::Facts,
    message::Authority,
    metrics::{Rare, method_label},
    policy::{clients::ClientDenied, concurrency::Holder},
    snapshot::LocalRoute,
    upstream::sink::ResponseSink,
    worker::WorkerState,
};

/// The facts of one request. Boxed once, and moved into the response body, so that it lives as long as the response.
///
/// Each phase of the request reports its result by one method, and hands it to the next phase as a value of its own. The
/// values here are for metrics, the log line and local replies.
pub struct Exchange {
    connection: Rc<ConnectionContext>,
    pub request: RequestFacts,
    /// The time at which the request could be sent: at once, or when its body had been gathered. Deadlines run from here.
    pub ready: Instant,
    /// Path and query as they were authorised and forwarded, or as received if the request was refused at admission.
    target: Option<PathAndQuery>,
    /// `None`: the request was not admitted.
    authority: Option<Rc<Authority>>,
    route: Option<Rc<LocalRoute>>,
    identity: Option<Rc<Identity>>,
    /// The reason for which authentication refused the request.
    auth_failure: OnceCell<AuthFailure>,
    /// The reason for which clients at this address may not use the route.
    denied: Option<ClientDenied>,
    pub(super) attempts: Attempts,
    /// Status of the response whose head was handed over. `None`: the client left before that.
    status: Option<StatusCode>,
    /// The failure, in the words of the error table (or [`flags`]); [`flags::NONE`] if nothing failed.
    flag: &'static str,
    bytes_out: u64,
    /// The messages of a gRPC call pass as they come. Only for services of gRPC. Set with the request's body.
    pub(super) is_call: bool,
    /// The status with which a call has ended.
    grpc_status: Cell<Option<u8>>,
    /// The form of gRPC-Web that the client has and the service has not. Set with the request's body.
    pub(super) web: Option<GrpcWeb>,
    /// The trailers of the response.
    pub(super) trailers: ResponseTrailers,
    /// Bytes that came from the client through a tunnel. `None`: the request has not become one.
    tunnelled: Option<u64>,
    /// The response was handed over completely.
    complete: bool,
    /// The request body while it is received. `None`: the request has none, or it was not read.
    upload: Option<Rc<Upload>>,
    /// The upstream connection from which the response comes, and the guards that are given back with it.
    taken: Option<Taken>,
    /// The progress of both bodies. `None`: no body has taken longer than one poll so far.
    activity: Option<Rc<Activity>>,
    /// The limits on how long the exchange may stand still, and how slow its client may be.
    limits: Option<Limits>,
    /// Watches the activity on HTTP/1.1. On HTTP/2, the task of the stream watches it.
    watch: Option<Watch>,
}

/// The reason for the log and the metric. It is not sent to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthFailure {
    /// The value of the label `reason` in `millgate_auth_failures_total`.
    pub reason: &'static str,
    /// The part of the credential that failed: the name of a claim, or `scope` or `role` where those are required.
    pub claim: Option<Box<str>>,
}

/// nginx's number for "the client closed the request": it appears in logs and dashboards, and is never sent.
pub const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Exchange {
    /// Begins an exchange, which counts as a request of its connection until it is dropped. `activity`: that of an HTTP/2
    /// stream.
    pub fn new(
        connection: Rc<ConnectionContext>,
        request: RequestFacts,
        activity: Option<Rc<Activity>>,
    ) -> Box<Self> {
        connection.state.request_began();
        Box::new(Self {
            connection,
            ready: request.started,
            request,
            target: None,
            authority: None,
            route: None,
            identity: None,
            auth_failure: OnceCell::new(),
            denied: None,
            attempts: Attempts::default(),
            status: None,
            flag: flags::NONE,
            bytes_out: 0,
            is_call: false,
            grpc_status: Cell::new(None),
            web: None,
            trailers: ResponseTrailers::default(),
            tunnelled: None,
            complete: false,
            upload: None,
            taken: None,
            activity,
            limits: None,
            watch: None,
        })
    }

    /// The request was refused or answered at admission. `target` is the target as received.
    pub(super) fn stays_outside(&mut self, target: Option<&PathAndQuery>) {
        self.target = target.cloned();
    }

    /// The request has one reading.
    pub(super) fn admitted(&mut self, admitted: &Admitted) {
        self.target = Some(admitted.target().clone());
        self.authority = Some(Rc::clone(admitted.authority()));
    }

    /// The route that takes the request.
    pub(super) fn routed(&mut self, route: &Rc<LocalRoute>) {
        self.route = Some(Rc::clone(route));
    }

    /// The route does not serve clients at this address.
    pub(super) fn denied(&mut self, denied: ClientDenied) {
        self.denied = Some(denied);
    }

    /// Authentication refuses the request. The first reason stands.
    pub(super) fn auth_failed(&self, failure: AuthFailure) {
        let _ = self.auth_failure.set(failure);
    }

    /// Authentication has accepted the client.
    pub(super) fn identified(&mut self, identity: &Rc<Identity>) {
        self.identity = Some(Rc::clone(identity));
    }

    /// The request waited for its body, or for keys, until `now`.
    pub(super) fn waited(&mut self, now: Instant) {
        self.ready = now;
    }

    /// A service has answered. The values that the request has taken are given back at the end of the response.
    pub(super) fn answered(&mut self, taken: Taken) {
        self.taken = Some(taken);
    }

    /// The request has become a tunnel: it gives back its slot of the service, since it may last for hours.
    pub(super) fn becomes_tunnel(&mut self) {
        self.tunnelled = Some(0);
        // What was cut from larger buffers, of the connection and of the worker, would keep all of them.
        self.target = self.target.take().and_then(|target| PathAndQuery::try_from(target.as_str()).ok());
        self.request.id = self.request.id.copied();
        if let Some(taken) = &mut self.taken {
            taken.slot = None;
        }
    }

    /// The tunnel has ended, with so many bytes from the client and from the service. `flag`: the reason. `None`: the client's
    /// connection ended first.
    pub(super) fn tunnel_ended(&mut self, from_client: u64, from_service: u64, flag: Option<&'static str>) {
        (self.tunnelled, self.bytes_out) = (Some(from_client), from_service);
        if let Some(flag) = flag {
            self.flag = flag;
            self.completed();
        }
    }

    /// The head of the response goes to the client.
    pub(super) fn responds(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The gateway answers the request itself, for this reason.
    pub(super) fn refused(&mut self, reason: &'static str) {
        self.flag = reason;
    }

    /// The service sent something that is not content.
    pub(super) fn content_is_invalid(&self, reason: &'static str) {
        if let Some(taken) = &self.taken {
            taken.lease.log_refused(reason, self.connection.worker.clock.coarse());
        }
    }

    /// The head of the response answers another request than this one, which is a failure of its endpoint.
    pub(super) fn head_is_invalid(&self, reason: &'static str) {
        self.content_is_invalid(reason);
        if let Some(taken) = &self.taken {
            taken.broke_off(&self.connection.worker);
        }
    }

    /// The response breaks off for this reason. Returns whether it is the first reason.
    pub(super) fn broke(&mut self, reason: &'static str) -> bool {
        let is_first = self.flag == flags::NONE;
        if is_first {
            self.flag = reason;
        }
        is_first
    }

    /// The response was handed over completely, and the values that the request has taken are given back.
    pub(super) fn completed(&mut self) {
        if let Some(taken) = self.taken.take() {
            let is_sent = self.upload.as_ref().is_none_or(|upload| upload.complete.get());
            taken.release(is_sent, &self.connection.worker);
        }
        self.complete = true;
    }

    /// The client's connection.
    pub(super) fn connection(&self) -> Rc<ConnectionContext> {
        Rc::clone(&self.connection)
    }

    /// The worker that serves the request.
    pub fn worker(&self) -> &Rc<WorkerState> {
        &self.connection.worker
    }

    /// The exchange's activity, if it has one already.
    pub(crate) fn known_activity(&self) -> Option<&Rc<Activity>> {
        self.activity.as_ref()
    }

    /// The progress of both bodies. From now on the worker's sweep watches it.
    pub(crate) fn activity(&mut self) -> Rc<Activity> {
        if let Some(activity) = &self.activity {
            return Rc::clone(activity);
        }
        let activity = Activity::new(Some(Rc::clone(&self.connection.state)));
        if let Some(limits) = self.limits {
            activity.limit(limits);
        }
        let worker = &self.connection.worker;
        self.watch = Some(worker.activities.watch(&activity, worker.clock.coarse()));
        Rc::clone(self.activity.insert(activity))
    }

    /// Begins to receive the request's body.
    pub(crate) fn receive(&mut self, body: ClientBody, limits: UploadLimits) -> Rc<Upload> {
        let activity = self.activity();
        let worker = &self.connection.worker;
        let surroundings = Surroundings {
            clock: Rc::clone(&worker.clock),
            metrics: Rc::clone(&worker.metrics),
            held: [Rc::clone(&worker.held_bytes), self.connection.state.held_bytes()],
        };
        let upload = Upload::new(body, self.request.version, limits, surroundings, activity);
        Rc::clone(self.upload.insert(upload))
    }

    /// The request is answered and nothing has read its body. On HTTP/1.1, hyper drops or drains it with the connection.
    pub(crate) fn leave(&self, body: Option<ClientBody>) {
        if self.request.version == Version::HTTP_2
            && let (Some(_), Some(activity)) = (&body, &self.activity)
        {
            activity.leave(body);
        }
    }

    /// The sink for informational responses. `None`: the client speaks HTTP/1.0, which has none (RFC 9110 §15.2).
    pub(crate) fn response_sink(&self) -> Option<ResponseSink> {
        if self.request.version < Version::HTTP_11 {
            return None;
        }
        let stream = self.activity.as_ref().filter(|_| self.request.version == Version::HTTP_2);
        Some(ResponseSink {
            connection: Rc::clone(&self.connection.state),
            stream: stream.cloned(),
            held: self.upload.as_ref().filter(|upload| upload.is_held()).cloned(),
            rules: Rc::clone(&self.route.as_ref()?.response_rules),
            metrics: Rc::clone(&self.connection.worker.metrics),
        })
    }

    /// Sets how long the exchange may stand still, and how slow its client may be.
    pub(crate) fn limit(&mut self, limits: Limits) {
        self.limits = Some(limits);
        if let Some(activity) = &self.activity {
            activity.limit(limits);
        }
    }

    /// Status of the response; [`CLIENT_CLOSED_REQUEST`] if there was none.
    pub fn status_code(&self) -> u16 {
        self.status.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16())
    }

    /// Path as it was authorised, or as received if the request was refused before.
    pub fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }

    /// The route of the request. `None`: no route takes it, or none was looked up.
    pub(super) fn route(&self) -> Option<&Rc<LocalRoute>> {
        self.route.as_ref()
    }

    /// The request body while it is received. `None`: the request has none, or it was not read.
    pub(super) fn upload(&self) -> Option<&Rc<Upload>> {
        self.upload.as_ref()
    }

    /// The values that an answered request has taken.
    pub(super) fn taken(&mut self) -> Option<&mut Taken> {
        self.taken.as_mut()
    }

    /// Counts bytes of the response's body that go to the client. Returns how many bytes the client's connection has taken
    /// so far, or 0 on HTTP/2, where each stream has a window of its own and the number proves nothing about this one.
    pub(crate) fn handed_over(&mut self, bytes: u64) -> u64 {
        self.bytes_out += bytes;
        let taken = self.connection.state.handed_over(bytes);
        if self.request.version <= Version::HTTP_11 { taken } else { 0 }
    }

    /// Host by which the request was routed.
    pub fn host(&self) -> Option<&str> {
        Some(self.authority.as_ref()?.host())
    }

    /// Bytes of the request body that have come so far.
    pub fn bytes_in(&self) -> u64 {
        let uploaded = || self.upload.as_ref().map_or(0, |upload| upload.bytes.get());
        self.tunnelled.unwrap_or_else(uploaded)
    }

    /// The connection and the client to which a slot of a service is charged. A trusted proxy's connection carries many
    /// clients; where the proxy names none, its own address stands for none of them.
    pub fn holder(&self) -> Holder<'_> {
        let is_clients_own = self.request.version == Version::HTTP_2 && !self.request.peer_is_trusted;
        let is_proxy =
            self.request.peer_is_trusted && self.request.client == self.connection.peer.ip().to_canonical();
        Holder {
            connection: is_clients_own.then_some(&self.connection.held),
            client: (!is_proxy).then_some(self.request.client),
        }
    }

    /// Whether some of the request's body was not read.
    pub(crate) fn has_unread_body(&self) -> bool {
        let is_read = self.upload.as_ref().is_some_and(|upload| upload.received.get().is_some());
        self.request.body != DeclaredBody::None && !is_read
    }

    /// Whether the unread rest of the body prevents another request on this connection.
    pub(crate) fn must_close(&self) -> bool {
        self.request.version <= Version::HTTP_11
            && self.has_unread_body()
            && (self.request.body == DeclaredBody::Long || self.upload.is_some())
    }

    /// The client's address as text, if the connection has it already.
    pub(crate) fn known_client_text(&self) -> Option<&[u8]> {
        let is_peer = self.request.client == self.connection.peer.ip();
        is_peer.then_some(self.connection.peer_text.as_bytes())
    }

    /// The values that header rules may refer to.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            client: self.request.client,
            request_id: &self.request.id.0,
            claims: self.identity.as_deref().map(|identity| &identity.claims),
        }
    }

    /// `sub` of the verified credential.
    pub fn user(&self) -> Option<&str> {
        self.identity.as_ref()?.subject.as_deref()
    }

    /// The provider that verified the credential. A `sub` is unique for one issuer only.
    pub fn provider(&self) -> Option<&str> {
        Some(&self.identity.as_ref()?.provider)
    }

    /// Whether the client's connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.connection.listener().scheme == Scheme::Https
    }

    /// The reason why an exchange ended early. The client is named only if nothing else caused the end.
    fn why_incomplete(&self) -> &'static str {
        match self.activity.as_ref().and_then(|activity| activity.ended()) {
            Some(Cause::ClientStalled) => flags::CLIENT_STALLED,
            Some(Cause::ClientSilent(_) | Cause::ClientSlow(_)) => flags::REQUEST_TIMEOUT,
            Some(Cause::ServiceSilent) => flags::BODY_TIMEOUT,
            None if self.flag != flags::NONE => self.flag,
            None if self.worker().is_out_of_time.get() => flags::DRAIN_TIMEOUT,
            None => flags::CLIENT_GONE,
        }
    }

    fn finish(&mut self) {
        let worker = Rc::clone(&self.connection.worker);
        let ended = worker.clock.now();
        let duration = ended.saturating_duration_since(self.request.started);
        let upstream = match (self.attempts.began, self.attempts.ended) {
            (Some(began), Some(ended)) => Some(ended.saturating_duration_since(began)),
            _ => None,
        };
        if !self.complete {
            self.flag = self.connection.state.flood().unwrap_or_else(|| self.why_incomplete());
            if self.flag == flags::CLIENT_GONE {
                worker.metrics.count(Rare::ClientGone, "", "");
            }
        }
        if self.tunnelled.is_some() {
            let service = self.route.as_ref().map_or("", |route| route.cluster_name());
            let end = if self.flag == flags::NONE { "closed" } else { self.flag };
            worker.metrics.count(Rare::TunnelEnded, service, end);
        }
        let head =
            self.attempts.ended.map_or(duration, |head| head.saturating_duration_since(self.request.started));
        let cell = self.route.as_ref().map_or(&worker.unmatched, |route| &route.metrics);
        {
            let mut sample = cell.borrow_mut();
            sample.count(method_label(&self.request.method), self.status_code(), 1);
            // A tunnel lasts as long as its client wants; its handshake is what was waited for.
            sample.duration.record(if self.tunnelled.is_some() { head } else { duration });
            // Overhead is measured up to the response head, since the client sets the pace of the rest, and without the
            // time in which the client sends its body.
            if let (Some(upstream), Some(head)) = (upstream, self.attempts.ended) {
                let ours = head.saturating_duration_since(self.ready).saturating_sub(upstream);
                sample.overhead.record(ours);
            }
            sample.request_bytes += self.bytes_in();
            sample.response_bytes += self.bytes_out;
        }
        self.log(&worker.access_log, ended, duration, upstream);
        self.connection.state.request_ended(self.has_unread_body());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests;
