//! One core: a thread with its own single-threaded runtime, its own `SO_REUSEPORT` listeners, pools, counters,
//! random numbers and log buffer. Workers share nothing on the request path but the words listed in
//! docs/ARCHITECTURE.md.

mod accepting;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::TcpListener,
    runtime::LocalOptions,
    sync::{Notify, mpsc, oneshot},
};

use crate::{
    access_log::{AccessLog, LogSink},
    admission::Scheme,
    auth::doubts::Doubts,
    body::Activities,
    clock::Clock,
    connection::{ConnectionTable, Refusal},
    control::{
        event::{Event, Signal},
        listen::refuse_handshakes,
    },
    file_account::{Desk, FileAccount},
    metrics::{Metrics, Rare, RouteSample, WorkerSample},
    request::probe,
    seldom::Seldom,
    snapshot::{LocalSnapshot, Pools, Publisher},
};

/// Log buffers are handed over this often.
const TICK: Duration = Duration::from_millis(100);
/// Every so many ticks the worker sweeps: pools, timeouts, wall clock.
const TICKS_PER_SWEEP: u32 = 10;
/// Longer than a round trip around the world, so that a handshake that has begun can end.
const HANDSHAKES_END: Duration = Duration::from_millis(300);
/// While draining, idle HTTP/1.1 connections stay open this long: their client may be sending at this moment,
/// and gets its answer with `Connection: close` instead of a reset.
const DRAIN_IDLE_GRACE: Duration = Duration::from_secs(1);
/// Commands waiting for a worker; the control plane sends one at a time.
pub const COMMANDS_MAX: usize = 16;

/// What the control plane tells a worker.
pub enum Command {
    Sample(oneshot::Sender<WorkerSample>),
    /// The last refusals that no access log has.
    Refusals(oneshot::Sender<Vec<Refusal>>),
    /// Stop accepting, finish what is in flight, answer when done or when the time is over.
    Drain {
        timeout: Duration,
        done: oneshot::Sender<Drained>,
    },
}

/// What was left when a drain ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Drained {
    /// Connections closed because the time was over.
    pub cut: usize,
}

/// What a worker thread is started with.
pub struct WorkerSetup {
    pub index: usize,
    pub publisher: Arc<Publisher>,
    pub listeners: Vec<(std::net::TcpListener, Scheme)>,
    pub commands: mpsc::Receiver<Command>,
    pub events: mpsc::Sender<Event>,
    pub log: Option<LogSink>,
    /// Of the process.
    pub files: Arc<FileAccount>,
}

/// Everything a request on this core can reach.
pub struct WorkerState {
    publisher: Arc<Publisher>,
    seen_generation: Cell<u64>,
    local: RefCell<Rc<LocalSnapshot>>,
    pools: RefCell<Pools>,
    pub clock: Rc<Clock>,
    pub rng: RefCell<SmallRng>,
    /// Where request ids are cut from.
    pub ids: RefCell<BytesMut>,
    pub metrics: Metrics,
    pub unmatched: Rc<RefCell<RouteSample>>,
    pub access_log: AccessLog,
    pub(crate) doubts: Doubts,
    /// Verified tokens found in the cache, and those that had to be verified.
    pub token_hits: Cell<u64>,
    pub token_misses: Cell<u64>,
    pub draining: Cell<bool>,
    /// Draining, and `drain.timeout` is over: what has not ended is ended.
    pub is_out_of_time: Cell<bool>,
    pub connections: ConnectionTable,
    /// Exchanges that have a body on its way.
    pub activities: Rc<Activities>,
    /// HTTP/2 connections that have large windows.
    pub(crate) large_windows: Rc<Cell<u64>>,
    /// Bytes of request bodies that are held.
    pub held_bytes: Rc<Cell<u64>>,
    pub connection_closed: Notify,
    pub files: Rc<Desk>,
    accept_errors: Seldom,
    events: mpsc::Sender<Event>,
}

impl WorkerState {
    pub(crate) fn new(setup: &WorkerSetup) -> Rc<Self> {
        let clock = Rc::new(Clock::new());
        let metrics = Metrics::default();
        let mut pools = Pools::default();
        let generation = setup.publisher.generation();
        // The one place where a worker's randomness comes from.
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
            activities: Rc::default(),
            held_bytes: Rc::default(),
            large_windows: Rc::default(),
            connection_closed: Notify::new(),
            files,
            accept_errors: Seldom::default(),
            events: setup.events.clone(),
        })
    }

    /// The newest snapshot; swaps the worker's own when the control plane has published one.
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

    /// Tells the control plane; lost when it is behind, which is right for hints.
    pub fn signal(&self, signal: Signal) {
        let _ = self.events.try_send(Event::Signal(signal));
    }

    fn end_what_stands_still(&self) {
        let stalled = self.activities.look(self.clock.now());
        if stalled > 0 {
            self.metrics.count_many(Rare::ClientStalled, "", "", stalled);
        }
    }

    /// Lets all that is under way see that the drain's time is over. Returns how many connections are open.
    fn out_of_time(&self) -> usize {
        self.is_out_of_time.set(true);
        self.connections.wake_all();
        self.activities.wake_all();
        self.connections.len()
    }

    fn sweep(&self) {
        self.clock.tick();
        // Also without requests a worker must let go of endpoints that are gone.
        let snapshot = self.snapshot();
        let now = self.clock.coarse();
        for pool in self.pools.borrow().values() {
            pool.prune(now);
        }
        for cluster in &snapshot.clusters {
            let surplus: u64 = cluster.endpoints.iter().map(|endpoint| endpoint.pool.take_surplus()).sum();
            if surplus > 0 {
                self.metrics.count_many(Rare::PoolFull, &cluster.shared.name, "", surplus);
            }
        }
        for (result, counter) in [("hit", &self.token_hits), ("miss", &self.token_misses)] {
            match counter.replace(0) {
                0 => {}
                n => self.metrics.count_many(Rare::TokenCache, result, "", n),
            }
        }
        self.connections.sweep(now, &snapshot.shared.table.listen, &self.metrics);
        // What was not idle when it was looked for may be now.
        if self.files.account.is_anything_waiting() {
            self.make_room();
        }
    }
}

