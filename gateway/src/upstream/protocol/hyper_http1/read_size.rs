//! How much one read of an upstream connection may take.
//!
//! Large reads make a large response cheaper: with 256 KiB, 64 MiB cost four fifths of what they cost with 32. But a client
//! that stops reading holds what was read for it, some three reads of it. So a read is small until the client's
//! connection has taken more than the kernel keeps for a client that reads nothing ([`PROOF_BYTES`]), and no more than
//! [`LARGE_READS_MAX`] connections of a worker have had large ones.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

/// The reads of one connection.
#[derive(Debug)]
pub(super) struct ReadSize {
    now: Rc<Cell<usize>>,
    /// The worker's connections that have had large reads.
    all_grown: Rc<Cell<u64>>,
    grown: Option<Grown>,
}

/// hyper keeps a buffer as large as the largest reads were, so the connection counts until it ends.
#[derive(Debug)]
struct Grown(Rc<Cell<u64>>);

impl ReadSize {
    /// The knob of `io`, and `io` with it. `all_grown` counts the worker's connections that have had large reads.
    pub(super) fn of<I: AsyncRead>(io: I, all_grown: &Rc<Cell<u64>>) -> (Self, SizedReads<I>) {
        let now = Rc::new(Cell::new(USUAL_BYTES));
        let size = Self { now: Rc::clone(&now), all_grown: Rc::clone(all_grown), grown: None };
        (size, SizedReads { io: io.take(0), now })
    }

    /// Reads are large from now on.
    pub(super) fn enlarge(&mut self) {
        if self.grown.is_none() {
            let all = self.all_grown.get();
            if all >= LARGE_READS_MAX {
                return;
            }
            self.all_grown.set(all + 1);
            self.grown = Some(Grown(Rc::clone(&self.all_grown)));
        }
        self.now.set(READ_BYTES_MAX);
    }

    /// As at first: the next response may go to another client.
    pub(super) fn reset(&self) {
        self.now.set(USUAL_BYTES);
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A byte stream whose reads are as large as its [`ReadSize`] says.
#[derive(Debug)]
pub(super) struct SizedReads<I> {
    io: Take<I>,
    now: Rc<Cell<usize>>,
}

impl<I: AsyncRead + Unpin> AsyncRead for SizedReads<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let limit = self.now.get() as u64;
        self.io.set_limit(limit);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SizedReads<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.get_ref().is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write_vectored(cx, bufs)
    }
}

/// The largest read, and so the largest buffer of an upstream connection. Half of it costs some 10 % more for each GiB,
/// twice of it nothing less.
pub(super) const READ_BYTES_MAX: usize = 256 * 1024;
/// The usual read. hyper doubles its buffer when a read fills it: one byte less than 32 KiB leaves it there.
const USUAL_BYTES: usize = 32 * 1024 - 1;
/// What a client's connection must have taken before reads for it are large. Linux keeps up to 4 MiB to be sent for a peer
/// that reads nothing (`tcp_wmem`), and the peer's own side keeps some; past twice that it has read.
pub(super) const PROOF_BYTES: u64 = 8 * 1024 * 1024;
/// Connections of one worker that have large buffers: at most some 48 MiB, if the client of each stops reading.
const LARGE_READS_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read_of(io: &mut SizedReads<tokio::io::DuplexStream>) -> usize {
        io.read(&mut vec![0; 2 * READ_BYTES_MAX]).await.unwrap()
    }

    #[tokio::test]
    async fn reads_are_small_until_they_are_enlarged_and_after_they_are_reset() {
        let (mut peer, io) = tokio::io::duplex(4 * READ_BYTES_MAX);
        let (mut size, mut io) = ReadSize::of(io, &Rc::default());
        peer.write_all(&vec![0; 3 * READ_BYTES_MAX]).await.unwrap();
        assert_eq!(read_of(&mut io).await, USUAL_BYTES);
        size.enlarge();
        assert_eq!(read_of(&mut io).await, READ_BYTES_MAX);
        size.reset();
        assert_eq!(read_of(&mut io).await, USUAL_BYTES);
    }

    #[tokio::test]
    async fn no_more_connections_grow_than_are_counted_and_one_that_ends_makes_room() {
        let grown = Rc::new(Cell::new(0));
        let enlarged = || {
            let (mut size, _) = ReadSize::of(tokio::io::empty(), &grown);
            size.enlarge();
            size
        };
        let mut sizes: Vec<_> = (0..=LARGE_READS_MAX).map(|_| enlarged()).collect();
        let large = |size: &ReadSize| size.now.get() == READ_BYTES_MAX;
        assert!(large(&sizes[0]) && !large(sizes.last().unwrap()));
        sizes[0].reset();
        assert_eq!(grown.get(), LARGE_READS_MAX, "its buffer is still large");
        sizes[0].enlarge();
        assert!(large(&sizes[0]), "and may be used again");
        sizes.swap_remove(0);
        assert!(large(&enlarged()));
    }
}
