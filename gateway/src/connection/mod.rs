//! An accepted socket: TLS, protocol, and hyper serving requests on it until it closes.
//!
//! hyper has one timer for "head incomplete" and "idle between requests", and arms it per request. Here each
//! connection keeps a phase instead, set as bytes and requests pass, and the worker sweeps all phases once a
//! second: two separate timeouts (`listen.header_timeout`, `listen.idle_timeout`), exact to a second, and no
//! timer on the request path.

mod state;

use std::{
    cell::Cell,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use hyper::{
    rt::{Read, ReadBufCursor, Write},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub use self::state::ConnectionTable;
use self::state::{ConnectionState, Ended, Phase};
use crate::{admission::Scheme, metrics::Rare, proxy, worker::WorkerState};

/// Read and write buffer of one HTTP/1 connection; hyper's default is 408 KiB.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// HTTP/2 limits; Envoy's advice for an edge proxy where it differs from h2's defaults.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const H2_SEND_BUFFER: usize = 64 * 1024;
const H2_HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
const H2_RESETS_MAX: usize = 20;
const H2_LOCAL_RESETS_MAX: usize = 256;
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// hyper's own limit, which costs nothing as long as it is not set.
const HEADERS_MAX_DEFAULT: usize = 100;

/// What every request of one connection shares.
pub struct ConnectionContext {
    pub worker: Rc<WorkerState>,
    pub peer: SocketAddr,
    /// The peer's address as a header value, made once.
    pub peer_text: HeaderValue,
    pub scheme: Scheme,
    pub state: Rc<ConnectionState>,
}

/// Serves an accepted socket in a task of this worker.
pub fn spawn(stream: TcpStream, peer: SocketAddr, scheme: Scheme, worker: Rc<WorkerState>) {
    spawn_with(peer, scheme, worker, async move |context| serve(stream, &context).await);
}

/// Serves HTTP/1.1 in a task of this worker on anything that reads and writes.
pub(crate) fn spawn_http1<I>(io: I, peer: SocketAddr, worker: Rc<WorkerState>)
where
    I: Read + Write + Unpin + 'static,
{
    spawn_with(peer, Scheme::Http, worker, async move |context| serve_http1(io, &context).await);
}

fn spawn_with<S>(peer: SocketAddr, scheme: Scheme, worker: Rc<WorkerState>, serve: S)
where
    S: AsyncFnOnce(Rc<ConnectionContext>) -> Result<(), Ended> + 'static,
{
    let counter = &worker.metrics.connections.accepted;
    counter.set(counter.get() + 1);
    let state = Rc::new(ConnectionState::new(scheme, &worker.clock));
    let key = worker.connections.open.borrow_mut().insert(Rc::clone(&state));
    let entry = Entry { worker: Rc::clone(&worker), key };
    tokio::task::spawn_local(async move {
        let _entry = entry;
        let peer_text = HeaderValue::from_str(&peer.ip().to_canonical().to_string());
        // An address is visible ASCII; the fallback is never taken.
        let peer_text = peer_text.unwrap_or(HeaderValue::from_static("unknown"));
        let context = Rc::new(ConnectionContext { worker, peer, peer_text, scheme, state });
        if let Err(reason) = serve(Rc::clone(&context)).await {
            context.worker.metrics.count(Rare::ConnectionError, scheme.as_str(), reason);
        }
    });
}

/// Removes the connection from the table however its task ends.
struct Entry {
    worker: Rc<WorkerState>,
    key: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.connections.open.borrow_mut().try_remove(self.key);
        self.worker.connection_closed.notify_one();
    }
}

async fn serve(stream: TcpStream, context: &Rc<ConnectionContext>) -> Result<(), Ended> {
    stream.set_nodelay(true).map_err(|_| "socket")?;
    match context.scheme {
        Scheme::Http => {
            // A kill is counted by who kills.
            let Some(http2) = until_killed(&context.state, starts_like_http2(&stream)).await else {
                return Ok(());
            };
            if http2.map_err(|_| "read")? {
                serve_http2(TokioIo::new(stream), context).await
            } else {
                serve_http1(TokioIo::new(stream), context).await
            }
        }
        Scheme::Https => {
            let config = context.worker.snapshot().shared.tls.clone().ok_or("no_certificate")?;
            let handshake = TlsAcceptor::from(config).accept(stream);
            let Some(stream) = until_killed(&context.state, handshake).await else { return Ok(()) };
            let stream = stream.map_err(|_| "tls_handshake")?;
            let counter = &context.worker.metrics.connections.tls_handshakes;
            counter.set(counter.get() + 1);
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                serve_http2(TokioIo::new(stream), context).await
            } else {
                serve_http1(TokioIo::new(stream), context).await
            }
        }
    }
}

