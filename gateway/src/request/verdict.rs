//! Verdicts: what an attempt proves about its endpoint, for breaker and outlier detection.
//!
//! Both learn only what the endpoint did: a connect that it did not accept, its answer, its reset, its silence while the
//! gateway waited for it. What the client or this machine caused (a broken upload, no socket left) teaches nothing. A
//! client that gives up is evidence only if the endpoint had the whole request for [`PATIENCE`] and answered no
//! request at all in that time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use http::StatusCode;

use super::picked::{BreakerPermit, OutlierProbe, Picked};
use crate::{
    body::Upload,
    metrics::Rare,
    policy::{
        circuit_breaker::{Opened, Outcome, Seen, Transition},
        outlier::{Began, Change, Reason, Sign},
    },
    snapshot::{LocalCluster, LocalEndpoint},
    syntax::units::show_duration,
    worker::{Hint, WorkerState},
};

/// What an endpoint did with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// The endpoint refused the connection, or its TLS handshake failed or was not trusted.
    ConnectFailed,
    /// The endpoint did not accept a connect in time.
    ConnectTimedOut,
    /// The endpoint responded with this status.
    Answered(StatusCode),
    /// The endpoint broke the connection, or its response was not valid HTTP.
    Reset,
    /// The endpoint did not respond within its time.
    TimedOut,
    /// The endpoint did not respond until the client gave up.
    Abandoned,
}

/// The endpoint of one attempt, and the permit with which the breaker learns its outcome.
pub(super) struct Verdict {
    pub(super) witness: Witness,
    permit: Option<BreakerPermit>,
}

/// The endpoint of an attempt, and the facts by which a failure that comes after the response head is counted against it.
pub(super) struct Witness {
    pub(super) cluster: Rc<LocalCluster>,
    pub(super) index: usize,
    began: Began,
    /// The epoch and the outcome with which the breaker has counted the response's head. `None`: it has not.
    counted: Option<(u16, Outcome)>,
    /// Given back if the attempt ends without a sign.
    _probe: Option<OutlierProbe>,
    /// The head of the response is not a failure, and its content is still to come.
    is_answered: bool,
}

impl Verdict {
    pub(super) fn new(picked: Picked<'_>) -> Self {
        let Picked { cluster, index, endpoint, permit, probe } = picked;
        let began = probe.as_ref().map_or_else(|| endpoint.state.outlier().began(), OutlierProbe::began);
        let cluster = Rc::clone(cluster);
        let witness = Witness { cluster, index, began, counted: None, _probe: probe, is_answered: false };
        Self { witness, permit }
    }

    /// Records what the endpoint did. `worker` logs and counts the changes that follow from it.
    pub(super) fn record(&mut self, deed: Deed, now: Instant, worker: &WorkerState) {
        let outcome = outcome(deed, &self.witness.cluster);
        if let (Some(outcome), Some(permit)) = (outcome, self.permit.take()) {
            self.witness.counted = Some((permit.epoch(), outcome));
            if let Some(changed) = permit.record(outcome, now, || self.witness.may_open(now)) {
                self.witness.report_breaker(changed, worker, now);
            }
        }
        if let (Deed::Answered(_), Some(endpoint)) = (deed, self.witness.endpoint()) {
            endpoint.state.outlier().answered(now);
        }
        match sign(deed) {
            Sign::Answered => {
                // A row of failures ends only when the content has come, too; an ejection ends now, since a response may last
                // for hours.
                self.witness.is_answered = true;
                if !self.witness.began.was_in() {
                    self.witness.sign(Sign::Answered, now, worker);
                }
            }
            failed => self.witness.sign(failed, now, worker),
        }
    }
}

impl Witness {
    /// Records that a new connection was made.
    pub(super) fn connected(&self, now: Instant, worker: &WorkerState) {
        self.sign(Sign::Connected, now, worker);
    }

