//! Attempts: endpoint, connection, request, response head, outcome; and again where that is safe.
//!
//! Attempt 1 is not a retry. A retry goes to another endpoint, needs the retry policy's consent and its budget,
//! and never repeats a request whose body has begun to move. What an attempt takes (in-flight counts, breaker
//! permit, connection) is given back by `Drop`, so a client that goes away needs no code here.

use std::{borrow::Cow, error::Error as _, pin::pin, rc::Rc, time::Duration, time::Instant};

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::{
    connect::{ConnectError, connect, is_alert},
    endpoint::{Endpoint, InFlight},
    load_balancer::NoEndpoint,
    pool::{Connection, Lease},
    spare::Spare,
};
use crate::{
    body::{BodyError, RequestBody, Upload},
    config::settings::UpstreamHost,
    error::Error,
    exchange::Exchange,
    headers::{self, ResponseFraming},
    metrics::Rare,
    policy::{
        circuit_breaker::{Outcome, Permit, Transition},
        retry::{Failure, NoRetry, Phase},
        timeout::Deadline,
    },
    snapshot::{LocalCluster, LocalEndpoint, LocalSnapshot, Route, StateHandle},
};

/// Where a request goes.
pub struct Plan<'a> {
    pub snapshot: &'a LocalSnapshot,
    pub route: &'a Route,
}

impl<'a> Plan<'a> {
    /// The service, or the subset of it whose turn it is. Attempts of one request stay there as long as they can.
    fn cluster(&self, exchange: &Exchange) -> Option<&'a Rc<LocalCluster>> {
        // If no subset can be asked, the first one says why.
        let part = self.part(exchange.started, exchange, |_| true);
        part.or_else(|| self.snapshot.clusters.get(self.route.cluster?))
    }

    fn part(
        &self,
        now: Instant,
        exchange: &Exchange,
        is_allowed: impl Fn(&Rc<LocalCluster>) -> bool,
    ) -> Option<&'a Rc<LocalCluster>> {
        let (split, clusters) = (self.route.split.as_ref()?, &self.snapshot.clusters);
        let can_be_asked =
            |at: usize| clusters.get(at).is_some_and(|c| is_allowed(c) && c.shared.can_be_asked(now));
        clusters.get(split.pick(can_be_asked, &mut *exchange.worker().rng.borrow_mut())?)
    }
}

/// The upstream's answer, and what must live as long as its body.
pub struct Answered {
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub framing: ResponseFraming,
}

/// Why an attempt gave no response.
struct Failed {
    error: Error,
    phase: Phase,
}

/// A request that waits to be sent. Empty once bytes of it may have left; a failure before that leaves it here, so that
/// nothing needs to be handed back through the layers that it went down.
type Unsent = Option<Request<RequestBody>>;

/// Sends the request until an endpoint answers, or nothing more may be tried. `upload`: of the request's body, if it
/// has one.
pub async fn run(
    plan: &Plan<'_>,
    request: Request<RequestBody>,
    upload: Option<&Rc<Upload>>,
    exchange: &mut Exchange,
) -> Result<Answered, Error> {
    let mut search = Search::new(plan, plan.cluster(exchange).ok_or(Error::NoHealthyEndpoint)?);
    let cluster = search.cluster;
    let in_flight = cluster.shared.concurrency.check().map_err(|_| Error::Overloaded)?;
    cluster.shared.retry_budget.deposit();
    let deadline = plan.route.timeouts.apply(exchange.started);
    let retries = &plan.route.retry;
    let is_repeatable = request.body().is_empty() && retries.repeats(request.method());
    let mut unsent = Some(request);
    let mut last = Err(Error::NoHealthyEndpoint);
    let result = loop {
        let now = if exchange.attempts == 0 { exchange.started } else { exchange.worker().clock.now() };
        let (index, endpoint, permit) = match search.pick(now, exchange) {
            Ok(picked) => picked,
            Err(error) if exchange.attempts == 0 => return Err(error),
            // Nobody else can be asked now: the client gets what the last one said.
            Err(_) => break last,
        };
        let cluster = search.cluster;
        exchange.attempt_begins(cluster, endpoint);
        if let (Some(request), Some(UpstreamHost::Instance)) = (&mut unsent, plan.route.upstream_host()) {
            name_instance(request, cluster, index);
        }
        // What was not sent is still there; a spare is for what may be sent twice.
        let keeps_spare = is_repeatable && retries.may_follow(exchange.attempts);
        let spare = unsent.as_ref().filter(|_| keeps_spare).map(Spare::of);
        let attempt = Attempt { cluster, endpoint, deadline, now, upload };
        let phase = match attempt.run(&mut unsent, permit, exchange).await {
            // What most requests come to.
            Ok(mut answered) if !retries.may_follow_status(answered.response.status()) => {
                answered.lease.cluster = Some(in_flight);
                return Ok(answered);
            }
            Ok(answered) => {
                let phase = Phase::Status(answered.response.status());
                last = Ok(answered);
                phase
            }
            Err(failed) => {
                last = Err(failed.error);
                failed.phase
            }
        };
        if unsent.is_none() && spare.is_none() {
            break last;
        }
        let failure = Failure { phase, method: &exchange.method, body_is_replayable: true };
        // A stale connection says nothing about its endpoint: then the same one may be asked again.
        let is_stale = phase == Phase::ReusedConnectionClosed;
        if !is_stale && !search.leave_out(index, exchange) {
            break last;
        }
        let Some(pause) = retry(plan, cluster, &failure, &deadline, exchange) else { break last };
        if is_stale {
            endpoint.pool.clear();
        }
        unsent = unsent.or_else(|| spare?.into_request());
        tokio::time::sleep(pause).await;
    };
    result.map(|mut answered| {
        answered.lease.cluster = Some(in_flight);
        answered
    })
}

