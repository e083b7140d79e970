//! What every request of one connection shares.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use http::HeaderValue;

use crate::{
    admission::{Arrival, Scheme},
    downstream::ConnectionState,
    message::Authority,
    policy::concurrency::Held,
    worker::WorkerState,
};

/// A client's connection, with what all of its requests share.
pub struct ConnectionContext {
    pub worker: Rc<WorkerState>,
    pub peer: SocketAddr,
    /// The peer's address as a header value, made once.
    pub peer_text: HeaderValue,
    pub scheme: Scheme,
    /// Of the last request; the next one nearly always has the same.
    pub authority: RefCell<Option<Rc<Authority>>>,
    pub state: Rc<ConnectionState>,
    /// Slots of services that its requests have.
    pub held: Rc<Held>,
}

impl ConnectionContext {
    pub(crate) fn arrival(&self, peer_is_trusted: bool) -> Arrival {
        Arrival { scheme: self.scheme, peer_is_trusted }
    }

    /// Whether it ends with what is in flight.
    pub(crate) fn is_closing(&self) -> bool {
        self.worker.draining.get() || self.state.close.get()
    }
}
