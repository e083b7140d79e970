//! The byte stream of one connection, and what is known about it.
//!
//! The connection's owner, the content of a response and the rest of an upload share it; each of them uses it within one poll.
//! Reading and writing fail apart: a service may answer 413 and close in the middle of an upload, and then its answer must
//! still be read. A failed write only ends the writing, and the connection is never used again.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::scratch::{READ_BYTES, Scratch};

/// A socket, TLS over one, or memory in tests.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<I: AsyncRead + AsyncWrite + Unpin> Stream for I {}

/// What the failure of a write proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum FailedWrite {
    /// None of its bytes has left: so it is with a socket.
    SentNothing,
    /// Some may have left. TLS cuts a write into records, and the last of them may fail.
    MaySendSome,
}

pub(super) struct Wire {
    /// `None`: closed.
    io: RefCell<Option<Box<dyn Stream>>>,
    pub(super) scratch: Rc<Scratch>,
    pub(super) failed_write: FailedWrite,
    /// The whole request has left.
    pub(super) is_sent: Cell<bool>,
    /// The whole response was read, and nothing came after it.
    pub(super) is_at_rest: Cell<bool>,
    /// A task sends the rest of an upload, and its failure ends the response.
    pub(super) has_upload: Cell<bool>,
    /// The largest read of content.
    pub(super) read_bytes: Cell<usize>,
    /// Waits for content.
    reader: RefCell<Option<Waker>>,
}

impl Wire {
    pub(super) fn new<I: Stream + 'static>(io: I, failed_write: FailedWrite) -> Rc<Self> {
        Rc::new(Self {
            io: RefCell::new(Some(Box::new(io))),
            scratch: Scratch::of_this_worker(),
            failed_write,
            is_sent: Cell::new(true),
            is_at_rest: Cell::new(true),
            has_upload: Cell::new(false),
            read_bytes: Cell::new(READ_BYTES),
            reader: RefCell::default(),
        })
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.is_sent.set(false);
        self.is_at_rest.set(false);
    }

    /// Nothing has come, not even the end: the connection may take a request. This looks at the readiness that the event loop
    /// has noted, and calls the system only if there is some.
    pub(super) fn is_silent(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Without the budget of the task: once that is used up, every stream would look silent.
        let read = std::future::poll_fn(|cx| self.poll_read(cx, |_| ()));
        let is_silent = pin!(tokio::task::unconstrained(read)).poll(&mut cx).is_pending();
        if !is_silent {
            self.close();
        }
        is_silent
    }

    /// Closes the connection. A response that is still read breaks off.
    pub(super) fn close(&self) {
        if let Some(mut io) = self.io.take()
            && self.failed_write == FailedWrite::MaySendSome
        {
            // TLS says that nothing follows (RFC 8446 §6.1), as far as the socket takes it at once.
            let _ = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// One read into the worker's buffer; no bytes are the end.
    pub(super) fn poll_read<T>(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut [u8]) -> T,
    ) -> Poll<io::Result<T>> {
        let mut buffer = self.scratch.for_a_read();
        let mut bytes = ReadBuf::new(&mut buffer);
        ready!(self.with_io(|io| Pin::new(io).poll_read(cx, &mut bytes)))?;
        Poll::Ready(Ok(take(bytes.filled_mut())))
    }

    /// One read of at most `limit` bytes, which are appended.
    pub(super) fn poll_append(
        &self,
        cx: &mut Context<'_>,
        to: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        self.with_io(|io| {
            let mut to = to.limit(limit);
            pin!(io.read_buf(&mut to)).poll(cx)
        })
    }

    /// One write of all three parts, or of as many of their bytes as are taken. A small second and third part are copied behind
    /// the first: `writev` costs more than that, because it imports the vector and locks the position as files need it.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        front: &mut Vec<u8>,
        (data, back): (&[u8], &[u8]),
    ) -> Poll<io::Result<usize>> {
        let length = front.len();
        let polled = if front.is_empty() && back.is_empty() {
            self.with_io(|io| Pin::new(io).poll_write(cx, data))
        } else if data.len() + back.len() <= COPY_BYTES_MAX {
            front.extend_from_slice(data);
            front.extend_from_slice(back);
            self.with_io(|io| Pin::new(io).poll_write(cx, front))
        } else {
            let parts = [IoSlice::new(front), IoSlice::new(data), IoSlice::new(back)];
            self.with_io(|io| Pin::new(io).poll_write_vectored(cx, &parts))
        };
        front.truncate(length);
        match ready!(polled)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(Ok(written)),
        }
    }

    /// TLS may hold back what it has taken.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| Pin::new(io).poll_flush(cx))
    }

    /// One read into a buffer of the caller.
    pub(super) fn poll_read_into(&self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| Pin::new(io).poll_read(cx, to))
    }

    /// One write of these bytes, or of some of them.
    pub(super) fn poll_write_bytes(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with_io(|io| Pin::new(io).poll_write(cx, bytes))
    }

    /// Ends the direction towards the service.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| Pin::new(io).poll_shutdown(cx))
    }

    /// The task that waits for content; [`Wire::close`] wakes it.
    pub(super) fn remember_reader(&self, cx: &Context<'_>) {
        *self.reader.borrow_mut() = Some(cx.waker().clone());
    }

    fn with_io<T>(
        &self,
        poll: impl FnOnce(&mut Box<dyn Stream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.io.borrow_mut() {
            Some(io) => poll(io),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// Content of this size costs less to copy than to write with `writev`.
const COPY_BYTES_MAX: usize = 1024;
