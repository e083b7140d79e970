//! A connection in use, and how it comes back to its pool.

use std::{rc::Rc, time::Instant};

use super::EndpointPool;
use crate::{
    file_account::Place,
    upstream::{
        protocol::{Answered, Connection, SendError, Unsent},
        sink::ResponseSink,
        timer::Timer,
    },
};

/// An open connection. Boxed once: it goes from the pool to a request and back with each of them.
pub(super) struct Pooled {
    pub(super) connection: Connection,
    /// Bounds the wait for each response head.
    timer: Timer,
    pub(super) at: Instant,
    is_reused: bool,
    /// In the account of files; `None`: not a socket.
    _place: Option<Place>,
}

/// A connection that one request has. Dropping it closes the connection; [`Lease::release`] gives it back to its pool.
pub struct Lease {
    opened: Box<Pooled>,
    pool: Rc<EndpointPool>,
}

impl Lease {
    /// A new connection that was opened at `at`.
    pub(in crate::upstream) fn new(
        connection: Connection,
        place: Option<Place>,
        at: Instant,
        pool: Rc<EndpointPool>,
    ) -> Self {
        let opened = Pooled { connection, timer: Timer::default(), at, is_reused: false, _place: place };
        Self { opened: Box::new(opened), pool }
    }

    pub(super) fn of_idle(mut opened: Box<Pooled>, pool: Rc<EndpointPool>) -> Self {
        opened.is_reused = true;
        Self { opened, pool }
    }

    /// Whether the connection has served a request before. Then a failure may only mean that the endpoint had closed it
    /// meanwhile.
    pub fn is_reused(&self) -> bool {
        self.opened.is_reused
    }

    /// Sends the request in `unsent`. The future's output is its response, whose body is still to come, or why there is none;
    /// the timer bounds the wait for it. The request is in `unsent` again after a failure before a byte of it was written.
    /// `sink`: where informational responses go.
    pub fn send<'a>(
        &'a mut self,
        unsent: &'a mut Unsent,
        sink: Option<ResponseSink>,
    ) -> (impl Future<Output = Result<Answered, SendError>> + 'a, &'a mut Timer) {
        let Pooled { connection, timer, .. } = &mut *self.opened;
        (connection.send(unsent, sink), timer)
    }

    /// The client's connection has taken so many bytes of response bodies so far. A client that has proved to read gets
    /// large reads.
    pub fn client_took(&mut self, bytes: u64) {
        self.opened.connection.client_took(bytes);
    }

    /// The response was read to its end. `is_sent`: so was the request. If the connection can serve another one, it goes
    /// back to its pool.
    pub fn release(mut self, is_sent: bool) {
        if self.opened.connection.finish(is_sent) {
            self.pool.checkin(self.opened);
        }
    }
}
