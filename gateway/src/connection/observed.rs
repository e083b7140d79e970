//! A byte stream (TCP, or TLS on it) that examines the bytes on their way to and from hyper or h2.
//!
//! In HTTP/1 it notices when a request head begins. In HTTP/2 it reads the head of each frame: these count against the
//! connection's budget ([`crate::downstream::budget`]), and some of them are refusals by h2, which h2 does not report. The
//! bytes are not copied. A frame costs some nanoseconds; with HTTP/1, a read or write costs one comparison.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ConnectionContext, report};
use crate::downstream::frames::{Found, FrameHead, FrameScan, kind};

/// A byte stream of a client's connection that records what passes through it.
pub(super) struct Observed<S> {
    stream: S,
    context: Rc<ConnectionContext>,
    protocol: Protocol,
    inbound: FrameScan,
    outbound: FrameScan,
    last_stream: u32,
}

/// The protocol, as far as the client's first bytes show it.
enum Protocol {
    /// So many bytes of the HTTP/2 preface have arrived, and nothing that differs from it.
    Open(usize),
    Http1,
    Http2,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Observed<S> {
    pub(super) fn new(stream: S, context: &Rc<ConnectionContext>) -> Self {
        Self {
            stream,
            context: Rc::clone(context),
            protocol: Protocol::Open(0),
            inbound: FrameScan::new(),
            outbound: FrameScan::of_heads(),
            last_stream: 0,
        }
    }

    fn arrived(&mut self, mut bytes: &[u8]) {
        if let Protocol::Open(matched) = self.protocol {
            let expected = PREFACE.get(matched..).unwrap_or_default();
            let compared = expected.len().min(bytes.len());
            let (head, rest) = bytes.split_at(compared);
            if expected.get(..compared) != Some(head) {
                self.protocol = Protocol::Http1;
            } else if matched + compared < PREFACE.len() {
                self.protocol = Protocol::Open(matched + compared);
                return;
            } else {
                self.protocol = Protocol::Http2;
                bytes = rest;
            }
        }
        match self.protocol {
            Protocol::Http2 => {
                self.context.state.client_lives();
                let (state, last_stream) = (&self.context.state, &mut self.last_stream);
                self.inbound.pass(bytes, |found| match found {
                    Found::Frame(head) => {
                        if head.kind == kind::HEADERS {
                            *last_stream = (*last_stream).max(head.stream);
                        }
                        state.frame_arrived(head);
                    }
                    Found::Block { fields } => state.header_block_arrived(fields),
                });
            }
            Protocol::Open(_) | Protocol::Http1 => self.context.state.bytes_arrived(bytes),
        }
    }

    /// Frames that h2 sends before the client's preface has arrived count, too.
    fn sent<'a>(&mut self, bufs: impl Iterator<Item = &'a [u8]>, mut count: usize) {
        if matches!(self.protocol, Protocol::Http1) {
            return;
        }
        let context = &self.context;
        for buf in bufs {
            let (written, _) = buf.split_at(buf.len().min(count));
            count -= written.len();
            self.outbound.pass(written, |found| {
                let Found::Frame(head) = found else { return };
                context.state.frame_sent(head);
                if let Some((scope, code)) = refusal(head) {
                    report::refused_by_h2(context, scope, code);
                }
            });
            if count == 0 {
                break;
            }
        }
    }

    /// Sends a GOAWAY frame (RFC 9113 §6.8) as far as the socket takes it at once: the connection ends in any case.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if !self.outbound.is_between_frames() {
            return;
        }
        let mut frame = [0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ENHANCE_YOUR_CALM];
        if let Some(last) = frame.get_mut(9..13) {
            last.copy_from_slice(&self.last_stream.to_be_bytes());
        }
        if Pin::new(&mut self.stream).poll_write(cx, &frame).is_ready() {
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) else {
            this.context.state.waits_for_bytes();
            return Poll::Pending;
        };
        result?;
        this.arrived(buf.filled().get(before..).unwrap_or_default());
        if this.context.state.flood().is_some() {
            this.say_goodbye(cx);
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.sent(std::iter::once(buf), count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        this.sent(bufs.iter().map(|buf| &**buf), count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The refusal that a frame from h2 expresses: the frame's scope and its error code, as words for a metric. `None`: the
/// frame does not refuse something malformed.
fn refusal(head: &FrameHead) -> Option<(&'static str, &'static str)> {
    let scope = if head.kind == kind::GOAWAY { "connection" } else { "stream" };
    let code = match head.error_code()? {
        1 => "protocol_error",
        3 => "flow_control_error",
        4 => "settings_timeout",
        5 => "stream_closed",
        6 => "frame_size_error",
        7 => "refused_stream",
        9 => "compression_error",
        11 => "enhance_your_calm",
        // NO_ERROR, INTERNAL_ERROR, CANCEL: the end of a response or of a connection, which have their own counters.
        _ => return None,
    };
    Some((scope, code))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ENHANCE_YOUR_CALM: u8 = 11;
