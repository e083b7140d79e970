//! An accepted socket: TLS, protocol, and hyper serving requests on it until it closes.
//!
//! hyper has one timer for "head incomplete" and "idle between requests", and arms it per request. Here each
//! connection keeps a phase instead, set as bytes and requests pass, and the worker sweeps all phases once a
//! second: two separate timeouts (`listen.header_timeout`, `listen.idle_timeout`), exact to a second, and no
//! timer on the request path.
//!
//! hyper's buffers and state for a connection are large next to what an idle one needs. So hyper gets a connection when
//! its first bytes are there, and an HTTP/1 connection that has been idle for a sweep is taken from it again
//! ([`http1`]).

mod http1;
mod http2;
mod linger;
mod state;
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
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub use self::state::{ConnectionState, ConnectionTable};
use self::{
    state::{Ended, Phase},
    transport::Transport,
};
use crate::{
    admission::{Authority, Scheme},
    metrics::Rare,
    worker::WorkerState,
};

/// What every request of one connection shares.
pub struct ConnectionContext {
    pub worker: Rc<WorkerState>,
    pub peer: SocketAddr,
    /// The peer's address as a header value, made once.
    pub peer_text: HeaderValue,
    pub scheme: Scheme,
    /// Of the last request; the next one nearly always has the same.
    pub authority: RefCell<Option<Rc<Authority>>>,
    pub state: Rc<ConnectionState>,
}

/// Serves an accepted socket in a task of this worker.
pub fn spawn(stream: TcpStream, peer: SocketAddr, scheme: Scheme, worker: Rc<WorkerState>) {
    spawn_with(peer, scheme, worker, async move |context| serve(stream, &context).await);
}

/// Serves HTTP in cleartext in a task of this worker on anything that reads and writes.
pub(crate) fn spawn_cleartext<I>(io: I, peer: SocketAddr, worker: Rc<WorkerState>)
where
    I: Read + Write + Unpin + 'static,
{
    spawn_with(peer, Scheme::Http, worker, async move |context| {
        serve_cleartext(Transport::new(io, &context), &context).await
    });
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
        let context = Rc::new(ConnectionContext {
            worker,
            peer,
            peer_text,
            scheme,
            authority: RefCell::default(),
            state,
        });
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
    SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX).map_err(|_| "socket")?;
    match context.scheme {
        Scheme::Http => serve_cleartext(Transport::new(TokioIo::new(stream), context), context).await,
        // Boxed: else a connection in cleartext would have room for the state of a handshake.
        Scheme::Https => Box::pin(serve_tls(stream, context)).await,
    }
}

async fn serve_cleartext<I>(mut transport: Transport<I>, context: &Rc<ConnectionContext>) -> Result<(), Ended>
where
    I: Read + Write + Unpin + 'static,
{
    if !transport.wait_for_bytes().await.map_err(|_| "read")? {
        return Ok(());
    }
    if transport.starts_with(HTTP2_PREFACE_START) {
        http2::serve(transport, context).await
    } else {
        http1::serve(transport, context).await
    }
}

async fn serve_tls(stream: TcpStream, context: &Rc<ConnectionContext>) -> Result<(), Ended> {
    let config = context.worker.snapshot().shared.tls.clone().ok_or("no_certificate")?;
    // Boxed for its own time only.
    let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
    let Some(stream) = until_killed(&context.state, handshake).await else { return Ok(()) };
    let stream = stream.map_err(|_| "tls_handshake")?;
    let counter = &context.worker.metrics.connections.tls_handshakes;
    counter.set(counter.get() + 1);
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut transport = Transport::new(TokioIo::new(stream), context);
    if is_http2 {
        return http2::serve(transport, context).await;
    }
    context.state.enter(Phase::Idle);
    if !transport.wait_for_bytes().await.map_err(|_| "read")? {
        return Ok(());
    }
    http1::serve(transport, context).await
}

/// What the kernel keeps beyond the bytes that are on their way to a client. It would keep up to 4 MiB, and take nothing more
/// before a third of that is gone: a client that reads 20 KB in a second would look like one that reads nothing for a
/// minute. With 512 KiB, twice the largest read for it, it is asked again after thirteen seconds, and a fast one never waits.
const UNSENT_BYTES_MAX: u32 = 512 * 1024;

/// How the HTTP/2 connection preface begins (RFC 9113 §3.4), and no HTTP/1 method. A client that sends it in pieces of
/// under four bytes is served HTTP/1 and gets a 400; none does.
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
