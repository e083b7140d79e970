//! One attempt at one endpoint: a connection, one send, and the meaning of its failure.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::Context,
    time::{Duration, Instant},
};

use http::StatusCode;

use super::{
    error::{Blame, Error},
    exchange::Exchange,
    grpc,
    picked::Picked,
    silence::{LOOK, Silence},
    taken::Taken,
    verdict::{Deed, NO_ANSWER, Verdict, Waiting, Witness},
};
use crate::{
    body::{BodyError, Cause, Upload},
    metrics::Spot,
    policy::{concurrency::Slot, retry::Phase, timeout::Deadline},
    proxy_protocol::Hop,
    snapshot::{LocalCluster, LocalEndpoint},
    upstream::{
        connect::{ConnectError, connect},
        endpoint::{InFlight, StateHandle},
        pool::Lease,
        protocol::{Answered, SendError, UpstreamRequest},
        timer::{Timer, Wait},
    },
    worker::WorkerState,
};

/// The place for the response of the last attempt. The response is large, and is moved only once, into this place.
pub(super) type AnswerSlot = Option<Answered>;

/// The values that an answered request has taken, and the status of its response.
pub(super) struct Sent {
    pub(super) status: StatusCode,
    lease: Lease,
    endpoint: InFlight<StateHandle>,
}

impl Sent {
    /// The client gets this response: what the request has taken goes into the exchange.
    pub(super) fn answers(self, witness: Witness, slot: Slot, exchange: &mut Exchange) {
        exchange.answered(Taken { lease: self.lease, _endpoint: self.endpoint, slot: Some(slot), witness });
    }
}

/// The failure of an attempt that gave no response.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) phase: Phase,
}

impl Failed {
    /// The word in the access log.
    pub(super) fn reason(&self) -> &'static str {
        match self.phase {
            Phase::ReusedConnectionClosed => "connection_closed",
            _ => self.error.reason(),
        }
    }

    /// The word in the instance's metrics, if the instance caused the failure. It may close an idle connection at any
    /// time.
    fn of_the_instance(&self) -> Option<&'static str> {
        let is_its = self.error.row().blame == Blame::Upstream && self.phase != Phase::ReusedConnectionClosed;
        is_its.then(|| self.reason())
    }
}

