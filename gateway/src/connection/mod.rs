//! An accepted socket: TLS, protocol, and hyper serving requests on it until it closes.
//!
//! hyper has one timer for "head incomplete" and "idle between requests", and arms it per request. Here each
//! connection keeps a phase instead, set as bytes and requests pass, and the worker sweeps all phases once a
//! second: two separate timeouts (`listen.header_timeout`, `listen.idle_timeout`), never early and at most a second
//! late, and no timer on the request path.
//!
//! hyper's buffers and state for a connection are large next to what an idle one needs. So hyper gets a connection when
//! its first bytes are there, and an HTTP/1 connection that has been idle for a sweep is taken from it again
//! ([`http1`]).
//!
//! HTTP/2 frames are counted below h2, which has no budget for those that are no progress ([`observed`], [`crate::downstream::budget`]).

mod http1;
mod http2;
mod linger;
mod observed;
mod report;
mod streams;
mod transport;
mod windows;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::HeaderValue;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use self::{observed::Observed, report::Failure, transport::Transport};
use crate::{
    admission::{self, Scheme},
    downstream::{ConnectionState, Phase},
    file_account::Place,
    listen::ListenSettings,
    request::ConnectionContext,
    worker::WorkerState,
};

/// Serves an accepted socket in a task of this worker. It keeps its place in the account of files until it is closed.
pub fn spawn(stream: TcpStream, peer: SocketAddr, scheme: Scheme, place: Place, worker: Rc<WorkerState>) {
    spawn_with(peer, scheme, Some(place), worker, async move |context| serve(stream, &context).await);
}

/// Serves HTTP in cleartext in a task of this worker on anything that reads and writes.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn spawn_cleartext<I>(io: I, peer: SocketAddr, worker: Rc<WorkerState>)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    spawn_with(peer, Scheme::Http, None, worker, async move |context| {
        serve_cleartext(transport(io, &context), &context).await
    });
}

fn spawn_with<S>(peer: SocketAddr, scheme: Scheme, place: Option<Place>, worker: Rc<WorkerState>, serve: S)
where
    S: AsyncFnOnce(Rc<ConnectionContext>) -> Result<(), Failure> + 'static,
{
    let connections = &worker.metrics.connections;
    for counter in [&connections.accepted, &connections.open] {
        counter.set(counter.get() + 1);
    }
    let state = Rc::new(ConnectionState::new(scheme, &worker.clock));
    let key = worker.connections.open.borrow_mut().insert(Rc::clone(&state));
    let entry = Entry { worker: Rc::clone(&worker), key, _place: place };
    tokio::task::spawn_local(async move {
        let _entry = entry;
        let peer_text = HeaderValue::from_str(&peer.ip().to_canonical().to_string());
        // An address is visible ASCII; the fallback is never taken.
        let peer_text = peer_text.unwrap_or(HeaderValue::from_static("unknown"));
        let context = Rc::new(ConnectionContext {
            worker,
            peer,
            peer_text,
            scheme,
            authority: RefCell::default(),
            state,
            held: Rc::default(),
        });
        match serve(Rc::clone(&context)).await {
            Err(failure) => report::ended(&context, &failure),
            Ok(()) => report::closed(&context),
        }
    });
}

/// Removes the connection from the table however its task ends.
struct Entry {
    worker: Rc<WorkerState>,
    key: usize,
    /// `None`: not a socket.
    _place: Option<Place>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.connections.open.borrow_mut().try_remove(self.key);
        let open = &self.worker.metrics.connections.open;
        open.set(open.get().saturating_sub(1));
        self.worker.connection_closed.notify_one();
    }
}

async fn serve(stream: TcpStream, context: &Rc<ConnectionContext>) -> Result<(), Failure> {
    stream.set_nodelay(true).map_err(|_| "socket")?;
    SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX).map_err(|_| "socket")?;
    match context.scheme {
        Scheme::Http => serve_cleartext(transport(stream, context), context).await,
        // Boxed. Otherwise a connection in cleartext would have room for the state of a handshake.
        Scheme::Https => Box::pin(serve_tls(stream, context)).await,
    }
}

fn transport<S>(stream: S, context: &Rc<ConnectionContext>) -> Transport<TokioIo<Observed<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Transport::new(TokioIo::new(Observed::new(stream, context)), context)
}

async fn serve_cleartext<I>(
    mut transport: Transport<I>,
    context: &Rc<ConnectionContext>,
) -> Result<(), Failure>
where
    I: Read + Write + Unpin + 'static,
{
    if !transport.wait_while_within(HTTP2_PREFACE_START).await.map_err(|_| "read")? {
        return Ok(());
    }
    if transport.starts_with(HTTP2_PREFACE_START) {
        http2::serve(transport, context).await
    } else {
        http1::serve(transport, context).await
    }
}

async fn serve_tls(stream: TcpStream, context: &Rc<ConnectionContext>) -> Result<(), Failure> {
    let config = context.worker.snapshot().shared.tls.clone().ok_or("no_certificate")?;
    // Boxed for its own time only.
    let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
    let Some(stream) = until_killed(&context.state, handshake).await else { return Ok(()) };
    let stream = stream.map_err(|error| Failure { reason: "tls_handshake", detail: error.to_string() })?;
    let counter = &context.worker.metrics.connections.tls_handshakes;
    counter.set(counter.get() + 1);
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut transport = transport(stream, context);
    if is_http2 {
        return http2::serve(transport, context).await;
    }
    context.state.enter(Phase::Idle);
    if !transport.wait_for_request().await.map_err(|_| "read")? {
        return Ok(());
    }
    http1::serve(transport, context).await
}

/// What the kernel keeps beyond the bytes that are on their way to a client. It would keep up to 4 MiB, and take nothing more
/// before a third of that is gone: a client that reads 20 KB in a second would look like one that reads nothing for a
/// minute. With 512 KiB, twice the largest read for it, it is asked again after thirteen seconds. Measured over loopback, the
/// median of nine rounds on a busy machine: a client that stops reading leaves 539 KiB here instead of 4,049; a response of
/// 1 GiB takes as long as without a limit (0.93 of it) and 6 % more of our CPU time; with 128 KiB it would be 37 % more.
const UNSENT_BYTES_MAX: u32 = 512 * 1024;

/// How the HTTP/2 connection preface begins (RFC 9113 §3.4), and no HTTP/1 method.
const HTTP2_PREFACE_START: &[u8] = b"PRI ";

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

/// What the HTTP library takes of a request's head before admission has its say: enough for a target and a header
/// section at their limits, and so much more that it is admission which refuses, with a status, a reason and a line in
/// the log, unless the head is absurd.
fn head_bytes_max(listen: &ListenSettings) -> usize {
    listen.max_header_bytes + admission::TARGET_BYTES_MAX + HEAD_BYTES_BEYOND
}

/// Method, version and what is past the limits.
const HEAD_BYTES_BEYOND: usize = 16 * 1024;

fn remember_waker(state: &ConnectionState, cx: &Context<'_>) {
    let mut waker = state.waker.borrow_mut();
    // A task keeps one waker for its life, so this clones once per connection.
    if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

fn classify(error: &hyper::Error) -> Failure {
    let reason = if error.is_parse_too_large() {
        "head_too_large"
    } else if error.is_parse() {
        "bad_request"
    } else if error.is_incomplete_message() {
        "client_gone"
    } else if error.is_timeout() {
        "timeout"
    } else {
        "io"
    };
    // hyper's own sentence, without the bytes that the client sent.
    let detail = if error.is_parse() { error.to_string() } else { String::new() };
    Failure { reason, detail }
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
