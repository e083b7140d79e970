//! Follows services, keys and the list of services in the registry, and reports each change.
//!
//! A watch of a service makes one blocking query after another and reports each change of its set of instances. Errors never
//! change the set: the receiver of the updates keeps what it has. [`watcher`] is the loop. `gate` and `rights` decide whether
//! an answer is believed, `settle` (with `damping` and `mass_drop`) decides what is used of it; both are pure. A watch
//! occupies one connection (HTTP/1.1) or one stream (HTTP/2 over TLS); when an agent has no place for another one, the watch
//! polls (`polling`).
//!
//! A change is reported as soon as Consul answers the pending query: there is no polling interval, and changes are not
//! collected first. The module `pace` explains the pause between two queries. Only three things wait: the
//! disappearance of the last instance, for [`WatchOptions::confirm_after`]; a removal under circumstances that make it
//! doubtful (`mass_drop`); and the return of an instance that flaps (`damping`).
//!
//! Keys and the list of services are followed by the simpler rules of the module `follow`.

mod catalog;
mod damping;
mod follow;
mod gate;
mod history;
mod instance;
mod key;
mod mass_drop;
mod options;
mod pace;
mod patience;
mod polling;
mod report;
mod rights;
mod settle;
mod watcher;

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::watch::watcher::Watcher;

pub use catalog::follow_catalog;
pub use follow::{FollowHandle, FollowOptions, FollowStats};
pub use history::{History, Transition};
pub use instance::{Instance, Status, TaggedAddress};
pub use key::follow_key;
pub use options::{Seed, WatchOptions, WatchTarget};
pub(crate) use report::Report;
pub use report::{ServiceUpdate, WatchMonitor, WatchState, WatchStats};
pub use rights::Sight;

/// A running watch of a service. Dropping the handle ends the watch and its pending query.
#[derive(Debug)]
pub struct WatchHandle {
    task: JoinHandle<()>,
    stats: Arc<Mutex<WatchStats>>,
    history: Arc<History>,
}

impl WatchHandle {
    /// A reader of the statistics that may outlive the handle.
    pub fn monitor(&self) -> WatchMonitor {
        WatchMonitor(Arc::clone(&self.stats))
    }

    /// The recent changes of each instance.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The statistics now.
    pub fn stats(&self) -> WatchStats {
        self.monitor().stats()
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to watch a service, on the current tokio runtime.
///
/// The first answer is always sent, even if it is empty; after it only changes are. The watch ends with its handle, or when
/// the receiver is gone.
pub fn spawn(
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    updates: mpsc::Sender<ServiceUpdate>,
) -> WatchHandle {
    spawn_seeded(client, target, options, None, updates)
}

/// Like [`spawn`], but begins with instances that are already in use (the last known good from disk): an answer that equals
/// them is not sent, and an empty one must be confirmed before they are removed.
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
