//! The idle upstream connections of one worker, per endpoint.
//!
//! The last connection in is the first one out, so that the warmest connection is used again and the surplus ages out.
//! Cores share none of this. A request uses a connection as a [`Lease`], which returns it; dropping the lease closes it.
//! Limits: `services.<name>.pool`.

mod lease;
mod shared;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

pub use self::lease::Lease;
use self::lease::Pooled;
pub(super) use self::shared::{SharedConnections, Turn};
use super::{
    settings::HttpVersion,
    tls::{EndpointTls, TlsIdentity},
};
use crate::{
    clock::Clock,
    file_account::{Desk, Place},
    policy::pool::PoolSettings,
    proxy_protocol::{HeaderVersion, Hop},
};

/// The largest number of idle connections that are checked for one request before a new one is opened. Connections that the
/// endpoint has closed are dropped.
const LOOKED_AT_MAX: usize = 4;

/// At most one line about failed connects per worker and endpoint is logged in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The destination of connections. Two endpoints with the same key share a pool: those of subsets do. Two services do not, since each has its
/// own `pool` settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    service: Rc<str>,
    address: SocketAddr,
    tls: Option<TlsIdentity>,
    version: HttpVersion,
    proxy_protocol: Option<HeaderVersion>,
}

/// The idle connections of one worker to one endpoint.
pub struct EndpointPool {
    service: Rc<str>,
    pub address: SocketAddr,
    /// `None`: HTTP in cleartext.
    pub tls: Option<EndpointTls>,
    /// The header that each connection begins with. Then a connection is of one client's connection, and serves no other one.
    pub proxy_protocol: Option<HeaderVersion>,
    /// The connections of HTTP/2. `None`: the service gets HTTP/1.1.
    pub(super) shared: Option<SharedConnections>,
    idle: RefCell<Vec<(Box<Pooled>, Instant)>>,
    limits: RefCell<PoolSettings>,
    /// The number of connections closed because `idle_max` were there already, since the last
    /// [`EndpointPool::take_surplus`].
    surplus: Cell<u64>,
    last_logged: Cell<Option<Instant>>,
    clock: Rc<Clock>,
    /// The number of the worker's connections with large reads.
    pub(super) large_reads: Rc<Cell<u64>>,
    /// `None`: the connections are not sockets.
    files: Option<Rc<Desk>>,
    /// The number of requests that wait in [`EndpointPool::room`]. `returned` wakes one when a connection comes back.
    waiting: Cell<usize>,
    returned: Notify,
}

impl EndpointPool {
    pub fn new(
        (service, address): (Rc<str>, SocketAddr),
        (tls, version, proxy_protocol): (Option<EndpointTls>, HttpVersion, Option<HeaderVersion>),
        limits: PoolSettings,
        (clock, large_reads): (Rc<Clock>, Rc<Cell<u64>>),
    ) -> Self {
        Self {
            service,
            address,
            tls,
            proxy_protocol,
            shared: SharedConnections::of(version),
            idle: RefCell::default(),
            limits: RefCell::new(limits),
            surplus: Cell::new(0),
            last_logged: Cell::new(None),
            clock,
            large_reads,
            files: None,
            waiting: Cell::new(0),
            returned: Notify::new(),
        }
    }

    /// The same pool, whose connections take places in the account of files.
    #[must_use]
    pub fn within(self, files: Rc<Desk>) -> Self {
        Self { files: Some(files), ..self }
    }

    /// Waits for a place for another connection, or for one of this pool that becomes idle meanwhile and may serve the client.
    pub async fn room(self: &Rc<Self>, client: Option<Hop>) -> Room {
        let Some(files) = &self.files else { return Room::Place { place: None, has_waited: false } };
        if let Some(place) = files.upstream_now() {
            return Room::Place { place: Some(place), has_waited: false };
        }
        let _waiting = WaitsFor::begin(&self.waiting);
        let mut place = pin!(files.upstream());
        loop {
            tokio::select! {
                place = &mut place => return Room::Place { place, has_waited: true },
                () = self.returned.notified() => {}
            }
            // One turn of the event loop later, its last response is finished.
            tokio::task::yield_now().await;
            if let Some(lease) = self.checkout(client) {
                return Room::Idle(lease);
            }
        }
    }

    /// The key under which a worker finds this pool.
    pub fn key(&self) -> PoolKey {
        Self::key_of((&self.service, self.address), (self.tls.as_ref(), self.version(), self.proxy_protocol))
    }

    /// The version of HTTP that the endpoint gets.
    pub(super) fn version(&self) -> HttpVersion {
        self.shared.as_ref().map_or(HttpVersion::Http1, SharedConnections::version)
    }

    /// The key of the pool for this destination.
    pub fn key_of(
        (service, address): (&Rc<str>, SocketAddr),
        (tls, version, proxy_protocol): (Option<&EndpointTls>, HttpVersion, Option<HeaderVersion>),
    ) -> PoolKey {
        let tls = tls.map(EndpointTls::identity);
        PoolKey { service: Rc::clone(service), address, tls, version, proxy_protocol }
    }

    /// Sets the limits of a new configuration. Connections beyond them are closed at the next [`EndpointPool::prune`].
    pub fn configure(&self, limits: &PoolSettings) {
        if *self.limits.borrow() != *limits {
            limits.clone_into(&mut self.limits.borrow_mut());
        }
    }

