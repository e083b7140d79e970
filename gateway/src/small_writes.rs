//! Small vectored writes as plain ones.
//!
//! hyper hands a message to the socket as head and content, two buffers. `writev` takes both at once, but goes the way
//! of files: it locks the position, imports the vector, notifies watchers of files. `send` does nothing of that. For a
//! message of the size that most have, copying it into one buffer and sending that is cheaper by some 3 % of all
//! that a request costs; past [`COPY_BYTES_MAX`] the copy would cost more than it saves.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};

/// A byte stream whose small vectored writes become plain ones.
pub(crate) struct SmallWrites<I>(pub(crate) I);

impl<I: Write + Unpin> Write for SmallWrites<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.0);
        if let [only] = bufs {
            return io.poll_write(cx, only);
        }
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > COPY_BYTES_MAX {
            return io.poll_write_vectored(cx, bufs);
        }
        let mut space = [0; COPY_BYTES_MAX];
        io.poll_write(cx, joined(bufs, &mut space))
    }
}

impl<I: Read + Unpin> Read for SmallWrites<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

/// Joins the buffers. The rest that does not fit is left for the next write, as after any write that takes only a
/// part.
fn joined<'a>(bufs: &[IoSlice<'_>], space: &'a mut [u8]) -> &'a [u8] {
    let mut filled = 0;
    for buf in bufs {
        let Some(free) = space.get_mut(filled..filled + buf.len()) else { break };
        free.copy_from_slice(buf);
        filled += buf.len();
    }
    space.get(..filled).unwrap_or_default()
}

/// Size in bytes of a head and a content as most messages have them.
const COPY_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_joined_as_far_as_they_fit() {
        let bufs = [IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"content")];
        assert_eq!(joined(&bufs, &mut [0; 11]), b"headcontent");
        assert_eq!(joined(&bufs, &mut [0; 10]), b"head");
        assert_eq!(joined(&[], &mut [0; 1]), b"");
    }
}
