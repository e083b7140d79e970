//! An accepted client connection: TLS, choice of the protocol, and the requests on it until it closes.
//!
//! hyper has one timer for "head incomplete" and "idle between requests", and arms it per request. Here each connection
//! keeps a phase instead, which changes as bytes and requests pass, and the worker checks the phases of all connections once
//! a second. So the two timeouts (`listen.header_timeout`, `listen.idle_timeout`) are separate, never end early and at most
//! a second late, and the request path sets no timer.
//!
//! hyper's buffers and state for a connection are large compared to what an idle connection needs. So hyper gets a
//! connection when its first bytes have arrived, and gives an HTTP/1 connection back when it has been idle for a sweep
//! ([`http1`]).
//!
//! HTTP/2 frames are counted below h2, because h2 has no budget for frames that do not advance a request ([`observed`],
//! [`crate::downstream::budget`]).

mod http1;
mod http2;
mod linger;
mod observed;
mod proxied;
mod report;
mod streams;
mod transport;
mod tunnel;
mod windows;

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use http::HeaderValue;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::{HandshakeKind, server::Acceptor};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use self::{observed::Observed, report::Failure, transport::Transport};
use crate::{
    admission::{self, Scheme},
    certificate::{ListenerTls, client::CertificateFacts, handshake::TlsHandshake, validation},
    downstream::{CERTIFICATE_AWAITED, ConnectionState, Phase},
    file_account::Place,
    listen::{ListenSettings, Listener},
    metrics::Connections,
    proxy_protocol::ProxyProtocol,
    request::ConnectionContext,
    worker::WorkerState,
};

/// Serves an accepted socket in a task of this worker. The connection keeps its place in the account of files until it is
/// closed.
pub fn spawn(
    stream: TcpStream,
    peer: SocketAddr,
    listener: Rc<Listener>,
    place: Place,
    worker: Rc<WorkerState>,
) {
    spawn_with(listener, Some(place), worker, async move |mut arrival| {
        // A system call that only services with a header need.
        if arrival.worker.snapshot().shared.states_clients {
            arrival.local = stream.local_addr().ok();
        }
        let client = match arrival.state.listener.proxy_protocol {
            ProxyProtocol::Off => Ok(Some(peer)),
            // Boxed, because the room for a header is not needed any more after it.
            _ => boxed(|| proxied::client(&stream, peer, &arrival.worker, &arrival.state)).await,
        };
        match client {
            Ok(Some(client)) => {
                let context = arrival.of(client);
                let result = serve(stream, &context).await;
                (context, result)
            }
            Ok(None) => (arrival.of(peer), Ok(())),
            Err(failure) => (arrival.of(peer), Err(failure)),
        }
    });
}

/// Serves HTTP in cleartext in a task of this worker, on any stream that can be read and written.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn spawn_cleartext<I>(io: I, peer: SocketAddr, worker: Rc<WorkerState>)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    spawn_with(Listener::cleartext(), None, worker, async move |arrival| {
        let context = arrival.of(peer);
        let result = serve_cleartext(transport(io, &context), &context).await;
        (context, result)
    });
}

/// A connection that has been accepted and is counted, and whose client is not known yet.
struct Arrival {
    worker: Rc<WorkerState>,
    state: Rc<ConnectionState>,
    local: Option<SocketAddr>,
}

impl Arrival {
    /// The connection of this client.
    fn of(self, client: SocketAddr) -> Rc<ConnectionContext> {
        let authority = self.worker.last_authority.borrow().clone();
        Rc::new(ConnectionContext {
            peer: client,
            local: self.local,
            handshake: OnceCell::new(),
            peer_text: address_text(client.ip().to_canonical()),
            authority: RefCell::new(authority),
            worker: self.worker,
            state: self.state,
            held: Rc::default(),
            tunnel: RefCell::default(),
        })
    }
}