    /// An idle connection that can take a request of this client now, if there is one. `client` is `None` where the service gets
    /// no header with it.
    pub fn checkout(self: &Rc<Self>, client: Option<Hop>) -> Option<Lease> {
        if let Some(shared) = &self.shared
            && let Some(connection) = shared.find(client)
        {
            return Some(Lease::of_shared(&connection, Rc::clone(self)));
        }
        let mut idle = self.idle.borrow_mut();
        for _ in 0..LOOKED_AT_MAX {
            let (opened, _) = if client.is_none() {
                idle.pop()?
            } else {
                let own = idle.iter().rposition(|(opened, _)| opened.client == client)?;
                idle.remove(own)
            };
            // Of a service with a header, the gateway's own connections serve no client either.
            if opened.client != client {
                continue;
            }
            if !opened.connection.is_closed() {
                return Some(Lease::of_idle(opened, Rc::clone(self)));
            }
        }
        None
    }

    /// Takes a connection back, or closes it if the pool is full.
    fn checkin(&self, opened: Box<Pooled>) {
        let mut idle = self.idle.borrow_mut();
        let is_waited_for = self.waiting.get() > 0;
        // A connection is not kept while others wait for its place.
        // Nor if those who wait here could not use it, because it is another client's.
        let is_of_all = is_waited_for && self.proxy_protocol.is_none();
        let is_wanted =
            !is_of_all && self.files.as_ref().is_some_and(|files| files.account.is_upstream_waiting());
        let has_room = idle.len() < self.limits.borrow().idle_max && !is_wanted;
        if has_room {
            idle.push((opened, self.clock.coarse()));
            if is_waited_for {
                self.returned.notify_one();
            }
        } else {
            self.surplus.set(self.surplus.get() + 1);
        }
    }

    /// Closes the connections that were idle or open for too long, those that the upstream has closed, and the longest-idle
    /// ones beyond the limit of a new configuration. The worker calls it once a second.
    pub fn prune(&self, now: Instant) {
        let (limits, mut idle) = (self.limits.borrow(), self.idle.borrow_mut());
        if let Some(shared) = &self.shared {
            shared.prune(&limits, now);
        }
        idle.retain(|(opened, since)| {
            !opened.connection.is_closed()
                && now.saturating_duration_since(*since) < limits.idle
                && now.saturating_duration_since(opened.at) < limits.max_age
        });
        let surplus = idle.len().saturating_sub(limits.idle_max);
        if surplus > 0 {
            idle.sort_by_key(|(_, since)| *since);
            idle.drain(..surplus);
            self.surplus.set(self.surplus.get() + surplus as u64);
        }
    }

    /// Closes every idle connection, and takes no new request on a shared one, because the endpoint is gone or the worker drains.
    pub fn clear(&self) {
        self.clear_idle();
        if let Some(shared) = &self.shared {
            shared.clear();
        }
    }

    /// Closes every idle connection, because the endpoint has closed one that is as old.
    pub(crate) fn clear_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Its connections of HTTP/2, and the streams in use on them. `None`: it has none of these.
    pub(crate) fn shared_numbers(&self) -> Option<(u64, u64)> {
        self.shared.as_ref().map(SharedConnections::numbers)
    }

    /// The time since which each of its connections is idle.
    pub fn idle_since(&self) -> Vec<Instant> {
        let idle = self.idle.borrow();
        let shared = self.shared.as_ref().map(SharedConnections::idle_since).unwrap_or_default();
        idle.iter().map(|(_, since)| *since).chain(shared).collect()
    }

    /// Closes the connections that have been idle since `until` or longer, and returns how many there were.
    pub fn close_idle_until(&self, until: Instant) -> usize {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|(_, since)| *since > until);
        let shared = self.shared.as_ref().map_or(0, |shared| shared.close_idle_until(until));
        before - idle.len() + shared
    }

    /// Whether the log may have a line about a failed connect. Otherwise every request would write one.
    pub fn may_log(&self, now: Instant) -> bool {
        let is_due = self.last_logged.get().is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY);
        if is_due {
            self.last_logged.set(Some(now));
        }
        is_due
    }

    /// Logs that the endpoint sent what cannot be forwarded.
    pub fn log_refused(&self, reason: &str, now: Instant) {
        if self.may_log(now) {
            tracing::warn!(endpoint = %self.address, reason, "upstream answer refused");
        }
    }

    /// Returns the number of surplus connections that were closed since the last call.
    pub fn take_surplus(&self) -> u64 {
        self.surplus.replace(0)
    }
}

/// The result of [`EndpointPool::room`].
pub enum Room {
    /// A place for a new connection. `None`: it is not a socket.
    Place {
        place: Option<Place>,
        has_waited: bool,
    },
    Idle(Lease),
}

/// Counts a waiting request until it is dropped.
struct WaitsFor<'a>(&'a Cell<usize>);

impl<'a> WaitsFor<'a> {
    fn begin(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for WaitsFor<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_a_line_about_an_endpoint_once_in_ten_seconds() {
        let limits = PoolSettings { idle_max: 1, idle: Duration::ZERO, max_age: Duration::ZERO };
        let address = ([127, 0, 0, 1], 1).into();
        let pool = EndpointPool::new(
            (Rc::from("items"), address),
            (None, HttpVersion::Http1, None),
            limits,
            (Rc::new(Clock::new()), Rc::default()),
        );
        let now = crate::clock::now();
        let logged = [0, 1, 9_999, 10_000, 10_001].map(|ms| pool.may_log(now + Duration::from_millis(ms)));
        assert_eq!(logged, [true, false, false, true, false]);
    }
}
