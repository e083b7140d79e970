//! An upstream connection that a request has, and what goes back with it.

use std::rc::Rc;

use super::verdict::Witness;
use crate::{
    body::Upload,
    policy::concurrency::Slot,
    snapshot::StateHandle,
    upstream::{
        endpoint::InFlight,
        pool::{Connection, EndpointPool},
    },
    worker::WorkerState,
};

/// A connection in use, and the guards that count the request. Dropping it closes the connection.
pub struct Lease {
    pub connection: Box<Connection>,
    pub pool: Rc<EndpointPool>,
    /// `None`: the request had no body.
    pub upload: Option<Rc<Upload>>,
    /// The response's framing allows another request on this connection.
    pub reusable: bool,
    pub endpoint: InFlight<StateHandle>,
    pub cluster: Option<Slot>,
    /// To be blamed if the response breaks off.
    pub(super) witness: Option<Witness>,
}

impl Lease {
    /// The response was read to its end.
    pub fn release(self, worker: &WorkerState) {
        if let Some(witness) = &self.witness {
            witness.completed(worker);
        }
        // RFC 9112 §9.3: a response that came before the whole request was sent leaves the connection unusable.
        let is_sent = self.upload.as_ref().is_none_or(|upload| upload.complete.get());
        if self.reusable && is_sent && self.connection.is_usable() {
            self.pool.checkin(self.connection);
        }
    }
}
