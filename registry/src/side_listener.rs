//! A listener for people and tools, not for the public: few connections, a time limit for each of their phases, and names
//! under which it answers. The gateway's admin listener and the embedded registry are such listeners.
//!
//! At the limit of connections the one goes that has been idle for longest, so a tool that forgets to close its
//! connections, or a hundred of them, keeps no other out. A connection is not idle while a request on it waits for its
//! answer: a blocking query takes as long as it takes. Nor is one idle that has just come: its request is on its way. Until
//! there is a place a client waits, and those behind it wait in the kernel's queue.

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

/// What one side listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct SideLimits {
    pub connections: usize,
    /// First byte of a request, or the accept, to the end of the header section.
    pub head: Duration,
    /// Nothing came and nothing went.
    pub idle: Duration,
    pub header_bytes: usize,
    /// Go's spelling of header names; a few clients of Consul compare it.
    pub title_case: bool,
}

/// What became of the connections of one side listener.
#[derive(Debug, Default)]
pub struct SideCounts {
    pub open: AtomicUsize,
    /// Idle ones that were closed for a new one.
    pub shed: AtomicU64,
    /// Closed, because requests were being answered on all others for [`PLACE_WAIT_MAX`].
    pub refused: AtomicU64,
    /// Past a time limit.
    pub timed_out: AtomicU64,
    /// Requests for a name that is not this listener's.
    pub misdirected: AtomicU64,
}

/// Serves until the task is dropped; then all connections end. `limits` may change at any time.
pub async fn serve_aside<F, B>(
    listener: TcpListener,
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
    let mut tasks = JoinSet::new();
    let mut open: Vec<Open> = Vec::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_logged: Option<Instant> = None;
    // Accepted, without a place.
    let mut waiting: Option<(TcpStream, SocketAddr, Instant)> = None;
    loop {
        tokio::select! {
            accepted = listener.accept(), if waiting.is_none() => match accepted {
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

#[derive(Debug)]
struct Open {
    activity: Arc<Activity>,
    task: AbortHandle,
}

/// Cuts the connection that has been idle for longest. `false`: none has been for [`IDLE_MIN`].
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
    // Answers are small and awaited; failing to say so to the kernel changes nothing else.
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
        // The sweep's: hyper's own also counts the pause between two requests.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .title_case_headers(limits.title_case)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        debug!("connection: {error}");
    }
}

/// What a connection does, in milliseconds since the listener's beginning.
#[derive(Debug)]
struct Activity {
    began: Instant,
    last: AtomicU64,
    /// Since when a head is awaited or on its way; [`NO_HEAD`]: none is.
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

/// A request is being answered, until it is dropped.
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

/// A socket that notes when bytes pass.
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

/// Names under which a listener answers.
///
/// A page in a browser on this machine can reach loopback under a name of the page's own (DNS rebinding), and would be
/// of the same origin. So a listener on loopback answers only to names that are its own. An address is always its own:
/// no page can make an address lead elsewhere.
#[derive(Debug, Clone)]
pub struct Hosts {
    is_any: bool,
    named: Vec<String>,
}

impl Hosts {
    /// `more`: names beside `localhost`. Bound elsewhere than to loopback, and without them, any name will do.
    pub fn new(bound: IpAddr, more: &[String]) -> Self {
        let named = more.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { is_any: !bound.is_loopback() && more.is_empty(), named }
    }

    /// Whether a request is for one of the names. One without any name (HTTP/1.0) comes from no browser.
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
/// A client that has just connected sends its request within this, and so does one between two requests of a script.
const IDLE_MIN: Duration = Duration::from_millis(100);
/// For a place; blocking queries may hold all of them for minutes.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Whether a connection has become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Time limits are exact to this.
const SWEEP: Duration = Duration::from_secs(1);
/// Out of files: accepting again at once would only spin.
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
