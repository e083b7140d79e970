//! Whether a cluster's breaker or outlier detector keeps requests away from an endpoint.

use std::time::Instant;

use super::endpoint::Endpoint;
use crate::policy::{
    circuit_breaker::{CircuitBreaker, State},
    outlier::OutlierDetector,
};

/// The protections that decide whether an endpoint takes a request. `None`: switched off.
#[derive(Debug, Clone, Copy)]
pub struct Health<'a> {
    pub breaker: Option<&'a CircuitBreaker>,
    pub outlier: Option<&'a OutlierDetector>,
}

impl Health<'_> {
    /// Whether the endpoint is ejected, and its probe is not due yet.
    pub fn is_ejected(&self, endpoint: &Endpoint, now: Instant) -> bool {
        let outlier = endpoint.state().outlier();
        self.outlier.is_some() && !outlier.is_in() && !outlier.is_due(now)
    }

    /// Whether the endpoint's breaker lets a request through.
    pub fn is_closed(&self, endpoint: &Endpoint, now: Instant) -> bool {
        self.breaker.is_none_or(|breaker| breaker.is_routable(endpoint.state().breaker(), now))
    }

    /// Whether the endpoint is ejected, or its breaker is not closed.
    pub(super) fn is_out(&self, endpoint: &Endpoint, now: Instant) -> bool {
        let state = endpoint.state();
        (self.outlier.is_some() && !state.outlier().is_in())
            || self.breaker.is_some_and(|breaker| breaker.state(state.breaker(), now) != State::Closed)
    }

    /// Whether so few endpoints are left that ejected ones are picked as well.
    pub fn is_panic(&self, endpoints: &[Endpoint], now: Instant) -> bool {
        let is_left = |endpoint: &&Endpoint| !self.is_out(endpoint, now);
        self.outlier.is_some_and(|outlier| {
            outlier.is_panic(endpoints.iter().filter(is_left).count(), endpoints.len())
        })
    }
}
