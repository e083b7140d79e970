//! What the control plane tells about itself: readiness, reloads, watches. Read by admin and metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millgate_registry::{WatchHandle, WatchStats, WatchTarget};
use tokio::sync::watch;

use crate::clock;

/// Shared by the control loop (writer) and the admin listener (reader). Never touched by a request.
pub struct Status {
    synced: watch::Sender<bool>,
    pub draining: AtomicBool,
    pub reloads_ok: AtomicU64,
    pub reloads_refused: AtomicU64,
    reload: Mutex<ReloadStatus>,
    watches: Mutex<BTreeMap<WatchTarget, WatchStats>>,
    pub updates: AtomicU64,
}

/// The last attempt to load a configuration.
#[derive(Debug, Clone, Default)]
pub struct ReloadStatus {
    /// Wall time since the Unix epoch of the last success.
    pub succeeded: Duration,
    /// The report of the configuration that was refused last, if none was accepted since.
    pub refused: Option<String>,
}

impl Status {
    pub fn new() -> Self {
        Self {
            synced: watch::channel(false).0,
            draining: AtomicBool::new(false),
            reloads_ok: AtomicU64::new(1),
            reloads_refused: AtomicU64::new(0),
            reload: Mutex::new(ReloadStatus { succeeded: clock::unix_now(), refused: None }),
            watches: Mutex::default(),
            updates: AtomicU64::new(0),
        }
    }

    /// Something is known of every service that a route names. It stays so: a service that a later reload brings is
    /// no reason to take the others out of service.
    pub fn set_synced(&self) {
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until [`Status::is_synced`].
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub fn is_ready(&self) -> bool {
        self.is_synced() && !self.draining.load(Ordering::Relaxed)
    }

    pub fn record_reload(&self, result: &Result<(), String>) {
        let mut status = lock(&self.reload);
        match result {
            Ok(()) => {
                self.reloads_ok.fetch_add(1, Ordering::Relaxed);
                *status = ReloadStatus { succeeded: clock::unix_now(), refused: None };
            }
            Err(report) => {
                self.reloads_refused.fetch_add(1, Ordering::Relaxed);
                status.refused = Some(report.clone());
            }
        }
    }

    pub fn reload(&self) -> ReloadStatus {
        lock(&self.reload).clone()
    }

    /// The registry reported other instances of a service.
    pub fn count_update(&self) {
        self.updates.fetch_add(1, Ordering::Relaxed);
    }

    pub fn record_watches<'a>(&self, watches: impl Iterator<Item = (&'a WatchTarget, &'a WatchHandle)>) {
        let stats = watches.map(|(target, handle)| (target.clone(), handle.stats())).collect();
        *lock(&self.watches) = stats;
    }

    pub fn watches(&self) -> BTreeMap<WatchTarget, WatchStats> {
        lock(&self.watches).clone()
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

/// A panic while the lock was held leaves plain data that is still right to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
