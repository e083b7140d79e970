//! The byte stream of a connection, below hyper. It can wait for bytes without holding a buffer for them, and notices
//! when the peer takes nothing.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::{ConnectionContext, remember_waker, until_killed};
use crate::{downstream::ConnectionState, small_writes::SmallWrites};

/// The byte stream of one connection.
pub(super) struct Transport<I> {
    io: SmallWrites<I>,
    /// Bytes that were read already; the next read returns them.
    ahead: Bytes,
    state: Rc<ConnectionState>,
}

impl<I: Read + Write + Unpin> Transport<I> {
    pub(super) fn new(io: I, context: &ConnectionContext) -> Self {
        Self { io: SmallWrites(io), ahead: Bytes::new(), state: Rc::clone(&context.state) }
    }

    /// Puts back bytes that were read and not used: the beginning of the next request.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        // Copied, because even an empty slice would keep the buffer alive from which it was cut.
        self.ahead = [bytes, &self.ahead].concat().into();
    }

    pub(super) fn starts_with(&self, bytes: &[u8]) -> bool {
        self.ahead.starts_with(bytes)
    }

    /// Waits until a request begins. Empty lines before it are skipped (RFC 9112 §2.2). `false`: nothing will arrive, or
    /// the connection is to close.
    pub(super) async fn wait_for_request(&mut self) -> io::Result<bool> {
        self.wait_until(|ahead| {
            let begins = request_begins(ahead);
            ahead.advance(begins);
            !ahead.is_empty() && **ahead != *b"\r"
        })
        .await
    }

    /// Waits until the bytes that have arrived are `beginning`, or certainly are not. `false`: as for
    /// `wait_for_request`.
    pub(super) async fn wait_while_within(&mut self, beginning: &[u8]) -> io::Result<bool> {
        self.wait_until(|ahead| {
            !ahead.is_empty() && (ahead.len() >= beginning.len() || !beginning.starts_with(ahead))
        })
        .await
    }

    async fn wait_until(&mut self, is_enough: impl Fn(&mut Bytes) -> bool) -> io::Result<bool> {
        let state = Rc::clone(&self.state);
        let came: Option<bool> = std::future::poll_fn(|cx| {
            remember_waker(&state, cx);
            if state.kill.get() {
                return Poll::Ready(io::Result::Ok(Some(false)));
            }
            if state.close.get() {
                return Poll::Ready(Ok(None));
            }
            while !is_enough(&mut self.ahead) {
                // On the stack, and only while there is something to read: an idle connection holds no buffer.
                let mut space = [MaybeUninit::uninit(); FIRST_BYTES_MAX];
                let mut next = ReadBuf::uninit(&mut space);
                ready!(Pin::new(&mut self.io).poll_read(cx, next.unfilled()))?;
                if next.filled().is_empty() {
                    return Poll::Ready(Ok(Some(!self.ahead.is_empty())));
                }
                self.ahead = [&self.ahead, next.filled()].concat().into();
            }
            Poll::Ready(Ok(Some(true)))
        })
        .await?;
        if let Some(came) = came {
            return Ok(came);
        }
        // TLS ends with a message of its own. The sweep closes the connection of a peer that does not take it.
        let closing = std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx));
        let _ = until_killed(&state, closing).await;
        Ok(false)
    }
}

/// The index of the request's first byte, after empty lines. hyper skips these, too, with or without CR.
fn request_begins(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(next) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = next;
    }
    bytes.len() - rest.len()
}

/// A request head without large cookies. hyper reads the rest of a longer head.
const FIRST_BYTES_MAX: usize = 2048;

impl<I: Read + Unpin> Read for Transport<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let bytes = self.ahead.len().min(buf.remaining());
            let taken = self.ahead.split_to(bytes);
            buf.put_slice(&taken);
            self.state.bytes_arrived(&taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: Write + Unpin> Transport<I> {
    /// Writes informational responses that may be sent now. `hyper_writes`: hyper has something to write, too.
    fn write_informational(&mut self, hyper_writes: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(next) = self.state.informational.next(hyper_writes) {
            let result = Pin::new(&mut self.io).poll_write(cx, &next);
            self.state.wrote(&result);
            let written = match &result {
                Poll::Ready(Ok(written)) => *written,
                _ => 0,
            };
            self.state.informational.advance(next, written);
            if ready!(result)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Must be called before hyper writes.
    fn before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.informational.has_any() {
            ready!(self.write_informational(true, cx))?;
        }
        self.state.informational.set_flushed(false);
        Poll::Ready(Ok(()))
    }
}

impl<I: Write + Unpin> Write for Transport<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.state.wrote(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing left to write.
        self.state.informational.set_flushed(true);
        if self.state.informational.has_any() {
            ready!(self.write_informational(false, cx))?;
        }
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.state.wrote(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.state.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.state.wrote(&result);
        result
    }
}
