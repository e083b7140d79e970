//! What is watched, how, and from which instances a watch begins.

use std::sync::Arc;
use std::time::Duration;

use crate::client::Consistency;
use crate::watch::instance::Instance;

/// What a watch follows: a service, and where it is registered.
///
/// A target names only what the registry itself distinguishes. A caller that wants some of the instances (by tag, metadata
/// or status) selects from the updates, so that any number of selections share one query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchTarget {
    /// The name of the service.
    pub service: String,
    /// The datacenter; `None` means the client's, or the agent's own if the client has none.
    pub datacenter: Option<String>,
    /// The namespace (Consul Enterprise); sent only when it is set.
    pub namespace: Option<String>,
    /// The admin partition (Consul Enterprise); sent only when it is set.
    pub partition: Option<String>,
    /// The registry leaves out instances whose checks do not all pass. A huge service then has smaller answers, but the watch does
    /// not know those instances.
    pub only_passing: bool,
}

impl WatchTarget {
    /// All instances of a service in the default datacenter.
    pub fn service(name: impl Into<String>) -> Self {
        Self { service: name.into(), ..Self::default() }
    }
}

/// How a watch follows its service. The source file explains each default at its end.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// The longest time for which one blocking query may block; at most one minute is used.
    pub wait: Duration,
    /// Which of Consul's servers may answer.
    pub consistency: Consistency,
    /// The pause between an answer without instances and the read that confirms it.
    pub confirm_after: Duration,
    /// The longest pause after the first error; a random part of it is taken.
    pub backoff_base: Duration,
    /// The longest pause after any error; a random part of it is taken.
    pub backoff_cap: Duration,
    /// How often the watch reads from scratch (± 20 %). Such a read makes up for a missed wake-up, and sees ACL changes, for which
    /// Consul does not answer a pending query.
    pub resync_every: Duration,
    /// An answer of a server that has not heard from the leader for longer than this is not used while the leader can be read.
    pub max_stale: Duration,
    /// Holds up instances that go down again and again, for a while after they come back.
    pub flap_damping: bool,
    /// How long instances stay in use that disappeared while the registry was in trouble or had lost its data; zero turns this off.
    pub doubt: Duration,
    /// The first query waits for a random part of this time, so that watches that start together do not query together.
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

/// Instances that are in use before the first answer of the registry (see [`spawn_seeded`](super::spawn_seeded)).
#[derive(Debug, Clone)]
pub struct Seed {
    /// The instances.
    pub instances: Arc<[Instance]>,
    /// They are known from the same registry that the watch queries. Instances of another registry are dropped without doubt
    /// once an answer without them is confirmed.
    pub of_this_registry: bool,
    /// The time since they were confirmed, if that is known.
    pub age: Option<Duration>,
}

/// Below the idle timeout of 60 s that proxies commonly have, and short enough that a lost wake-up (Consul never answers for an
/// index that is too high) is made up for within a minute.
const WAIT: Duration = Duration::from_secs(50);
/// Long enough for a deploy that replaces the last instance to register the new one, and short enough that a gateway without
/// endpoints reports this within two seconds.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// An agent that returns after an outage is noticed within this time.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
const RESYNC_EVERY: Duration = Duration::from_mins(5);
/// Agents that lost their servers find them again within seconds; services renew their registration within their TTL, which
/// is seldom longer than this.
pub(crate) const DOUBT: Duration = Duration::from_secs(30);
/// Elections are over by then; a server that is silent for longer is cut off.
const MAX_STALE: Duration = Duration::from_secs(10);
