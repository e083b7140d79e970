//! Opening a new connection to an endpoint.

use std::{io, rc::Rc, time::Instant};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    pool::{EndpointPool, Lease, Room, SharedConnections, Turn},
    protocol::{Connection, FailedWrite, http2::connection::SharedConnection},
    settings::HttpVersion,
};
use crate::{
    file_account::Place,
    message::Scheme,
    proxy_protocol::{self, Hop},
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
pub async fn connect(
    to: &Rc<EndpointPool>,
    client: Option<Hop>,
    deadline: Instant,
    now: Instant,
) -> Result<Lease, ConnectError> {
    match &to.shared {
        // Clients that cannot share a connection do not wait for each other's.
        Some(shared) if !shared.speaks_http1() && to.proxy_protocol.is_none() => {
            connect_shared(to, shared, deadline, now).await
        }
        _ => connect_alone(to, client, deadline, now).await,
    }
}

async fn connect_alone(
    to: &Rc<EndpointPool>,
    client: Option<Hop>,
    deadline: Instant,
    now: Instant,
) -> Result<Lease, ConnectError> {
    // The error that the system would give if this gateway did not count its files itself.
    let exhausted = || ConnectError::Exhausted(io::Error::from_raw_os_error(EMFILE));
    let room = tokio::time::timeout_at(deadline.into(), to.room(client)).await;
    let (place, has_waited) = match room.map_err(|_| exhausted())? {
        Room::Idle(lease) => return Ok(lease),
        Room::Place { place, has_waited } => (place, has_waited),
    };
    open((to, client), place, (deadline, now)).await.map_err(|error| match error {
        // The endpoint did not have the whole time.
        ConnectError::Timeout if has_waited => exhausted(),
        error => error,
    })
}

/// Connects to an endpoint that may speak HTTP/2, or waits for another request that does so, until `deadline`.
async fn connect_shared(
    to: &Rc<EndpointPool>,
    shared: &SharedConnections,
    deadline: Instant,
    now: Instant,
) -> Result<Lease, ConnectError> {
    loop {
        match shared.turn() {
            Turn::Opens(_guard) => return connect_alone(to, None, deadline, now).await,
            Turn::Waits(opening) => {
                let waited = tokio::time::timeout_at(deadline.into(), opening.wait()).await;
                waited.map_err(|_| ConnectError::Timeout)?;
            }
        }
        if let Some(lease) = to.checkout(None) {
            return Ok(lease);
        }
        if shared.speaks_http1() {
            return connect_alone(to, None, deadline, now).await;
        }
    }
}

async fn open(
    (to, client): (&Rc<EndpointPool>, Option<Hop>),
    place: Option<Place>,
    (deadline, now): (Instant, Instant),
) -> Result<Lease, ConnectError> {
    let late = |_| ConnectError::Timeout;
    let connecting = TcpStream::connect(to.address);
    let mut stream = tokio::time::timeout_at(deadline.into(), connecting).await.map_err(late)??;
    // Without this, the last segment of a request waits for the peer's delayed ACK (Nagle).
    stream.set_nodelay(true)?;
    if let Some(version) = to.proxy_protocol {
        let header = proxy_protocol::header(version, client);
        tokio::time::timeout_at(deadline.into(), stream.write_all(&header)).await.map_err(late)??;
    }
    let version = to.version();
    let Some(tls) = &to.tls else {
        if version != HttpVersion::Http1 {
            return start_http2(stream, Scheme::Http, (to, client, place), (deadline, now)).await;
        }
        let connection = Connection::open(stream, FailedWrite::SentNothing, &to.large_reads);
        return Ok(Lease::new(connection, place, now, (Rc::clone(to), client)));
    };
    let offered: &[&[u8]] = match version {
        HttpVersion::Http1 => &[],
        HttpVersion::Http2 | HttpVersion::Grpc => &[H2],
        HttpVersion::Either => &[H2, b"http/1.1"],
    };
    let secured =
        tokio::time::timeout_at(deadline.into(), tls.handshake(stream, offered)).await.map_err(late)?;
    let stream = secured.map_err(ConnectError::Tls)?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
    if is_http2 {
        return start_http2(stream, Scheme::Https, (to, client, place), (deadline, now)).await;
    }
    if matches!(version, HttpVersion::Http2 | HttpVersion::Grpc) {
        return Err(ConnectError::Tls(io::Error::other("the endpoint does not choose HTTP/2 (ALPN `h2`)")));
    }
    if let Some(shared) = &to.shared {
        shared.chose_http1(true);
    }
    let connection = Connection::open(stream, FailedWrite::MaySendSome, &to.large_reads);
    Ok(Lease::new(connection, place, now, (Rc::clone(to), client)))
}

async fn start_http2<I>(
    io: I,
    scheme: Scheme,
    (to, client, place): (&Rc<EndpointPool>, Option<Hop>, Option<Place>),
    (deadline, now): (Instant, Instant),
) -> Result<Lease, ConnectError>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let opening = SharedConnection::open(io, scheme, (place, client), now);
    let opened =
        tokio::time::timeout_at(deadline.into(), opening).await.map_err(|_| ConnectError::Timeout)?;
    let connection = opened.map_err(|error| ConnectError::Io(io::Error::other(error)))?;
    if let Some(shared) = &to.shared {
        shared.chose_http1(false);
        shared.add(&connection);
    }
    Ok(Lease::of_shared(&connection, Rc::clone(to)))
}

/// The name of HTTP/2 in ALPN (RFC 9113 §3.1).
const H2: &[u8] = b"h2";

/// Opens a connection over `io`, which is not a socket.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn over<I>(io: I, to: &Rc<EndpointPool>, now: Instant) -> Lease
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let connection = Connection::open(io, FailedWrite::SentNothing, &to.large_reads);
    Lease::new(connection, None, now, (Rc::clone(to), None))
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
