//! Opening a new connection to an endpoint.

use std::{io, rc::Rc, time::Instant};

use tokio::net::TcpStream;

use super::{
    pool::{EndpointPool, Lease, Room},
    protocol::{Connection, FailedWrite},
};

/// The reason that there is no connection. No byte of the request was sent, so another endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no answer within the connect timeout")]
    Timeout,
    /// This machine has no file or port left for another connection. The endpoint is not involved.
    #[error("no socket left: {0}")]
    Exhausted(io::Error),
    #[error(transparent)]
    Io(io::Error),
    /// The endpoint does not speak TLS, or did not prove a name that is trusted.
    #[error("TLS: {0}")]
    Tls(io::Error),
}

impl ConnectError {
    /// Whether the endpoint speaks TLS, but did not prove that it has the expected name.
    pub fn is_about_the_certificate(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
    }
}

/// Connects until `deadline`. If an idle connection of the pool becomes free while this waits for a file, it returns that
/// one.
///
/// # Errors
/// The endpoint refused the connection, cannot be reached, did not accept in time, or did not prove its name; or this
/// machine has no port or file left.
pub async fn connect(to: &Rc<EndpointPool>, deadline: Instant, now: Instant) -> Result<Lease, ConnectError> {
    // The error that the system would give if this gateway did not count its files itself.
    let exhausted = || ConnectError::Exhausted(io::Error::from_raw_os_error(EMFILE));
    let room = tokio::time::timeout_at(deadline.into(), to.room()).await;
    let (place, has_waited) = match room.map_err(|_| exhausted())? {
        Room::Idle(lease) => return Ok(lease),
        Room::Place { place, has_waited } => (place, has_waited),
    };
    let opened = open(to, deadline).await.map_err(|error| match error {
        // The endpoint did not have the whole time.
        ConnectError::Timeout if has_waited => exhausted(),
        error => error,
    });
    Ok(Lease::new(opened?, place, now, Rc::clone(to)))
}

async fn open(to: &EndpointPool, deadline: Instant) -> Result<Connection, ConnectError> {
    let late = |_| ConnectError::Timeout;
    let connecting = TcpStream::connect(to.address);
    let stream = tokio::time::timeout_at(deadline.into(), connecting).await.map_err(late)??;
    // Without this, the last segment of a request waits for the peer's delayed ACK (Nagle).
    stream.set_nodelay(true)?;
    let Some(tls) = &to.tls else {
        return Ok(Connection::open(stream, FailedWrite::SentNothing, &to.large_reads));
    };
    let secured = tokio::time::timeout_at(deadline.into(), tls.handshake(stream)).await.map_err(late)?;
    let stream = secured.map_err(ConnectError::Tls)?;
    Ok(Connection::open(stream, FailedWrite::MaySendSome, &to.large_reads))
}

/// Opens a connection over `io`, which is not a socket.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn over<I>(io: I, to: &Rc<EndpointPool>, now: Instant) -> Lease
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let connection = Connection::open(io, FailedWrite::SentNothing, &to.large_reads);
    Lease::new(connection, None, now, Rc::clone(to))
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
