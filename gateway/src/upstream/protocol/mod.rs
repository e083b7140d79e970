//! The protocols of upstream connections: a closed set, behind a [`Lease`](super::pool::Lease).
//!
//! A request arrives here in one form, whatever the protocol is: with a target in origin form, `Host`, `Content-Length`
//! where the length of its body is known, and without hop-by-hop fields. The file of a protocol does everything else that
//! is specific to it: the version, how content is delimited, and when a connection can serve another request. Another
//! protocol is another file here, and another variant of [`Connection`].

pub(super) mod http1;

use std::{borrow::Cow, cell::Cell, rc::Rc};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use self::http1::Http1;
use super::sink::ResponseSink;
use crate::{body::RequestBody, headers::ResponseFraming};

/// A request that waits to be sent. `None` once bytes of it may have left. A failure before that leaves the request here,
/// so that the layers above need not return it.
pub type Unsent = Option<Request<RequestBody>>;

/// The head of a response, with a body that is still to come.
pub struct Answered {
    pub response: Response<Incoming>,
    pub framing: ResponseFraming,
}

/// The reason that a request has no response.
#[derive(Debug)]
pub enum SendError {
    /// The endpoint ended TLS with an alert. In TLS 1.3 an endpoint refuses a client's certificate in this way, after a
    /// handshake that was complete for the client (RFC 8446 §4.4.2.4, §6.2).
    Alert(String),
    /// The endpoint sent something that is not a response, or not one that may be forwarded. The text is the reason, for
    /// the log.
    Invalid(Cow<'static, str>),
    /// The connection has ended.
    Ended,
}

/// One connection to an endpoint. Dropping it closes it.
pub(super) enum Connection {
    Http1(Http1),
}

impl Connection {
    /// Starts the protocol over `io`, which need not be a socket, in a task of this worker. `large_reads` counts the
    /// worker's connections with large reads.
    pub(super) async fn open<I>(io: I, large_reads: &Rc<Cell<u64>>) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        Http1::open(io, large_reads).await.map(Self::Http1)
    }

    /// Whether the endpoint has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_closed(),
        }
    }

    /// Whether the connection can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_ready(),
        }
    }

    /// See [`Lease::send`](super::pool::Lease::send).
    pub(super) fn send<'a>(
        &'a mut self,
        request: Request<RequestBody>,
        unsent: &'a mut Unsent,
        sink: Option<ResponseSink>,
    ) -> impl Future<Output = Result<Answered, SendError>> + 'a {
        match self {
            Self::Http1(connection) => connection.send(request, unsent, sink),
        }
    }

    /// See [`Lease::client_took`](super::pool::Lease::client_took).
    pub(super) fn client_took(&mut self, bytes: u64) {
        match self {
            Self::Http1(connection) => connection.client_took(bytes),
        }
    }

    /// Ends a request of which nothing is left in the connection. Returns whether the connection can serve another one.
    pub(super) fn finish(&self, is_sent: bool) -> bool {
        match self {
            Self::Http1(connection) => connection.finish(is_sent),
        }
    }
}
