//! What a request that was answered has taken, until its response is over.

use std::rc::Rc;

use super::verdict::Witness;
use crate::{
    body::Upload,
    policy::concurrency::Slot,
    upstream::{
        endpoint::{InFlight, StateHandle},
        pool::Lease,
    },
    worker::WorkerState,
};

/// The connection that the response comes by, and the guards that count the request. Dropping it closes the connection.
pub struct Taken {
    pub lease: Lease,
    /// `None`: the request had no body.
    pub upload: Option<Rc<Upload>>,
    pub endpoint: InFlight<StateHandle>,
    pub cluster: Option<Slot>,
    /// To be blamed if the response breaks off.
    pub(super) witness: Option<Witness>,
}

impl Taken {
    /// The response was read to its end.
    pub fn release(self, worker: &WorkerState) {
        if let Some(witness) = &self.witness {
            witness.completed(worker);
        }
        let is_sent = self.upload.as_ref().is_none_or(|upload| upload.complete.get());
        self.lease.release(is_sent);
    }

    /// The endpoint broke off its response, or paused in it for too long.
    pub fn broke_off(&self, worker: &WorkerState) {
        if let Some(witness) = &self.witness {
            witness.broke_off(worker.clock.now(), worker);
        }
    }
}
