//! A listener for people and tools, not for the public: few connections, a time limit for each phase of a connection, and a
//! list of the host names under which it answers. The gateway's admin listener and the embedded registry are such listeners.
//!
//! At the limit of connections the listener closes the one that has been idle for longest, so a tool that forgets to close
//! its connections does not keep others out. A connection is not idle while a request on it waits for its answer (a
//! blocking query may take minutes), and not for [`IDLE_MIN`] after it was accepted, because its request is still on its way.
//! While every connection is busy, one client waits for [`PLACE_WAIT_MAX`], and those behind it wait in the kernel's queue.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, header};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, warn};

/// Limits of a side listener (see [`serve_aside`]).
#[derive(Debug, Clone, Copy)]
pub struct SideLimits {
    /// Open connections.
    pub connections: usize,
    /// Longest time from the accept, or from the first byte of a request, to the end of the header section.
    pub head: Duration,
    /// A connection on which no byte passed in either direction for this long is closed.
    pub idle: Duration,
    /// Size of the header section in bytes.
    pub header_bytes: usize,
    /// Writes header names as Go does (`X-Consul-Index`): a few clients of Consul compare the case.
    pub title_case: bool,
}

/// Counters of a side listener. They are updated while it runs.
#[derive(Debug, Default)]
pub struct SideCounts {
    /// Connections that are open now.
    pub open: AtomicUsize,
    /// Idle connections that were closed to make room for a new one.
    pub shed: AtomicU64,
    /// New connections that were closed because requests were being answered on all others for one second.
    pub refused: AtomicU64,
    /// Connections that were closed at a time limit.
    pub timed_out: AtomicU64,
    /// Requests for a host name under which the listener does not answer.
    pub misdirected: AtomicU64,
}

