//! The values that an answered request has taken, until its response is over.

use super::verdict::Witness;
use crate::{
    policy::concurrency::Slot,
    upstream::{
        endpoint::{InFlight, StateHandle},
        pool::Lease,
    },
    worker::WorkerState,
};

/// The connection from which the response comes, and the guards that count the request. Dropping it closes the
/// connection.
pub(super) struct Taken {
    pub(super) lease: Lease,
    pub(super) _endpoint: InFlight<StateHandle>,
    /// The slot of the service.
    pub(super) slot: Option<Slot>,
    /// Blames the endpoint if the response breaks off.
    pub(super) witness: Witness,
}

impl Taken {
    /// Gives all of it back after the response was read to its end. `is_sent`: the request was sent to its end, too.
    pub(super) fn release(self, is_sent: bool, worker: &WorkerState) {
        self.witness.completed(worker);
        self.lease.release(is_sent);
    }

    /// The endpoint broke off its response, or paused in it for too long.
    pub(super) fn broke_off(&self, worker: &WorkerState) {
        self.witness.broke_off(worker.clock.now(), worker);
    }
}