/// The HTTP/2 connection preface (RFC 9113 §3.4) begins `PRI `, which no HTTP/1 method does. A client that sends
/// it in pieces of under four bytes is served HTTP/1 and gets a 400; none does.
async fn starts_like_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 4];
    let read = stream.peek(&mut first).await?;
    Ok(read == first.len() && &first == b"PRI ")
}

async fn serve_http1<I>(io: I, context: &Rc<ConnectionContext>) -> Result<(), Ended>
where
    I: Read + Write + Unpin + 'static,
{
    let state = &context.state;
    state.enter(Phase::Idle);
    let io = Watched { io, state: Rc::clone(state) };
    let service_context = Rc::clone(context);
    let service = service_fn(move |request| proxy::serve(Rc::clone(&service_context), request));
    let snapshot = context.worker.snapshot();
    let listen = &snapshot.shared.table.listen;
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(BUFFER_BYTES_MAX.max(listen.max_header_bytes))
        .max_header_size(listen.max_header_bytes)
        // Timeouts are the sweep's.
        .header_read_timeout(None);
    if listen.max_headers > HEADERS_MAX_DEFAULT {
        builder.max_headers(listen.max_headers);
    }
    let connection = builder.serve_connection(io, service);
    let mut connection = pin!(connection);
    let _gauge = Gauge::up(context, |connections| &connections.http1);
    drive(state, |cx, close| {
        if close {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(|error| classify(&error))
}

async fn serve_http2<I>(io: I, context: &Rc<ConnectionContext>) -> Result<(), Ended>
where
    I: Read + Write + Unpin + 'static,
{
    let state = &context.state;
    state.is_http2.set(true);
    state.enter(Phase::Idle);
    let io = Watched { io, state: Rc::clone(state) };
    let service_context = Rc::clone(context);
    let service = service_fn(move |request| proxy::serve(Rc::clone(&service_context), request));
    let max_streams = context.worker.snapshot().shared.table.listen.max_streams;
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_local_error_reset_streams(H2_LOCAL_RESETS_MAX)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let _gauge = Gauge::up(context, |connections| &connections.http2);
    drive(state, |cx, close| {
        if close {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(|error| classify(&error))
}

/// Polls a connection; passes on "close" once, and drops it on "kill".
async fn drive(
    state: &ConnectionState,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
) -> hyper::Result<()> {
    let mut told = false;
    std::future::poll_fn(move |cx| {
        remember_waker(state, cx);
        if state.kill.get() {
            return Poll::Ready(Ok(()));
        }
        let close = state.close.get() && !told;
        told |= close;
        poll(cx, close)
    })
    .await
}

/// `None` when the sweep has killed the connection meanwhile.
async fn until_killed<F: Future>(state: &ConnectionState, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| {
        remember_waker(state, cx);
        if state.kill.get() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

fn remember_waker(state: &ConnectionState, cx: &Context<'_>) {
    let mut waker = state.waker.borrow_mut();
    // A task keeps one waker for its life, so this clones once per connection.
    if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

fn classify(error: &hyper::Error) -> Ended {
    if error.is_parse_too_large() {
        "head_too_large"
    } else if error.is_parse() {
        "bad_request"
    } else if error.is_incomplete_message() {
        "client_gone"
    } else if error.is_timeout() {
        "timeout"
    } else {
        "io"
    }
}

/// Counts a connection while it lives.
struct Gauge {
    context: Rc<ConnectionContext>,
    which: fn(&crate::metrics::Connections) -> &Cell<u64>,
}

impl Gauge {
    fn up(context: &Rc<ConnectionContext>, which: fn(&crate::metrics::Connections) -> &Cell<u64>) -> Self {
        let cell = which(&context.worker.metrics.connections);
        cell.set(cell.get() + 1);
        Self { context: Rc::clone(context), which }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        let cell = (self.which)(&self.context.worker.metrics.connections);
        cell.set(cell.get().saturating_sub(1));
    }
}

/// The socket, telling the connection's phase when bytes arrive.
struct Watched<I> {
    io: I,
    state: Rc<ConnectionState>,
}

impl<I: Read + Unpin> Read for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) {
            self.state.bytes_arrived();
        }
        result
    }
}

impl<I: Write + Unpin> Write for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.state.wrote(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.state.wrote(&result);
        result
    }
}

/// Runs hyper's HTTP/2 stream tasks on this worker.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
