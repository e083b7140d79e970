//! Idle upstream connections of one worker, per endpoint.
//!
//! Last in, first out: the warmest connection is used again and the surplus ages out. Nothing here is shared
//! between cores. A request has a connection as a [`Lease`], which gives it back; dropping the lease closes it. Limits:
//! `services.<name>.pool`.

mod lease;

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
use super::tls::{EndpointTls, TlsIdentity};
use crate::{
    clock::Clock,
    file_account::{Desk, Place},
    policy::pool::{Http1Client, PoolSettings},
};

/// Idle connections looked at for one request before a new one is opened. A connection is passed over only
/// while its last response is being finished, which one turn of the event loop settles.
const LOOKED_AT_MAX: usize = 4;

/// At most one line about failed connects per worker and endpoint in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Where connections lead. Two endpoints that have this in common have one pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    address: SocketAddr,
    tls: Option<TlsIdentity>,
}

/// Idle connections to one endpoint.
pub struct EndpointPool {
    pub address: SocketAddr,
    /// `None`: HTTP in cleartext.
    pub tls: Option<EndpointTls>,
    idle: RefCell<Vec<(Box<Pooled>, Instant)>>,
    limits: RefCell<PoolSettings>,
    /// Connections closed because `idle_max` were there already, since the last [`EndpointPool::take_surplus`].
    surplus: Cell<u64>,
    last_logged: Cell<Option<Instant>>,
    clock: Rc<Clock>,
    /// Counts the worker's connections with large reads.
    pub(super) large_reads: Rc<Cell<u64>>,
    /// `None`: the connections are not sockets.
    files: Option<Rc<Desk>>,
    /// Requests that wait in [`EndpointPool::room`], and how they learn of a connection that has come back.
    waiting: Cell<usize>,
    returned: Notify,
}

impl EndpointPool {
    pub fn new(
        address: SocketAddr,
        tls: Option<EndpointTls>,
        limits: PoolSettings,
        (clock, large_reads): (Rc<Clock>, Rc<Cell<u64>>),
    ) -> Self {
        Self {
            address,
            tls,
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

    /// The same, whose connections are in the account of files.
    #[must_use]
    pub fn within(self, files: Rc<Desk>) -> Self {
        Self { files: Some(files), ..self }
    }

    /// Waits for the place of another connection, or for one of these that becomes idle meanwhile.
    pub async fn room(self: &Rc<Self>) -> Room {
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
            // A turn of the event loop later its last response is finished.
            tokio::task::yield_now().await;
            if let Some(lease) = self.checkout() {
                return Room::Idle(lease);
            }
        }
    }

    /// The client that speaks over new connections.
    pub(super) fn http1(&self) -> Http1Client {
        self.limits.borrow().http1
    }

    pub fn key(&self) -> PoolKey {
        Self::key_of(self.address, self.tls.as_ref())
    }

    pub fn key_of(address: SocketAddr, tls: Option<&EndpointTls>) -> PoolKey {
        PoolKey { address, tls: tls.map(EndpointTls::identity) }
    }

    /// Limits of a new configuration; what is too much now goes at the next [`EndpointPool::prune`].
    pub fn configure(&self, limits: &PoolSettings) {
        if *self.limits.borrow() != *limits {
            limits.clone_into(&mut self.limits.borrow_mut());
        }
    }

    /// A connection that can take a request now, if there is one.
    pub fn checkout(self: &Rc<Self>) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let mut looked_at = 0;
        let mut at = idle.len();
        while at > 0 && looked_at < LOOKED_AT_MAX {
            at -= 1;
            looked_at += 1;
            let (opened, _) = idle.get(at)?;
            if opened.connection.is_closed() {
                idle.swap_remove(at);
            } else if opened.connection.is_ready() {
                let (opened, _) = idle.swap_remove(at);
                return Some(Lease::of_idle(opened, Rc::clone(self)));
            }
        }
        None
    }

    /// Takes a connection back. If the pool is full it closes it.
    fn checkin(&self, opened: Box<Pooled>) {
        let mut idle = self.idle.borrow_mut();
        let is_waited_for = self.waiting.get() > 0;
        // A connection is not kept for later when others wait for its place.
        let is_wanted =
            !is_waited_for && self.files.as_ref().is_some_and(|files| files.account.is_upstream_waiting());
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

    /// Closes what was idle or open for too long, what the upstream has closed, and the longest-idle ones of those that are
    /// more than a new configuration allows. Once a second.
    pub fn prune(&self, now: Instant) {
        let (limits, mut idle) = (self.limits.borrow(), self.idle.borrow_mut());
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

    /// Closes every idle connection (the endpoint is gone, or the worker drains).
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Since when each of its connections is idle.
    pub fn idle_since(&self) -> Vec<Instant> {
        self.idle.borrow().iter().map(|(_, since)| *since).collect()
    }

    /// Closes what has been idle since then or longer. Returns how many that were.
    pub fn close_idle_until(&self, until: Instant) -> usize {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|(_, since)| *since > until);
        before - idle.len()
    }

    /// May the log have a line about why there is no connection? Otherwise every request would write one.
    pub fn may_log(&self, now: Instant) -> bool {
        let is_due = self.last_logged.get().is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY);
        if is_due {
            self.last_logged.set(Some(now));
        }
        is_due
    }

    pub fn take_surplus(&self) -> u64 {
        self.surplus.replace(0)
    }
}

/// What [`EndpointPool::room`] found.
pub enum Room {
    /// For a new connection; `None`: it is not a socket.
    Place {
        place: Option<Place>,
        has_waited: bool,
    },
    Idle(Lease),
}

/// Counts a request that waits until it is dropped.
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
        let (http1, max_age) = (Http1Client::Ours, Duration::ZERO);
        let limits = PoolSettings { idle_max: 1, idle: Duration::ZERO, max_age, http1 };
        let address = ([127, 0, 0, 1], 1).into();
        let pool = EndpointPool::new(address, None, limits, (Rc::new(Clock::new()), Rc::default()));
        let now = crate::clock::now();
        let logged = [0, 1, 9_999, 10_000, 10_001].map(|ms| pool.may_log(now + Duration::from_millis(ms)));
        assert_eq!(logged, [true, false, false, true, false]);
    }
}
