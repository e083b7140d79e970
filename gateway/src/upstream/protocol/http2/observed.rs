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
    sent: FrameScan,
    /// Bytes of the preface that have not been sent yet. Frames come behind it.
    preface_left: usize,
    inbound: Rc<Inbound>,
}

impl<I> CountedFrames<I> {
    pub(super) fn new(io: I, inbound: &Rc<Inbound>) -> Self {
        let (scan, sent) = (FrameScan::new(), FrameScan::of_heads());
        Self { io, scan, sent, preface_left: PREFACE_BYTES, inbound: Rc::clone(inbound) }
    }

    /// Content that the service gets earns it the frames with which it acknowledges that content.
    fn count_sent<'a>(&mut self, bufs: impl Iterator<Item = &'a [u8]>, mut count: usize) {
        for buf in bufs {
            let written = buf.get(..buf.len().min(count)).unwrap_or_default();
            count -= written.len();
            let preface = written.len().min(self.preface_left);
            self.preface_left -= preface;
            let budget = &self.inbound.budget;
            self.sent.pass(written.get(preface..).unwrap_or_default(), |found| {
                if let Found::Frame(head) = found {
                    budget.sent(head);
                }
            });
            if count == 0 {
                break;
            }
        }
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
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.count_sent(std::iter::once(buf), count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.count_sent(bufs.iter().map(|buf| &**buf), count);
        Poll::Ready(Ok(count))
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

/// The length of the client's preface before its first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
