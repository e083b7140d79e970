//! One request on its way, until the head of its response is there.
//!
//! All of it happens in the request's own future: the head is written with the first content, then content is sent and the
//! response is read side by side, and neither waits for the other. The request stays where its owner keeps it until its first
//! byte may have left; what a write leaves over is copied to this future, and nowhere else.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response, Version};

use super::{
    super::{SendError, UpstreamRequest},
    content::Http1Content,
    outgoing::{BodyFailed, Encoder, Outgoing, Piece, RequestContent, poll_content},
    response_head::{
        Expected, FinalHead, HeadFault, INFORMATIONAL_BYTES_MAX, Parsed, RESPONSE_HEAD_BYTES_MAX, parse,
    },
    wire::{FailedWrite, Wire},
};
use crate::{
    headers::{self, ResponseFraming},
    upstream::sink::ResponseSink,
};

/// See [`Http1::send`](super::Http1::send).
pub(super) struct Sending<'a, B> {
    wire: &'a Rc<Wire>,
    request: &'a mut UpstreamRequest<B>,
    reader: HeadReader,
    /// Nothing was written.
    is_new: bool,
    /// What is still to be sent.
    outgoing: Option<Outgoing<B>>,
}

/// The head of a response, and what goes on after it.
pub(super) struct Heard<B> {
    pub(super) response: Response<Http1Content>,
    pub(super) framing: ResponseFraming,
    pub(super) keeps_alive: bool,
    /// The response is early: this much of the request is not sent.
    pub(super) rest: Option<Outgoing<B>>,
}

/// Reads heads until the final one is there.
struct HeadReader {
    expected: Expected,
    sink: Option<ResponseSink>,
    /// The beginning of a head that is not complete.
    partial: Vec<u8>,
    /// An informational head had a line that ends with a bare LF.
    is_doubtful: bool,
    /// The service was asked for a 100, and has not sent it. It may take content that was sent without one for its next request, so this
    /// one is the last of its connection.
    is_uninvited: bool,
    /// Bytes of informational heads.
    informational_bytes: usize,
    /// Empty. Its memory is used for the response.
    headers: HeaderMap,
}

impl<'a, B: RequestContent> Sending<'a, B> {
    pub(super) fn new(
        wire: &'a Rc<Wire>,
        request: &'a mut UpstreamRequest<B>,
        sink: Option<ResponseSink>,
    ) -> Self {
        let reader = HeadReader {
            expected: Expected {
                is_head: request.head.is_head(),
                may_switch: request.head.asks_for_upgrade(),
            },
            sink,
            partial: Vec::new(),
            is_doubtful: false,
            is_uninvited: request.head.expects_invitation(),
            informational_bytes: request.informational_bytes,
            headers: HeaderMap::new(),
        };
        Self { wire, request, reader, is_new: true, outgoing: None }
    }

    /// The first write. Until some of it has left, the request has its body.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        // A service that has closed the connection, or has sent bytes without a request, gets no request.
        if let Poll::Ready(read) = self.wire.poll_read(cx, |_| ()) {
            return Poll::Ready(Err(read.err().map_or(SendError::Ended, |error| send_error(&error))));
        }
        let UpstreamRequest { head, body: to_send, repeats, memory, .. } = &mut *self.request;
        let Some(body) = to_send else { return Poll::Ready(Err(SendError::Ended)) };
        let mut front = self.wire.scratch.for_a_write();
        front.extend_from_slice(head.bytes());
        let mut encoder = Encoder::new(head.content());
        let mut piece = Piece::default();
        if encoder != Encoder::Over
            && let Poll::Ready(next) = poll_content(body, cx)
        {
            let first = next.and_then(|next| encoder.encode(next, &mut front));
            let Ok(first) = first else {
                *to_send = None;
                return Poll::Ready(Err(SendError::Ended));
            };
            piece = first;
        }
        let polled = self.wire.poll_write(cx, &mut front, (&piece.content, piece.back));
        let written = match polled {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) if self.wire.failed_write == FailedWrite::MaySendSome => {
                self.is_new = false;
                *to_send = None;
                return Poll::Ready(Ok(()));
            }
            nothing => {
                body.put_back(piece.content);
                return nothing.map(|_| Err(SendError::Ended));
            }
        };
        let Some(body) = to_send.take() else { return Poll::Ready(Err(SendError::Ended)) };
        self.is_new = false;
        self.reader.headers = std::mem::take(memory);
        if !*repeats {
            head.free();
        }
        if encoder == Encoder::Over
            && written == front.len() + piece.content.len() + piece.back.len()
            && let Poll::Ready(Ok(())) = self.wire.poll_flush(cx)
        {
            self.wire.is_sent.set(true);
        } else {
            self.outgoing = Some(Outgoing::new(body, encoder, &front, piece, written));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard<B>, SendError>> {
        loop {
            let (wire, reader) = (self.wire, &mut self.reader);
            let read = match ready!(wire.poll_read(cx, |read| reader.take(read, wire))) {
                Ok(read) => read?,
                Err(error) => return Poll::Ready(Err(send_error(&error))),
            };
            self.request.informational_bytes = self.reader.informational_bytes;
            if let Some((head, content)) = read {
                return Poll::Ready(Ok(Heard {
                    response: head.response.map(|()| content),
                    framing: head.framing,
                    keeps_alive: head.keeps_alive,
                    rest: self.outgoing.take(),
                }));
            }
        }
    }
}

