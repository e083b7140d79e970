//! The byte stream of a connection to a service, whose frames are counted on their way to h2.
//!
//! h2 answers or ignores control frames for as long as they come. A service that sends nothing else would take a core from all
//! clients, so its connection has the budget that a client's has ([`FrameBudget`]).

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::downstream::{
    budget::FrameBudget,
    frames::{Found, FrameScan, kind},
};

/// What is known of the frames of one connection.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) budget: FrameBudget,
    /// A frame other than PING has come since this was last taken.
    pub(super) heard: Cell<bool>,
    /// The reason for which the frames are past their budget.
    pub(super) flood: Cell<Option<&'static str>>,
}

pub(super) struct CountedFrames<I> {
    io: I,
    scan: FrameScan,
    inbound: Rc<Inbound>,
}

impl<I> CountedFrames<I> {
    pub(super) fn new(io: I, inbound: &Rc<Inbound>) -> Self {
        Self { io, scan: FrameScan::new(), inbound: Rc::clone(inbound) }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for CountedFrames<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        let inbound = &this.inbound;
        this.scan.pass(came, |found| {
            let reason = match found {
                Found::Frame(head) => {
                    inbound.heard.set(inbound.heard.get() || head.kind != kind::PING);
                    inbound.budget.arrived(head)
                }
                Found::Block { fields } => inbound.budget.block_arrived(fields),
            };
            if reason.is_some() {
                inbound.flood.set(reason);
            }
        });
        if this.inbound.flood.get().is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for CountedFrames<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
