//! The largest number of bytes that one read of an upstream connection may take.
//!
//! Large reads make a large response cheaper: with 256 KiB, 64 MiB cost four fifths of what they cost with 32 KiB. But for
//! a client that stops reading, the gateway holds some three such reads. So a read is small until the client's connection
//! has taken more than the kernel keeps for a client that reads nothing ([`PROOF_BYTES`]), and at most [`LARGE_READS_MAX`]
//! connections of a worker may have large reads.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

/// The read size of one connection.
#[derive(Debug)]
pub(super) struct ReadSize {
    now: Rc<Cell<usize>>,
    /// The number of the worker's connections that have had large reads.
    all_grown: Rc<Cell<u64>>,
    grown: Option<Grown>,
}

/// The mark of a connection that has had large reads. hyper keeps a buffer as large as the largest read was, so the
/// connection is counted until it ends.
#[derive(Debug)]
struct Grown(Rc<Cell<u64>>);

impl ReadSize {
    /// Returns the control of the read size, and `io` under it. `all_grown` counts the worker's connections that have had
    /// large reads.
    pub(super) fn of<I: AsyncRead>(io: I, all_grown: &Rc<Cell<u64>>) -> (Self, SizedReads<I>) {
        let now = Rc::new(Cell::new(USUAL_BYTES));
        let size = Self { now: Rc::clone(&now), all_grown: Rc::clone(all_grown), grown: None };
        (size, SizedReads { io: io.take(0), now })
    }

    /// Makes reads large from now on, if the worker has not too many such connections.
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

    /// Makes reads small again, because the next response may go to another client.
    pub(super) fn reset(&self) {
        self.now.set(USUAL_BYTES);
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A byte stream whose reads are as large as its [`ReadSize`] allows.
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
        let limit = self.now.get();
        if buf.remaining() <= limit {
            return Pin::new(self.io.get_mut()).poll_read(cx, buf);
        }
        self.io.set_limit(limit as u64);
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

/// The largest read, and so the largest buffer of an upstream connection. With half of it, each GiB costs some 10 % more;
/// with twice as much, it costs no less.
pub(super) const READ_BYTES_MAX: usize = 256 * 1024;
/// The usual read. hyper doubles its buffer when a read fills it; with one byte less than 32 KiB the buffer stays at that
/// size.
const USUAL_BYTES: usize = 32 * 1024 - 1;
/// The bytes that a client's connection must have taken before reads for it are large. Linux may keep up to 4 MiB for a
/// peer that reads nothing (`tcp_wmem`), and the peer's own side keeps some; a client that has taken twice that has read.
pub(super) const PROOF_BYTES: u64 = 8 * 1024 * 1024;
/// The largest number of a worker's connections with large buffers: at most some 48 MiB, if the client of each stops
/// reading.
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
