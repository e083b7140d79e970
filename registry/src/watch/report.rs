//! What a watch reports: changed sets of instances, its statistics, and the history of each instance.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::watch::history::History;
use crate::watch::instance::Instance;
use crate::watch::options::WatchTarget;

/// A changed set of instances of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUpdate {
    /// What is watched.
    pub target: WatchTarget,
    /// All instances, healthy or not, sorted by identity. See [`Instance::is_routable`].
    pub instances: Arc<[Instance]>,
    /// The service consists only of proxies and gateways of the mesh, which never get requests from us.
    pub only_side_kinds: bool,
    /// When the answer arrived from which this set was made.
    pub answered_at: Instant,
}

/// How current the set of instances of a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchState {
    /// The registry has not answered yet, so the instances are unknown.
    #[default]
    NeverSynced,
    /// The latest query was answered.
    Fresh,
    /// The latest query failed, or the set is the last known one from disk.
    Stale,
}

/// Statistics of a watch.
#[derive(Debug, Clone, Default)]
pub struct WatchStats {
    /// How current the set of instances is.
    pub state: WatchState,
    /// The index of the latest answer.
    pub index: u64,
    /// When the latest query was answered.
    pub last_success: Option<Instant>,
    /// When the watch started.
    pub started: Option<Instant>,
    /// The age of the instances from disk at that time.
    pub age_at_start: Duration,
    /// When the latest change was reported.
    pub last_change: Option<Instant>,
    /// Queries that ended, with an answer or an error.
    pub queries: u64,
    /// Blocking queries that were answered before their time was over, because something changed.
    pub wakeups: u64,
    /// The watch polls, because the agent has no place for another blocking query.
    pub polling: bool,
    /// Queries that failed.
    pub errors: u64,
    /// Elements of the latest answer that cannot be used as instances (port 0, unreadable, …).
    pub skipped_instances: u64,
    /// Empty answers that were not believed.
    pub empty_held: u64,
    /// The ACL token may be unable to see the service: a sentence that names the missing rights.
    pub missing_rights: Option<String>,
    /// Answers of servers that had not heard from the leader for longer than [`WatchOptions::max_stale`](crate::WatchOptions::max_stale).
    pub too_stale: u64,
    /// Instances that stay in use although the registry removed them, because a mass removal is doubted.
    pub kept: usize,
    /// Instances that are held up because they flap.
    pub held_up: usize,
    /// The latest error, while the state is not fresh.
    pub last_error: Option<String>,
}

impl WatchStats {
    /// The age of the set in use: the time since the latest answer. Before the first answer it is the age of the set from disk,
    /// or the time since the watch started. `None` if the watch did not start yet.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        match (self.last_success, self.started) {
            (Some(at), _) => Some(now.saturating_duration_since(at)),
            (None, Some(at)) => Some(self.age_at_start + now.saturating_duration_since(at)),
            (None, None) => None,
        }
    }
}

/// Reads the statistics of a watch, even after the watch ended.
#[derive(Debug, Clone)]
pub struct WatchMonitor(pub(crate) Arc<Mutex<WatchStats>>);

impl WatchMonitor {
    /// The statistics now.
    pub fn stats(&self) -> WatchStats {
        // Each field is valid by itself, so the statistics of a poisoned lock can be used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a watch reports to.
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
