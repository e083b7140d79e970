//! Follows one service in the registry with blocking queries, and reports each change of its set of instances.
//!
//! Errors never change the set: whoever receives the updates keeps what it has. The module `gate` decides what
//! may be believed, `settle` what is used of it, `watcher` is the loop. One watch holds one connection (HTTP/1.1) or
//! one stream (HTTP/2 over TLS); when an agent has enough of them (module `budget`), further watches poll (`crowd`).
//!
//! A change is reported as fast as Consul answers the pending query: there is no polling interval, and changes are
//! not collected first. The pace between queries is argued in the module `pace`. Only three things wait: the
//! disappearance of the last instance, for [`WatchOptions::confirm_after`]; a removal under circumstances that
//! make it doubtful (`mass_drop`); and the return of an instance that flaps (`damping`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::history::History;
use crate::instance::Instance;
use crate::types::Consistency;
use crate::watcher::Watcher;

/// What is watched: all that only the registry can tell apart. Who wants some of the instances (by tag, meta,
/// status) selects from the updates, so that any number of selections share one query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchTarget {
    pub service: String,
    /// `None`: the client's, or else the agent's own.
    pub datacenter: Option<String>,
    /// Consul Enterprise; only sent when it is set.
    pub namespace: Option<String>,
    /// Consul Enterprise; only sent when it is set.
    pub partition: Option<String>,
    /// Instances whose checks do not all pass are left out by the registry: less to send for a huge service, but
    /// nothing is known of them.
    pub only_passing: bool,
}

impl WatchTarget {
    /// All instances of a service in the default datacenter.
    pub fn service(name: impl Into<String>) -> Self {
        Self { service: name.into(), ..Self::default() }
    }
}

/// How it is watched. Each default is argued where it is defined, at the end of this file.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How long one blocking query may block; at most one minute is used.
    pub wait: Duration,
    pub consistency: Consistency,
    /// How long "no instances at all" waits for the read that confirms it.
    pub confirm_after: Duration,
    /// First and longest pause after errors; a random part of it is taken.
    pub backoff_base: Duration,
    pub backoff_cap: Duration,
    /// A read from scratch this often (± 20 %): it heals a missed wake-up, and sees ACL changes, which wake nobody.
    pub resync_every: Duration,
    /// A stale answer of a server that has not heard from the leader for longer is not taken while the leader can
    /// be read.
    pub max_stale: Duration,
    /// Instances that go down again and again are held up for a while when they come back.
    pub flap_damping: bool,
    /// How long instances stay in use that a registry in trouble, or one without its memory, took away; zero: they do not.
    pub doubt: Duration,
    /// The first query waits for a random part of this: many watches that start together do not ask together.
    pub start_within: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            wait: WAIT,
            consistency: Consistency::Stale,
            confirm_after: CONFIRM_AFTER,
            backoff_base: BACKOFF_BASE,
            backoff_cap: BACKOFF_CAP,
            resync_every: RESYNC_EVERY,
            max_stale: MAX_STALE,
            flap_damping: true,
            doubt: DOUBT,
            start_within: Duration::ZERO,
        }
    }
}

/// A changed set of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUpdate {
    pub target: WatchTarget,
    /// All instances, healthy or not, sorted by identity. See [`Instance::is_routable`].
    pub instances: Arc<[Instance]>,
    /// All that there is are proxies and gateways of a mesh, which stand beside instances.
    pub only_side_kinds: bool,
    /// When the answer was here that this came from.
    pub answered_at: Instant,
}

/// How much the set can be relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchState {
    /// The registry never answered; nothing is known.
    #[default]
    NeverSynced,
    /// The latest query was answered.
    Fresh,
    /// The latest query failed, or the set comes from disk: last known good.
    Stale,
}

/// What a watch has done so far.
#[derive(Debug, Clone, Default)]
pub struct WatchStats {
    pub state: WatchState,
    /// The index of the latest answer.
    pub index: u64,
    pub last_success: Option<Instant>,
    /// Since when the watch runs.
    pub started: Option<Instant>,
    /// How old what is used was at that time, where it is from disk.
    pub age_at_start: Duration,
    /// The latest change that was reported.
    pub last_change: Option<Instant>,
    pub queries: u64,
    /// Blocking queries that were answered before their time: something happened.
    pub wakeups: u64,
    /// The agent has no place for a further blocking query, so the service is read every now and then.
    pub polling: bool,
    pub errors: u64,
    /// Elements of the latest answer that are no usable instances (port 0, unreadable, …).
    pub skipped_instances: u64,
    /// Empty answers that were not believed.
    pub empty_held: u64,
    /// The service may be there, and the token may not see it: one sentence with what the token needs.
    pub missing_rights: Option<String>,
    /// Answers of servers that had not heard from the leader for longer than [`WatchOptions::max_stale`].
    pub too_stale: u64,
    /// Instances that get requests although the registry took them away: a mass removal is doubted.
    pub kept: usize,
    /// Instances that get no requests yet because they flap.
    pub held_up: usize,
    /// The latest error, while the state is not fresh.
    pub last_error: Option<String>,
}

