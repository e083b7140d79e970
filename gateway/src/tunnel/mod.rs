//! Tunnels: bytes that pass in both directions between a client and a service, after a request has changed its connection to
//! another protocol (RFC 9110 §7.8, RFC 8441).
//!
//! [`pump`] moves the bytes and knows nothing of HTTP. What goes through stays as it is; of WebSocket, only the frames' heads are
//! read, so that a tunnel can be closed with a Close frame ([`websocket`]).

pub(crate) mod open;
pub(crate) mod pump;
pub(crate) mod standstill;
pub(crate) mod websocket;

use std::{
    io,
    task::{Context, Poll},
};

use tokio::io::ReadBuf;

/// One end of a tunnel: a client's connection, a stream of HTTP/2, or a connection to a service.
pub(crate) trait TunnelEnd {
    /// Reads bytes; none are the end of this direction.
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Writes some of the bytes.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Passes on what was written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the direction in which this end is written. The other one may go on.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
