//! The end of a worker: it stops accepting, and lets what is in flight end within `drain.timeout`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Accepting, listen::refuse_handshakes};
use crate::worker::{Drained, WorkerState};

/// Lets no new handshake begin. Returns the ports at which those that have begun are to end. Sockets at the addresses `kept` are
/// another process's, too.
pub(super) fn refuse(worker: &WorkerState, accepting: &[Accepting], kept: &[SocketAddr]) -> Vec<u16> {
    worker.draining.set(true);
    let mut ports = Vec::new();
    for one in accepting.iter().filter(|one| !one.is_at(kept)) {
        if let Err(error) = refuse_handshakes(one.socket()) {
            tracing::debug!(%error, "a connection that arrives at this moment may be reset");
        }
        ports.extend(one.address().map(|address| address.port()));
    }
    ports
}

/// Stops accepting without losing a connection. To a client, a connection that the kernel has completed is accepted. So
/// no new handshake begins any more ([`refuse`]), those that have begun have ended, each accept loop runs until its queue is
/// empty, and then the listeners close. What is in the queue of a socket at one of the addresses `kept` is another process's.
pub(super) async fn stop_accepting(worker: &WorkerState, accepting: Vec<Accepting>, kept: &[SocketAddr]) {
    worker.draining.set(true);
    let (passed_on, accepting): (Vec<_>, Vec<_>) = accepting.into_iter().partition(|one| one.is_at(kept));
    passed_on.into_iter().for_each(Accepting::end);
    for _ in 0..ACCEPT_TURNS {
        let before = worker.metrics.connections.accepted.get();
        for _ in 0..YIELDS_PER_TURN {
            tokio::task::yield_now().await;
        }
        if worker.metrics.connections.accepted.get() == before {
            break;
        }
    }
    accepting.into_iter().for_each(Accepting::end);
    worker.connections.begin_drain();
    worker.tunnels.wake_all();
}

/// The time before a drain in which connections are closed one after the other, so that their clients do not all come to the next
/// gateway in the same moment.
pub(super) struct Retirement {
    began: Instant,
    time: Duration,
}

impl Retirement {
    pub(super) fn begin(worker: &WorkerState, time: Duration) -> Self {
        Self { began: worker.clock.now(), time }
    }

    /// Tells the connections whose turn has come.
    pub(super) fn step(&self, worker: &WorkerState) {
        let elapsed = worker.clock.now().saturating_duration_since(self.began);
        worker.connections.retire(elapsed.div_duration_f64(self.time));
    }
}

/// A drain under way. The worker's loop goes on meanwhile, with timeouts, logs and scrapes.
pub(super) struct Drain {
    began: Instant,
    timeout: Duration,
    idle_closed: bool,
    /// The number of connections that were open when the time was over.
    cut: Option<usize>,
    done: oneshot::Sender<Drained>,
}

impl Drain {
    pub(super) fn begin(worker: &WorkerState, timeout: Duration, done: oneshot::Sender<Drained>) -> Self {
        Self { began: worker.clock.now(), timeout, idle_closed: false, cut: None, done }
    }

    /// Advances the drain. `Some` when no connection is left, or the time is over.
    pub(super) fn step(&mut self, worker: &WorkerState) -> Option<Drained> {
        if worker.connections.is_empty() {
            return Some(Drained { cut: self.cut.unwrap_or(0) });
        }
        let elapsed = worker.clock.now().saturating_duration_since(self.began);
        if elapsed >= self.timeout {
            let cut = *self.cut.get_or_insert_with(|| worker.out_of_time());
            if elapsed >= self.timeout + LAST_REPLIES {
                worker.connections.kill_all();
                return Some(Drained { cut });
            }
        }
        if !self.idle_closed && elapsed >= DRAIN_IDLE_GRACE.min(self.timeout / 2) {
            self.idle_closed = true;
            worker.connections.close_idle();
        }
        None
    }
}

/// Lets the connections that were cut end, so that their requests are counted and logged, and reports the end of the
/// drain.
pub(super) async fn finish(worker: &WorkerState, drain: Option<Drain>, drained: Drained) {
    for _ in 0..drained.cut.saturating_add(1).saturating_mul(YIELDS_PER_TURN) {
        if worker.connections.is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    worker.access_log.hand_over();
    if let Some(drain) = drain {
        let _ = drain.done.send(drained);
    }
}

/// The time after `drain.timeout` in which requests without an answer get a local reply. A client that does not read its
/// reply in this time gets none.
const LAST_REPLIES: Duration = Duration::from_millis(500);
/// The largest number of turns for the accept loops to empty their queues. Each turn takes at least one connection, and
/// a queue has at most [`BACKLOG`](super::listen::BACKLOG).
const ACCEPT_TURNS: usize = 4096;
/// Yields to the event loop per turn, of which at least one polls the sockets.
const YIELDS_PER_TURN: usize = 3;

impl WorkerState {
    /// Makes all requests under way notice that the drain's time is over. Returns the number of open connections.
    fn out_of_time(&self) -> usize {
        self.is_out_of_time.set(true);
        self.connections.wake_all();
        self.activities.wake_all();
        self.tunnels.wake_all();
        self.connections.len()
    }
}

/// While draining, idle HTTP/1.1 connections stay open this long. Their client may be sending at this moment, and gets
/// its answer with `Connection: close` instead of a reset.
const DRAIN_IDLE_GRACE: Duration = Duration::from_secs(1);