fn spawn_with<S>(listener: Rc<Listener>, place: Option<Place>, worker: Rc<WorkerState>, serve: S)
where
    S: AsyncFnOnce(Arrival) -> (Rc<ConnectionContext>, Result<(), Failure>) + 'static,
{
    let connections = &worker.metrics.connections;
    for counter in [&connections.accepted, &connections.open] {
        counter.set(counter.get() + 1);
    }
    let state = Rc::new(ConnectionState::new(listener, &worker.clock));
    let key = worker.connections.open.borrow_mut().insert(Rc::clone(&state));
    let entry = Entry { worker: Rc::clone(&worker), key, _place: place };
    // Boxed, because tokio moves a task's future several times.
    tokio::task::spawn_local(boxed(|| async move {
        let _entry = entry;
        match serve(Arrival { worker, state, local: None }).await {
            (context, Err(failure)) => report::ended(&context, &failure),
            (context, Ok(())) => report::closed(&context),
        }
    }));
}

/// An address as a header value. The four numbers of IPv4 are written without `fmt`, which takes 1,300 instructions.
fn address_text(address: IpAddr) -> HeaderValue {
    let text = match address {
        IpAddr::V4(address) => {
            let mut text = String::with_capacity("255.255.255.255".len());
            let mut number = itoa::Buffer::new();
            for (at, octet) in address.octets().into_iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "." });
                text.push_str(number.format(octet));
            }
            text
        }
        IpAddr::V6(address) => address.to_string(),
    };
    // An address is visible ASCII, so the fallback is never taken.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Removes the connection from the table, however its task ends.
struct Entry {
    worker: Rc<WorkerState>,
    key: usize,
    /// `None` where the connection is not a socket and so takes up no file.
    _place: Option<Place>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.connections.open.borrow_mut().try_remove(self.key);
        let open = &self.worker.metrics.connections.open;
        open.set(open.get().saturating_sub(1));
        self.worker.freed_memory.of_connection();
        self.worker.connection_closed.notify_one();
    }
}

async fn serve(stream: TcpStream, context: &Rc<ConnectionContext>) -> Result<(), Failure> {
    match context.listener().scheme {
        Scheme::Http => serve_cleartext(transport(stream, context), context).await,
        // Boxed, because otherwise a connection in cleartext would also have room for the state of a handshake.
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
        // Boxed, because otherwise a connection of HTTP/1 would also have room for the state of h2.
        boxed(|| http2::serve(transport, context)).await
    } else {
        http1::serve(transport, context).await
    }
}

async fn serve_tls(stream: TcpStream, context: &Rc<ConnectionContext>) -> Result<(), Failure> {
    let tls = context.worker.snapshot().shared.tls_of(&context.listener().name).ok_or("no_certificate")?;
    // Boxed, so that the room for it is given back after the handshake.
    let handshake = Box::pin(shake_hands(&tls, stream));
    let Some(stream) = until_killed(&context.state, handshake).await else { return Ok(()) };
    let mut stream = stream?;
    if stream.get_ref().1.alpn_protocol() == Some(validation::PROTOCOL) {
        // RFC 8737 §3: the authority has seen the certificate, and no data follows.
        let _ = until_killed(&context.state, stream.shutdown()).await;
        return Ok(());
    }
    let session = stream.get_ref().1;
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    count_handshake(&context.worker.metrics.connections, is_resumed);
    if is_resumed && has_expired(session.peer_certificates(), context) {
        let detail = "the client's certificate has expired since its session began".to_owned();
        return Err(Failure { reason: "tls_handshake", detail });
    }
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    context.shook_hands(TlsHandshake::new(tls, session.server_name(), session.peer_certificates()));
    let mut transport = transport(stream, context);
    if is_http2 {
        return boxed(|| http2::serve(transport, context)).await;
    }
    context.state.enter(Phase::Idle);
    if !transport.wait_for_request().await.map_err(|_| "read")? {
        return Ok(());
    }
    http1::serve(transport, context).await
}

