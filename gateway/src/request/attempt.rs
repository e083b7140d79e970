//! Attempts at a request: endpoint, connection, request, response head, outcome, and a retry if that is safe.
//!
//! Attempt 1 is not a retry. [`crate::policy::retry::Retry::check`] alone decides whether another attempt follows; it picks the
//! endpoint before it charges anything. A response that may be retried is kept meanwhile: the client gets it if no better one
//! comes. No attempt follows once a byte of a response went to the client. The values that an attempt takes (in-flight counts,
//! breaker permit, connection) are given back by `Drop`, so a client that goes away needs no code here. [`super::search`] picks
//! the endpoint of an attempt, [`super::send`] makes one send and classifies its failure, [`crate::request::verdict`] decides what
//! that proves against the endpoint.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::Method;

use super::{
    error::Error,
    exchange::Exchange,
    picked::Picked,
    search::{Plan, Search},
    send::{AnswerSlot, Attempt, Sent},
    verdict::Witness,
};
use crate::{
    access_log::Outcome,
    body::{RequestBody, Upload},
    metrics::Rare,
    policy::rewrite::UpstreamHost,
    policy::{
        retry::{Failure, Next, NoRetry, Phase, Retry, Spent},
        timeout::Deadline,
    },
    upstream::{
        cluster::Absence,
        protocol::{Answered, UpstreamRequest},
    },
};

/// Sends the request until an endpoint answers or no further attempt is allowed. The response is put into `answer`; the exchange
/// gets the connection and the guards of the answered request. `upload` is the request's body, if it has one.
pub(super) async fn run(
    plan: &Plan<'_>,
    request: &mut UpstreamRequest,
    answer: &mut AnswerSlot,
    upload: Option<&Rc<Upload>>,
    exchange: &mut Exchange,
) -> Result<(), Error> {
    let worker = plan.worker;
    let cluster = plan.cluster(exchange).ok_or(Error::NoHealthyEndpoint(Absence::Tried))?;
    // Also for a request that finds no endpoint.
    exchange.attempts.subset.clone_from(&cluster.subset);
    let mut search = Search::new(plan, cluster, upload);
    let in_flight = cluster.shared.concurrency.check(&exchange.holder())?;
    if let Some(upload) = upload {
        upload.take_place(&cluster.shared.concurrency)?;
    }
    cluster.shared.retry_budget.deposit();
    let deadline = plan.route.policies.timeout.apply(exchange.ready).at_latest(exchange.request.call_ends());
    let retries = &plan.route.policies.retry;
    let mut picked = search.first(exchange.ready, exchange, &mut *worker.rng.borrow_mut())?;
    let (mut now, mut spent) = (exchange.ready, Spent::default());
    // The response that the client gets if no better one comes.
    let mut kept: Option<(Option<Answered>, Sent, Witness)> = None;
    let error = loop {
        let (index, cluster, endpoint) = (picked.index, picked.cluster, picked.endpoint);
        exchange.attempts.begins(cluster, endpoint);
        if plan.route.upstream_host() == Some(&UpstreamHost::Instance) {
            request.head.set_host(&endpoint.authority);
        }
        request.call_left = deadline.latest().map(|latest| latest.saturating_duration_since(now));
        request.repeats = repeats(upload, &exchange.request.method, retries, spent);
        // A probe leaves time for another attempt, if there can be one.
        let is_probe = picked.probe.is_some();
        let given = if request.repeats && is_probe { deadline.of_a_probe() } else { deadline };
        let attempt = Attempt::new(picked, given, (now, request.repeats), upload, worker);
        let result = attempt.run(request, answer, exchange).await;
        let (phase, error) = match result {
            Ok(reply) => {
                let status = reply.status;
                let is_final = !retries.may_follow_status(status, is_probe);
                exchange.attempts.ends(Outcome::Answered(status.as_u16()), is_final);
                let witness = attempt.into_witness();
                // Most requests end here.
                if is_final {
                    reply.answers(witness, in_flight, exchange);
                    return Ok(());
                }
                kept = Some((answer.take(), reply, witness));
                (Phase::Status(status), None)
            }
            Err(failed) => {
                exchange.attempts.ends(Outcome::Failed(failed.reason()), false);
                (failed.phase, Some(failed.error))
            }
        };
        if !restore(request, upload, phase) {
            break error;
        }
        now = worker.clock.now();
        let left = left(&deadline, upload, now);
        let failed = (phase, index, is_probe);
        let Some(next) = follow(plan, &mut search, failed, spent, (left, now), exchange) else { break error };
        let Some((next, at)) = rested(next, &mut search, now, exchange).await else { break error };
        (picked, spent, now) = (next.to, next.spent, at);
    };
    match kept {
        Some((answered, reply, witness)) => {
            *answer = answered;
            reply.answers(witness, in_flight, exchange);
            Ok(())
        }
        None => Err(error.unwrap_or(Error::Internal)),
    }
}

