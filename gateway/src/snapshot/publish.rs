//! How workers get the newest snapshot: a generation word shows that there is a new one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;

use super::Snapshot;

/// Hands the control plane's snapshots to the workers.
pub struct Publisher {
    current: ArcSwap<Snapshot>,
    /// Number of published snapshots. Written after `current` (Release), read by every request (Acquire).
    generation: AtomicU64,
}

impl Publisher {
    /// A publisher with its first snapshot.
    pub fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first), generation: AtomicU64::new(1) }
    }

    /// Publishes a snapshot, which workers use from their next request on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Number of snapshots published so far, with one atomic load.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest snapshot, for the control plane and for a worker that has read a new generation.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}
