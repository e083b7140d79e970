//! The state of one worker: everything that a request on its core can reach. Workers share nothing on the request path
//! except for the words listed in docs/SHARED-STATE.md. The thread that drives a worker is [`crate::worker_thread`].

mod hint;
mod setup;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use bytes::BytesMut;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::Notify;

pub use self::{
    hint::{Hint, Hints},
    setup::{COMMANDS_MAX, Command, Drained, WorkerSetup},
};
use crate::{
    access_log::AccessLog,
    auth::doubts::Doubts,
    body::Activities,
    clock::Clock,
    downstream::ConnectionTable,
    file_account::Desk,
    freed_memory::FreedMemory,
    message::Authority,
    metrics::{Metrics, RouteSample},
    seldom::Seldom,
    snapshot::{LocalSnapshot, Pools, Publisher},
    tunnel::open::OpenTunnels,
};

/// Everything that a request on this core can reach.
pub struct WorkerState {
    publisher: Arc<Publisher>,
    seen_generation: Cell<u64>,
    local: RefCell<Rc<LocalSnapshot>>,
    pub(crate) pools: RefCell<Pools>,
    pub clock: Rc<Clock>,
    pub rng: RefCell<SmallRng>,
    /// The memory from which request ids are cut.
    pub ids: RefCell<BytesMut>,
    pub metrics: Rc<Metrics>,
    pub unmatched: Rc<RefCell<RouteSample>>,
    pub access_log: AccessLog,
    pub(crate) doubts: Doubts,
    /// The numbers of verified credentials found in a cache, and of those that had to be verified, since the last sweep.
    pub token_hits: Cell<u64>,
    pub token_misses: Cell<u64>,
    pub draining: Cell<bool>,
    /// The worker is draining and `drain.timeout` is over, so that unfinished requests are ended.
    pub is_out_of_time: Cell<bool>,
    pub connections: ConnectionTable,
    /// The authority of the last request whose connection had another one, with which new connections begin.
    pub(crate) last_authority: RefCell<Option<Rc<Authority>>>,
    /// Exchanges that are sending or receiving a body.
    pub activities: Rc<Activities>,
    /// The number of HTTP/2 connections that have large windows.
    pub(crate) large_windows: Rc<Cell<u64>>,
    /// The bytes of request bodies that are held in memory.
    pub held_bytes: Rc<Cell<u64>>,
    pub(crate) freed_memory: FreedMemory,
    /// Tunnels that are open.
    pub(crate) tunnels: Rc<OpenTunnels>,
    pub connection_closed: Notify,
    pub files: Rc<Desk>,
    pub(crate) accept_errors: Seldom,
    hints: Hints,
}

impl WorkerState {
    pub(crate) fn new(setup: &WorkerSetup) -> Rc<Self> {
        let clock = Rc::new(Clock::new());
        let metrics = Rc::new(Metrics::default());
        let mut pools = Pools::default();
        let generation = setup.publisher.generation();
        // The only place in which a worker takes randomness from the system.
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let files = Rc::new(Desk { account: Arc::clone(&setup.files), worker: setup.index });
        let shared = setup.publisher.load();
        let local = LocalSnapshot::build(shared, None, &mut pools, &metrics, (&clock, &files), &mut rng);
        let access_log = AccessLog::new(setup.log.clone(), &local.shared.table.access_log, Rc::clone(&clock));
        let unmatched = metrics.route(&Arc::from("(none)"), &Arc::from("(none)"));
        Rc::new(Self {
            publisher: Arc::clone(&setup.publisher),
            seen_generation: Cell::new(generation),
            local: RefCell::new(Rc::new(local)),
            pools: RefCell::new(pools),
            clock,
            rng: RefCell::new(rng),
            ids: RefCell::default(),
            metrics,
            unmatched,
            access_log,
            doubts: Doubts::default(),
            token_hits: Cell::new(0),
            token_misses: Cell::new(0),
            draining: Cell::new(false),
            is_out_of_time: Cell::new(false),
            connections: ConnectionTable::default(),
            last_authority: RefCell::default(),
            activities: Rc::default(),
            held_bytes: Rc::default(),
            large_windows: Rc::default(),
            freed_memory: FreedMemory::default(),
            tunnels: Rc::default(),
            connection_closed: Notify::new(),
            files,
            accept_errors: Seldom::default(),
            hints: setup.hints.clone(),
        })
    }

    /// The newest snapshot. If the control plane has published one, the worker's own is replaced first.
    pub fn snapshot(&self) -> Rc<LocalSnapshot> {
        let generation = self.publisher.generation();
        if generation != self.seen_generation.get() {
            self.swap(generation);
        }
        Rc::clone(&self.local.borrow())
    }

    fn swap(&self, generation: u64) {
        let shared = self.publisher.load();
        self.access_log.configure(&shared.table.access_log);
        let previous = Rc::clone(&self.local.borrow());
        let mut pools = self.pools.borrow_mut();
        let mut rng = self.rng.borrow_mut();
        let previous = Some(&*previous);
        let own = (&self.clock, &self.files);
        let local = LocalSnapshot::build(shared, previous, &mut pools, &self.metrics, own, &mut rng);
        *self.local.borrow_mut() = Rc::new(local);
        self.seen_generation.set(generation);
    }

    /// Sends a hint to the control plane.
    pub(crate) fn hint(&self, hint: Hint) {
        (self.hints)(hint);
    }
}
