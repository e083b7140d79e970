//! Saves the last known good in the background: a change is used before it is on disk, and a slow disk does not delay it.
//!
//! Only the latest update of each target waits, so the number of waiting updates is bounded by the number of targets. After
//! each round of writing updates wait for [`PAUSE`], so that a service that changes all the time costs one file a second.
//! An update that could not be written (a full disk) waits again, until it can be or a later update replaces it. Dropping the
//! saver tries once to write the waiting updates; a process that is killed loses the last second.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{info, warn};

use crate::state::last_known_good::LastKnownGood;
use crate::watch::{ServiceUpdate, WatchTarget};

/// A thread that saves updates in the background (see [`LastKnownGood`]). Dropping it writes the updates that still wait.
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
        // Each entry is valid by itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for updates and takes them all; `None` when none waits and no more will come.
    fn next(&self) -> Option<BTreeMap<WatchTarget, ServiceUpdate>> {
        let is_quiet = |waiting: &mut Waiting| waiting.updates.is_empty() && !waiting.ended;
        let mut waiting =
            self.changed.wait_while(self.lock(), is_quiet).unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut waiting.updates)).filter(|updates| !updates.is_empty())
    }

    /// Lets failed updates wait again, each unless a later update of its target waits already. When no more updates will
    /// come, they have had their last attempt.
    fn put_back(&self, failed: Vec<ServiceUpdate>) {
        let mut waiting = self.lock();
        if !waiting.ended {
            for update in failed {
                waiting.updates.entry(update.target.clone()).or_insert(update);
            }
        }
    }

    /// Waits until the pause is over or no more updates will come.
    fn pause(&self) {
        // However the pause ends, the waiting updates are written next.
        let _ended = self.changed.wait_timeout_while(self.lock(), PAUSE, |waiting| !waiting.ended);
    }
}

impl Saver {
    /// Starts the thread. Fails if the system refuses a further thread.
    pub fn start(store: LastKnownGood) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let mine = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("last-known-good".to_owned()).spawn(move || {
            let mut failing = false;
            while let Some(updates) = mine.next() {
                let mut failed = Vec::new();
                for update in updates.into_values() {
                    if let Err(error) = store.save(&update) {
                        let (service, directory) = (&update.target.service, store.directory().display());
                        if !failing {
                            warn!(%error, service, %directory, "the last known instances cannot be saved; the gateway tries again every second");
                        }
                        failing = true;
                        failed.push(update);
                    }
                }
                if failing && failed.is_empty() {
                    failing = false;
                    info!("the last known instances are saved again");
                }
                // Before the pause: what comes meanwhile is newer.
                mine.put_back(failed);
                mine.pause();
            }
        })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Queues an update and returns at once. A later update of the same target replaces one that still waits.
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
            // The thread panics only because of a bug, and the panic was reported.
            let _ended = thread.join();
        }
    }
}

/// Writing a file durably costs as much as all other work that a change causes.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::testing::instance;
    use crate::watch::Status;

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

    #[test]
    fn what_cannot_be_written_is_written_when_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let (folder, away) = (directory.path().join("state"), directory.path().join("away"));
        let store = LastKnownGood::open(&folder).unwrap();
        let saver = Saver::start(store.clone()).unwrap();
        std::fs::rename(&folder, &away).unwrap();
        saver.save(update("a", "first"));
        saver.save(update("a", "second"));
        // The next round finds the folder, whether or not there was one without it.
        saver.queue.pause();
        std::fs::rename(&away, &folder).unwrap();
        until_saved(&store, "second");
    }

    #[test]
    fn a_folder_that_stays_away_does_not_hold_up_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("state");
        let saver = Saver::start(LastKnownGood::open(&folder).unwrap()).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        saver.save(update("a", "first"));
        drop(saver);
        assert!(!folder.exists());
    }

    #[test]
    fn two_gateways_with_one_folder_do_not_fail_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let stores = [(); 2].map(|()| LastKnownGood::open(directory.path()).unwrap());
        std::fs::write(directory.path().join("a.1.tmp"), "half of a file by another process").unwrap();
        for store in &stores {
            store.save(&update("a", "first")).unwrap();
        }
        assert!(directory.path().join("a.1.tmp").exists(), "nobody takes another's file");
    }
}
