//! Accepting clients, each with a place in the account of files, and making room where no place is free.
//!
//! A client is accepted first and waits for its place then. So places go only to clients that are there, on any
//! listener and worker, and no listener keeps one for a client that might come. A process that has used up its places
//! closes what has been idle for longest, as nginx does (`ngx_drain_connections`): first upstream connections, then
//! clients.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinHandle};

use crate::{connection, file_account::Scarce, listen::Listener, metrics::Rare, worker::WorkerState};

/// The pause after an accept error (the system is out of files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At most so many idle connections, and at most an eighth of them, are closed in advance at a time: as many as nginx
/// closes.
const SHED_MAX: usize = 32;
const SHED_PART: usize = 8;

/// A listening socket and the task that accepts from it.
pub(super) struct Accepting {
    queue: Rc<Queue>,
    task: JoinHandle<()>,
}

/// What the task of a socket shares with the worker's loop.
struct Queue {
    socket: TcpListener,
    /// A client that was accepted waits for its place.
    has_client: Cell<bool>,
    /// That client is the last one.
    is_over: Cell<bool>,
}

impl Accepting {
    /// Accepts clients from a socket.
    pub(super) fn begin(
        socket: std::net::TcpListener,
        listener: Listener,
        worker: &Rc<WorkerState>,
    ) -> io::Result<Self> {
        let socket = TcpListener::from_std(socket)?;
        let queue = Rc::new(Queue { socket, has_client: Cell::new(false), is_over: Cell::new(false) });
        let accepting = accept(Rc::clone(&queue), Rc::new(listener), Rc::clone(worker));
        let task = tokio::task::spawn_local(accepting);
        Ok(Self { queue, task })
    }

    /// The same socket, for another process.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.queue.socket.as_fd().try_clone_to_owned()
    }

    /// The address of the socket.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.queue.socket.local_addr()
    }

    /// Whether it listens on one of these addresses.
    pub(super) fn is_at(&self, addresses: &[SocketAddr]) -> bool {
        self.address().is_ok_and(|address| addresses.contains(&address))
    }

    pub(super) fn socket(&self) -> &impl AsFd {
        &self.queue.socket
    }

    /// Accepts no other client, and closes the socket. A client that was accepted already still gets its place.
    pub(super) fn end(self) {
        self.queue.is_over.set(true);
        if !self.queue.has_client.get() {
            self.task.abort();
        }
    }
}

/// Accepts clients for as long as the task lives.
async fn accept(queue: Rc<Queue>, listener: Rc<Listener>, worker: Rc<WorkerState>) {
    while !queue.is_over.get() {
        match queue.socket.accept().await {
            Ok((stream, peer)) => {
                queue.has_client.set(true);
                if worker.files.account.is_full() {
                    worker.metrics.count(Rare::ConnectionError, &listener.name, "connections_max");
                }
                let Some(place) = worker.files.client().await else { return };
                connection::spawn(stream, peer, Rc::clone(&listener), place, Rc::clone(&worker));
                queue.has_client.set(false);
            }
            Err(error) => {
                // The client causes ECONNABORTED; EMFILE and ENFILE end when connections close.
                worker.metrics.connections.refused.set(worker.metrics.connections.refused.get() + 1);
                if let Some(more) = worker.accept_errors.due(worker.clock.coarse()) {
                    tracing::warn!(%error, more, "a connection could not be accepted");
                }
                // Upstream connections stay open: the client that would be accepted needs one as well.
                worker.shed_clients(1, "system");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Makes room whenever a connection waits for it, for as long as the task lives.
pub(super) async fn make_room(worker: Rc<WorkerState>) {
    loop {
        let is_own = worker.files.account.next_call(worker.files.worker).await;
        if !worker.make_room() && is_own {
            worker.files.account.call_others(worker.files.worker);
        }
    }
}

impl WorkerState {
    /// Closes idle connections of this worker if any connection waits for a place. `true`: one is being closed, or
    /// none waits.
    pub(super) fn make_room(&self) -> bool {
        let account = &self.files.account;
        let [clients, upstreams, files] =
            [Scarce::Clients, Scarce::Upstreams, Scarce::Files].map(|what| account.waiting(what));
        let mut has_room = true;
        if clients > 0 {
            has_room &= self.shed_clients(clients, "max_connections") > 0;
        }
        if upstreams > 0 {
            has_room &= self.shed_upstreams(upstreams, "upstreams") > 0;
        }
        if files > 0 {
            has_room &= self.shed_upstreams(files, "files") > 0 || self.shed_clients(files, "files") > 0;
        }
        has_room
    }

    fn shed_clients(&self, wanted: usize, reason: &str) -> usize {
        let shed = self.connections.shed_idle(self.clock.coarse(), |idle| at_a_time(idle, wanted));
        self.count_shed("client", reason, shed.new);
        shed.closing
    }

    /// Closes the upstream connections that have been idle for longest.
    fn shed_upstreams(&self, wanted: usize, reason: &str) -> usize {
        let pools = self.pools.borrow();
        let mut idle: Vec<_> = pools.values().flat_map(|pool| pool.idle_since()).collect();
        let number = at_a_time(idle.len(), wanted);
        let Some(last) = number.checked_sub(1) else { return 0 };
        let (_, until, _) = idle.select_nth_unstable(last);
        let closed = pools.values().map(|pool| pool.close_idle_until(*until)).sum();
        self.count_shed("upstream", reason, closed);
        closed
    }

    fn count_shed(&self, what: &str, reason: &str, closed: usize) {
        if closed > 0 {
            self.metrics.count_many(Rare::Shed, what, reason, closed as u64);
        }
    }
}

/// How many of `idle` connections are closed when `wanted` connections wait: some more, because others will come.
fn at_a_time(idle: usize, wanted: usize) -> usize {
    wanted.max(SHED_MAX.min(idle / SHED_PART)).min(idle)
}

#[cfg(test)]
mod tests {
    use super::at_a_time;

    #[test]
    fn at_least_as_many_go_as_wait_and_never_more_than_are_idle() {
        let cases = [((0, 1), 0), ((1, 1), 1), ((16, 1), 2), ((1000, 1), 32), ((1000, 40), 40), ((3, 5), 3)];
        for ((idle, wanted), number) in cases {
            assert_eq!(at_a_time(idle, wanted), number, "{idle} {wanted}");
        }
    }
}
