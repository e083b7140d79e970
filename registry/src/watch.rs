//! Follows one service in the registry with blocking queries, and reports each change of its set of instances.
//!
//! Errors never change the set: whoever receives the updates keeps what it has. The module `gate` decides
//! what may be believed; here are the loop, the clock and the pauses. One watch holds one connection (HTTP/1.1)
//! or one stream (HTTP/2 over TLS), and a Consul agent admits 200 connections from one address by default.
//!
//! A change is reported as fast as Consul answers the pending query: there is no polling interval. The pace
//! between queries is argued in the module `pace`. Only the disappearance of the last instance waits, for
//! [`WatchOptions::confirm_after`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::client::{Client, HealthAnswer};
use crate::error::ClientError;
use crate::gate::{Answer, Gate, Held, Next};
use crate::instance::Instance;
use crate::pace::Pace;
use crate::types::{Consistency, QueryOptions};

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
        }
    }
}

/// A changed set of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUpdate {
    pub target: WatchTarget,
    /// All instances, healthy or not, sorted by identity. See [`Instance::is_routable`].
    pub instances: Arc<[Instance]>,
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
    pub queries: u64,
    pub errors: u64,
    /// Elements of the latest answer that are no usable instances (port 0, unreadable, …).
    pub skipped_instances: u64,
    /// Empty answers that were not believed.
    pub empty_held: u64,
    /// The latest error, while the state is not fresh.
    pub last_error: Option<String>,
}

/// A running watch; dropping it ends the watch and its pending query.
#[derive(Debug)]
pub struct WatchHandle {
    task: JoinHandle<()>,
    stats: Arc<Mutex<WatchStats>>,
}