/// Starts the worker's thread.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn start(setup: WorkerSetup) -> std::io::Result<JoinHandle<()>> {
    let (built, outcome) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        // A local runtime belongs to its thread, so it is made there. Tasks go straight onto its queue; a `LocalSet`
        // on a runtime of its own would be a second queue, with a second wake-up for every event.
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
        {
            Ok(runtime) => {
                let _ = built.send(Ok(()));
                runtime.block_on(run(setup));
            }
            Err(error) => _ = built.send(Err(error)),
        }
    })?;
    // A thread that ends without a word has panicked while building; its join says so.
    outcome.recv().unwrap_or(Ok(()))?;
    Ok(thread)
}

async fn run(mut setup: WorkerSetup) {
    let worker = WorkerState::new(&setup);
    let mut accepting = Vec::new();
    for (listener, scheme) in setup.listeners.drain(..) {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let (listener, worker) = (Rc::new(listener), Rc::clone(&worker));
                let accept = accepting::accept(Rc::clone(&listener), scheme, worker);
                accepting.push(Accepting { listener, task: tokio::task::spawn_local(accept) });
            }
            Err(error) => tracing::error!(%error, worker = setup.index, "listener cannot be used"),
        }
    }
    tokio::task::spawn_local(accepting::make_room(Rc::clone(&worker)));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0;
    let mut drain: Option<Drain> = None;
    loop {
        tokio::select! {
            command = setup.commands.recv() => match command {
                Some(Command::Sample(reply)) => {
                    let _ = reply.send(worker.metrics.sample());
                }
                Some(Command::Refusals(reply)) => {
                    let _ = reply.send(worker.connections.refusals.copy());
                }
                Some(Command::Drain { timeout, done }) => {
                    stop_accepting(&worker, std::mem::take(&mut accepting)).await;
                    drain = Some(Drain { began: worker.clock.now(), timeout, idle_closed: false, cut: None, done });
                }
                None => return,
            },
            () = worker.connection_closed.notified(), if drain.is_some() => {}
            _ = tick.tick() => {
                ticks += 1;
                worker.end_what_stands_still();
                worker.access_log.hand_over();
                let left_out = worker.access_log.take_left_out();
                if left_out > 0 {
                    worker.metrics.count_many(Rare::RefusalNotLogged, "", "", left_out);
                }
                for (reason, lines) in worker.access_log.take_dropped().into_iter().filter(|(_, n)| *n > 0) {
                    worker.metrics.count_many(Rare::LogDropped, reason, "", lines);
                }
                if ticks % TICKS_PER_SWEEP == 0 {
                    worker.sweep();
                    probe::unasked(&worker);
                }
            }
        }
        if let Some(drained) = drain.as_mut().and_then(|drain| drain.step(&worker)) {
            finish(&worker, drain.take(), drained).await;
            return;
        }
    }
}

/// A listener and the loop that accepts from it.
struct Accepting {
    listener: Rc<TcpListener>,
    task: tokio::task::JoinHandle<()>,
}

/// Connections that the kernel has completed were accepted as far as their client knows: no new ones may begin, those
/// that are under way get [`HANDSHAKES_END`], each accept loop gets turns until its queue is empty, and the listeners
/// close.
async fn stop_accepting(worker: &WorkerState, accepting: Vec<Accepting>) {
    worker.draining.set(true);
    for Accepting { listener, .. } in &accepting {
        if let Err(error) = refuse_handshakes(&**listener) {
            tracing::debug!(%error, "a connection that arrives at this moment may be reset");
        }
    }
    tokio::time::sleep(HANDSHAKES_END).await;
    for _ in 0..ACCEPT_TURNS {
        let before = worker.metrics.connections.accepted.get();
        for _ in 0..YIELDS_PER_TURN {
            tokio::task::yield_now().await;
        }
        if worker.metrics.connections.accepted.get() == before {
            break;
        }
    }
    for Accepting { task, .. } in accepting {
        task.abort();
    }
    worker.connections.begin_drain();
}

/// A drain under way. The worker's loop goes on meanwhile: timeouts, logs and scrapes do not stop.
struct Drain {
    began: Instant,
    timeout: Duration,
    idle_closed: bool,
    /// Connections that were open when the time was over.
    cut: Option<usize>,
    done: oneshot::Sender<Drained>,
}

impl Drain {
    /// `Some` when nothing is left, or the time is over.
    fn step(&mut self, worker: &WorkerState) -> Option<Drained> {
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

/// Lets connections that were cut end, so that their requests are counted and logged, and answers the drain.
async fn finish(worker: &WorkerState, drain: Option<Drain>, drained: Drained) {
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

/// When the time is over, for local replies to requests that have no answer. A client that does not take its own in this
/// time gets none.
const LAST_REPLIES: Duration = Duration::from_millis(500);
/// Turns that the accept queues get to empty themselves; each takes at least one connection, and a backlog is
/// `control::listen::BACKLOG` long.
const ACCEPT_TURNS: usize = 4096;
/// Yields to the event loop, of which at least one polls the sockets.
const YIELDS_PER_TURN: usize = 3;