/// The next attempt after its pause, and the time at which it begins. `None`: no endpoint can take it any more.
async fn rested<'a>(
    mut next: Next<Picked<'a>>,
    search: &mut Search<'a>,
    now: Instant,
    exchange: &Exchange,
) -> Option<(Next<Picked<'a>>, Instant)> {
    if next.pause.is_zero() {
        return Some((next, now));
    }
    tokio::time::sleep(next.pause).await;
    let worker = exchange.worker();
    let now = worker.clock.now();
    // The endpoint that could take the attempt before the pause may be ejected or its breaker open by now; another one is picked
    // then.
    if !next.to.still_takes(now) {
        next.to = search.pick(false, now, exchange, &mut *worker.rng.borrow_mut()).ok()?;
    }
    Some((next, now))
}

/// Whether a request of which bytes were sent may be sent again.
fn repeats(upload: Option<&Rc<Upload>>, method: &Method, retries: &Retry, spent: Spent) -> bool {
    upload.is_none_or(|upload| upload.can_replay()) && retries.may_repeat(method, spent)
}

/// Gives the request its body again, from its first byte on. False: bytes of the request were sent, and it may not be sent
/// again, or some of its body is not kept any more.
fn restore(request: &mut UpstreamRequest, upload: Option<&Rc<Upload>>, phase: Phase) -> bool {
    // What was not processed may be sent again, whatever it does, if it is there.
    let was_refused = phase == Phase::Refused && upload.is_none_or(|upload| upload.can_replay());
    if request.body.is_none() && (request.repeats || was_refused) {
        request.body = match upload {
            Some(upload) => upload.replay(),
            None => Some(RequestBody::default()),
        };
    }
    request.body.is_some()
}

/// The rest of the request's `timeout.total`, which runs from the moment at which the whole request has been received.
fn left(deadline: &Deadline, upload: Option<&Rc<Upload>>, now: Instant) -> Duration {
    let deadline = match upload.map(|upload| upload.received.get()) {
        Some(Some(at)) => deadline.received(at),
        Some(None) => deadline.received(now),
        None => *deadline,
    };
    deadline.at().saturating_duration_since(now)
}

/// The attempt after one that failed at `index`, if there may be one.
fn follow<'a>(
    plan: &Plan<'_>,
    search: &mut Search<'a>,
    (phase, index, is_probe): (Phase, usize, bool),
    spent: Spent,
    (left, now): (Duration, Instant),
    exchange: &Exchange,
) -> Option<Next<Picked<'a>>> {
    let worker = exchange.worker();
    let cluster = search.cluster();
    if phase == Phase::ReusedConnectionClosed {
        // The close proves nothing about the endpoint, which may be tried again; but its other idle connections are as old.
        cluster.endpoints.get(index)?.pool.clear_idle();
    } else {
        search.leave_out(index);
    }
    let failure = Failure { phase, method: &exchange.request.method, body_is_replayable: true, is_probe };
    let mut rng = worker.rng.borrow_mut();
    let budget = &cluster.shared.retry_budget;
    let is_free = matches!(phase, Phase::Connect | Phase::Refused);
    search.spent = Spent { charged: spent.charged + u32::from(!is_free), ..spent };
    let pick = |rng: &mut _| search.pick(is_free, now, exchange, rng).ok();
    match plan.route.policies.retry.check(&failure, spent, left, budget, &mut *rng, pick) {
        Ok(next) => {
            worker.metrics.count(Rare::Retry, &cluster.shared.name, phase.reason());
            Some(next)
        }
        Err(NoRetry::BudgetExhausted) => {
            worker.metrics.count(Rare::RetryBudgetExhausted, &cluster.shared.name, "");
            None
        }
        Err(NoRetry::NotRetryable | NoRetry::RetriesUsed | NoRetry::NoEndpoint | NoRetry::OutOfTime) => None,
    }
}