/// `Host` is the address of whoever is asked.
fn name_instance(request: &mut Request<RequestBody>, cluster: &LocalCluster, index: usize) {
    let authority = cluster.shared.endpoints.get(index).map(Endpoint::authority);
    // What was resolved or parsed as `host:port` is a header value; without one the client's stays.
    if let Some(Ok(host)) = authority.map(HeaderValue::from_str) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// A breaker's permit, held by a count of this worker.
type BreakerPermit = Permit<StateHandle>;

/// Whom a request has not asked yet: endpoints of one subset, then of another.
struct Search<'a> {
    plan: &'a Plan<'a>,
    /// Where it is now.
    cluster: &'a Rc<LocalCluster>,
    /// Indexes of its endpoints.
    tried: Vec<usize>,
    used_up: Vec<&'a Rc<LocalCluster>>,
}

impl<'a> Search<'a> {
    fn new(plan: &'a Plan<'a>, cluster: &'a Rc<LocalCluster>) -> Self {
        Self { plan, cluster, tried: Vec::new(), used_up: Vec::new() }
    }

    /// Somebody who can be asked now, in this subset or else in another one. The error is why nobody of the last can.
    fn pick(&mut self, now: Instant, exchange: &Exchange) -> Result<Picked<'a>, Error> {
        loop {
            match pick(self.cluster, &self.tried, now, exchange) {
                Err(_) if self.go_elsewhere(now, exchange) => {}
                result => return result,
            }
        }
    }

    /// Leaves an endpoint out from now on. `false`: there is nobody else.
    fn leave_out(&mut self, index: usize, exchange: &Exchange) -> bool {
        self.tried.push(index);
        self.tried.len() < self.cluster.endpoints.len()
            || self.go_elsewhere(exchange.worker().clock.now(), exchange)
    }

    /// To a subset that was not used up, if one can be asked.
    fn go_elsewhere(&mut self, now: Instant, exchange: &Exchange) -> bool {
        let is_new = |cluster: &Rc<LocalCluster>| {
            let mut known = self.used_up.iter().chain([&self.cluster]);
            !known.any(|known| Rc::ptr_eq(known, cluster))
        };
        let Some(other) = self.plan.part(now, exchange, is_new) else { return false };
        self.used_up.push(self.cluster);
        self.cluster = other;
        self.tried.clear();
        true
    }
}

/// Index, endpoint, and its breaker's permit.
type Picked<'a> = (usize, &'a LocalEndpoint, Option<BreakerPermit>);

