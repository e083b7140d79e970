//! The client's side of a tunnel: an HTTP/1.1 connection after its 101, or a stream of HTTP/2 after its 200 (RFC 8441 §5).

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::rt::{Read, Write};
use tokio::io::ReadBuf;

use super::{ConnectionContext, transport::Transport, until_killed};
use crate::{
    body::{Chunk, ClientBody},
    request::Tunnel,
    tunnel::TunnelEnd,
};

/// Runs the tunnel that an HTTP/1.1 connection has become, until it ends or the connection is killed.
pub(super) async fn run_on_connection<I>(
    tunnel: Box<Tunnel>,
    transport: Transport<I>,
    context: &Rc<ConnectionContext>,
) where
    I: Read + Write + Unpin + 'static,
{
    // hyper's buffers are gone.
    context.worker.freed_memory.of_connection();
    until_killed(&context.state, Box::pin(tunnel.run(ConnectionEnd(transport)))).await;
}

/// Runs the tunnel that a stream has become.
pub(super) async fn run_on_stream(mut tunnel: Box<Tunnel>, sending: SendStream<Chunk>) {
    let Some(receiving) = tunnel.take_stream() else { return };
    Box::pin(tunnel.run(StreamEnd { receiving, sending, ahead: Bytes::new(), is_over: false })).await;
}

struct ConnectionEnd<I>(Transport<I>);

impl<I: Read + Write + Unpin> TunnelEnd for ConnectionEnd<I> {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut space = hyper::rt::ReadBuf::new(to.initialize_unfilled());
        ready!(Pin::new(&mut self.0).poll_read(cx, space.unfilled()))?;
        let came = space.filled().len();
        to.advance(came);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct StreamEnd {
    receiving: ClientBody,
    sending: SendStream<Chunk>,
    /// Bytes that came and do not fit into the last read.
    ahead: Bytes,
    /// The client has everything, or has reset the stream.
    is_over: bool,
}

impl TunnelEnd for StreamEnd {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.ahead.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(data)) => self.ahead = data,
                None if self.receiving.is_end_stream() => return Poll::Ready(Ok(())),
                Some(Err(_)) | None => return Poll::Ready(Err(self.reset())),
            }
        }
        let taken = self.ahead.len().min(to.remaining());
        to.put_slice(&self.ahead.split_to(taken));
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sending.reserve_capacity(bytes.len());
        while self.sending.capacity() == 0 {
            if self.sending.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(self.reset()));
            }
            match ready!(self.sending.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(self.reset())),
            }
        }
        let taken = bytes.len().min(self.sending.capacity());
        let data = Bytes::copy_from_slice(bytes.get(..taken).unwrap_or_default());
        let sent = self.sending.send_data(Chunk::new(data, None), false);
        Poll::Ready(sent.map(|()| taken).map_err(|_| self.reset()))
    }

    /// h2 sends what it has by itself.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.sending.send_data(Chunk::default(), true);
        self.is_over = true;
        Poll::Ready(sent.map_err(|_| self.reset()))
    }
}

impl StreamEnd {
    fn reset(&mut self) -> io::Error {
        self.is_over = true;
        io::ErrorKind::ConnectionReset.into()
    }
}

/// A tunnel that ends before the client has everything resets its stream (RFC 8441 §5): h2 would end it as if it were complete.
///
/// One that has ended its direction does not: the last frames may still wait in h2, and a reset would take their place. What the client
/// still sends is for nobody then, and h2 says so behind these frames.
impl Drop for StreamEnd {
    fn drop(&mut self) {
        if !self.is_over {
            self.sending.send_reset(Reason::CANCEL);
        }
    }
}