/// Serves a listener for people and tools: `answer` is called for each request with the address of its peer.
///
/// It serves until the future is dropped; then all connections end. After `until`, it accepts no connection and serves those that are
/// open. `limits` is called anew for each connection, so they may
/// change at any time.
pub async fn serve_aside<F, B>(
    (listener, until): (TcpListener, impl Future<Output = ()>),
    limits: impl Fn() -> SideLimits,
    counts: Arc<SideCounts>,
    answer: impl Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
) -> Infallible
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = Instant::now();
    let mut until = std::pin::pin!(until);
    let mut listener = Some(listener);
    let mut tasks = JoinSet::new();
    let mut open: Vec<Open> = Vec::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_logged: Option<Instant> = None;
    // An accepted connection for which there is no place yet.
    let mut waiting: Option<(TcpStream, SocketAddr, Instant)> = None;
    loop {
        tokio::select! {
            () = &mut until, if listener.is_some() => listener = None,
            accepted = accept(listener.as_ref()), if waiting.is_none() => match accepted {
                Ok((socket, peer)) => waiting = Some((socket, peer, Instant::now())),
                Err(error) => {
                    if last_logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                        last_logged = Some(Instant::now());
                        warn!(%error, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = tasks.join_next() => open.retain(|connection| !connection.task.is_finished()),
            _ = sweep.tick() => close_late(&open, &limits(), began.elapsed(), &counts),
            () = tokio::time::sleep(LOOK_AGAIN), if waiting.is_some() => {}
        }
        if let Some((socket, peer, since)) = waiting.take() {
            let limits = limits();
            if open.len() < limits.connections || make_room(&mut open, began.elapsed(), &counts) {
                let activity = Arc::new(Activity::new(began));
                let serving = serve(socket, peer, limits, Arc::clone(&activity), answer.clone());
                open.push(Open { activity, task: tasks.spawn(serving) });
            } else if since.elapsed() < PLACE_WAIT_MAX {
                waiting = Some((socket, peer, since));
            } else {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        counts.open.store(open.len(), Ordering::Relaxed);
    }
}

/// Accepts a connection. Without a listener, it waits for ever.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Open {
    activity: Arc<Activity>,
    task: AbortHandle,
}

/// Closes the connection that has been idle for longest; `false` if no connection has been idle for [`IDLE_MIN`].
fn make_room(open: &mut Vec<Open>, now: Duration, counts: &SideCounts) -> bool {
    let is_idle = |activity: &Activity| {
        !activity.is_busy() && millis(now).saturating_sub(activity.last()) >= millis(IDLE_MIN)
    };
    let idle = open.iter().enumerate().filter(|(_, connection)| is_idle(&connection.activity));
    let Some((longest, _)) = idle.min_by_key(|(_, connection)| connection.activity.last()) else {
        return false;
    };
    open.swap_remove(longest).task.abort();
    counts.shed.fetch_add(1, Ordering::Relaxed);
    true
}

fn close_late(open: &[Open], limits: &SideLimits, now: Duration, counts: &SideCounts) {
    for connection in open.iter().filter(|connection| connection.activity.is_late(limits, now)) {
        connection.task.abort();
        counts.timed_out.fetch_add(1, Ordering::Relaxed);
    }
}

async fn serve<F, B>(
    socket: TcpStream,
    peer: SocketAddr,
    limits: SideLimits,
    activity: Arc<Activity>,
    answer: impl Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Answers are small and awaited, so they are sent at once; a failure only delays them.
    let _nodelay = socket.set_nodelay(true);
    let io = Watched { io: socket, activity: Arc::clone(&activity) };
    let service = service_fn(move |request| {
        let busy = Busy::begin(&activity);
        let answering = answer(peer, request);
        async move {
            let response = answering.await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        // The sweep limits the head: hyper's own limit also counts the pause between two requests.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .title_case_headers(limits.title_case)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        debug!("connection: {error}");
    }
}

/// What happens on a connection; times are milliseconds since the listener began.
#[derive(Debug)]
struct Activity {
    began: Instant,
    last: AtomicU64,
    /// Since when the listener waits for the rest of a head; [`NO_HEAD`] while it waits for none.
    head: AtomicU64,
    answering: AtomicUsize,
}

impl Activity {
    fn new(began: Instant) -> Self {
        let now = millis(began.elapsed());
        Self { began, last: now.into(), head: now.into(), answering: AtomicUsize::new(0) }
    }

    fn moved(&self, is_read: bool) {
        let now = millis(self.began.elapsed());
        self.last.store(now, Ordering::Relaxed);
        if is_read && !self.is_busy() {
            let _begun = self.head.compare_exchange(NO_HEAD, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn is_busy(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn is_late(&self, limits: &SideLimits, now: Duration) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        let since = |then: u64| Duration::from_millis(millis(now).saturating_sub(then));
        !self.is_busy()
            && (head != NO_HEAD && since(head) >= limits.head || since(self.last()) >= limits.idle)
    }
}

/// Marks a request as being answered until it is dropped.
struct Busy(Arc<Activity>);

impl Busy {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.answering.fetch_add(1, Ordering::Relaxed);
        activity.head.store(NO_HEAD, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
        self.0.moved(false);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1)
}

/// A socket that notes the time whenever bytes pass.
struct Watched {
    io: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, into);
        if into.filled().len() > before {
            self.activity.moved(true);
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        if matches!(result, Poll::Ready(Ok(written)) if written > 0) {
            self.activity.moved(false);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Host names under which a side listener answers.
///
/// A page in a browser on this machine can reach loopback under a name that the page's owner controls (DNS rebinding), and the
/// browser would take it for the same origin. So a listener on loopback answers only under `localhost`, under an IP
/// address, and under the names it was given: an address cannot be made to lead elsewhere.
#[derive(Debug, Clone)]
pub struct Hosts {
    is_any: bool,
    named: Vec<String>,
}

impl Hosts {
    /// `bound` is the address of the listener, `more` are names in addition to `localhost`. A listener that is not bound to
    /// loopback and has no such names answers under any name.
    pub fn new(bound: IpAddr, more: &[String]) -> Self {
        let named = more.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { is_any: !bound.is_loopback() && more.is_empty(), named }
    }

    /// Whether a request is for one of the names. A request without a name (HTTP/1.0) is admitted: no browser sends one.
    pub fn admit(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let fields = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or("?"));
        self.is_any
            || uri
                .authority()
                .map(http::uri::Authority::as_str)
                .into_iter()
                .chain(fields)
                .all(|host| self.is_own(host))
    }

    fn is_own(&self, host: &str) -> bool {
        if let Some(v6) = host.strip_prefix('[') {
            return v6
                .split_once(']')
                .is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok());
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.named.contains(&name)
    }
}

const NO_HEAD: u64 = u64::MAX;
/// A client that has just connected sends its request within this time, and so does a script between two requests.
const IDLE_MIN: Duration = Duration::from_millis(100);
/// How long an accepted connection waits for a place; blocking queries may hold all places for minutes.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often a waiting connection looks whether another one has become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Time limits are kept to within this time.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause after a failed accept: without free file descriptors an immediate retry would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At most one accept error is logged in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_loopback_answers_to_its_own_names_only() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let named = ["gateway.internal".to_owned()];
        let hosts = Hosts::new(loopback, &named);
        let admits = |hosts: &Hosts, host: &str| {
            let headers = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            hosts.admit(&Uri::from_static("/metrics"), &headers)
        };
        for own in [
            "localhost",
            "LOCALHOST:9900",
            "localhost.",
            "127.0.0.1:9900",
            "[::1]:9900",
            "10.0.0.1",
            "Gateway.Internal:1",
        ] {
            assert!(admits(&hosts, own), "{own}");
        }
        for other in [
            "evil.test",
            "evil.test:9900",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "[::1",
            "[evil]:1",
            "",
        ] {
            assert!(!admits(&hosts, other), "{other}");
        }
        assert!(hosts.admit(&Uri::from_static("/"), &HeaderMap::new()), "HTTP/1.0");
        assert!(!hosts.admit(&Uri::from_static("http://evil.test/"), &HeaderMap::new()));
        let elsewhere = IpAddr::from([10, 0, 0, 1]);
        assert!(admits(&Hosts::new(elsewhere, &[]), "anything.test"));
        assert!(
            !admits(&Hosts::new(elsewhere, &named), "anything.test"),
            "names that are listed are the only ones"
        );
    }
}