impl WatchHandle {
    pub fn stats(&self) -> WatchStats {
        // Each field is whole by itself, so a lock that a panic poisoned still holds statistics.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

/// Like [`spawn`], beginning with instances that are already in use (last known good from disk): an answer that
/// equals them is not sent, and an empty one has to be confirmed before it takes them away.
pub fn spawn_seeded(
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    seed: Option<Arc<[Instance]>>,
    updates: mpsc::Sender<ServiceUpdate>,
) -> WatchHandle {
    let begin = if seed.is_some() { WatchState::Stale } else { WatchState::NeverSynced };
    let stats = Arc::new(Mutex::new(WatchStats { state: begin, ..WatchStats::default() }));
    let watcher = Watcher::new(client, target, options, seed, updates, Arc::clone(&stats));
    WatchHandle { task: tokio::spawn(watcher.run()), stats }
}

struct Watcher {
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    updates: mpsc::Sender<ServiceUpdate>,
    stats: Arc<Mutex<WatchStats>>,
    gate: Gate,
    pace: Pace,
    backoff: Backoff,
    /// For refusals, which a quick retry does not heal: 403 and 429.
    slow_backoff: Backoff,
    /// The next read is the one that confirms an empty answer.
    confirming: bool,
    resync_at: Instant,
    /// Shorter than the option once a proxy cut a longer one.
    wait: Duration,
    /// What was logged last, so that the same thing is not said at every query.
    said_skipped: Vec<String>,
    said_error: Option<String>,
}

impl Watcher {
    fn new(
        client: Client,
        target: WatchTarget,
        options: WatchOptions,
        seed: Option<Arc<[Instance]>>,
        updates: mpsc::Sender<ServiceUpdate>,
        stats: Arc<Mutex<WatchStats>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            target,
            updates,
            stats,
            gate: Gate::new(seed),
            pace: Pace::new(now),
            backoff: Backoff::new(options.backoff_base, options.backoff_cap),
            slow_backoff: Backoff::new(REFUSED_BASE, REFUSED_CAP),
            confirming: false,
            resync_at: now + jittered(options.resync_every),
            wait: options.wait.clamp(WAIT_MIN, WAIT_MAX),
            said_skipped: Vec::new(),
            said_error: None,
            options,
        }
    }

    async fn run(mut self) {
        loop {
            let query = self.query();
            let asked_at = Instant::now();
            let blocking = query.index.is_some_and(|index| index > 0);
            let pause = match self.client.health_service(&self.target.service, &query).await {
                Ok(answer) => {
                    // Early: the server could have kept the query for longer, so there should be news.
                    let early = blocking && asked_at.elapsed() < self.wait;
                    let Some(pause) = self.answered(answer, early).await else { return };
                    pause
                }
                Err(error) => self.failed(&error, blocking.then(|| asked_at.elapsed())),
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn query(&mut self) -> QueryOptions {
        let now = Instant::now();
        if now >= self.resync_at {
            self.gate.resync();
            self.resync_at = now + jittered(self.options.resync_every);
        }
        let (index, consistency) = if self.confirming {
            (None, Consistency::Leader)
        } else {
            (Some(self.gate.index()), self.options.consistency)
        };
        QueryOptions {
            index,
            wait: Some(self.wait),
            consistency,
            passing: self.target.only_passing,
            tags: Vec::new(),
            datacenter: self.target.datacenter.clone(),
            namespace: self.target.namespace.clone(),
            partition: self.target.partition.clone(),
        }
    }

    /// Returns the pause before the next query, or `None` if nobody receives updates any more.
    async fn answered(&mut self, answer: HealthAnswer, early: bool) -> Option<Duration> {
        self.backoff.reset();
        self.slow_backoff.reset();
        if self.said_error.take().is_some() {
            info!(service = self.target.service, "the registry answers again");
        }
        let (answer, skipped) = reduce(answer);
        let unusable = answer.unusable;
        let verdict = self.gate.judge(answer, self.confirming);
        self.confirming = verdict.next == Next::Confirm;
        self.report_skipped(skipped);
        self.report_held(verdict.held);
        self.record(|stats| {
            stats.state = WatchState::Fresh;
            stats.last_success = Some(Instant::now());
            stats.last_error = None;
            stats.skipped_instances = unusable as u64;
            stats.empty_held += u64::from(verdict.held.is_some());
        });
        let idle = early && verdict.publish.is_none() && verdict.held.is_none();
        if let Some(instances) = verdict.publish {
            debug!(
                service = self.target.service,
                instances = instances.len(),
                "the set of instances changed"
            );
            self.updates.send(ServiceUpdate { target: self.target.clone(), instances }).await.ok()?;
        }
        let pace = self.pace.after_answer(idle, Instant::now());
        Some(match verdict.next {
            Next::Query => pace,
            Next::Poll => POLL_INTERVAL.max(pace),
            Next::Confirm => self.options.confirm_after.max(pace),
        })
    }

    /// Returns the pause before the next try. `blocked_for`: how long a blocking query had been pending.
    fn failed(&mut self, error: &ClientError, blocked_for: Option<Duration>) -> Duration {
        let rng = &mut rand::rng();
        let status = error.status();
        if error.is_transport() || status == Some(StatusCode::FORBIDDEN) {
            self.gate.forget_index();
        }
        let cut_short = matches!(status, Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
        if let Some(blocked_for) = blocked_for.filter(|blocked_for| cut_short && *blocked_for >= WAIT_MIN_CUT)
        {
            // A proxy in between gives up earlier than Consul answers: ask for less.
            self.wait = (blocked_for / 2).max(WAIT_MIN_CUT).min(self.wait);
        }
        let text = error.to_string();
        if self.said_error.as_deref() != Some(text.as_str()) {
            warn!(service = self.target.service, "{text}; the last known instances stay in use");
            self.said_error = Some(text.clone());
        }
        self.record(|stats| {
            stats.errors += 1;
            stats.last_error = Some(text);
            if stats.state == WatchState::Fresh {
                stats.state = WatchState::Stale;
            }
        });
        match status {
            Some(StatusCode::BAD_REQUEST) => {
                self.gate.forget_index();
                BAD_REQUEST_PAUSE
            }
            Some(StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
                let pause = self.slow_backoff.next(rng);
                pause.max(error.retry_after().unwrap_or_default().min(REFUSED_CAP))
            }
            _ => self.backoff.next(rng),
        }
    }

    fn record(&self, outcome: impl FnOnce(&mut WatchStats)) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.queries += 1;
        stats.index = self.gate.index();
        outcome(&mut stats);
    }

    fn report_skipped(&mut self, skipped: Vec<String>) {
        if self.said_skipped != skipped {
            for reason in skipped.iter().take(SKIPPED_LOGGED_MAX) {
                warn!(service = self.target.service, "left out: {reason}");
            }
            self.said_skipped = skipped;
        }
    }

    fn report_held(&self, held: Option<Held>) {
        let service = &self.target.service;
        match held {
            None => {}
            Some(Held::Unconfirmed) => debug!(service, "no instances; waiting for a read that confirms it"),
            Some(Held::SameIndex | Held::FilteredByAcls) => warn!(
                service,
                "no instances without a change in the catalog; the ACL token probably lost `service:read` or \
                 `node:read`, so the last known instances stay in use"
            ),
            Some(Held::Unusable) => {
                warn!(service, "no usable instance in the answer; the last known instances stay in use");
            }
        }
    }
}

/// Splits an answer into usable instances, sorted, and the reasons why the others are not usable.
fn reduce(answer: HealthAnswer) -> (Answer, Vec<String>) {
    let mut skipped = answer.skipped;
    let mut instances = Vec::with_capacity(answer.entries.len());
    for entry in answer.entries {
        match Instance::from_entry(entry) {
            Ok(instance) => instances.push(instance),
            Err(reason) => skipped.push(reason),
        }
    }
    // Consul's order is not stable.
    instances.sort_unstable_by(|a, b| a.identity().cmp(&b.identity()));
    let reduced = Answer {
        instances,
        unusable: skipped.len(),
        index: answer.index,
        known_leader: answer.known_leader,
        filtered_by_acls: answer.filtered_by_acls,
    };
    (reduced, skipped)
}

/// ± 20 %, so that the watches of one gateway do not all read at the same moment.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..1.2))
}

/// Below the idle timeout of 60 s that proxies commonly have, and short enough that a wake-up which got lost
/// (an index that is too high never wakes) is healed within a minute.
const WAIT: Duration = Duration::from_secs(50);
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Shorter waits would be polling.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// A wait that adapts to a proxy stays above this.
const WAIT_MIN_CUT: Duration = Duration::from_secs(5);
/// Long enough for a deploy that replaces the last instance to register the new one, short enough that a
/// gateway without endpoints says so within two seconds.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// An agent that is back after an outage is noticed within this time.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
const RESYNC_EVERY: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A refused token or a rate limit is not healed by haste.
const REFUSED_BASE: Duration = Duration::from_secs(5);
const REFUSED_CAP: Duration = Duration::from_mins(1);
/// 400 means that the query itself is wrong; only a change of configuration heals it.
const BAD_REQUEST_PAUSE: Duration = Duration::from_mins(1);
/// A thousand broken instances are not a thousand lines.
const SKIPPED_LOGGED_MAX: usize = 10;
