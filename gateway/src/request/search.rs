//! The endpoint for a request's next attempt: which subset of the service, and which endpoint of it.
//!
//! Each endpoint is tried once in a request. Ejected endpoints are tried only when all others have been: an attempt
//! that costs an endpoint nothing (because its connect fails) is better than a failed request.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hash, Hasher},
    rc::Rc,
    time::Instant,
};

use rand::Rng;

use super::{error::Error, exchange::Exchange, picked::Picked, probe::admit_ejected};
use crate::{
    body::Upload,
    policy::retry::Spent,
    snapshot::{LocalCluster, LocalSnapshot, Route},
    upstream::{cluster::Absence, load_balancer::NoEndpoint},
    worker::WorkerState,
};

/// The route and the snapshot by which a request is sent.
pub(super) struct Plan<'a> {
    pub snapshot: &'a LocalSnapshot,
    pub route: &'a Route,
    pub worker: &'a Rc<WorkerState>,
}

impl<'a> Plan<'a> {
    /// The service's cluster, or that of the subset whose turn it is. All attempts of one request stay in it as long
    /// as they can.
    pub(super) fn cluster(&self, exchange: &Exchange) -> Option<&'a Rc<LocalCluster>> {
        let rng = &mut *exchange.worker().rng.borrow_mut();
        // If no subset can take the request, the error is that of the first one.
        let part = self.part(exchange.request.started, rng, |_| true);
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

/// The endpoints that a request has not tried yet: of one subset, then of another.
pub(super) struct Search<'a> {
    plan: &'a Plan<'a>,
    upload: Option<&'a Rc<Upload>>,
    /// The retries that the request will have used with the next attempt.
    pub(super) spent: Spent,
    /// The cluster that is searched now.
    cluster: &'a Rc<LocalCluster>,
    /// Indexes of endpoints in this cluster that the request has tried.
    tried: Vec<usize>,
    /// Clusters without an endpoint that can take another attempt.
    used_up: Vec<&'a Rc<LocalCluster>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        plan: &'a Plan<'a>,
        cluster: &'a Rc<LocalCluster>,
        upload: Option<&'a Rc<Upload>>,
    ) -> Self {
        Self { plan, upload, spent: Spent::default(), cluster, tried: Vec::new(), used_up: Vec::new() }
    }

    /// Whether the request goes to another endpoint if the next attempt fails, however the endpoint fails.
    fn outlasts_a_failure(&self, exchange: &Exchange) -> bool {
        let has_body =
            self.upload.is_none_or(|upload| upload.received.get().is_some() && upload.can_replay());
        has_body && self.plan.route.policies.retry.outlasts_a_failure(&exchange.request.method, self.spent)
    }

    /// Picks an endpoint for the first attempt.
    pub(super) fn first(
        &mut self,
        now: Instant,
        exchange: &Exchange,
        rng: &mut impl Rng,
    ) -> Result<Picked<'a>, Error> {
        let picked = self.pick(true, now, exchange, rng)?;
        // The cursor advances for first attempts only: a pick that leads to no attempt would skip an endpoint, and
        // with two endpoints always the same one.
        picked.cluster.cursor.borrow_mut().advance();
        Ok(picked)
    }

    /// Picks an endpoint that can take an attempt now, in this subset or in another one. The error has the reason of
    /// the last subset. `is_free`: the attempt costs nothing, so an ejected endpoint is better than none.
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
                    return pick(self, false, now, exchange, rng).map_err(|none| self.error_of(none));
                }
                result => return result.map_err(|none| self.error_of(none)),
            }
        }
    }

    pub(super) fn cluster(&self) -> &'a Rc<LocalCluster> {
        self.cluster
    }

    /// Excludes an endpoint from the search.
    pub(super) fn leave_out(&mut self, index: usize) {
        self.tried.push(index);
    }

    fn error_of(&self, none: NoEndpoint) -> Error {
        match none {
            NoEndpoint::AllBroken { retry_after } => Error::BreakerOpen { retry_after },
            NoEndpoint::Empty => Error::NoHealthyEndpoint(self.cluster.shared.absence.clone()),
            NoEndpoint::AllExcluded => Error::NoHealthyEndpoint(Absence::Tried),
        }
    }

    /// Moves the search to a subset that is not used up, if one can take the request.
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

/// An endpoint that the request has not tried, with its breaker's permit, and the right to probe if the endpoint was ejected and is due.
/// `heeds`: ejected endpoints are left out.
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
            && !admit_ejected(
                &mut picked,
                (now, exchange.worker()),
                || search.outlasts_a_failure(exchange),
                || search.plan.route.policies.timeout.apply(now).connect(now),
            )
        {
            excluded.to_mut().push(index);
            continue;
        }
        let Some(breaker) = health.breaker else { return Ok(picked) };
        match breaker.check(endpoint.state.clone(), now, || kind_of(search.plan.route, exchange)) {
            Ok(permit) => return Ok(Picked { permit: Some(permit), ..picked }),
            // Another worker took the last probe between pick and check. Another endpoint may still be free.
            Err(open) if excluded.len() + 1 >= cluster.endpoints.len() => {
                return Err(NoEndpoint::AllBroken { retry_after: open.retry_after });
            }
            Err(_) => excluded.to_mut().push(index),
        }
    }
}

/// One number for requests of one kind, that is, with the same route and path. It is never 0.
fn kind_of(route: &Route, exchange: &Exchange) -> u32 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    route.name.hash(&mut hasher);
    exchange.path().hash(&mut hasher);
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    // 0 stands for no kind.
    u32::from_le_bytes([a, b, c, d]) | 1
}
#[cfg(test)]
mod tests;
