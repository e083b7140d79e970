//! The endpoint for a request's next attempt: which subset of the service, and which endpoint of it.
//!
//! Every endpoint is tried once in a request, and ejected ones only when no other is left: a request that costs an
//! endpoint nothing (its connect fails) is better tried there than failed.

use std::{borrow::Cow, rc::Rc, time::Instant};

use rand::Rng;

use super::{
    connect::{ConnectError, connect},
    load_balancer::NoEndpoint,
    verdict::{BreakerPermit, OutlierProbe, Verdict, kind_of},
};
use crate::{
    error::Error,
    exchange::Exchange,
    metrics::Rare,
    policy::outlier::{OutlierState, Reason},
    snapshot::{LocalCluster, LocalEndpoint, LocalSnapshot, Route},
    upstream::verdict::Deed,
    worker::WorkerState,
};

/// Where a request goes.
pub struct Plan<'a> {
    pub snapshot: &'a LocalSnapshot,
    pub route: &'a Route,
    pub worker: &'a Rc<WorkerState>,
}

impl<'a> Plan<'a> {
    /// The service, or the subset of it whose turn it is. Attempts of one request stay there as long as they can.
    pub(super) fn cluster(&self, exchange: &Exchange) -> Option<&'a Rc<LocalCluster>> {
        let rng = &mut *exchange.worker().rng.borrow_mut();
        // If no subset can take it, the first one says why.
        let part = self.part(exchange.started, rng, |_| true);
        part.or_else(|| self.snapshot.clusters.get(self.route.cluster?))
    }

    fn part(
        &self,
        now: Instant,
        rng: &mut impl Rng,
        is_allowed: impl Fn(&Rc<LocalCluster>) -> bool,
    ) -> Option<&'a Rc<LocalCluster>> {
        let (split, clusters) = (self.route.split.as_ref()?, &self.snapshot.clusters);
        let can_be_asked =
            |at: usize| clusters.get(at).is_some_and(|c| is_allowed(c) && c.shared.can_be_asked(now));
        clusters.get(split.pick(can_be_asked, rng)?)
    }
}

/// An endpoint for one attempt, and what it took to pick it.
pub(super) struct Picked<'a> {
    pub(super) cluster: &'a Rc<LocalCluster>,
    pub(super) index: usize,
    pub(super) endpoint: &'a LocalEndpoint,
    /// `None`: there is no breaker.
    pub(super) permit: Option<BreakerPermit>,
    /// The attempt decides whether the endpoint comes back.
    pub(super) probe: Option<OutlierProbe>,
}

impl Picked<'_> {
    /// Whether the endpoint would be picked at this later time, too. One that is probed is expected to be out.
    pub(super) fn still_takes(&self, now: Instant) -> bool {
        let shared = &self.cluster.shared;
        let Some(endpoint) = shared.endpoints.get(self.index) else { return false };
        self.probe.is_some()
            || self.permit.as_ref().is_some_and(BreakerPermit::is_probe)
            || (shared.health().is_closed(endpoint, now) && !shared.health().is_ejected(endpoint, now))
    }
}

/// The endpoints that a request has not tried yet: of one subset, then of another.
pub(super) struct Search<'a> {
    plan: &'a Plan<'a>,
    /// Where it is now.
    cluster: &'a Rc<LocalCluster>,
    /// Indexes of its endpoints.
    tried: Vec<usize>,
    used_up: Vec<&'a Rc<LocalCluster>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(plan: &'a Plan<'a>, cluster: &'a Rc<LocalCluster>) -> Self {
        Self { plan, cluster, tried: Vec::new(), used_up: Vec::new() }
    }

    /// An endpoint for the first attempt.
    pub(super) fn first(
        &mut self,
        now: Instant,
        exchange: &Exchange,
        rng: &mut impl Rng,
    ) -> Result<Picked<'a>, Error> {
        let picked = self.pick(true, now, exchange, rng)?;
        // Only first attempts take turns: a pick that leads to no attempt would skip an endpoint, and of two endpoints
        // always the same one.
        picked.cluster.cursor.borrow_mut().advance();
        Ok(picked)
    }

    /// An endpoint that can take an attempt now, in this subset or in another one. The error says why none of the last
    /// one can. `is_free`: the attempt costs nothing, so an ejected endpoint is better than none.
    pub(super) fn pick(
        &mut self,
        is_free: bool,
        now: Instant,
        exchange: &Exchange,
        rng: &mut impl Rng,
    ) -> Result<Picked<'a>, Error> {
        loop {
            match pick(self, true, now, exchange, rng) {
                Err(_) if self.go_elsewhere(now, rng) => {}
                Err(NoEndpoint::AllExcluded) if is_free => {
                    return pick(self, false, now, exchange, rng).map_err(error_of);
                }
                result => return result.map_err(error_of),
            }
        }
    }

    pub(super) fn cluster(&self) -> &'a Rc<LocalCluster> {
        self.cluster
    }

    /// Leaves an endpoint out from now on.
    pub(super) fn leave_out(&mut self, index: usize) {
        self.tried.push(index);
    }

    /// To a subset that was not used up, if one can take the request.
    fn go_elsewhere(&mut self, now: Instant, rng: &mut impl Rng) -> bool {
        let is_new = |cluster: &Rc<LocalCluster>| {
            let mut known = self.used_up.iter().chain([&self.cluster]);
            !known.any(|known| Rc::ptr_eq(known, cluster))
        };
        let Some(other) = self.plan.part(now, rng, is_new) else { return false };
        self.used_up.push(self.cluster);
        self.cluster = other;
        self.tried.clear();
        true
    }
}

