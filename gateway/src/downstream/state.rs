//! The state of a client's connection, and the verdict of the worker's sweep on it.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode};

use super::{Ended, HEADER_TIMEOUT, SHED, budget::FrameBudget, frames::FrameHead, informational::Queue};
use crate::{
    admission::Scheme,
    clock::Clock,
    listen::{Http2Settings, ListenSettings, Listener},
};

/// The phase in which a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the TLS handshake, or before the protocol is known.
    Opening,
    /// No request is being served, and no byte of a head has come.
    Idle,
    /// A request head has begun.
    Head,
    /// At least one request is being served.
    Busy,
}

/// The state of one client connection. Its task and its requests report to it; the worker's sweep reads it.
#[derive(Debug)]
pub struct ConnectionState {
    pub(super) phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Whether `since` was read from the clock; otherwise it is the worker's last reading, which may be a second old.
    is_exact: Cell<bool>,
    requests: Cell<u32>,
    /// The last request has a body that was not read to its end.
    pub(crate) has_unread_body: Cell<bool>,
    /// Bytes of request bodies that are held, over all streams.
    held_bytes: Rc<Cell<u64>>,
    /// Number of requests that have begun. At 0, the opening of the protocol is not over.
    begun: Cell<u32>,
    /// Bytes of response bodies that went out, over all requests.
    delivered: Cell<u64>,
    /// The connection is to finish its requests in flight, and to close then.
    pub(crate) close: Cell<bool>,
    /// The next response is the last one on HTTP/1.1. An idle connection stays open for it, because its client may be sending.
    pub(crate) retires: Cell<bool>,
    /// The connection is to close now.
    pub(crate) kill: Cell<bool>,
    /// What the client's certificate was verified against; 0: it has shown none.
    pub(crate) client_auth: Cell<u64>,
    /// The reason for which it is to close now, if the reason is known and counted already.
    pub(crate) killed_for: Cell<Option<Ended>>,
    /// Another client needs the place of this one.
    pub(crate) is_shed: Cell<bool>,
    /// The connection has been idle for so long that it should give up its buffers. Withdrawn when a request begins: the
    /// unread rest of its body is known only to the hyper connection that reads it.
    pub(super) park: Cell<bool>,
    /// The connection has no buffers.
    pub(crate) is_parked: Cell<bool>,
    /// The time since which the peer has taken none of the bytes that are to be written.
    blocked_since: Cell<Option<Instant>>,
    /// The connection speaks HTTP/2.
    pub(crate) is_http2: Cell<bool>,
    /// Whether bytes have come since the last sweep; HTTP/2 only.
    heard: Cell<bool>,
    /// The time since which no bytes have come; HTTP/2 only.
    silent_since: Cell<Instant>,
    pub(super) ping: Cell<Ping>,
    pub(crate) informational: Queue,
    pub(super) frames: FrameBudget,
    /// The reason for which the client's frames are past their budget.
    flood: Cell<Option<Ended>>,
    pub(crate) waker: RefCell<Option<Waker>>,
    /// The listener through which the client came.
    pub(crate) listener: Rc<Listener>,
    worker_clock: Rc<Clock>,
}

impl ConnectionState {
    /// The state of a connection that has just been accepted.
    pub(crate) fn new(listener: Rc<Listener>, clock: &Rc<Clock>) -> Self {
        Self {
            phase: Cell::new(Phase::Opening),
            since: Cell::new(clock.now()),
            is_exact: Cell::new(true),
            requests: Cell::new(0),
            has_unread_body: Cell::new(false),
            held_bytes: Rc::default(),
            begun: Cell::new(0),
            delivered: Cell::new(0),
            close: Cell::new(false),
            retires: Cell::new(false),
            kill: Cell::new(false),
            client_auth: Cell::new(0),
            killed_for: Cell::new(None),
            is_shed: Cell::new(false),
            park: Cell::new(false),
            is_parked: Cell::new(false),
            blocked_since: Cell::new(None),
            is_http2: Cell::new(false),
            heard: Cell::new(false),
            silent_since: Cell::new(clock.now()),
            ping: Cell::new(Ping::NotNeeded),
            informational: Queue::default(),
            frames: FrameBudget::new(),
            flood: Cell::new(None),
            waker: RefCell::new(None),
            listener,
            worker_clock: Rc::clone(clock),
        }
    }

