//! Attempts: endpoint, connection, request, response head, outcome; and again where that is safe.
//!
//! Attempt 1 is not a retry. A retry goes to another endpoint, needs the retry policy's consent and its budget,
//! and never repeats a request whose body has begun to move. What an attempt takes (in-flight counts, breaker
//! permit, connection) is given back by `Drop`, so a client that goes away needs no code here. Which endpoint an
//! attempt goes to is decided in [`super::search`], one send and what its failure means in [`super::send`].

use std::{rc::Rc, time::Duration};

use http::{HeaderValue, Request, header};

use super::{
    endpoint::Endpoint,
    search::{Plan, Search},
    send::{Answered, Attempt},
    spare::Spare,
};
use crate::{
    body::{RequestBody, Upload},
    config::settings::UpstreamHost,
    error::Error,
    exchange::Exchange,
    metrics::Rare,
    policy::{
        retry::{Failure, NoRetry, Phase},
        timeout::Deadline,
    },
    snapshot::LocalCluster,
};

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
    let in_flight = cluster.shared.concurrency.check(&exchange.holder())?;
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
