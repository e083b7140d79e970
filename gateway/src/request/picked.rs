//! An endpoint that was picked for one attempt, with the breaker's permit and the right to probe.

use std::{rc::Rc, time::Instant};

use crate::{
    policy::{circuit_breaker::Permit, outlier::Probe},
    snapshot::{LocalCluster, LocalEndpoint},
    upstream::endpoint::StateHandle,
};

/// A breaker's permit.
pub(super) type BreakerPermit = Permit<StateHandle>;
/// The right to probe an ejected endpoint.
pub(super) type OutlierProbe = Probe<StateHandle>;

/// An endpoint for one attempt. Dropping it gives back the permit and the right to probe.
pub(super) struct Picked<'a> {
    /// The cluster of the endpoint.
    pub(super) cluster: &'a Rc<LocalCluster>,
    /// Index of the endpoint in the cluster.
    pub(super) index: usize,
    /// The endpoint itself.
    pub(super) endpoint: &'a LocalEndpoint,
    /// `None`: the service has no breaker.
    pub(super) permit: Option<BreakerPermit>,
    /// If there is one, the attempt decides whether the ejected endpoint returns.
    pub(super) probe: Option<OutlierProbe>,
}

impl Picked<'_> {
    /// Whether the endpoint would be picked at this later time, too. A probed endpoint is expected to be
    /// ejected or to have an open breaker.
    pub(super) fn still_takes(&self, now: Instant) -> bool {
        let shared = &self.cluster.shared;
        let Some(endpoint) = shared.endpoints.get(self.index) else { return false };
        self.probe.is_some()
            || self.permit.as_ref().is_some_and(BreakerPermit::is_probe)
            || (shared.health().is_closed(endpoint, now) && !shared.health().is_ejected(endpoint, now))
    }
}
