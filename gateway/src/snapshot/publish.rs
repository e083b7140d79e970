//! How workers come to the newest snapshot: a generation word says that there is one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;

use super::Snapshot;

/// Where the control plane puts a snapshot and workers find it.
pub struct Publisher {
    current: ArcSwap<Snapshot>,
    /// Written after `current` (Release), read by every request (Acquire).
    generation: AtomicU64,
}

impl Publisher {
    pub fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first), generation: AtomicU64::new(1) }
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest snapshot. For the control plane and for a worker that has seen a new generation.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}