    /// Enters a phase, with a reading of the clock: it is not on the path of a request.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.worker_clock.now());
        self.is_exact.set(true);
    }

    /// Enters a phase, with the worker's last reading of the clock.
    fn enter_soon(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.worker_clock.coarse());
        self.is_exact.set(false);
    }

    /// A request begins: its head is complete.
    pub fn request_began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.begun.set(self.begun.get().saturating_add(1));
        self.park.set(false);
        self.enter_soon(Phase::Busy);
    }

    /// Closes the connection after the request that begins now, if this many requests have begun on it. The response
    /// announces the close.
    pub(crate) fn close_after(&self, requests_max: Option<u32>) {
        if requests_max.is_some_and(|max| self.begun.get() >= max) && !self.close.replace(true) {
            self.wake();
        }
    }

    /// A stream whose response is over keeps the connection busy, until [`ConnectionState::linger_ended`].
    pub(crate) fn linger_began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.enter_soon(Phase::Busy);
    }

    /// A stream that kept the connection busy is over.
    pub(crate) fn linger_ended(&self) {
        self.request_ended(false);
    }

    /// The response to a request is over. The clock was read for that a moment ago.
    pub(crate) fn request_ended(&self, has_unread_body: bool) {
        self.has_unread_body.set(has_unread_body);
        let left = self.requests.get().saturating_sub(1);
        self.requests.set(left);
        if left == 0 {
            self.enter_soon(Phase::Idle);
        }
    }

    /// Counts bytes of a response's body that go out. Returns their number so far, over all responses.
    pub(crate) fn handed_over(&self, bytes: u64) -> u64 {
        let delivered = self.delivered.get().saturating_add(bytes);
        self.delivered.set(delivered);
        delivered
    }

    /// The count of bytes of request bodies that the connection's requests hold.
    pub(crate) fn held_bytes(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.held_bytes)
    }

    /// Sends an informational response on HTTP/1.1. Returns false if the client takes them too slowly.
    pub(crate) fn inform(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        let is_sent = self.informational.push(status, fields);
        self.wake();
        is_sent
    }

    /// The final response comes next on HTTP/1.1.
    pub(crate) fn response_begins(&self) {
        self.informational.expire();
    }

    /// Closes the connection now, with the requests that are in flight on it.
    pub(crate) fn kill(&self) {
        self.kill.set(true);
        self.wake();
    }

    /// On HTTP/2, bytes may be frames of any kind: only a request proves that one has begun. On HTTP/1, empty lines before
    /// a request are nothing (RFC 9112 §2.2): the connection stays idle, and its idle time goes on.
    pub(crate) fn bytes_arrived(&self, bytes: &[u8]) {
        let is_nothing = || bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        if self.phase.get() == Phase::Idle && !self.is_http2.get() && !is_nothing() {
            self.enter_soon(Phase::Head);
        }
    }

    /// The bytes that came have been read, and they were not a whole request head. The time of the head begins now, and not
    /// at the worker's last reading of the clock, or the connection would end early. A head that comes at once costs no
    /// reading.
    pub(crate) fn waits_for_bytes(&self) {
        if self.phase.get() == Phase::Head && !self.is_exact.get() {
            self.enter(Phase::Head);
        }
    }

    /// The connection speaks HTTP/2, with this budget of frames.
    pub(crate) fn is_http2_with(&self, frames: Http2Settings, fields_max: usize) {
        self.is_http2.set(true);
        self.frames.limit(frames, fields_max);
        self.silent_since.set(self.worker_clock.now());
        self.enter(Phase::Idle);
    }

    /// Bytes of any kind came on HTTP/2.
    pub(crate) fn client_lives(&self) {
        self.heard.set(true);
    }

    /// Whether a PING is to be sent now. It counts as sent then.
    pub(crate) fn takes_ping(&self) -> bool {
        let is_due = self.ping.get() == Ping::Due;
        if is_due {
            self.ping.set(Ping::Sent);
        }
        is_due
    }

    /// Notes at the sweep, once a second, whether bytes have come.
    pub(super) fn listen_for_client(&self, now: Instant) {
        if self.heard.take() {
            self.silent_since.set(now);
            self.ping.set(Ping::NotNeeded);
        }
    }

    /// Counts the head of a frame from the client.
    pub(crate) fn frame_arrived(&self, head: &FrameHead) {
        self.note_flood(self.frames.arrived(head));
    }

    /// Counts a header block, of which all frames have come.
    pub(crate) fn header_block_arrived(&self, fields: u32) {
        self.note_flood(self.frames.block_arrived(fields));
    }

    fn note_flood(&self, reason: Option<Ended>) {
        if self.flood.get().is_none() {
            self.flood.set(reason);
        }
    }

    /// Counts the head of a frame to the client.
    pub(crate) fn frame_sent(&self, head: &FrameHead) {
        self.frames.sent(head);
    }

    /// The reason for which the client's frames end the connection. `None`: they do not.
    pub(crate) fn flood(&self) -> Option<&'static str> {
        self.flood.get()
    }

    /// Notes the result of a write or a flush. Pending means that the peer takes nothing at the moment. A flush counts,
    /// since TLS takes more than it can pass on.
    pub(crate) fn wrote<T>(&self, result: &Poll<io::Result<T>>) {
        match result {
            Poll::Pending if self.blocked_since.get().is_none() => {
                self.blocked_since.set(Some(self.worker_clock.now()));
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.blocked_since.set(None),
        }
    }

    /// Whether the sweep has requested to park the connection, and that is still possible: nothing is under way, in or out.
    pub(crate) fn takes_parking(&self) -> bool {
        self.park.take() && self.phase.get() == Phase::Idle && self.blocked_since.get().is_none()
    }

    /// The verdict of the sweep on the connection, with the reason for the metric.
    pub(super) fn verdict(&self, now: Instant, listen: &ListenSettings) -> Verdict {
        let age = now.saturating_duration_since(self.since.get());
        let opening = match self.phase.get() {
            Phase::Opening | Phase::Head => true,
            // hyper's HTTP/2 waits for the client's preface and settings without a limit of its own.
            Phase::Idle => self.is_http2.get() && self.begun.get() == 0,
            Phase::Busy => false,
        };
        let blocked =
            self.blocked_since.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let silent = now.saturating_duration_since(self.silent_since.get());
        if opening && age >= listen.header_timeout {
            Verdict::Kill(HEADER_TIMEOUT)
        } else if blocked >= listen.idle_timeout {
            Verdict::Kill("write_timeout")
        } else if self.ping.get() == Ping::Sent && silent >= PING_AFTER + PING_TIMEOUT {
            Verdict::Kill("timeout")
        } else if self.phase.get() == Phase::Idle && age >= listen.idle_timeout + CLOSE_GRACE {
            Verdict::Kill("close_timeout")
        } else if self.phase.get() == Phase::Idle && age >= listen.idle_timeout {
            Verdict::Close
        } else if self.phase.get() == Phase::Idle
            && self.begun.get() > 0
            && !self.is_http2.get()
            && !self.is_parked.get()
            && age >= PARK_AFTER
        {
            Verdict::Park
        } else if self.is_http2.get() && self.ping.get() == Ping::NotNeeded && silent >= PING_AFTER {
            Verdict::Ping
        } else {
            Verdict::Keep
        }
    }

    /// The time since which no request is served, and what is waited for. `None`: a request is served, or the connection
    /// closes already.
    pub(crate) fn quiet_since(&self) -> Option<(Instant, Quiet)> {
        let quiet = match self.phase.get() {
            Phase::Opening if self.listener.scheme == Scheme::Https => Quiet::Handshake,
            Phase::Opening | Phase::Head => Quiet::Head,
            Phase::Idle if self.begun.get() == 0 => Quiet::Head,
            Phase::Idle => Quiet::Idle,
            Phase::Busy => return None,
        };
        (!self.kill.get()).then_some((self.since.get(), quiet))
    }

    /// Gives its place to another client. A client that does not leave at the first request is cut at the second.
    pub(crate) fn shed(&self) {
        self.is_shed.set(true);
        if self.close.replace(true) || matches!(self.phase.get(), Phase::Opening | Phase::Head) {
            self.kill.set(true);
            self.killed_for.set(Some(SHED));
        }
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Whether an HTTP/2 client that has been silent gets a PING (RFC 9113 §6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    NotNeeded,
    Due,
    Sent,
}

/// What a connection without a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// The next request.
    Idle,
    /// The end of a head, or the beginning of the first one.
    Head,
    /// The end of the TLS handshake.
    Handshake,
}

/// What the sweep does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// Give up its buffers.
    Park,
    /// Send a PING, to find out whether the client is still there.
    Ping,
    /// Finish the requests in flight, then close.
    Close,
    /// Close now, for this reason.
    Kill(Ended),
}

/// Idle time after which a connection gives up its buffers. A client that pauses for longer is most likely away for much
/// longer.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// An HTTP/2 client that has sent nothing for this long gets a PING.
const PING_AFTER: Duration = Duration::from_secs(20);
/// A client that sends nothing for this long after a PING is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The time after which a connection is cut that should have closed by itself.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