/// One attempt at one endpoint, until it has a response or fails.
pub(super) struct Attempt<'a> {
    cluster: &'a LocalCluster,
    endpoint: &'a LocalEndpoint,
    deadline: Deadline,
    now: Instant,
    began: Instant,
    upload: Option<&'a Rc<Upload>>,
    /// Whether the request could be sent again if this attempt fails.
    repeats: bool,
    worker: &'a WorkerState,
    verdict: RefCell<Verdict>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        picked: Picked<'a>,
        deadline: Deadline,
        (now, repeats): (Instant, bool),
        upload: Option<&'a Rc<Upload>>,
        worker: &'a WorkerState,
    ) -> Self {
        let (cluster, endpoint) = (picked.cluster, picked.endpoint);
        let verdict = RefCell::new(Verdict::new(picked));
        // Read again, though `now` is a few microseconds old: the difference is the gateway's own time, which
        // `millgate_overhead_seconds` shows.
        let began = worker.clock.now();
        Self { cluster, endpoint, deadline, now, began, upload, repeats, worker, verdict }
    }

    /// Makes the attempt. The response is put into `answer`; metrics, breaker and outlier detection get the outcome.
    pub(super) async fn run(
        &self,
        request: &mut UpstreamRequest,
        answer: &mut AnswerSlot,
        exchange: &mut Exchange,
    ) -> Result<Sent, Failed> {
        exchange.attempts.began = Some(self.began);
        let guard = InFlight::begin(self.endpoint.state.clone());
        let waiting = Waiting {
            verdict: &self.verdict,
            worker: self.worker,
            since: Cell::new(None),
            upload: self.upload,
        };
        let result = self.send((request, answer), guard, &waiting, exchange).await;
        waiting.over();
        let ended = self.worker.clock.now();
        exchange.attempts.ended = Some(ended);
        let status = result.as_ref().map_or(NO_ANSWER, |sent| sent.status.as_u16());
        self.count(status, ended.saturating_duration_since(self.began), result.as_ref().err());
        if let Some(deed) = self.deed(&result) {
            if self.cluster.shared.balancer.uses_response_times() {
                self.note_response_time(deed, ended);
            }
            self.verdict.borrow_mut().record(deed, ended, self.worker);
        }
        result
    }

    /// Records the response time from the end of the request, so that a client that sends slowly makes no endpoint look
    /// slow.
    fn note_response_time(&self, deed: Deed, ended: Instant) {
        let received = self.upload.and_then(|upload| upload.received.get());
        let asked = received.map_or(self.began, |at| at.max(self.began));
        let has_failed = !matches!(deed, Deed::Answered(status) if !status.is_server_error());
        let took = ended.saturating_duration_since(asked);
        self.endpoint.state.response_time().record(took, has_failed, ended);
    }

    /// Counts the attempt for the service and for the instance.
    fn count(&self, status: u16, took: Duration, failed: Option<&Failed>) {
        let took = Spot::of(took);
        {
            let mut metrics = self.cluster.metrics.borrow_mut();
            metrics.count(status, 1);
            metrics.duration.add(took);
        }
        let mut metrics = self.endpoint.metrics.borrow_mut();
        metrics.record(status, took);
        if let Some(reason) = failed.and_then(Failed::of_the_instance) {
            metrics.fail(reason);
        }
    }

    /// The witness, which can blame the endpoint later.
    pub(super) fn into_witness(self) -> Witness {
        self.verdict.into_inner().witness
    }

    async fn send(
        &self,
        (request, answer): (&mut UpstreamRequest, &mut AnswerSlot),
        guard: InFlight<StateHandle>,
        waiting: &Waiting<'_>,
        exchange: &Exchange,
    ) -> Result<Sent, Failed> {
        let client =
            self.endpoint.pool.proxy_protocol.map(|_| exchange.connection().hop_of(exchange.request.client));
        let mut lease = self.lease(client).await?;
        let status = loop {
            if request.body.is_none() {
                return Err(Failed { error: Error::Internal, phase: Phase::Final });
            }
            // The time that a connect took is not the time that the endpoint had.
            let since = if lease.is_reused() { self.began } else { self.worker.clock.now() };
            waiting.since.set(Some(since));
            let sent = {
                let (sending, timer) = lease.send(request, exchange.response_sink());
                let mut sending = pin!(sending);
                let look = since + LOOK;
                let invited = match self.upload {
                    // Boxed: few clients wait with their bodies.
                    Some(upload) if upload.is_held() => {
                        Box::pin(self.until_invited(upload, timer, sending.as_mut(), since)).await
                    }
                    _ => None,
                };
                match invited {
                    Some(sent) => Some(sent),
                    None => match timer.bound(|cx| self.wait(cx).at_most(look), sending.as_mut()).await {
                        // Boxed: hardly any request waits for so long, and this would lie in every request's future.
                        None => Box::pin(self.keep_waiting(waiting, timer, sending)).await,
                        sent => sent,
                    },
                }
            };
            let Some(sent) = sent else { return Err(self.late()) };
            let error = match sent {
                Ok(answered) => {
                    let response = &answered.response;
                    let status = if exchange.is_call { grpc::status_of(response) } else { response.status() };
                    *answer = Some(answered);
                    break status;
                }
                Err(error) => error,
            };
            // The service had closed this connection while it was idle, and no byte of the request was written. The
            // other idle connections are as old, so a new one is made.
            if !lease.is_reused() || request.body.is_none() {
                return Err(self.send_failed(error, request, lease.is_reused()));
            }
            self.endpoint.pool.clear_idle();
            lease = self.lease(client).await?;
        };
        Ok(Sent { status, lease, endpoint: guard })
    }

    /// Waits for the service's word about the body with which the client waits. `None`: the client is invited, by the service or because it
    /// said nothing for [`INVITATION_AFTER`]; or the wait is over.
    async fn until_invited<F: Future<Output = Result<T, E>>, T, E>(
        &self,
        upload: &Upload,
        timer: &mut Timer,
        sending: Pin<&mut F>,
        since: Instant,
    ) -> Option<F::Output> {
        let at = since + INVITATION_AFTER;
        let wait = |cx: &Context<'_>| match self.wait(cx) {
            _ if !upload.is_held() => Wait::Over,
            Wait::Open => Wait::Until(at),
            wait => wait.at_most(at),
        };
        let sent = timer.bound(wait, sending).await;
        if sent.is_none() {
            upload.invite();
        }
        sent
    }

    async fn keep_waiting<F: Future<Output = Result<T, E>>, T, E>(
        &self,
        waiting: &Waiting<'_>,
        timer: &mut Timer,
        sending: Pin<&mut F>,
    ) -> Option<F::Output> {
        let half = self.repeats.then(|| self.deadline.usual() / 2);
        let silence = Silence { cluster: self.cluster, verdict: &self.verdict, worker: self.worker, half };
        let asked = || {
            let begun = waiting.since.get().unwrap_or(self.began);
            self.upload.and_then(|upload| upload.received.get()).map_or(begun, |at| at.max(begun))
        };
        silence.bound(timer, sending, |cx| self.wait(cx), asked).await
    }

    /// The end of the wait for the response head. While the request is being received, its own limits bound the wait;
    /// the route's deadlines run from its end.
    fn wait(&self, cx: &Context<'_>) -> Wait {
        let Some(upload) = self.upload else { return Wait::Until(self.deadline.attempt(self.now)) };
        upload.activity.remember_task(cx);
        if upload.activity.ended().is_some() {
            return Wait::Over;
        }
        match upload.received.get() {
            Some(at) => Wait::Until(self.deadline.received(at).attempt(self.now.max(at))),
            None => self.deadline.latest().map_or(Wait::Open, Wait::Until),
        }
    }

    /// The failure of an attempt whose time is over, by the side that was waited for: the client with its body, or the endpoint.
    fn late(&self) -> Failed {
        let (error, phase) = match self.upload.and_then(|upload| upload.activity.ended()) {
            Some(Cause::ClientSilent(silence)) => (Error::RequestSilent(silence), Phase::Final),
            Some(Cause::ClientSlow(rate)) => (Error::RequestSlow(rate), Phase::Final),
            Some(Cause::ClientStalled | Cause::ServiceSilent) | None => {
                (Error::ResponseTimeout, Phase::Timeout)
            }
        };
        Failed { error, phase }
    }

    /// The endpoint's behaviour, for its breaker and outlier detection. `None`: the client or this machine caused the result.
    fn deed(&self, result: &Result<Sent, Failed>) -> Option<Deed> {
        let failed = match result {
            Ok(sent) => return Some(Deed::Answered(sent.status)),
            Err(failed) => failed,
        };
        match failed.error {
            // The endpoint may close an idle connection whenever it likes.
            _ if failed.phase == Phase::ReusedConnectionClosed => None,
            Error::ConnectFailed | Error::UpstreamTls { .. } => Some(Deed::ConnectFailed),
            Error::ConnectTimeout => Some(Deed::ConnectTimedOut),
            Error::UpstreamReset | Error::UpstreamProtocolError => Some(Deed::Reset),
            Error::ResponseTimeout => self.had_its_time().then_some(Deed::TimedOut),
            _ => None,
        }
    }

    /// Whether the endpoint had enough time. A late attempt has only the rest of the request's time, and the endpoint is
    /// not to blame for that.
    fn had_its_time(&self) -> bool {
        let given = self.deadline.attempt(self.now).saturating_duration_since(self.now);
        given * 2 >= self.deadline.usual()
    }

    /// Takes an idle connection, or makes a new one.
    async fn lease(&self, client: Option<Hop>) -> Result<Lease, Failed> {
        if let Some(lease) = self.endpoint.pool.checkout(client) {
            self.cluster.metrics.borrow_mut().connections_reused += 1;
            return Ok(lease);
        }
        let deadline = self.deadline.connect(self.now);
        // Boxed: a new connection is rare, and its state would lie in every request's future.
        let connecting = Box::pin(connect(&self.endpoint.pool, client, deadline, self.now));
        let lease = connecting.await.map_err(|error| {
            if let ConnectError::Tls(error) = &error {
                self.log_no_tls(error);
            }
            connect_failed(&error)
        })?;
        self.cluster.metrics.borrow_mut().connections_opened += 1;
        self.verdict.borrow().witness.connected(self.worker.clock.now(), self.worker);
        Ok(lease)
    }

    fn log_no_tls(&self, error: &dyn fmt::Display) {
        if self.endpoint.pool.may_log(self.now) {
            let (service, endpoint) = (&self.cluster.shared.name, &self.endpoint.instance);
            tracing::warn!(%service, %endpoint, %error, "no TLS connection");
        }
    }

    /// The meaning of a send error. A request of which no byte was written has its body.
    fn send_failed(&self, error: SendError, request: &UpstreamRequest, reused: bool) -> Failed {
        if let Some(failure) = self.upload.and_then(|upload| upload.failure.get()) {
            return Failed { error: body_failed(failure), phase: Phase::Final };
        }
        let (error, phase) = match error {
            SendError::Alert(alert) if !reused => {
                self.log_no_tls(&alert);
                (Error::UpstreamTls { certificate: false }, Phase::Final)
            }
            _ if request.body.is_some() => (Error::UpstreamReset, Phase::Refused),
            SendError::Unprocessed => (Error::UpstreamReset, Phase::Refused),
            SendError::Invalid(reason) => {
                self.endpoint.pool.log_refused(&reason, self.now);
                (Error::UpstreamProtocolError, Phase::Reset)
            }
            SendError::Reset => (Error::UpstreamReset, Phase::Reset),
            _ if reused => (Error::UpstreamReset, Phase::ReusedConnectionClosed),
            _ => (Error::UpstreamReset, Phase::Reset),
        };
        Failed { error, phase }
    }
}

/// The wait for a service's 100 (Continue), after which the body is sent without it: services that do not know the expectation, such as those
/// of HTTP/1.0, say nothing. A client must not wait without end either (RFC 9110 §10.1.1); curl's own wait is as long.
const INVITATION_AFTER: Duration = Duration::from_secs(1);

fn connect_failed(error: &ConnectError) -> Failed {
    let error = match error {
        ConnectError::Timeout => Error::ConnectTimeout,
        ConnectError::Exhausted(_) => Error::OutOfSockets,
        ConnectError::Tls(_) => Error::UpstreamTls { certificate: error.is_about_the_certificate() },
        ConnectError::Io(_) => Error::ConnectFailed,
    };
    Failed { error, phase: Phase::Connect }
}

pub(crate) fn body_failed(failure: BodyError) -> Error {
    match failure {
        BodyError::TooLarge => Error::BodyTooLarge,
        BodyError::Silent(silence) => Error::RequestSilent(silence),
        BodyError::Slow(rate) => Error::RequestSlow(rate),
        BodyError::Gone => Error::ClientGone,
        // An upload never ends with one of the last two.
        BodyError::Broken | BodyError::Idle | BodyError::Replaced => Error::RequestBodyInvalid,
    }
}
