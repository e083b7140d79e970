//! The body of a request as the client sends it, by protocol.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::Body;
use hyper::body::Incoming;

use super::{BodyError, base64_text::Base64Text};
use crate::admission::parse_length;

/// The body of a request while the client sends it.
#[derive(Debug)]
pub enum ClientBody {
    Http1(Incoming),
    Http2(StreamBody),
    Base64(Base64Text),
}

/// The trailers of a request. Boxed: hardly any request has some.
pub(crate) type Trailers = Option<Box<HeaderMap>>;

/// The body of a request on an HTTP/2 stream.
#[derive(Debug)]
pub struct StreamBody {
    stream: RecvStream,
    /// Length in bytes as `Content-Length` declares it; h2 refuses a body of another length.
    length: Option<u64>,
    /// Whether all content has come; a trailer section may follow.
    is_content_over: bool,
}

impl ClientBody {
    /// The body of a request with these header fields.
    pub(crate) fn of_stream(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = if stream.is_end_stream() { Some(0) } else { declared_length(headers) };
        Self::Http2(StreamBody { stream, length, is_content_over: false })
    }

    /// The body that this one is the base64 form of.
    pub(crate) fn decoded(self) -> Self {
        Self::Base64(Base64Text::new(self))
    }

    /// Whether the client has ended the body.
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Base64(body) => body.is_end_stream(),
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    /// Length of the whole body in bytes. `None`: the client has not declared it.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Base64(_) => None,
            Self::Http1(body) => body.size_hint().exact(),
            Self::Http2(body) => body.length,
        }
    }

    /// The next content. `None`: the body is over, and [`ClientBody::is_end_stream`] is true if the client has ended it.
    /// Trailers are dropped.
    ///
    /// # Errors
    /// [`BodyError::Gone`] if the client left before the end, [`BodyError::Broken`] if the body is not valid.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.poll_until_trailers(cx, &mut None)
    }

    /// The same, with a place for the trailers, which come before the end.
    pub(super) fn poll_until_trailers(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &mut Trailers,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Self::Base64(body) => body.poll_data(cx),
            Self::Http1(body) => loop {
                let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                    return Poll::Ready(None);
                };
                match frame.map(hyper::body::Frame::into_data) {
                    Ok(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                    Ok(Err(frame)) => *trailers = frame.into_trailers().ok().map(Box::new),
                    Err(error) => return Poll::Ready(Some(Err(http1_cause(&error)))),
                }
            },
            Self::Http2(body) => body.poll_data(cx, trailers).map_err(|error| http2_cause(&error)),
        }
    }
}

impl StreamBody {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &mut Trailers,
    ) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if !self.is_content_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // This fails only for more bytes than came.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(data)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_content_over = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(came) => {
                *trailers = came.map(Box::new);
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

/// The declared length. RFC 9110 §8.6: several equal lengths are one. Admission refuses a header section without a
/// single length.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lines.next()?.as_bytes().split(|&byte| byte == b',').next()?;
    parse_length(first.trim_ascii())
}

/// If the connection ended, the client has left; every other error means that the body is not valid.
fn http1_cause(error: &hyper::Error) -> BodyError {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let is_gone = source.is_some_and(|error| {
        !matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other
        )
    });
    if is_gone || error.is_incomplete_message() { BodyError::Gone } else { BodyError::Broken }
}

/// If the stream was reset, with any code, or its connection ended, the client has left. `NO_ERROR` is not the end
/// of a body either (RFC 9113 §8.1 allows only a server to use it so).
fn http2_cause(error: &h2::Error) -> BodyError {
    if error.is_remote() || error.is_io() { BodyError::Gone } else { BodyError::Broken }
}
