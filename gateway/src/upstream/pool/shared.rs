//! The connections of one worker to one endpoint that speaks HTTP/2.
//!
//! There is one of them, and more only while the service's limit of streams is reached on all that there are. A request that finds no
//! room on any, when there may be no more of them, waits for a stream on the one with the fewest. While one is opened, all requests
//! wait for it, so that a burst after a pause opens one and not a hundred.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    policy::pool::PoolSettings,
    proxy_protocol::Hop,
    upstream::{protocol::http2::connection::SharedConnection, settings::HttpVersion},
};

pub(in crate::upstream) struct SharedConnections {
    version: HttpVersion,
    connections: RefCell<Vec<Rc<SharedConnection>>>,
    opening: RefCell<Option<Rc<Opening>>>,
    /// The endpoint has chosen HTTP/1.1 (`protocol: auto`).
    speaks_http1: Cell<bool>,
}

/// A connection that is being opened.
#[derive(Default)]
pub(in crate::upstream) struct Opening {
    is_over: Cell<bool>,
    over: Notify,
}

/// What a request without a connection does.
pub(in crate::upstream) enum Turn {
    /// It opens one. The others wait until the guard is dropped.
    Opens(OpeningGuard),
    /// It waits for the one that is being opened.
    Waits(Rc<Opening>),
}

/// Ends the wait of the others, however the opening ends.
pub(in crate::upstream) struct OpeningGuard(Rc<Opening>);

impl Drop for OpeningGuard {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.over.notify_waiters();
    }
}

impl Opening {
    pub(in crate::upstream) async fn wait(&self) {
        let over = self.over.notified();
        if !self.is_over.get() {
            over.await;
        }
    }
}

impl SharedConnections {
    /// `None`: the version is HTTP/1.1, whose connections are not shared.
    pub(super) fn of(version: HttpVersion) -> Option<Self> {
        (version != HttpVersion::Http1).then(|| Self {
            version,
            connections: RefCell::default(),
            opening: RefCell::default(),
            speaks_http1: Cell::new(false),
        })
    }

    pub(super) fn version(&self) -> HttpVersion {
        self.version
    }

    /// Whether the endpoint is known to speak HTTP/1.1 only.
    pub(in crate::upstream) fn speaks_http1(&self) -> bool {
        self.speaks_http1.get()
    }

    /// Notes what the endpoint has chosen.
    pub(in crate::upstream) fn chose_http1(&self, is_http1: bool) {
        self.speaks_http1.set(is_http1);
    }

    /// A connection for one more request of this client. `None`: another one is to be opened.
    pub(super) fn find(&self, client: Option<Hop>) -> Option<Rc<SharedConnection>> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_closed());
        let own = connections.iter().filter(|connection| connection.client == client);
        let fewest = own.clone().min_by_key(|connection| connection.streams())?;
        (fewest.has_room() || own.count() >= CONNECTIONS_MAX).then(|| Rc::clone(fewest))
    }

    /// What a request does for which [`SharedConnections::find`] has nothing.
    pub(in crate::upstream) fn turn(&self) -> Turn {
        let mut opening = self.opening.borrow_mut();
        if let Some(opening) = opening.as_ref().filter(|opening| !opening.is_over.get()) {
            return Turn::Waits(Rc::clone(opening));
        }
        let new = Rc::<Opening>::default();
        *opening = Some(Rc::clone(&new));
        Turn::Opens(OpeningGuard(new))
    }

    pub(in crate::upstream) fn add(&self, connection: &Rc<SharedConnection>) {
        self.connections.borrow_mut().push(Rc::clone(connection));
    }

    /// Looks for connections that have had their time, once a second. One that is too old or idle takes no new requests, and closes when the last of its
    /// requests has ended.
    pub(super) fn prune(&self, limits: &PoolSettings, now: Instant) {
        self.connections.borrow_mut().retain(|connection| {
            connection.note_use(now);
            let is_past = |since: Instant, longest| now.saturating_duration_since(since) >= longest;
            let is_idle = connection.idle_since().is_some_and(|since| is_past(since, limits.idle));
            !connection.is_closed() && !is_past(connection.opened, limits.max_age) && !is_idle
        });
    }

    pub(super) fn clear(&self) {
        self.connections.borrow_mut().clear();
    }

    /// The connections, and the requests that have a place on them.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let connections = self.connections.borrow();
        let streams: usize = connections.iter().map(|connection| connection.streams()).sum();
        (connections.len() as u64, streams as u64)
    }

    /// The time since which each connection is idle, of those that are.
    pub(super) fn idle_since(&self) -> Vec<Instant> {
        self.connections.borrow().iter().filter_map(|connection| connection.idle_since()).collect()
    }

    /// Closes the connections that have been idle since `until` or longer.
    pub(super) fn close_idle_until(&self, until: Instant) -> usize {
        let mut connections = self.connections.borrow_mut();
        let before = connections.len();
        connections.retain(|connection| connection.idle_since().is_none_or(|since| since > until));
        before - connections.len()
    }
}

/// Connections of a worker to one endpoint. With a hundred streams on each, they carry nearly as many requests as a service may have in
/// flight by default (`max_inflight`, 1024).
const CONNECTIONS_MAX: usize = 8;