    fn sign(&self, sign: Sign, now: Instant, worker: &WorkerState) {
        let shared = &self.cluster.shared;
        let (Some(outlier), Some(endpoint)) = (&shared.outlier, self.endpoint()) else { return };
        let may_eject = || {
            // The evidence of a connect is certain. Failed requests may be those of one client, so endpoints that breakers
            // have taken out count as well.
            let out = match sign {
                Sign::ConnectFailed => shared.ejected(self.index),
                _ => shared.out(self.index, now),
            };
            out < outlier.out_max(shared.endpoints.len())
        };
        let changed = outlier.record(endpoint.state.outlier(), self.began, sign, now, may_eject);
        if let Some(changed) = changed {
            self.report_outlier(changed, worker, now);
        }
    }

    /// Records that a request waits for far longer than is usual. The endpoint has had it since `asked`.
    pub(super) fn waits(&self, (asked, is_new): (Instant, bool), now: Instant, worker: &WorkerState) {
        let shared = &self.cluster.shared;
        let (Some(outlier), Some(endpoint)) = (&shared.outlier, self.endpoint()) else { return };
        let may_eject = || {
            let others = self.cluster.endpoints.iter().enumerate().filter(|(at, _)| *at != self.index);
            let others_answer = others
                .map(|(_, other)| other.state.outlier())
                .any(|other| other.is_in() && other.is_quick_since(asked));
            others_answer && shared.out(self.index, now) < outlier.out_max(shared.endpoints.len())
        };
        let changed = outlier.suspect(endpoint.state.outlier(), (asked, is_new), now, may_eject);
        if let Some(changed) = changed {
            self.report_outlier(changed, worker, now);
        }
    }

    /// Records the response to a request that had waited for long.
    pub(super) fn answers_after_all(&self, now: Instant, worker: &WorkerState) {
        let (Some(outlier), Some(endpoint)) = (&self.cluster.shared.outlier, self.endpoint()) else { return };
        endpoint.state.outlier().answered_late(now);
        if let Some(changed) = outlier.acquit(endpoint.state.outlier(), now) {
            self.report_outlier(changed, worker, now);
        }
    }

    /// How many times the endpoint was ejected because it answered no request.
    pub(super) fn silences(&self) -> u32 {
        self.endpoint().map_or(0, |endpoint| endpoint.state.outlier().silences())
    }

    /// Whether the endpoint is ejected because it answers no request.
    pub(super) fn is_silent(&self) -> bool {
        let is_out = self.cluster.shared.outlier.is_some();
        is_out && self.endpoint().is_some_and(|endpoint| endpoint.state.outlier().is_silent())
    }

    /// Records that the response came whole.
    pub(super) fn completed(&self, worker: &WorkerState) {
        if self.is_answered {
            self.sign(Sign::Answered, worker.clock.coarse(), worker);
        }
    }

    /// Records that the endpoint broke off its response, or paused in it for too long.
    pub(super) fn broke_off(&self, now: Instant, worker: &WorkerState) {
        let settings = &self.cluster.shared.settings;
        if settings.policies.breaker.as_ref().is_some_and(|breaker| breaker.count.reset) {
            self.take_back(now, worker);
        }
        self.sign(Sign::GatewayFailed, now, worker);
    }

    /// Records the status with which a call ended in its trailers. Its head was a success.
    pub(super) fn ends_with(&mut self, status: StatusCode, worker: &WorkerState) {
        let deed = Deed::Answered(status);
        let now = worker.clock.coarse();
        if outcome(deed, &self.cluster) == Some(Outcome::Suspect) {
            self.take_back(now, worker);
        }
        if sign(deed) != Sign::Answered {
            self.is_answered = false;
            self.sign(sign(deed), now, worker);
        }
    }

    /// Counts the outcome of the head as a failure.
    fn take_back(&self, now: Instant, worker: &WorkerState) {
        if let (Some(breaker), Some(counted), Some(endpoint)) =
            (&self.cluster.shared.breaker, self.counted, self.endpoint())
        {
            let state = endpoint.state.breaker();
            if let Some(changed) = breaker.take_back(state, counted, now, || self.may_open(now)) {
                self.report_breaker(changed, worker, now);
            }
        }
    }