fn error_of(none: NoEndpoint) -> Error {
    match none {
        NoEndpoint::AllBroken { retry_after } => Error::BreakerOpen { retry_after },
        NoEndpoint::Empty | NoEndpoint::AllExcluded => Error::NoHealthyEndpoint,
    }
}

/// An endpoint that has not been tried, its breaker's permit, and the probe if it is one. `heeds`: ejections count.
fn pick<'a>(
    search: &Search<'a>,
    heeds: bool,
    now: Instant,
    exchange: &Exchange,
    rng: &mut impl Rng,
) -> Result<Picked<'a>, NoEndpoint> {
    let cluster = search.cluster;
    let shared = &cluster.shared;
    let mut health = shared.health();
    if !heeds {
        health.outlier = None;
    }
    let mut turn = *cluster.cursor.borrow();
    let mut excluded = Cow::Borrowed(&*search.tried);
    loop {
        let endpoints = (&*shared.endpoints, health);
        let index = shared.balancer.pick(endpoints, &mut turn, &excluded, now, rng)?;
        let endpoint = cluster.endpoints.get(index).ok_or(NoEndpoint::Empty)?;
        let mut picked = Picked { cluster, index, endpoint, permit: None, probe: None };
        if health.outlier.is_some()
            && !endpoint.state.outlier().is_in()
            && !admit_ejected(&mut picked, now, exchange, search)
        {
            excluded.to_mut().push(index);
            continue;
        }
        let Some(breaker) = health.breaker else { return Ok(picked) };
        match breaker.check(endpoint.state.clone(), now, || kind_of(exchange)) {
            Ok(permit) => return Ok(Picked { permit: Some(permit), ..picked }),
            // Between pick and check another worker took the last probe: another endpoint may still be free.
            Err(open) if excluded.len() + 1 >= cluster.endpoints.len() => {
                return Err(NoEndpoint::AllBroken { retry_after: open.retry_after });
            }
            Err(_) => excluded.to_mut().push(index),
        }
    }
}

/// May an ejected endpoint that was picked have this request? If its pause is over and requests had failed, the request is
/// its probe; if connects had failed, a connect is made beside the request. Else it was picked because too few are left.
fn admit_ejected(picked: &mut Picked<'_>, now: Instant, exchange: &Exchange, search: &Search<'_>) -> bool {
    let probe = OutlierState::probe(picked.endpoint.state.clone(), now);
    match probe {
        Some(probe) if probe.reason() == Reason::Connect => {
            probe_connect(picked, probe, now, exchange, search);
            false
        }
        Some(probe) => {
            picked.probe = Some(probe);
            true
        }
        None => {
            let shared = &picked.cluster.shared;
            let is_panic = shared.health().is_panic(&shared.endpoints, now);
            if is_panic {
                exchange.worker().metrics.count(Rare::PanicPick, &shared.name, "");
            }
            is_panic
        }
    }
}

/// Connects in a task of this worker: no request waits for an endpoint that is most likely still gone.
fn probe_connect(
    picked: &Picked<'_>,
    probe: OutlierProbe,
    now: Instant,
    exchange: &Exchange,
    search: &Search<'_>,
) {
    let (pool, worker) = (Rc::clone(&picked.endpoint.pool), Rc::clone(exchange.worker()));
    let deadline = search.plan.route.timeouts.apply(now).connect(now);
    let picked = Picked { probe: Some(probe), permit: None, ..*picked };
    let mut verdict = Verdict::new(picked);
    tokio::task::spawn_local(async move {
        let connected = connect(&pool, deadline, now).await;
        let now = worker.clock.now();
        match connected {
            Ok(connection) => {
                verdict.witness.connected(now, &worker);
                pool.checkin(connection);
            }
            // This machine's trouble; the endpoint stays where it was, until its next probe.
            Err(ConnectError::Exhausted(_)) => {}
            Err(_) => verdict.record(Deed::ConnectFailed, now, &worker),
        }
    });
}
