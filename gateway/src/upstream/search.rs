//! The endpoint for a request's next attempt: which subset of the service, and which endpoint of it.

use std::{borrow::Cow, rc::Rc, time::Instant};

use super::load_balancer::NoEndpoint;
use crate::{
    error::Error,
    exchange::Exchange,
    policy::circuit_breaker::Permit,
    snapshot::{LocalCluster, LocalEndpoint, LocalSnapshot, Route, StateHandle},
};

/// Where a request goes.
pub struct Plan<'a> {
    pub snapshot: &'a LocalSnapshot,
    pub route: &'a Route,
}

impl<'a> Plan<'a> {
    /// The service, or the subset of it whose turn it is. Attempts of one request stay there as long as they can.
    pub(super) fn cluster(&self, exchange: &Exchange) -> Option<&'a Rc<LocalCluster>> {
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

/// A breaker's permit, held by a count of this worker.
pub(super) type BreakerPermit = Permit<StateHandle>;

/// Whom a request has not asked yet: endpoints of one subset, then of another.
pub(super) struct Search<'a> {
    plan: &'a Plan<'a>,
    /// Where it is now.
    pub(super) cluster: &'a Rc<LocalCluster>,
    /// Indexes of its endpoints.
    tried: Vec<usize>,
    used_up: Vec<&'a Rc<LocalCluster>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(plan: &'a Plan<'a>, cluster: &'a Rc<LocalCluster>) -> Self {
        Self { plan, cluster, tried: Vec::new(), used_up: Vec::new() }
    }

    /// Somebody who can be asked now, in this subset or else in another one. The error is why nobody of the last can.
    pub(super) fn pick(&mut self, now: Instant, exchange: &Exchange) -> Result<Picked<'a>, Error> {
        loop {
            match pick(self.cluster, &self.tried, now, exchange) {
                Err(_) if self.go_elsewhere(now, exchange) => {}
                result => return result,
            }
        }
    }

    /// Leaves an endpoint out from now on. `false`: there is nobody else.
    pub(super) fn leave_out(&mut self, index: usize, exchange: &Exchange) -> bool {
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
pub(super) type Picked<'a> = (usize, &'a LocalEndpoint, Option<BreakerPermit>);

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
