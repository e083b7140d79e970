//! The byte stream of a connection, under hyper: it tells the connection's phase when bytes pass, and can wait for bytes
//! without holding a buffer for them.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::{ConnectionContext, remember_waker, state::ConnectionState, until_killed};
use crate::small_writes::SmallWrites;

pub(super) struct Transport<I> {
    io: SmallWrites<I>,
    /// Read already; the next read gets it.
    ahead: Bytes,
    state: Rc<ConnectionState>,
}

impl<I: Read + Write + Unpin> Transport<I> {
    pub(super) fn new(io: I, context: &ConnectionContext) -> Self {
        Self { io: SmallWrites(io), ahead: Bytes::new(), state: Rc::clone(&context.state) }
    }

    /// Puts bytes back that were read and not used: the beginning of a next request. An empty line before it is none yet
    /// (RFC 9112 §2.2).
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let begins = bytes.iter().position(|byte| !is_line_end(byte)).unwrap_or(bytes.len());
        let bytes = bytes.get(begins..).unwrap_or_default();
        // Copied: even an empty slice would keep the buffer that it was cut from.
        self.ahead = [bytes, &self.ahead].concat().into();
    }

    pub(super) fn starts_with(&self, bytes: &[u8]) -> bool {
        self.ahead.starts_with(bytes)
    }

    /// Until there is something to read. `false`: nothing will come, or the connection is to close.
    pub(super) async fn wait_for_bytes(&mut self) -> io::Result<bool> {
        let state = Rc::clone(&self.state);
        let came: Option<bool> = std::future::poll_fn(|cx| {
            remember_waker(&state, cx);
            if state.kill.get() {
                return Poll::Ready(io::Result::Ok(Some(false)));
            }
            if state.close.get() {
                return Poll::Ready(Ok(None));
            }
            if self.ahead.is_empty() {
                // On the stack, and only while something is there: an idle connection holds no buffer.
                let mut space = [MaybeUninit::uninit(); FIRST_BYTES_MAX];
                let mut first = ReadBuf::uninit(&mut space);
                ready!(Pin::new(&mut self.io).poll_read(cx, first.unfilled()))?;
                self.ahead = Bytes::copy_from_slice(first.filled());
            }
            Poll::Ready(Ok(Some(!self.ahead.is_empty())))
        })
        .await?;
        if let Some(came) = came {
            return Ok(came);
        }
        // What TLS has to say at the end. The sweep cuts a peer that does not take it.
        let closing = std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx));
        let _ = until_killed(&state, closing).await;
        Ok(false)
    }
}

/// A request head without large cookies; what is longer is read on by hyper.
const FIRST_BYTES_MAX: usize = 2048;

impl<I: Read + Unpin> Read for Transport<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let bytes = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..bytes]);
            self.ahead.advance(bytes);
            self.state.bytes_arrived();
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) {
            self.state.bytes_arrived();
        }
        result
    }
}

impl<I: Write + Unpin> Write for Transport<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.state.wrote(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.state.wrote(&result);
        result
    }
}
