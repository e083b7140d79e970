//! Receives the response of a service that takes no more of the request.
//!
//! A service may answer 413 and close in the middle of an upload. The next write then fails, and hyper would give up the
//! connection with the response unread. Here a failed write only ends the writing: reads go on until the response is
//! there, or the connection ends without one. Such a connection is never used again.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte stream whose reads go on when its writes fail.
#[derive(Debug)]
pub(super) struct LastWords<I> {
    io: I,
    broken: Rc<Cell<bool>>,
}

impl<I> LastWords<I> {
    /// `broken` becomes true when a write has failed.
    pub(super) fn new(io: I, broken: Rc<Cell<bool>>) -> Self {
        Self { io, broken }
    }

    /// Turns a failed write into one that waits for ever. Reads wake the task from then on.
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(result, Poll::Ready(Err(_))) {
            self.broken.set(true);
            return Poll::Pending;
        }
        result
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for LastWords<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for LastWords<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.get() {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.get() {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.get() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken.get() {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(result)
    }
}