    fn endpoint(&self) -> Option<&LocalEndpoint> {
        self.cluster.endpoints.get(self.index)
    }

    /// Whether one more endpoint may be left out on evidence that is not proof.
    fn may_open(&self, now: Instant) -> bool {
        let shared = &self.cluster.shared;
        let max = shared.settings.policies.breaker.as_ref().map_or(0.0, |breaker| breaker.max_by_status);
        let endpoints = shared.endpoints.len();
        #[expect(clippy::cast_precision_loss, reason = "no cluster has 16 million endpoints")]
        let most = endpoints as f32 * max;
        #[expect(clippy::cast_precision_loss, reason = "no cluster has 16 million endpoints")]
        let would_be_out = (shared.out(self.index, now) + 1) as f32;
        would_be_out <= most
    }

    fn report_outlier(&self, changed: Change, worker: &WorkerState, now: Instant) {
        let (service, endpoint) = self.names();
        match changed {
            Change::Ejected { reason, failures, pause, ejections } => {
                let usual = (reason == Reason::Silence).then(|| usual(&self.cluster)).flatten();
                let usual = usual.map_or_else(String::new, |usual| {
                    // Whole milliseconds are easier to read.
                    let ms = usual.as_millis() + 1;
                    format!(" where {} % wait for less than {ms}ms", USUAL * 100.0)
                });
                let reason = reason.as_str();
                worker.metrics.count(Rare::Ejection, service, reason);
                let until = at(worker, now + pause);
                tracing::warn!(%service, %endpoint, reason, failures, ?pause, %until, ejections, "endpoint ejected");
                let text = format!(
                    "{service} {endpoint}: {failures} {} in a row{usual}; left out for {} until {until}, ejection {ejections}",
                    reason.replace('_', " "),
                    show_duration(pause),
                );
                worker.hint(Hint::Health { kind: "endpoint_ejected", text });
            }
            Change::Spared { reason } => {
                worker.metrics.count(Rare::EjectionSpared, service, reason.as_str());
            }
            Change::Returned { reason, proof } => {
                let (reason, proof) = (reason.as_str(), proof.as_str());
                tracing::info!(%service, %endpoint, reason, proof, "endpoint is back after its ejection");
                let text = format!("{service} {endpoint}: {proof} after {}", reason.replace('_', " "));
                worker.hint(Hint::Health { kind: "endpoint_returned", text });
            }
        }
    }

    fn report_breaker(&self, changed: Transition, worker: &WorkerState, now: Instant) {
        let (service, endpoint) = self.names();
        match changed {
            Transition::Opened(Opened { seen, open }) => {
                let until = at(worker, now + open);
                let cause = match seen {
                    Some(Seen { failures, requests, window }) => {
                        format!("{failures} of {requests} requests failed within {}", show_duration(window))
                    }
                    None => "a probe failed".to_owned(),
                };
                tracing::warn!(%service, %endpoint, %cause, ?open, %until, "circuit breaker opened");
                let open = show_duration(open);
                let text = format!("{service} {endpoint}: {cause}; open for {open} until {until}");
                worker.hint(Hint::Health { kind: "breaker_opened", text });
            }
            Transition::Closed => {
                tracing::info!(%service, %endpoint, "circuit breaker closed");
                let text = format!("{service} {endpoint}: the probes succeeded");
                worker.hint(Hint::Health { kind: "breaker_closed", text });
            }
            Transition::Spared(_) => worker.metrics.count(Rare::BreakerSpared, service, ""),
        }
    }

    fn names(&self) -> (&str, &str) {
        (&self.cluster.shared.name, self.endpoint().map_or("", |endpoint| &endpoint.instance))
    }
}

