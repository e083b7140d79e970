//! The header of the PROXY protocol in front of a connection, on listeners that take one.
//!
//! The bytes are looked at in the socket's buffer and taken only when they are known to be a header. So the next reader, TLS or
//! HTTP, finds everything that is behind it, nothing has to be put back, and a connection of a listener without the protocol
//! costs nothing.
//!
//! The header is read before TLS, within `listen.header_timeout`, which also covers the handshake behind it. Nothing is written
//! to a peer whose header is wrong: it speaks another protocol.

use std::{io, net::SocketAddr};

use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
};

use super::{report::Failure, until_killed};
use crate::{
    downstream::{ConnectionState, PROXY_PROTOCOL, PROXY_UNTRUSTED},
    headers,
    proxy_protocol::{self, FirstBytes, HEADER_BYTES_MAX, ProxyProtocol},
    worker::WorkerState,
};

/// The address of the client: the one in the header, or the peer's. `None`: the connection has ended before, and that is
/// counted, or is not worth it.
pub(super) async fn client(
    stream: &TcpStream,
    peer: SocketAddr,
    worker: &WorkerState,
    state: &ConnectionState,
) -> Result<Option<SocketAddr>, Failure> {
    let is_required = state.listener.proxy_protocol == ProxyProtocol::Required;
    // Those of the configuration in use, which a reload may have changed since the last connection.
    if !headers::is_trusted(peer.ip(), &worker.snapshot().shared.table.listen.trusted_proxies) {
        // Not read as a header, whatever the bytes are: HTTP or TLS refuses those of a header.
        return if is_required { Err(PROXY_UNTRUSTED.into()) } else { Ok(Some(peer)) };
    }
    let Some(read) = until_killed(state, read(stream)).await else { return Ok(None) };
    match read.map_err(|_| "read")? {
        Found::Header(source) => Ok(Some(source.unwrap_or(peer))),
        Found::Nothing => Ok(None),
        Found::Other if is_required => Err(wrong("no header")),
        Found::Other => Ok(Some(peer)),
        Found::Wrong(part) => Err(wrong(part)),
    }
}

fn wrong(part: &str) -> Failure {
    Failure { reason: PROXY_PROTOCOL, detail: part.to_owned() }
}

/// What stands at the beginning of a connection.
enum Found {
    /// A header, which is taken from the stream. `None`: the connection's own address counts.
    Header(Option<SocketAddr>),
    /// Something else, which is still in the stream.
    Other,
    /// A header that is wrong in this part, or has no end.
    Wrong(&'static str),
    /// The peer has closed the connection without a byte, as health checks of load balancers do.
    Nothing,
}

async fn read(stream: &TcpStream) -> io::Result<Found> {
    let mut space = [0; HEADER_BYTES_MAX];
    let mut seen = 0;
    loop {
        let is_closed = stream.ready(Interest::READABLE).await?.is_read_closed();
        let mut peeked = ReadBuf::new(&mut space);
        let bytes = std::future::poll_fn(|cx| stream.poll_peek(cx, &mut peeked)).await?;
        let has_ended = bytes == seen;
        if has_ended && bytes > 0 && !is_closed {
            // Bytes that stay in the socket leave it readable. It counts as read now, until the next ones come, or the end.
            let _ =
                stream.try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
            continue;
        }
        seen = bytes;
        match proxy_protocol::read(peeked.filled()) {
            FirstBytes::Header { bytes, source } => {
                take(stream, space.get_mut(..bytes).unwrap_or_default()).await?;
                return Ok(Found::Header(source));
            }
            FirstBytes::Absent => return Ok(Found::Other),
            FirstBytes::Invalid(part) => return Ok(Found::Wrong(part)),
            FirstBytes::Incomplete if bytes == 0 => return Ok(Found::Nothing),
            FirstBytes::Incomplete if has_ended => return Ok(Found::Wrong("end")),
            FirstBytes::Incomplete => {}
        }
    }
}

/// Takes bytes off the stream that were seen in it.
async fn take(stream: &TcpStream, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        stream.readable().await?;
        match stream.try_read(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => into = into.get_mut(bytes..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
