//! What is left of a request to be sent: the rest of its head, and its content as it comes.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;

use super::wire::Wire;
use crate::{body::RequestBody, headers::Delimiting};

/// The content of a request.
pub(in crate::upstream) trait RequestContent: Body<Data = Bytes> + Unpin {
    /// This content was not sent after all: it comes again, before all that is still to come.
    fn put_back(&mut self, content: Bytes);

    /// The client waits with it until the service has sent a 100 (Continue).
    fn is_held(&self) -> bool {
        false
    }
}

impl RequestContent for RequestBody {
    fn put_back(&mut self, content: Bytes) {
        Self::put_back(self, content);
    }

    fn is_held(&self) -> bool {
        Self::is_held(self)
    }
}

/// A request on its way.
pub(super) struct Outgoing<B> {
    body: B,
    encoder: Encoder,
    /// What is to be written next, in this order. `front` is what precedes the content.
    front: Vec<u8>,
    content: Bytes,
    back: &'static [u8],
}

/// The request's body has failed, or its length is not the one in its head. The request can never be completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BodyFailed;

/// What comes next of a request's content.
#[derive(Debug)]
pub(super) enum Upcoming {
    /// Content, and whether it is the last.
    Content(Bytes, bool),
    /// Trailers, which are the end.
    Trailers(HeaderMap),
    End,
}

/// Content with what stands before and after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) content: Bytes,
    pub(super) back: &'static [u8],
}

/// How the content is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoder {
    /// All of it is encoded.
    Over,
    /// So many bytes are left.
    Length(u64),
    Chunks,
}

impl<B: RequestContent> Outgoing<B> {
    /// Of this, `written` bytes have left already.
    pub(super) fn new(body: B, encoder: Encoder, front: &[u8], piece: Piece, written: usize) -> Self {
        let rest = front.get(written..).unwrap_or_default().to_vec();
        let mut outgoing = Self { body, encoder, front: rest, content: piece.content, back: piece.back };
        outgoing.advance_content(written.saturating_sub(front.len()));
        outgoing
    }

    /// Sends on, until all of it has left, or the service takes no more. Ready when one of them is so.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, wire: &Rc<Wire>) -> Poll<Result<(), BodyFailed>> {
        loop {
            if !self.is_written() {
                let written = ready!(wire.poll_write(cx, &mut self.front, (&self.content, self.back)));
                let Ok(written) = written else { return Poll::Ready(Ok(())) };
                self.advance(written);
            } else if self.encoder == Encoder::Over {
                wire.is_sent.set(ready!(wire.poll_flush(cx)).is_ok());
                return Poll::Ready(Ok(()));
            } else {
                let next = ready!(poll_content(&mut self.body, cx));
                let piece = self.encoder.encode(next?, &mut self.front)?;
                (self.content, self.back) = (piece.content, piece.back);
            }
        }
    }

    /// Nothing of the content has left, and nothing will after a final response.
    pub(super) fn is_held(&self) -> bool {
        self.body.is_held()
    }

    fn is_written(&self) -> bool {
        self.front.is_empty() && self.content.is_empty() && self.back.is_empty()
    }

    fn advance(&mut self, written: usize) {
        let of_front = written.min(self.front.len());
        self.front.drain(..of_front);
        self.advance_content(written - of_front);
    }

    fn advance_content(&mut self, written: usize) {
        let of_content = written.min(self.content.len());
        self.content.advance(of_content);
        self.back = self.back.get(written - of_content..).unwrap_or_default();
    }
}

/// What comes next of a request's content.
pub(super) fn poll_content<B: RequestContent>(
    body: &mut B,
    cx: &mut Context<'_>,
) -> Poll<Result<Upcoming, BodyFailed>> {
    loop {
        let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
            return Poll::Ready(Ok(Upcoming::End));
        };
        match frame.map_err(|_| BodyFailed)?.into_data() {
            Ok(content) => {
                let is_last = body.is_end_stream();
                if !content.is_empty() || is_last {
                    return Poll::Ready(Ok(Upcoming::Content(content, is_last)));
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Poll::Ready(Ok(Upcoming::Trailers(trailers)));
                }
            }
        }
    }
}

impl Encoder {
    pub(super) fn new(delimiting: Delimiting) -> Self {
        match delimiting {
            Delimiting::Nothing | Delimiting::Length(0) => Self::Over,
            Delimiting::Length(length) => Self::Length(length),
            Delimiting::Chunked => Self::Chunks,
        }
    }

    /// What to write for what comes next of the body, after what is appended to `front`.
    pub(super) fn encode(&mut self, next: Upcoming, front: &mut Vec<u8>) -> Result<Piece, BodyFailed> {
        let (content, is_last) = match next {
            Upcoming::Content(content, is_last) => (content, is_last),
            Upcoming::Trailers(trailers) if *self == Self::Chunks => {
                write_trailers(&trailers, front);
                *self = Self::Over;
                return Ok(Piece::default());
            }
            Upcoming::Trailers(_) | Upcoming::End => (Bytes::new(), true),
        };
        let mut back = &b""[..];
        match self {
            Self::Over => return Err(BodyFailed),
            Self::Length(left) => {
                *left = left.checked_sub(content.len() as u64).ok_or(BodyFailed)?;
                if *left == 0 {
                    *self = Self::Over;
                } else if is_last {
                    // An end here would leave the service waiting, or let it take the next request for content.
                    return Err(BodyFailed);
                }
            }
            Self::Chunks => {
                if !content.is_empty() {
                    write_size(content.len(), front);
                    back = if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
                } else if is_last {
                    back = b"0\r\n\r\n";
                }
                if is_last {
                    *self = Self::Over;
                }
            }
        }
        Ok(Piece { content, back })
    }
}

/// The last chunk, the trailer section and the end of the message (RFC 9112 §7.1.2).
fn write_trailers(trailers: &HeaderMap, to: &mut Vec<u8>) {
    to.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            to.extend_from_slice(part);
        }
    }
    to.extend_from_slice(b"\r\n");
}

/// The line before a chunk's data (RFC 9112 §7.1).
fn write_size(size: usize, to: &mut Vec<u8>) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
    for at in (0..digits).rev() {
        let digit = (size >> (4 * at)) & 0xf;
        to.push(b"0123456789ABCDEF".get(digit).copied().unwrap_or_default());
    }
    to.extend_from_slice(b"\r\n");
}