/// An endpoint that has not been tried, and its breaker's permit.
fn pick<'a>(
    cluster: &'a LocalCluster,
    tried: &[usize],
    now: Instant,
    exchange: &Exchange,
) -> Result<Picked<'a>, Error> {
    let shared = &cluster.shared;
    let mut rng = exchange.worker().rng.borrow_mut();
    let mut cursor = cluster.cursor.borrow_mut();
    let mut excluded = Cow::Borrowed(tried);
    loop {
        let index = shared.balancer.pick(&shared.endpoints, &mut cursor, &excluded, now, &mut *rng).map_err(
            |error| match error {
                NoEndpoint::AllBroken { retry_after } => Error::BreakerOpen { retry_after },
                NoEndpoint::Empty | NoEndpoint::AllExcluded => Error::NoHealthyEndpoint,
            },
        )?;
        let endpoint = cluster.endpoints.get(index).ok_or(Error::NoHealthyEndpoint)?;
        let Some(breaker) = &shared.breaker else { return Ok((index, endpoint, None)) };
        match breaker.check(endpoint.state.clone(), now) {
            Ok(permit) => return Ok((index, endpoint, Some(permit))),
            // Between pick and check another worker took the last probe: somebody else may still be free.
            Err(open) if excluded.len() + 1 >= cluster.endpoints.len() => {
                return Err(Error::BreakerOpen { retry_after: open.retry_after });
            }
            Err(_) => excluded.to_mut().push(index),
        }
    }
}

/// Pause before the next attempt, if there may be one.
fn retry(
    plan: &Plan<'_>,
    cluster: &LocalCluster,
    failure: &Failure<'_>,
    deadline: &Deadline,
    exchange: &Exchange,
) -> Option<Duration> {
    let worker = exchange.worker();
    // A request that is sent when its time is over is abandoned at once, and its endpoint blamed for nothing.
    if deadline.is_over(worker.clock.now() + plan.route.retry.pause_min()) {
        return None;
    }
    let shared = &cluster.shared;
    let mut rng = worker.rng.borrow_mut();
    match plan.route.retry.check(failure, exchange.attempts, &shared.retry_budget, &mut *rng) {
        Ok(pause) => {
            worker.metrics.count(Rare::Retry, &shared.name, failure.phase.reason());
            Some(pause.0)
        }
        Err(NoRetry::BudgetExhausted) => {
            worker.metrics.count(Rare::RetryBudgetExhausted, &shared.name, "");
            None
        }
        Err(NoRetry::NotRetryable | NoRetry::AttemptsUsed) => None,
    }
}

/// One attempt at one endpoint.
struct Attempt<'a> {
    cluster: &'a LocalCluster,
    endpoint: &'a LocalEndpoint,
    deadline: Deadline,
    now: Instant,
    upload: Option<&'a Rc<Upload>>,
}

