//! Where a connection stands, and what the worker's sweep does about it.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    admission::Scheme,
    clock::Clock,
    config::settings::ListenSettings,
    metrics::{Metrics, Rare},
};

/// Why a connection ended other than by being closed; the label of a metric.
pub(super) type Ended = &'static str;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// TLS handshake, or protocol not known yet.
    Opening,
    /// No request, no byte of one.
    Idle,
    /// A request head has begun.
    Head,
    /// At least one request is being served.
    Busy,
}

#[derive(Debug)]
pub struct ConnectionState {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    requests: Cell<u32>,
    /// The last request has a body that was not read to its end.
    pub(super) has_unread_body: Cell<bool>,
    /// Bytes of request bodies that are held, over all streams.
    held_bytes: Rc<Cell<u64>>,
    /// Bytes of response bodies that went out, over all requests.
    delivered: Cell<u64>,
    /// Finish what is in flight, then close.
    pub(super) close: Cell<bool>,
    /// Close now.
    pub(super) kill: Cell<bool>,
    /// Idle for so long that it should hold no buffers. Of no more use when a request has begun: what is left of its body
    /// must stay with the hyper that knows where it ends.
    park: Cell<bool>,
    /// It holds none.
    pub(super) is_parked: Cell<bool>,
    /// Some request has begun: the protocol's own opening is over.
    served: Cell<bool>,
    /// Since when the peer has taken nothing of what is to be written.
    blocked_since: Cell<Option<Instant>>,
    pub(super) is_http2: Cell<bool>,
    pub(super) waker: RefCell<Option<Waker>>,
    scheme: Scheme,
    worker_clock: Rc<Clock>,
}

impl ConnectionState {
    pub(crate) fn new(scheme: Scheme, clock: &Rc<Clock>) -> Self {
        Self {
            phase: Cell::new(Phase::Opening),
            since: Cell::new(clock.coarse()),
            requests: Cell::new(0),
            has_unread_body: Cell::new(false),
            held_bytes: Rc::default(),
            delivered: Cell::new(0),
            close: Cell::new(false),
            kill: Cell::new(false),
            park: Cell::new(false),
            is_parked: Cell::new(false),
            served: Cell::new(false),
            blocked_since: Cell::new(None),
            is_http2: Cell::new(false),
            waker: RefCell::new(None),
            scheme,
            worker_clock: Rc::clone(clock),
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.worker_clock.coarse());
    }

    /// A request head is complete.
    pub fn request_began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.served.set(true);
        self.park.set(false);
        self.enter(Phase::Busy);
    }

    /// Its response is over.
    pub(crate) fn request_ended(&self, has_unread_body: bool) {
        self.has_unread_body.set(has_unread_body);
        let left = self.requests.get().saturating_sub(1);
        self.requests.set(left);
        if left == 0 {
            self.enter(Phase::Idle);
        }
    }

    /// Bytes of a response's body go out. Returns how many went so far, over all responses.
    pub(crate) fn handed_over(&self, bytes: u64) -> u64 {
        let delivered = self.delivered.get().saturating_add(bytes);
        self.delivered.set(delivered);
        delivered
    }

    pub(crate) fn held_bytes(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.held_bytes)
    }

    /// Closes the connection now, with what is under way on it.
    pub(crate) fn kill(&self) {
        self.kill.set(true);
        self.wake();
    }

    /// On HTTP/2, bytes may be frames of any kind: only a request says that one has begun.
    pub(super) fn bytes_arrived(&self) {
        if self.phase.get() == Phase::Idle && !self.is_http2.get() {
            self.enter(Phase::Head);
        }
    }

    /// What became of a write or a flush: pending means that the peer takes nothing at the moment. A flush counts, since
    /// TLS takes more than it can pass on.
    pub(super) fn wrote<T>(&self, result: &Poll<io::Result<T>>) {
        match result {
            Poll::Pending if self.blocked_since.get().is_none() => {
                self.blocked_since.set(Some(self.worker_clock.coarse()));
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.blocked_since.set(None),
        }
    }

    /// Whether the sweep has asked to park the connection, and it still can be: nothing is under way, in or out.
    pub(super) fn takes_parking(&self) -> bool {
        self.park.take() && self.phase.get() == Phase::Idle && self.blocked_since.get().is_none()
    }

    /// What the sweep does with the connection, and the reason for the metric.
    fn verdict(&self, now: Instant, listen: &ListenSettings) -> Verdict {
        let age = now.saturating_duration_since(self.since.get());
        let opening = match self.phase.get() {
            Phase::Opening | Phase::Head => true,
            // hyper's HTTP/2 waits for the client's preface and settings without a limit of its own.
            Phase::Idle => self.is_http2.get() && !self.served.get(),
            Phase::Busy => false,
        };
        let blocked =
            self.blocked_since.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if opening && age >= listen.header_timeout {
            Verdict::Kill("header_timeout")
        } else if blocked >= listen.idle_timeout {
            Verdict::Kill("write_timeout")
        } else if self.phase.get() == Phase::Idle && age >= listen.idle_timeout + CLOSE_GRACE {
            Verdict::Kill("close_timeout")
        } else if self.phase.get() == Phase::Idle && age >= listen.idle_timeout {
            Verdict::Close
        } else if self.phase.get() == Phase::Idle
            && self.served.get()
            && !self.is_http2.get()
            && !self.is_parked.get()
            && age >= PARK_AFTER
        {
            Verdict::Park
        } else {
            Verdict::Keep
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Let go of its buffers.
    Park,
    /// Finish what is under way.
    Close,
    Kill(Ended),
}

/// The open connections of one worker.
#[derive(Debug, Default)]
pub struct ConnectionTable {
    pub(super) open: RefCell<Slab<Rc<ConnectionState>>>,
}

impl ConnectionTable {
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes connections that are past their timeout. Once a second.
    pub fn sweep(&self, now: Instant, listen: &ListenSettings, metrics: &Metrics) {
        for (_, state) in self.open.borrow().iter() {
            match state.verdict(now, listen) {
                Verdict::Keep => continue,
                Verdict::Park => state.park.set(true),
                Verdict::Close => state.close.set(true),
                Verdict::Kill(reason) => {
                    if !state.kill.replace(true) {
                        metrics.count(Rare::ConnectionError, state.scheme.as_str(), reason);
                    }
                }
            }
            state.wake();
        }
    }

    /// HTTP/2 connections get their GOAWAY now; HTTP/1.1 learns of the drain by `Connection: close`.
    pub fn begin_drain(&self) {
        self.close_where(|state| state.is_http2.get());
    }

    /// Closes what has no request in flight. A connection that has not come as far as HTTP has nothing to finish.
    pub fn close_idle(&self) {
        for (_, state) in self.open.borrow().iter().filter(|(_, state)| state.phase.get() == Phase::Opening) {
            state.kill.set(true);
        }
        self.close_where(|_| true);
    }

    /// Closes everything; returns how many that were.
    pub fn kill_all(&self) -> usize {
        for (_, state) in self.open.borrow().iter() {
            state.kill.set(true);
            state.wake();
        }
        self.len()
    }

    fn close_where(&self, wanted: impl Fn(&ConnectionState) -> bool) {
        for (_, state) in self.open.borrow().iter().filter(|(_, state)| wanted(state)) {
            state.close.set(true);
            state.wake();
        }
    }
}

/// A client that pauses for longer than this is most likely away for longer still.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// A connection that was told to close and still has not is cut after this.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
