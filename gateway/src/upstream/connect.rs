//! A new HTTP/1.1 connection to an endpoint.

use std::{cell::Cell, error::Error as _, io, rc::Rc, time::Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    informational::{Informational, Informed, RESPONSE_HEAD_BYTES_MAX},
    last_words::LastWords,
    pool::{Connection, EndpointPool, Room},
    read_size::{READ_BYTES_MAX, ReadSize},
};
use crate::small_writes::SmallWrites;

/// Why there is no connection. Nothing of the request was sent, so another endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no answer within the connect timeout")]
    Timeout,
    /// This machine has no file or port left for another connection; the endpoint knows nothing of it.
    #[error("no socket left: {0}")]
    Exhausted(io::Error),
    #[error(transparent)]
    Io(io::Error),
    /// No TLS, or with somebody that is not trusted.
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("handshake: {0}")]
    Handshake(#[from] hyper::Error),
}

impl ConnectError {
    /// The other side speaks TLS, and did not prove to be who it should be.
    pub fn is_about_the_certificate(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
    }
}

/// Did the other side end the connection with a TLS alert? In TLS 1.3 that is how it refuses our certificate, after a
/// handshake that was over for us (RFC 8446 §4.4.2.4, §6.2).
pub(crate) fn is_alert(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let inner = io.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

/// Connects until `deadline` and starts the task that drives the connection on this worker.
///
/// # Errors
/// Refused, unreachable, out of ports or files, not accepted in time, or nobody that is trusted.
pub async fn connect(
    to: &EndpointPool,
    deadline: Instant,
    now: Instant,
) -> Result<Box<Connection>, ConnectError> {
    // As the system would say if this gateway did not count its files itself.
    let exhausted = || ConnectError::Exhausted(io::Error::from_raw_os_error(EMFILE));
    let room = tokio::time::timeout_at(deadline.into(), to.room()).await;
    let (place, has_waited) = match room.map_err(|_| exhausted())? {
        Room::Idle(connection) => return Ok(connection),
        Room::Place { place, has_waited } => (place, has_waited),
    };
    let opened = open(to, deadline, now).await.map_err(|error| match error {
        // The endpoint did not have its time.
        ConnectError::Timeout if has_waited => exhausted(),
        error => error,
    });
    let mut connection = opened?;
    connection.place = place;
    Ok(connection)
}

async fn open(to: &EndpointPool, deadline: Instant, now: Instant) -> Result<Box<Connection>, ConnectError> {
    let late = |_| ConnectError::Timeout;
    let connecting = TcpStream::connect(to.address);
    let stream = tokio::time::timeout_at(deadline.into(), connecting).await.map_err(late)??;
    // Without it, the last segment of a request waits for the peer's delayed ACK (Nagle).
    stream.set_nodelay(true)?;
    let Some(tls) = &to.tls else { return Ok(handshake(stream, now).await?) };
    let secured = tokio::time::timeout_at(deadline.into(), tls.handshake(stream)).await.map_err(late)?;
    Ok(handshake(secured.map_err(ConnectError::Tls)?, now).await?)
}

/// Starts the task that drives a connection over `io`, which need not be a socket.
pub(crate) async fn handshake<I>(io: I, now: Instant) -> hyper::Result<Box<Connection>>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let broken = Rc::new(Cell::new(false));
    let informational = Rc::<Informational>::default();
    let io = Informed::new(LastWords::new(io, Rc::clone(&broken)), Rc::clone(&informational));
    let (reads, io) = ReadSize::of(io);
    let (sender, connection) = http1::Builder::new()
        .max_header_size(RESPONSE_HEAD_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .handshake(SmallWrites(TokioIo::new(io)))
        .await?;
    let task = tokio::task::spawn_local(async move {
        // Its failures reach the request through the sender; there is nobody else to tell.
        let _ = connection.await;
    });
    Ok(Connection::new(sender, task.abort_handle(), (reads, informational, broken), now))
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) if EXHAUSTED.contains(&code) => Self::Exhausted(error),
            _ => Self::Io(error),
        }
    }
}

const EMFILE: i32 = 24;
/// Linux: ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS.
const EXHAUSTED: [i32; 5] = [12, 23, EMFILE, 99, 105];
