//! Idle upstream connections of one worker, per endpoint.
//!
//! Last in, first out: the warmest connection is used again and the surplus ages out. Nothing here is shared
//! between cores. A connection goes back only when its response was read to the end, its request body was sent
//! to the end, and the upstream kept it open; in every other case dropping the [`Lease`](crate::request::lease::Lease) closes it
//! (RFC 9112 §9.3). Limits: `services.<name>.pool`.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::client::conn::http1::SendRequest;
use tokio::{sync::Notify, task::AbortHandle, time::Sleep};

use super::{
    informational::Informational,
    read_size::ReadSize,
    tls::{EndpointTls, TlsIdentity},
};
use crate::{
    body::RequestBody,
    clock::Clock,
    file_account::{Desk, Place},
    policy::pool::PoolSettings,
};

/// Idle connections looked at for one request before a new one is opened. A connection is passed over only
/// while its last response is being finished, which one turn of the event loop settles.
const LOOKED_AT_MAX: usize = 4;

/// At most one line about failed connects per worker and endpoint in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// One upstream connection and the task that drives it. Dropping it closes it. Boxed once: it goes from the pool to a
/// request and back with each of them.
pub struct Connection {
    pub sender: SendRequest<RequestBody>,
    /// Bounds the wait for each response head.
    pub timer: Timer,
    pub reads: ReadSize,
    /// Of the response that is awaited.
    pub(crate) informational: Rc<Informational>,
    /// A write has failed: what is still read is the last.
    broken: Rc<Cell<bool>>,
    task: AbortHandle,
    opened: Instant,
    /// Has served a request before: then a failure may only mean that the upstream had closed it meanwhile.
    pub reused: bool,
    /// In the account of files; `None`: not a socket.
    pub place: Option<Place>,
}

impl Connection {
    pub fn new(
        sender: SendRequest<RequestBody>,
        task: AbortHandle,
        (reads, informational, broken): (ReadSize, Rc<Informational>, Rc<Cell<bool>>),
        opened: Instant,
    ) -> Box<Self> {
        let timer = Timer::default();
        Box::new(Self {
            sender,
            timer,
            reads,
            informational,
            broken,
            task,
            opened,
            reused: false,
            place: None,
        })
    }
}

impl Connection {
    /// It may serve another request, as far as it can be known.
    pub(crate) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.broken.get()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.informational.end();
        self.task.abort();
    }
}

/// One timer for the life of a connection. Moving the end of a timer that runs costs nearly nothing; making,
/// registering and removing one for each request costs a lock of the runtime's wheel each time.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

/// When a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Until(Instant),
    /// Not known yet; the task is woken when it is.
    Open,
    Over,
}

impl Timer {
    /// `future`'s output, or `None` when the end of the wait comes first.
    pub async fn bound<F, W>(&mut self, wait: W, mut future: F) -> Option<F::Output>
    where
        F: Future + Unpin,
        W: Fn(&Context<'_>) -> Wait,
    {
        let mut is_set = false;
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            let deadline = match wait(cx) {
                Wait::Until(deadline) => deadline,
                Wait::Open => return Poll::Pending,
                Wait::Over => return Poll::Ready(None),
            };
            let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            if !is_set {
                is_set = true;
                sleep.as_mut().reset(deadline.into());
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

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
    idle: RefCell<Vec<(Box<Connection>, Instant)>>,
    limits: RefCell<PoolSettings>,
    /// Connections closed because `idle_max` were there already, since the last [`EndpointPool::take_surplus`].
    surplus: Cell<u64>,
    last_logged: Cell<Option<Instant>>,
    clock: Rc<Clock>,
    /// `None`: connections that are no sockets.
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
        clock: Rc<Clock>,
    ) -> Self {
        Self {
            address,
            tls,
            idle: RefCell::default(),
            limits: RefCell::new(limits),
            surplus: Cell::new(0),
            last_logged: Cell::new(None),
            clock,
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
    pub async fn room(&self) -> Room {
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
            if let Some(connection) = self.checkout() {
                return Room::Idle(connection);
            }
        }
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
    pub fn checkout(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let mut looked_at = 0;
        let mut at = idle.len();
        while at > 0 && looked_at < LOOKED_AT_MAX {
            at -= 1;
            looked_at += 1;
            let (connection, _) = idle.get(at)?;
            if connection.sender.is_closed() {
                idle.swap_remove(at);
            } else if connection.sender.is_ready() {
                let (mut connection, _) = idle.swap_remove(at);
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Takes a connection back. `false`: the pool was full and the connection is closed.
    pub(crate) fn checkin(&self, connection: Box<Connection>) -> bool {
        connection.reads.reset();
        connection.informational.end();
        let mut idle = self.idle.borrow_mut();
        let is_waited_for = self.waiting.get() > 0;
        // A connection is not kept for later when others wait for its place.
        let is_wanted =
            !is_waited_for && self.files.as_ref().is_some_and(|files| files.account.is_upstream_waiting());
        let has_room = idle.len() < self.limits.borrow().idle_max && !is_wanted;
        if has_room {
            idle.push((connection, self.clock.coarse()));
            if is_waited_for {
                self.returned.notify_one();
            }
        } else {
            self.surplus.set(self.surplus.get() + 1);
        }
        has_room
    }

    /// Closes what was idle or open for too long, what the upstream has closed, and the longest-idle ones of those that are
    /// more than a new configuration allows. Once a second.
    pub fn prune(&self, now: Instant) {
        let (limits, mut idle) = (self.limits.borrow(), self.idle.borrow_mut());
        idle.retain(|(connection, since)| {
            !connection.sender.is_closed()
                && now.saturating_duration_since(*since) < limits.idle
                && now.saturating_duration_since(connection.opened) < limits.max_age
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
    /// For a new connection; `None`: it needs none.
    Place {
        place: Option<Place>,
        has_waited: bool,
    },
    Idle(Box<Connection>),
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
        let limits = PoolSettings { idle_max: 1, idle: Duration::ZERO, max_age: Duration::ZERO };
        let address = ([127, 0, 0, 1], 1).into();
        let pool = EndpointPool::new(address, None, limits, Rc::new(Clock::new()));
        let now = crate::clock::now();
        let logged = [0, 1, 9_999, 10_000, 10_001].map(|ms| pool.may_log(now + Duration::from_millis(ms)));
        assert_eq!(logged, [true, false, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_bounds_each_wait_by_its_own_deadline() {
        let mut timer = Timer::default();
        let began = tokio::time::Instant::now();
        for (seconds, waits) in [(10, 3), (2, 5), (30, 1)] {
            let began = tokio::time::Instant::now();
            let deadline = began + Duration::from_secs(seconds);
            let slow = Box::pin(tokio::time::sleep(Duration::from_secs(waits)));
            let in_time = timer.bound(|_| Wait::Until(deadline.into_std()), slow).await.is_some();
            assert_eq!(in_time, waits < seconds, "{waits} of {seconds}");
            assert_eq!(began.elapsed(), Duration::from_secs(waits.min(seconds)));
        }
        assert_eq!(began.elapsed(), Duration::from_secs(6));
    }
}
