//! An endpoint that was picked for one attempt, and what it took to pick it.

use std::{rc::Rc, time::Instant};

use crate::{
    policy::{circuit_breaker::Permit, outlier::Probe},
    snapshot::{LocalCluster, LocalEndpoint},
    upstream::endpoint::StateHandle,
};

/// A breaker's permit, held by a count of this worker.
pub(super) type BreakerPermit = Permit<StateHandle>;
/// The right to probe an ejected endpoint.
pub(super) type OutlierProbe = Probe<StateHandle>;

/// An endpoint for one attempt. Dropping it gives back the permit and the right to probe.
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