impl Attempt<'_> {
    async fn run(
        &self,
        unsent: &mut Unsent,
        permit: Option<BreakerPermit>,
        exchange: &mut Exchange,
    ) -> Result<Answered, Failed> {
        let guard = InFlight::begin(self.endpoint.state.clone());
        // Read again, though `now` is a few microseconds old: the difference is the gateway's own share, which
        // `millgate_overhead_seconds` shows.
        let began = exchange.worker().clock.now();
        exchange.upstream_began = Some(began);
        let result = self.exchange(unsent, guard).await;
        let ended = exchange.worker().clock.now();
        exchange.upstream_ended = Some(ended);
        let status = result.as_ref().map_or(0, |answered| answered.response.status().as_u16());
        {
            let mut metrics = self.cluster.metrics.borrow_mut();
            metrics.count(status, 1);
            metrics.duration.record(ended.saturating_duration_since(began));
        }
        if let (Some(permit), Some(outcome)) = (permit, outcome(&result)) {
            self.tell(permit.record(outcome, ended));
        }
        result
    }

    fn tell(&self, transition: Option<Transition>) {
        let (service, endpoint) = (&self.cluster.shared.name, &self.endpoint.instance);
        match transition {
            None => {}
            Some(Transition::Opened) => tracing::warn!(%service, %endpoint, "circuit breaker opened"),
            Some(Transition::Closed) => tracing::info!(%service, %endpoint, "circuit breaker closed"),
        }
    }

    async fn exchange(&self, unsent: &mut Unsent, guard: InFlight<StateHandle>) -> Result<Answered, Failed> {
        let mut connection = self.connection().await?;
        let response = loop {
            let Some(request) = unsent.take() else {
                return Err(Failed { error: Error::Internal, phase: Phase::AfterSent });
            };
            let sending = pin!(connection.sender.try_send_request(request));
            let Some(sent) = connection.timer.bound(self.deadline.attempt(self.now), sending).await else {
                return Err(Failed { error: self.late(), phase: Phase::AfterSent });
            };
            let mut error = match sent {
                Ok(response) => break response,
                Err(error) => error,
            };
            *unsent = error.take_message();
            // The service had closed this connection while it was idle, and hyper gives the request back when
            // no byte of it was written: what else is idle is as stale, so take a new one.
            if !connection.reused || unsent.is_none() {
                return Err(self.send_failed(&error.into_error(), unsent, connection.reused));
            }
            self.endpoint.pool.clear();
            connection = self.connection().await?;
        };
        let framing = headers::check_response(&response).map_err(|fault| {
            tracing::warn!(endpoint = %self.endpoint.pool.address, reason = fault.detail(), "upstream answer refused");
            Failed { error: Error::UpstreamProtocolError, phase: Phase::AfterSent }
        })?;
        let lease = Lease {
            connection,
            pool: Rc::clone(&self.endpoint.pool),
            upload: self.upload.cloned(),
            reusable: framing.reusable,
            endpoint: guard,
            cluster: None,
        };
        Ok(Answered { response, lease, framing })
    }

    /// Whoever is waited for has caused it.
    fn late(&self) -> Error {
        let client_is_late = self.upload.is_some_and(|upload| upload.waiting.get());
        if client_is_late { Error::RequestTimeout } else { Error::ResponseTimeout }
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<Connection, Failed> {
        if let Some(connection) = self.endpoint.pool.checkout() {
            self.cluster.metrics.borrow_mut().connections_reused += 1;
            return Ok(connection);
        }
        let deadline = self.deadline.connect(self.now);
        // Boxed: a new connection is rare, and its state would lie in every request's future.
        let connecting = Box::pin(connect(&self.endpoint.pool, deadline, self.now));
        let connection = connecting.await.map_err(|error| {
            if let ConnectError::Tls(error) = &error {
                self.tell_no_tls(error);
            }
            connect_failed(&error)
        })?;
        self.cluster.metrics.borrow_mut().connections_opened += 1;
        Ok(connection)
    }

    fn tell_no_tls(&self, error: &dyn std::error::Error) {
        if self.endpoint.pool.may_tell(self.now) {
            let (service, endpoint) = (&self.cluster.shared.name, &self.endpoint.instance);
            tracing::warn!(%service, %endpoint, %error, "no TLS connection");
        }
    }

    /// What a send error means. hyper has given the request back if no byte of it was written.
    fn send_failed(&self, error: &hyper::Error, unsent: &Unsent, reused: bool) -> Failed {
        if let Some(failure) = self.upload.and_then(|upload| upload.failure.get()) {
            return Failed { error: body_failed(failure), phase: Phase::AfterSent };
        }
        let (error, phase) = if is_alert(error) && !reused {
            self.tell_no_tls(error.source().unwrap_or(error));
            (Error::UpstreamTls { certificate: false }, Phase::AfterSent)
        } else if unsent.is_some() {
            (Error::UpstreamReset, Phase::Refused)
        } else if error.is_parse() {
            (Error::UpstreamProtocolError, Phase::AfterSent)
        } else if reused {
            (Error::UpstreamReset, Phase::ReusedConnectionClosed)
        } else {
            (Error::UpstreamReset, Phase::AfterSent)
        };
        Failed { error, phase }
    }
}

fn connect_failed(error: &ConnectError) -> Failed {
    let error = match error {
        ConnectError::Timeout => Error::ConnectTimeout,
        ConnectError::Exhausted(_) => Error::OutOfSockets,
        ConnectError::Tls(_) => Error::UpstreamTls { certificate: error.is_about_the_certificate() },
        ConnectError::Io(_) | ConnectError::Handshake(_) => Error::ConnectFailed,
    };
    Failed { error, phase: Phase::Connect }
}

fn body_failed(failure: BodyError) -> Error {
    match failure {
        BodyError::TooLarge => Error::BodyTooLarge,
        BodyError::Idle => Error::RequestTimeout,
        BodyError::Broken => Error::RequestBodyInvalid,
    }
}

/// What the breaker learns; `None`: the client's fault says nothing about the endpoint.
fn outcome(result: &Result<Answered, Failed>) -> Option<Outcome> {
    match result {
        Ok(answered) if answered.response.status().is_server_error() => Some(Outcome::Failure),
        Ok(_) => Some(Outcome::Success),
        // The endpoint may close an idle connection whenever it likes.
        Err(failed) if failed.phase == Phase::ReusedConnectionClosed => None,
        Err(failed) => {
            (failed.error.row().blame == crate::error::Blame::Upstream).then_some(Outcome::Failure)
        }
    }
}