/// The handshake. Where it depends on the client's name whether the client proves who it is, the name is read first; also while an
/// authority is about to verify a host, or a certificate is awaited.
async fn shake_hands(tls: &ListenerTls, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
    let failed = |error: io::Error| Failure { reason: "tls_handshake", detail: error.to_string() };
    let is_plain = tls.validation.is_none() && !tls.names.awaits_any();
    if let Some(config) = tls.only_config().filter(|_| is_plain) {
        return TlsAcceptor::from(Arc::clone(config)).accept(stream).await.map_err(failed);
    }
    let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(failed)?;
    let hello = started.client_hello();
    let name = hello.server_name();
    let awaited = tls.names.awaits(name).then(|| Failure {
        reason: CERTIFICATE_AWAITED,
        detail: format!(
            "the certificate for {} is not issued yet",
            name.unwrap_or("a client without a name")
        ),
    });
    let (config, awaited) = match tls.validation.as_ref().filter(|validation| validation.is_for(&hello)) {
        Some(validation) => (Some(&validation.config), None),
        None => (tls.config_for(name), awaited),
    };
    let Some(config) = config.map(Arc::clone) else { return Err(failed(io::ErrorKind::Unsupported.into())) };
    started.into_stream(config).await.map_err(|error| awaited.unwrap_or_else(|| failed(error)))
}

fn count_handshake(connections: &Connections, is_resumed: bool) {
    let counters = [(&connections.tls_handshakes, true), (&connections.tls_resumed, is_resumed)];
    for (counter, counts) in counters {
        counter.set(counter.get() + u64::from(counts));
    }
}

/// Whether the certificate of a client is no longer valid. rustls verifies it in a full handshake only.
fn has_expired(chain: Option<&[CertificateDer<'_>]>, context: &ConnectionContext) -> bool {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return false };
    let clock = &context.worker.clock;
    CertificateFacts::of(leaf).is_none_or(|facts| clock.unix(clock.now()).as_secs() > facts.not_after)
}

/// The beginning of the HTTP/2 connection preface (RFC 9113 §3.4). It is not an HTTP/1 method.
const HTTP2_PREFACE_START: &[u8] = b"PRI ";

/// A future in a box of its own, made there. `Box::pin` would make it on the stack and move it, some kilobytes that are nearly all unused
/// at that time.
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// Runs `future` until it ends. `None`: the sweep has killed the connection first.
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

/// The largest request head in bytes that hyper and h2 accept before admission sees it. It has room for a target and a
/// header section at their limits and for some more, so that all but absurd heads are refused by admission, with a status, a
/// reason and a line in the access log.
fn head_bytes_max(listen: &ListenSettings) -> usize {
    listen.max_header_bytes + admission::TARGET_BYTES_MAX + HEAD_BYTES_BEYOND
}

/// Room for the method, the version, and a head that is past the limits of admission.
const HEAD_BYTES_BEYOND: usize = 16 * 1024;

fn remember_waker(state: &ConnectionState, cx: &Context<'_>) {
    let mut waker = state.waker.borrow_mut();
    // A task keeps one waker all its life, so this clones once per connection.
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
    // hyper's description of the error, which does not contain the bytes that the client sent.
    let detail = if error.is_parse() { error.to_string() } else { String::new() };
    Failure { reason, detail }
}

/// Counts a connection in a gauge until it is dropped.
struct Gauge {
    context: Rc<ConnectionContext>,
    which: fn(&Connections) -> &Cell<u64>,
}

impl Gauge {
    fn up(context: &Rc<ConnectionContext>, which: fn(&Connections) -> &Cell<u64>) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_the_standard_library_writes_it() {
        for text in ["0.0.0.0", "10.0.1.255", "255.255.255.255", "::1", "2001:db8::a:1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(address_text(address), text);
        }
    }
}