impl<B: RequestContent> Future for Sending<'_, B> {
    type Output = Result<Heard<B>, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.is_new {
            ready!(this.poll_begin(cx))?;
        }
        if let Some(outgoing) = &mut this.outgoing
            && let Poll::Ready(sent) = outgoing.poll(cx, this.wire)
        {
            this.outgoing = None;
            if sent == Err(BodyFailed) {
                return Poll::Ready(Err(SendError::Ended));
            }
        }
        this.poll_head(cx)
    }
}

impl HeadReader {
    /// What one read brought: the final head, once it is complete, with the content that came behind it.
    fn take(
        &mut self,
        read: &mut [u8],
        wire: &Rc<Wire>,
    ) -> Result<Option<(FinalHead, Http1Content)>, SendError> {
        if read.is_empty() {
            return Err(SendError::Ended);
        }
        if self.partial.is_empty() {
            return self.read_heads(read, wire);
        }
        self.partial.extend_from_slice(read);
        // Only a line feed ends a head; without one, a service that sends byte by byte would have each byte parsed anew.
        if !read.contains(&b'\n') && self.partial.len() < RESPONSE_HEAD_BYTES_MAX {
            return Ok(None);
        }
        let mut partial = std::mem::take(&mut self.partial);
        self.read_heads(&mut partial, wire)
    }

    fn read_heads(
        &mut self,
        mut bytes: &mut [u8],
        wire: &Rc<Wire>,
    ) -> Result<Option<(FinalHead, Http1Content)>, SendError> {
        loop {
            match parse(bytes, self.expected, &mut self.headers).map_err(invalid)? {
                Parsed::Partial => {
                    self.partial.extend_from_slice(bytes);
                    return Ok(None);
                }
                Parsed::Informational { bytes: end, response, has_crlf } => {
                    self.is_doubtful |= !has_crlf;
                    self.is_uninvited &= !headers::is_invitation(response.status());
                    self.informational_bytes += end;
                    if self.informational_bytes > INFORMATIONAL_BYTES_MAX {
                        return Err(invalid(HeadFault::Informational));
                    }
                    bytes = bytes.get_mut(end..).unwrap_or_default();
                    self.forward(response);
                }
                Parsed::Final(mut head) => {
                    head.keeps_alive &= !self.is_doubtful && !self.is_uninvited;
                    let behind = bytes.get_mut(head.bytes..).unwrap_or_default();
                    let content = Http1Content::new(head.content, (behind, head.behind.as_ref()), wire);
                    return Ok(Some((head, content)));
                }
            }
        }
    }

    /// A proxy must forward 1xx responses (RFC 9110 §15.2), except for a 100 that was not asked for. HTTP/1.0 has none of them.
    fn forward(&self, response: Response<()>) {
        let (head, ()) = response.into_parts();
        if let Some(sink) = &self.sink
            && head.version == Version::HTTP_11
        {
            sink.send(head.status, head.headers);
        }
    }
}

fn invalid(fault: HeadFault) -> SendError {
    SendError::Invalid(match fault {
        HeadFault::Framing(fault) => fault.detail().into(),
        fault => fault.to_string().into(),
    })
}

fn send_error(error: &io::Error) -> SendError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(_)) => SendError::Alert(error.to_string()),
        _ => SendError::Ended,
    }
}
