//! Content on a stream: the request's as the service grants room for it, and the response's as the client takes it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};

use super::{
    super::{BrokenOff, RequestContent},
    RESPONSE_LINES_MAX, is_malformed,
    observed::Inbound,
};

/// The content of a response. Dropping it before its end resets the stream.
pub struct Http2Content {
    stream: RecvStream,
    /// Bytes that are still to come. `None`: the service has not declared a length.
    left: Option<u64>,
    is_content_over: bool,
    /// The reason for which the connection was cut, if it was.
    inbound: Rc<Inbound>,
}

/// The length of the content that follows, if it is known.
pub(super) fn length_of(declared: Option<u64>, stream: &RecvStream, is_head: bool) -> Option<u64> {
    if stream.is_end_stream() || is_head { Some(0) } else { declared }
}

impl Http2Content {
    pub(super) fn new(stream: RecvStream, left: Option<u64>, inbound: Rc<Inbound>) -> Self {
        Self { stream, left, is_content_over: false, inbound }
    }

    fn broken_off(&self, error: &h2::Error) -> BrokenOff {
        let invalid = "its content is not as long as its head says, or not HTTP/2";
        BrokenOff { reason: self.inbound.flood.get().or(is_malformed(error).then_some(invalid)) }
    }
}

impl Body for Http2Content {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self;
        if !this.is_content_over {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The client has taken what came before; so the service may send more of this stream.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.broken_off(&error)))),
                None => this.is_content_over = true,
            }
        }
        match ready!(this.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) if trailers.len() > RESPONSE_LINES_MAX => {
                Poll::Ready(Some(Err(BrokenOff { reason: Some("its trailer section has too many fields") })))
            }
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(this.broken_off(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The content of a request on its way.
pub(super) struct SendingContent<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Came from the body, and has no room yet.
    next: Bytes,
    is_last: bool,
}

/// The request's body has failed; its stream was reset.
#[derive(Debug)]
pub(super) struct ContentFailed;

impl<B: RequestContent> SendingContent<B> {
    pub(super) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, next: Bytes::new(), is_last: false }
    }

    pub(super) fn is_held(&self) -> bool {
        self.body.is_held()
    }

    /// Sends on. Ready when all of it is sent, or the service takes no more of it: the response then says why.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ContentFailed>> {
        loop {
            while self.next.has_remaining() {
                self.stream.reserve_capacity(self.next.len().min(ROOM_BYTES_MAX));
                if self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(_)) => continue,
                        Some(Err(_)) | None => return Poll::Ready(Ok(())),
                    }
                }
                let room = self.stream.capacity().min(self.next.len());
                let piece = self.next.split_to(room);
                let ends = self.is_last && self.next.is_empty();
                if self.stream.send_data(piece, ends).is_err() {
                    return Poll::Ready(Ok(()));
                }
            }
            if self.is_last {
                return Poll::Ready(Ok(()));
            }
            // A service that needs no more of the request resets the stream (RFC 9113 §8.1).
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                self.is_last = true;
                let _ = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(Ok(()));
            };
            let Ok(frame) = frame else {
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(ContentFailed));
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    self.is_last = true;
                    // A service that has ended the stream takes none.
                    let _ = self.stream.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
            };
            self.is_last = self.body.is_end_stream();
            if data.is_empty() && self.is_last {
                let _ = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(Ok(()));
            }
            self.next = data;
        }
    }

    /// Sends the rest after an early answer.
    pub(super) async fn run(mut self) {
        let _ = std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

/// What a stream asks for at a time, so that one upload does not take the connection's whole window.
const ROOM_BYTES_MAX: usize = 64 * 1024;
