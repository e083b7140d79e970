//! The permit to send one request to an endpoint, with which the outcome of the request is recorded.

use std::{ops::Deref, time::Instant};

use super::{BreakerState, CircuitBreaker, Outcome, Transition};

/// The permit to send one request to an endpoint. A permit that is dropped without an outcome (the client left, or the
/// request never reached the endpoint) is not counted, and a probe's place is free again.
#[derive(Debug)]
#[must_use = "a permit that is dropped records nothing"]
pub struct Permit<S>
where
    S: Deref,
    S::Target: AsRef<BreakerState>,
{
    breaker: CircuitBreaker,
    state: S,
    epoch: u16,
    /// The kind of the request, if it is a probe.
    probe: Option<u32>,
    settled: bool,
}

impl<S> Permit<S>
where
    S: Deref,
    S::Target: AsRef<BreakerState>,
{
    pub(super) fn new(breaker: CircuitBreaker, state: S, epoch: u16, probe: Option<u32>) -> Self {
        Self { breaker, state, epoch, probe, settled: false }
    }

    /// Records the outcome, and returns the change of phase that it caused. `may_open` says whether one more endpoint may
    /// be out; it is called only where failures that are not proved would open the breaker.
    pub fn record(
        mut self,
        outcome: Outcome,
        now: Instant,
        may_open: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        self.settled = true;
        let state = (*self.state).as_ref();
        match self.probe {
            Some(kind) => self.breaker.settle(state, (self.epoch, kind), Some((outcome, now)), may_open),
            None => self.breaker.count(state, self.epoch, outcome, now, may_open),
        }
    }

    /// Whether the outcome of this request decides if the breaker closes.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Number of phase changes before this permit was given, modulo 2¹⁴.
    pub fn epoch(&self) -> u16 {
        self.epoch
    }
}

impl<S> Drop for Permit<S>
where
    S: Deref,
    S::Target: AsRef<BreakerState>,
{
    fn drop(&mut self) {
        if let (Some(kind), false) = (self.probe, self.settled) {
            self.breaker.settle((*self.state).as_ref(), (self.epoch, kind), None, || false);
        }
    }
}
