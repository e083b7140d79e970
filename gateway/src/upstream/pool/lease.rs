//! A connection in use, and its return to the pool.

use std::{rc::Rc, time::Instant};

use super::EndpointPool;
use crate::{
    file_account::Place,
    proxy_protocol::Hop,
    upstream::{
        protocol::{
            Answered, Connection, SendError, UpstreamRequest,
            http2::{Http2Stream, connection::SharedConnection},
        },
        sink::ResponseSink,
        timer::Timer,
    },
};

/// An open connection. It is boxed once, because it moves from the pool to a request and back for each of them.
pub(super) struct Pooled {
    pub(super) connection: Connection,
    /// Bounds the wait for each response head.
    timer: Timer,
    pub(super) at: Instant,
    is_reused: bool,
    /// The client whose address stands in front of the connection. `None`: none does, or the gateway's own.
    pub(super) client: Option<Hop>,
    /// The place in the account of files. `None`: it is not a socket.
    _place: Option<Place>,
}

/// A connection that one request uses. Dropping the lease closes the connection; [`Lease::release`] returns it to its
/// pool.
pub struct Lease {
    opened: Box<Pooled>,
    pool: Rc<EndpointPool>,
}

impl Lease {
    /// A new connection, opened at `at`.
    pub(in crate::upstream) fn new(
        connection: Connection,
        place: Option<Place>,
        at: Instant,
        (pool, client): (Rc<EndpointPool>, Option<Hop>),
    ) -> Self {
        let opened =
            Pooled { connection, timer: Timer::default(), at, is_reused: false, client, _place: place };
        Self { opened: Box::new(opened), pool }
    }

    /// A place on a connection of HTTP/2.
    pub(in crate::upstream) fn of_shared(connection: &Rc<SharedConnection>, pool: Rc<EndpointPool>) -> Self {
        let (at, is_reused) = (connection.opened, connection.has_served());
        let stream = Connection::Http2(Http2Stream::on(connection));
        let client = connection.client;
        let opened =
            Pooled { connection: stream, timer: Timer::default(), at, is_reused, client, _place: None };
        Self { opened: Box::new(opened), pool }
    }

    pub(super) fn of_idle(mut opened: Box<Pooled>, pool: Rc<EndpointPool>) -> Self {
        opened.is_reused = true;
        Self { opened, pool }
    }

    /// Whether the connection has served a request before. Then a failure may only mean that the endpoint has closed it
    /// meanwhile.
    pub fn is_reused(&self) -> bool {
        self.opened.is_reused
    }

    /// Sends the request. The future returns the response, whose body is still to come, or the error; the caller bounds the wait
    /// with the timer. After a failure before any byte of it was written, the request still has its body. `sink` receives
    /// informational responses.
    pub fn send<'a>(
        &'a mut self,
        request: &'a mut UpstreamRequest,
        sink: Option<ResponseSink>,
    ) -> (impl Future<Output = Result<Answered, SendError>> + 'a, &'a mut Timer) {
        let Pooled { connection, timer, .. } = &mut *self.opened;
        (connection.send(request, sink), timer)
    }

    /// Reports how many bytes of response bodies the client's connection has taken so far. Once a client has proved that
    /// it reads, reads for it are large.
    pub fn client_took(&mut self, bytes: u64) {
        self.opened.connection.client_took(bytes);
    }

    /// Logs that the endpoint sent what cannot be forwarded, at most once in ten seconds for an endpoint.
    pub fn log_refused(&self, reason: &str, now: Instant) {
        self.pool.log_refused(reason, now);
    }

    /// Ends a request whose response was read to its end. `is_sent`: the request was sent to its end, too. If the
    /// connection can serve another request, it returns to its pool.
    pub fn release(mut self, is_sent: bool) {
        if self.opened.connection.finish(is_sent) {
            self.pool.checkin(self.opened);
        }
    }
}
