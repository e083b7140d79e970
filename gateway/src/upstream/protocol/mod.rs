//! What is spoken with an endpoint over one connection: a closed set, behind a [`Lease`](super::pool::Lease).
//!
//! A request comes here in one form, whatever the protocol is: a target in origin form; `Host`; `Content-Length` where the
//! length of its body is known; and no other field that ends at this hop. All that a protocol makes of it is in the
//! protocol's own file: the version, how content is delimited, when a connection can serve another request. Another
//! protocol is another file here, and another variant of [`Connection`].

#[cfg(test)]
mod http1;
pub(super) mod hyper_http1;

use std::{borrow::Cow, cell::Cell, rc::Rc};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use self::hyper_http1::HyperHttp1;
use super::sink::ResponseSink;
use crate::{body::RequestBody, headers::ResponseFraming};

/// A request that waits to be sent. Empty once bytes of it may have left; a failure before that leaves it here, so that
/// nothing needs to be handed back through the layers that it went down.
pub type Unsent = Option<Request<RequestBody>>;

/// The head of a response, with a body that is still to come.
pub struct Answered {
    pub response: Response<Incoming>,
    pub framing: ResponseFraming,
}

/// Why a request that was sent has no response.
#[derive(Debug)]
pub enum SendError {
    /// The endpoint ended TLS with an alert. In TLS 1.3 that is how it refuses our certificate, after a handshake that was
    /// over for us (RFC 8446 §4.4.2.4, §6.2).
    Alert(String),
    /// What came is not a response that may be passed on; the reason is for the log.
    Invalid(Cow<'static, str>),
    /// The connection has ended.
    Ended,
}

/// One connection to an endpoint. Dropping it closes it.
pub(super) enum Connection {
    HyperHttp1(HyperHttp1),
}

impl Connection {
    /// Begins to speak over `io`, which need not be a socket, in a task of this worker. `large_reads` counts the worker's
    /// connections with large reads.
    pub(super) async fn open<I>(io: I, large_reads: &Rc<Cell<u64>>) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        HyperHttp1::open(io, large_reads).await.map(Self::HyperHttp1)
    }

    /// The endpoint has closed it.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::HyperHttp1(connection) => connection.is_closed(),
        }
    }

    /// It can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::HyperHttp1(connection) => connection.is_ready(),
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
            Self::HyperHttp1(connection) => connection.send(request, unsent, sink),
        }
    }

    /// See [`Lease::client_took`](super::pool::Lease::client_took).
    pub(super) fn client_took(&mut self, bytes: u64) {
        match self {
            Self::HyperHttp1(connection) => connection.client_took(bytes),
        }
    }

    /// A request is over, of which nothing is left in the connection. Returns whether it can serve another one.
    pub(super) fn finish(&self, is_sent: bool) -> bool {
        match self {
            Self::HyperHttp1(connection) => connection.finish(is_sent),
        }
    }
}