/// Watches over the time in which an endpoint has the whole request and has not answered. If it is dropped before
/// [`Waiting::over`], the client has given up.
pub(super) struct Waiting<'a> {
    pub(super) verdict: &'a RefCell<Verdict>,
    pub(super) worker: &'a WorkerState,
    /// The time since which the endpoint has had the whole request. `None`: it has not.
    pub(super) since: Cell<Option<Instant>>,
    pub(super) upload: Option<&'a Rc<Upload>>,
}

impl Waiting<'_> {
    /// Ends the watch, since the attempt has ended by itself.
    pub(super) fn over(&self) {
        self.since.set(None);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(since) = self.since.get() else { return };
        if let Ok(verdict) = self.verdict.try_borrow() {
            verdict.witness.cluster.metrics.borrow_mut().count(NO_ANSWER, 1);
            if let Some(endpoint) = verdict.witness.endpoint() {
                endpoint.metrics.borrow_mut().count(NO_ANSWER, 1);
            }
        }
        if self.upload.is_some_and(|upload| !upload.complete.get()) {
            return;
        }
        let now = self.worker.clock.now();
        let Ok(mut verdict) = self.verdict.try_borrow_mut() else { return };
        let answers_others =
            verdict.witness.endpoint().is_none_or(|one| one.state.outlier().has_answered_since(since));
        if now.saturating_duration_since(since) >= PATIENCE && !answers_others {
            if let Some(endpoint) = verdict.witness.endpoint() {
                endpoint.metrics.borrow_mut().fail("abandoned");
            }
            verdict.record(Deed::Abandoned, now, self.worker);
        }
    }
}

/// The status in metrics of an attempt without a response.
pub(super) const NO_ANSWER: u16 = 0;

/// Wall-clock time as people read it.
fn at(worker: &WorkerState, when: Instant) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + worker.clock.unix(when))
}

/// The outcome that the breaker records. `None`: it does not count this deed.
fn outcome(deed: Deed, cluster: &LocalCluster) -> Option<Outcome> {
    let count = &cluster.shared.settings.policies.breaker.as_ref()?.count;
    match deed {
        Deed::Answered(status) if count.has(status) => Some(Outcome::Suspect),
        Deed::Answered(_) => Some(Outcome::Success),
        // A refused connect costs nothing, and an endpoint that is back should be tried at once. If outlier detection counts
        // connects, it ejects the endpoint, and never ejects the last ones.
        Deed::ConnectFailed => {
            let is_outliers = cluster
                .shared
                .settings
                .policies
                .outlier
                .as_ref()
                .is_some_and(|o| o.connect_failures.is_some());
            (count.connect && !is_outliers).then_some(Outcome::Failure)
        }
        Deed::ConnectTimedOut => count.connect.then_some(Outcome::Failure),
        Deed::Reset => count.reset.then_some(Outcome::Failure),
        Deed::TimedOut => count.timeout.then_some(Outcome::Failure),
        Deed::Abandoned => count.timeout.then_some(Outcome::Suspect),
    }
}

fn sign(deed: Deed) -> Sign {
    match deed {
        Deed::ConnectFailed | Deed::ConnectTimedOut => Sign::ConnectFailed,
        Deed::Answered(status) => Sign::of(status),
        Deed::Reset | Deed::TimedOut | Deed::Abandoned => Sign::GatewayFailed,
    }
}

/// How long an endpoint must have answered no request before a client that gives up is evidence against it.
/// Shorter, and a client could blame it for being impatient.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nearly all requests of this worker to the service wait for less; `None`: there were too few of them.
pub(super) fn usual(cluster: &LocalCluster) -> Option<Duration> {
    let metrics = cluster.metrics.borrow();
    let known = metrics.duration.total() >= KNOWN_MIN;
    metrics.duration.quantile(USUAL).filter(|_| known)
}

/// Requests that this worker has sent to the service before their usual wait is taken for known.
const KNOWN_MIN: u64 = 20;
/// The share of requests whose wait is usual. If more than the rest are slow, the service is slow.
const USUAL: f64 = 0.95;