impl WatchStats {
    /// How old the registry's word is that is used; before the first answer what is from disk counts with its age, and
    /// otherwise the time for which an answer is awaited.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        match (self.last_success, self.started) {
            (Some(at), _) => Some(now.saturating_duration_since(at)),
            (None, Some(at)) => Some(self.age_at_start + now.saturating_duration_since(at)),
            (None, None) => None,
        }
    }
}

/// A running watch; dropping it ends the watch and its pending query.
#[derive(Debug)]
pub struct WatchHandle {
    task: JoinHandle<()>,
    stats: Arc<Mutex<WatchStats>>,
    history: Arc<History>,
}

/// Reads the statistics of a watch, also after its end.
#[derive(Debug, Clone)]
pub struct WatchMonitor(Arc<Mutex<WatchStats>>);

impl WatchMonitor {
    pub fn stats(&self) -> WatchStats {
        // Each field is whole by itself, so a lock that a panic poisoned still holds statistics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl WatchHandle {
    pub fn monitor(&self) -> WatchMonitor {
        WatchMonitor(Arc::clone(&self.stats))
    }

    /// What happened to the instances lately.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    pub fn stats(&self) -> WatchStats {
        self.monitor().stats()
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a watch on the current tokio runtime. The first answer is always sent, even if it is empty; after it,
/// only changes are. The watch ends with its handle, or when the receiver is gone.
pub fn spawn(
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    updates: mpsc::Sender<ServiceUpdate>,
) -> WatchHandle {
    spawn_seeded(client, target, options, None, updates)
}

/// Instances that are in use before the first answer.
#[derive(Debug, Clone)]
pub struct Seed {
    pub instances: Arc<[Instance]>,
    /// The registry that is asked said so in its time. Otherwise its own word, once confirmed, is not doubted for having
    /// forgotten them.
    pub of_this_registry: bool,
    /// How long ago they were known to be true, where that is known.
    pub age: Option<Duration>,
}

/// Like [`spawn`], beginning with instances that are already in use (last known good from disk): an answer that
/// equals them is not sent, and an empty one has to be confirmed before it takes them away.
pub fn spawn_seeded(
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    seed: Option<Seed>,
    updates: mpsc::Sender<ServiceUpdate>,
) -> WatchHandle {
    let begin = if seed.is_some() { WatchState::Stale } else { WatchState::NeverSynced };
    let age = seed.as_ref().and_then(|seed| seed.age).unwrap_or_default();
    let started = Some(Instant::now());
    let first = WatchStats { state: begin, started, age_at_start: age, ..WatchStats::default() };
    let stats = Arc::new(Mutex::new(first));
    let history = Arc::<History>::default();
    let report = Report { updates, stats: Arc::clone(&stats), history: Arc::clone(&history) };
    let watcher = Watcher::new(client.independent(), target, options, seed, report);
    WatchHandle { task: tokio::spawn(watcher.run()), stats, history }
}

/// Where a watch tells what it learns.
pub(crate) struct Report {
    pub(crate) updates: mpsc::Sender<ServiceUpdate>,
    pub(crate) stats: Arc<Mutex<WatchStats>>,
    pub(crate) history: Arc<History>,
}

impl Report {
    pub(crate) fn record(&self, outcome: impl FnOnce(&mut WatchStats)) {
        outcome(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Below the idle timeout of 60 s that proxies commonly have, and short enough that a wake-up which got lost
/// (an index that is too high never wakes) is healed within a minute.
const WAIT: Duration = Duration::from_secs(50);
/// Long enough for a deploy that replaces the last instance to register the new one, short enough that a
/// gateway without endpoints says so within two seconds.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// An agent that is back after an outage is noticed within this time.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
const RESYNC_EVERY: Duration = Duration::from_mins(5);
/// Agents that lost their servers find them again within seconds; services renew their registration within their TTL,
/// which is seldom longer.
pub(crate) const DOUBT: Duration = Duration::from_secs(30);
/// Elections are over by then; a server that is silent for longer is cut off.
const MAX_STALE: Duration = Duration::from_secs(10);
