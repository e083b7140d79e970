//! Writes the last known good in the background: a change is routed by before it is on disk, and a disk that is slow
//! delays no change.
//!
//! Of each target only the latest update waits, so what waits is bounded by what is watched. Dropping the saver
//! writes what still waits; a process that is killed loses some milliseconds.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tracing::warn;

use crate::last_known_good::LastKnownGood;
use crate::watch::{ServiceUpdate, WatchTarget};

/// A thread that saves.
#[derive(Debug)]
pub struct Saver {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    updates: BTreeMap<WatchTarget, ServiceUpdate>,
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Each entry is whole by itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next update to write; `None` when nothing waits and no more will come.
    fn next(&self) -> Option<ServiceUpdate> {
        let mut waiting = self.lock();
        loop {
            if let Some((_, update)) = waiting.updates.pop_first() {
                return Some(update);
            }
            if waiting.ended {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Saver {
    /// Fails if there is no thread to be had.
    pub fn start(store: LastKnownGood) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let mine = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("last-known-good".to_owned()).spawn(move || {
            let mut failing = false;
            while let Some(update) = mine.next() {
                let result = store.save(&update);
                if let Err(error) = &result
                    && !failing
                {
                    warn!(%error, service = update.target.service, "the last known instances could not be saved");
                }
                failing = result.is_err();
            }
        })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Returns at once. A later update of the same target takes the place of one that still waits.
    pub fn save(&self, update: ServiceUpdate) {
        self.queue.lock().updates.insert(update.target.clone(), update);
        self.queue.changed.notify_one();
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.queue.lock().ended = true;
        self.queue.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It ends in a panic only by a bug, which was told then.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Status;
    use crate::settle::tests::instance;

    #[test]
    fn the_latest_update_of_each_target_is_on_disk_when_the_saver_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let saver = Saver::start(store.clone()).unwrap();
        for round in 0..50 {
            for service in ["a", "b"] {
                let instances = [instance(&format!("{service}-{round}"), Status::Passing)].into();
                let target = WatchTarget::service(service);
                saver.save(ServiceUpdate { target, instances, answered_at: tokio::time::Instant::now() });
            }
        }
        drop(saver);
        for service in ["a", "b"] {
            let known = store.load(&WatchTarget::service(service)).unwrap();
            assert_eq!(known[0].id, format!("{service}-49"));
        }
    }
}
