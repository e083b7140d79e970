//! Leave to ask an endpoint, which learns what became of it.

use std::{ops::Deref, time::Instant};

use super::{BreakerState, CircuitBreaker, Outcome, Transition};

/// Leave to ask an endpoint once. Dropped without an outcome (the client left, or the request never reached
/// the endpoint) it counts for nothing, and a probe's place is free again.
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
    /// A probe, by a request of this kind.
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

    /// Learns the outcome. Says when that changed the phase. `may_open` is asked where failures that are not proved would
    /// open the breaker: may one more endpoint be out?
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

    /// The request decides whether the breaker closes.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Phase changes before this permit was given.
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
