//! Writes the last known good in the background: a change is routed by before it is on disk, and a disk that is slow
//! delays no change.
//!
//! Of each target only the latest update waits, so what waits is bounded by what is watched; and after each round of
//! writing they wait for [`PAUSE`], so that a service which changes all the time costs one file a second. Dropping the
//! saver writes what still waits; a process that is killed loses the last second.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

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

    /// All updates to write, as soon as there is one; `None` when nothing waits and no more will come.
    fn next(&self) -> Option<BTreeMap<WatchTarget, ServiceUpdate>> {
        let is_quiet = |waiting: &mut Waiting| waiting.updates.is_empty() && !waiting.ended;
        let mut waiting =
            self.changed.wait_while(self.lock(), is_quiet).unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut waiting.updates)).filter(|updates| !updates.is_empty())
    }

    /// Until the pause is over or no more will come.
    fn pause(&self) {
        // However it ends, what waits is written next.
        let _ended = self.changed.wait_timeout_while(self.lock(), PAUSE, |waiting| !waiting.ended);
    }
}

impl Saver {
    /// Fails if there is no thread to be had.
    pub fn start(store: LastKnownGood) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let mine = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("last-known-good".to_owned()).spawn(move || {
            let mut failing = false;
            while let Some(updates) = mine.next() {
                for update in updates.values() {
                    let result = store.save(update);
                    if let Err(error) = &result
                        && !failing
                    {
                        warn!(%error, service = update.target.service, "the last known instances could not be saved");
                    }
                    failing = result.is_err();
                }
                mine.pause();
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

/// Writing a file, with what makes it durable, costs as much as everything else that a change does.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::instance::Status;
    use crate::testing::instance;

    fn update(service: &str, id: &str) -> ServiceUpdate {
        let instances = [instance(id, Status::Passing)].into();
        let target = WatchTarget::service(service);
        ServiceUpdate { target, instances, only_side_kinds: false, answered_at: tokio::time::Instant::now() }
    }

    /// Waits for what is on disk.
    fn until_saved(store: &LastKnownGood, id: &str) {
        let give_up = Instant::now() + 10 * PAUSE;
        while store.load(&WatchTarget::service("a")).is_none_or(|known| known[0].id != id) {
            assert!(Instant::now() < give_up, "{id} is not saved");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_changes_all_the_time_is_written_once_in_a_while_and_at_last() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let saver = Saver::start(store.clone()).unwrap();
        let begun = Instant::now();
        saver.save(update("a", "first"));
        until_saved(&store, "first");
        saver.save(update("a", "second"));
        saver.save(update("a", "third"));
        until_saved(&store, "third");
        assert!(begun.elapsed() >= PAUSE, "{:?}", begun.elapsed());
    }

    #[test]
    fn the_latest_update_of_each_target_is_on_disk_when_the_saver_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let saver = Saver::start(store.clone()).unwrap();
        for round in 0..50 {
            for service in ["a", "b"] {
                saver.save(update(service, &format!("{service}-{round}")));
            }
        }
        drop(saver);
        for service in ["a", "b"] {
            let known = store.load(&WatchTarget::service(service)).unwrap();
            assert_eq!(known[0].id, format!("{service}-49"));
        }
    }
}
