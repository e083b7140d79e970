//! The protocols of upstream connections: a closed set, behind a [`Lease`](super::pool::Lease).
//!
//! A request arrives here in one form, whatever the protocol is: as the head that an HTTP/1.1 service gets, and its body. The
//! file of a protocol does everything else that is specific to it: how content is cut, and when a connection can serve another
//! request. Another protocol is another file here, and another variant of [`Connection`].

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod differential;
mod http1;
pub(super) mod http2;

use std::{
    borrow::Cow,
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::http1::FailedWrite;
pub use self::http1::SwitchedConnection;
use self::{
    http1::{Http1, Http1Content, RequestContent},
    http2::{Http2Content, Http2Stream},
};
use super::sink::ResponseSink;
use crate::{
    body::RequestBody,
    headers::{RequestHead, ResponseFraming},
};

/// A request on its way to a service. It stays with its owner, so that each attempt sends the same head.
pub struct UpstreamRequest<B = RequestBody> {
    pub head: RequestHead,
    /// `None` once bytes of the request may have left. A failure before that leaves the body here.
    pub body: Option<B>,
    /// The request may be sent again after bytes of it have left. Otherwise the head is freed when it was sent.
    pub repeats: bool,
    /// What is left of the deadline of a gRPC call. `None`: the request is none, or has none.
    pub call_left: Option<Duration>,
    /// Bytes of the informational responses to it, in all attempts.
    pub(super) informational_bytes: usize,
    /// An empty map. Its memory is used for the fields of the response.
    memory: HeaderMap,
}

impl<B> UpstreamRequest<B> {
    /// `memory` is an empty map.
    pub fn new(head: RequestHead, body: B, memory: HeaderMap) -> Self {
        Self { head, body: Some(body), repeats: true, call_left: None, informational_bytes: 0, memory }
    }
}

/// The head of a response, with a body that is still to come.
pub struct Answered {
    pub response: Response<Content>,
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
    /// The endpoint refused the request before it looked at it, or has closed the connection without having seen it (RFC 9113 §8.7).
    Unprocessed,
    /// The endpoint has reset the stream of this request alone (RFC 9113 §5.4.2). It may have processed it.
    Reset,
    /// The connection has ended.
    Ended,
}

/// The content of a response, still to come. Dropping it before its end leaves its connection unusable.
pub enum Content {
    Http1(Http1Content),
    Http2(Http2Content),
}

impl Content {
    /// Whether trailers may follow, as far as the head shows.
    pub fn may_have_trailers(&self) -> bool {
        match self {
            // A content whose length is known is not chunked.
            Self::Http1(content) => !content.is_end_stream() && content.size_hint().exact().is_none(),
            Self::Http2(content) => !content.is_end_stream(),
        }
    }

    /// The connection, if the response has switched it to another protocol.
    pub fn switched(self) -> Option<SwitchedConnection> {
        match self {
            Self::Http1(content) => content.switched(),
            Self::Http2(_) => None,
        }
    }
}

/// The content of a response broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenOff {
    /// The endpoint sent something that is not content. `None`: the connection ended.
    pub reason: Option<&'static str>,
}

/// One connection to an endpoint. Dropping it closes it.
pub(super) enum Connection {
    Http1(Http1),
    /// The place of one request on a connection that many share.
    Http2(Http2Stream),
}

impl Connection {
    /// Starts the protocol over `io`, which need not be a socket. `large_reads` counts the worker's connections with large reads.
    pub(super) fn open<I>(io: I, failed_write: FailedWrite, large_reads: &Rc<Cell<u64>>) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        Self::Http1(Http1::open(io, failed_write, large_reads))
    }

    /// Whether the endpoint has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_closed(),
            Self::Http2(stream) => stream.is_closed(),
        }
    }

    /// See [`Lease::send`](super::pool::Lease::send).
    pub(super) async fn send(
        &mut self,
        request: &mut UpstreamRequest,
        sink: Option<ResponseSink>,
    ) -> Result<Answered, SendError> {
        match self {
            Self::Http1(connection) => connection.send(request, sink).await,
            // Boxed, so that requests to other services have no room for it.
            Self::Http2(stream) => Box::pin(stream.send(request, sink)).await,
        }
    }

    /// See [`Lease::client_took`](super::pool::Lease::client_took).
    pub(super) fn client_took(&mut self, bytes: u64) {
        match self {
            Self::Http1(connection) => connection.client_took(bytes),
            // Its windows are bounded from the start.
            Self::Http2(_) => {}
        }
    }

    /// Ends a request of which nothing is left in the connection. Returns whether the connection can serve another one.
    pub(super) fn finish(&mut self, is_sent: bool) -> bool {
        match self {
            Self::Http1(connection) => connection.finish(is_sent),
            // The connection stays where it is; only this place on it ends.
            Self::Http2(_) => false,
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Http1(content) => Pin::new(content).poll_frame(cx),
            Self::Http2(content) => Pin::new(content).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(content) => content.is_end_stream(),
            Self::Http2(content) => content.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(content) => content.size_hint(),
            Self::Http2(content) => content.size_hint(),
        }
    }
}
