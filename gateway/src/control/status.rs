//! What the control plane reports about itself: readiness, reloads, watches. Admin listener and metrics read it.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millgate_registry::{
    FollowStats, History, WatchHandle, WatchMonitor, WatchState, WatchStats, WatchTarget,
};
use tokio::sync::watch;

use super::{
    certificates::Certificates,
    config_state::{ConfigState, Refused, Warned},
    declared::DeclaredReport,
};
use crate::{
    clock,
    config::settings::DrainSettings,
    metrics::Histogram,
    syntax::diagnostics::{Diagnostic, Report},
    tls::acme_report::AcmeReport,
    worker::Hint,
};

/// State that the control loop writes and the admin listener reads. No request touches it.
pub struct Status {
    /// Whether the next three are true.
    synced: watch::Sender<bool>,
    discovered: AtomicBool,
    keys_known: AtomicBool,
    /// The storages of certificates from ACME were read once.
    certificates_known: AtomicBool,
    pub draining: AtomicBool,
    /// The drain settings of the configuration in use.
    drain: Mutex<Option<DrainSettings>>,
    pub reloads_ok: AtomicU64,
    pub reloads_refused: AtomicU64,
    config: Mutex<ConfigState>,
    watches: Mutex<BTreeMap<WatchTarget, Watched>>,
    /// The registry has not answered about a service for longer than `unready_after`.
    overdue: AtomicBool,
    key: Mutex<Option<FollowStats>>,
    /// `None`: services may not declare routes.
    declared: Mutex<Option<DeclaredReport>>,
    journal: Mutex<VecDeque<Note>>,
    /// The Consul key with the configuration was deleted.
    pub key_deleted: AtomicBool,
    pub updates: AtomicU64,
    pub certificates: Certificates,
    pub acme: Arc<AcmeReport>,
    /// From an answer of the registry to the published snapshot.
    update_duration: Mutex<Histogram>,
}

/// What is known of one watch.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The statistics at the last look.
    pub stats: WatchStats,
    monitor: WatchMonitor,
    pub history: Arc<History>,
    /// Queries per second over the last [`RATE_OVER`].
    pub queries_per_second: f64,
    /// When the rate's time began, and the number of queries at that moment.
    rate_from: (Instant, u64),
}

impl Status {
    pub fn new() -> Self {
        Self {
            synced: watch::channel(false).0,
            discovered: AtomicBool::new(false),
            keys_known: AtomicBool::new(false),
            certificates_known: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drain: Mutex::default(),
            reloads_ok: AtomicU64::new(1),
            reloads_refused: AtomicU64::new(0),
            config: Mutex::new(ConfigState { succeeded: clock::unix_now(), ..ConfigState::default() }),
            watches: Mutex::default(),
            key: Mutex::default(),
            declared: Mutex::default(),
            journal: Mutex::default(),
            key_deleted: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            updates: AtomicU64::new(0),
            certificates: Certificates::default(),
            acme: Arc::default(),
            update_duration: Mutex::default(),
        }
    }

    /// Sets what is known: all services that routes name, and keys of every provider (or the wait for them is over). Once known,
    /// it stays so: a service that a later reload adds must not take the others out of service.
    pub fn set_known(&self, services: bool, keys: bool) {
        for (known, now) in [(&self.discovered, services), (&self.keys_known, keys)] {
            if now {
                known.store(true, Ordering::Relaxed);
            }
        }
        self.look_whether_synced();
    }

    /// The storages of certificates were read, or the wait for them is over.
    pub fn set_certificates_known(&self) {
        self.certificates_known.store(true, Ordering::Relaxed);
        self.look_whether_synced();
    }

    fn look_whether_synced(&self) {
        if self.is_discovered() && self.knows_keys() && self.knows_certificates() {
            self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
    }

    pub fn knows_certificates(&self) -> bool {
        self.certificates_known.load(Ordering::Relaxed)
    }

    pub fn is_discovered(&self) -> bool {
        self.discovered.load(Ordering::Relaxed)
    }

    pub fn knows_keys(&self) -> bool {
        self.keys_known.load(Ordering::Relaxed)
    }

    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until [`Status::is_synced`].
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub fn set_drain(&self, drain: &DrainSettings) {
        *lock(&self.drain) = Some(drain.clone());
    }

    /// How long a drain may take; `None` before the control plane has begun.
    pub fn drain(&self) -> Option<DrainSettings> {
        lock(&self.drain).clone()
    }

    pub fn is_ready(&self) -> bool {
        self.is_synced() && self.is_fresh() && !self.draining.load(Ordering::Relaxed)
    }

    /// Whether the registry has answered about all services recently enough. Always true without
    /// `discovery.consul.unready_after`.
    pub fn is_fresh(&self) -> bool {
        !self.overdue.load(Ordering::Relaxed)
    }

    /// A configuration was accepted. `waiting`: keys whose new values take effect at the next start.
    pub fn record_accepted(&self, summary: String, waiting: Vec<&'static str>) {
        self.reloads_ok.fetch_add(1, Ordering::Relaxed);
        self.note("config_accepted", summary);
        if !waiting.is_empty() {
            self.note("config_waits_for_restart", waiting.join(", "));
        }
        let mut config = lock(&self.config);
        (config.succeeded, config.refused, config.waiting) = (clock::unix_now(), None, waiting);
        config.unusable.clear();
    }

    /// Files of the configuration in use that cannot be used as they are now, one sentence each. Returns those that are new.
    pub(super) fn record_unusable(&self, unusable: Vec<String>) -> Vec<String> {
        let mut config = lock(&self.config);
        let new: Vec<_> = unusable.iter().filter(|text| !config.unusable.contains(text)).cloned().collect();
        config.unusable = unusable;
        drop(config);
        for text in &new {
            self.note("file_unusable", text.clone());
        }
        new
    }

    pub fn record_refused(&self, report: &Report) {
        self.reloads_refused.fetch_add(1, Ordering::Relaxed);
        let refused = Refused::of(report, clock::unix_now());
        self.note("config_refused", refused.line());
        lock(&self.config).refused = Some(refused);
    }

    /// Takes the warnings of an accepted configuration. `true`: they differ from those before, and are in the list of events.
    pub fn record_warnings(&self, warnings: &[Diagnostic]) -> bool {
        let warnings: Vec<Warned> = warnings.iter().map(Warned::of).collect();
        let before = std::mem::replace(&mut lock(&self.config).warnings, warnings.clone());
        if before == warnings {
            return false;
        }
        for warning in warnings.into_iter().take(WARNINGS_NOTED_MAX) {
            self.note("config_warning", warning.text);
        }
        true
    }

    /// The number of warnings with each code in the configuration in use.
    pub fn warnings(&self) -> BTreeMap<&'static str, u64> {
        let mut by_code = BTreeMap::new();
        for warning in &lock(&self.config).warnings {
            *by_code.entry(warning.code).or_default() += 1;
        }
        by_code
    }

    pub fn config(&self) -> ConfigState {
        lock(&self.config).clone()
    }

    /// Counts a change of a service's instances.
    pub fn count_update(&self) {
        self.updates.fetch_add(1, Ordering::Relaxed);
    }

    /// The registry's answers of these times are in a published snapshot now.
    pub fn record_published(&self, answered_at: &[tokio::time::Instant]) {
        let mut durations = lock(&self.update_duration);
        for at in answered_at {
            durations.record(at.elapsed());
        }
    }

    pub fn record_declared(&self, report: Option<DeclaredReport>) {
        *lock(&self.declared) = report;
    }

    /// Sets what is shown of declared routes.
    pub fn declared(&self) -> Option<DeclaredReport> {
        lock(&self.declared).clone()
    }

    /// Adds an event to the list. Past [`NOTES_MAX`] the oldest is forgotten.
    pub fn note(&self, kind: &'static str, text: String) {
        let mut journal = lock(&self.journal);
        if journal.len() >= NOTES_MAX {
            journal.pop_front();
        }
        journal.push_back(Note { at: clock::unix_now(), kind, text });
    }

    /// Takes a worker's hint.
    pub fn take_hint(&self, hint: Hint) {
        let Hint::Health { kind, text } = hint;
        self.note(kind, text);
    }

    /// The events, oldest first.
    pub fn notes(&self) -> Vec<Note> {
        lock(&self.journal).iter().cloned().collect()
    }

    /// Sets the statistics of the Consul key with the configuration; `None`: it is in a file.
    pub fn record_key(&self, stats: Option<FollowStats>) {
        *lock(&self.key) = stats;
    }

    pub fn key(&self) -> Option<FollowStats> {
        lock(&self.key).clone()
    }

    pub fn update_duration(&self) -> Histogram {
        *lock(&self.update_duration)
    }

    /// Takes the statistics of the watches. `unready_after`: a service without an answer for longer makes the gateway unready.
    pub fn record_watches<'a>(
        &self,
        watches: impl Iterator<Item = (&'a WatchTarget, &'a WatchHandle)>,
        unready_after: Option<Duration>,
    ) {
        let now = clock::now();
        let mut known = lock(&self.watches);
        let watches: BTreeMap<WatchTarget, Watched> = watches
            .map(|(target, handle)| (target.clone(), Watched::new(handle, known.get(target), now)))
            .collect();
        for (target, watched) in &watches {
            let before = known.get(target).and_then(|before| before.stats.missing_rights.as_ref());
            match (before, &watched.stats.missing_rights) {
                (before, Some(missing)) if before != Some(missing) => {
                    self.note("rights_missing", missing.clone());
                }
                (Some(_), None) => {
                    self.note("rights_restored", format!("service `{}`", target.service));
                }
                _ => {}
            }
        }
        let overdue = watches.values().any(|watched| is_overdue(&watched.stats, unready_after, now));
        if self.overdue.swap(overdue, Ordering::Relaxed) != overdue {
            if overdue {
                tracing::warn!("the registry has not answered for a service for long; not ready");
            } else {
                tracing::info!("the registry answers for all services again");
            }
        }
        *known = watches;
    }

    pub fn watches(&self) -> BTreeMap<WatchTarget, Watched> {
        let mut watches = lock(&self.watches).clone();
        for watched in watches.values_mut() {
            watched.stats = watched.monitor.stats();
        }
        watches
    }

    /// The services that the token may not read, at the last look.
    pub fn hidden(&self) -> HashSet<WatchTarget> {
        let watches = lock(&self.watches);
        let hidden = watches.iter().filter(|(_, watched)| watched.stats.missing_rights.is_some());
        hidden.map(|(target, _)| target.clone()).collect()
    }

    /// One sentence for each service that the token may not read.
    pub fn missing_rights(&self) -> Vec<String> {
        self.watches().into_values().filter_map(|watched| watched.stats.missing_rights).collect()
    }

    /// Why services are still unknown: each error of the registry once, with the number of services.
    pub fn unanswered(&self) -> BTreeMap<String, usize> {
        let mut errors = BTreeMap::new();
        for stats in self.watches().into_values().map(|watched| watched.stats) {
            if let (None, Some(error)) = (stats.last_success, stats.last_error) {
                *errors.entry(error).or_default() += 1;
            }
        }
        errors
    }

    /// Services whose instances in use may be out of date: the last query failed, or there was none yet.
    pub fn stale_services(&self) -> usize {
        self.watches().values().filter(|watched| watched.stats.state != WatchState::Fresh).count()
    }
}

/// One event of the control plane.
#[derive(Debug, Clone)]
pub struct Note {
    /// Wall time since the Unix epoch.
    pub at: Duration,
    /// The kind, a stable word.
    pub kind: &'static str,
    pub text: String,
}

/// About a day of deploys; an event is one line.
const NOTES_MAX: usize = 512;
/// Warnings of one configuration that become events: more would push all others out of the list. The log has all of them.
const WARNINGS_NOTED_MAX: usize = 32;
impl Watched {
    fn new(handle: &WatchHandle, before: Option<&Self>, now: Instant) -> Self {
        let stats = handle.stats();
        // A new watch of the same target counts from 0 again.
        let before = before.filter(|before| before.rate_from.1 <= stats.queries);
        let mut rate_from = before.map_or((now, stats.queries), |before| before.rate_from);
        let mut queries_per_second = before.map_or(0.0, |before| before.queries_per_second);
        let over = now.saturating_duration_since(rate_from.0);
        if over >= RATE_OVER {
            let queries = u32::try_from(stats.queries - rate_from.1).unwrap_or(u32::MAX);
            queries_per_second = f64::from(queries) / over.as_secs_f64();
            rate_from = (now, stats.queries);
        }
        let (monitor, history) = (handle.monitor(), Arc::clone(handle.history()));
        Self { stats, monitor, history, queries_per_second, rate_from }
    }
}

/// Long enough for a rare blocking query to be a number above 0.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Services that were never known are not counted here: [`Status::is_synced`] covers them. For what is from disk, the time begins
/// with the start, because its age says nothing about the registry now.
fn is_overdue(stats: &WatchStats, unready_after: Option<Duration>, now: Instant) -> bool {
    let from_disk = stats.started.filter(|_| stats.state != WatchState::NeverSynced);
    let age = stats.last_success.or(from_disk).map(|at| now.saturating_duration_since(at.into()));
    age.zip(unready_after).is_some_and(|(age, after)| age > after)
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

/// If a thread panicked with the lock, the plain data behind it is still valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_answer_makes_the_gateway_unready_only_where_the_configuration_asks_for_it() {
        let now = clock::now();
        let known = WatchStats { last_success: Some(now.into()), ..WatchStats::default() };
        let (after, later) = (Duration::from_mins(2), now + Duration::from_secs(121));
        assert!(!is_overdue(&known, None, later));
        assert!(!is_overdue(&known, Some(after), now + after));
        assert!(is_overdue(&known, Some(after), later));
        let waiting = WatchStats { started: Some(now.into()), ..WatchStats::default() };
        assert!(!is_overdue(&waiting, Some(after), later), "never synced is another check");
        let from_disk = WatchStats { state: WatchState::Stale, ..waiting };
        assert!(!is_overdue(&from_disk, Some(after), now + after));
        assert!(is_overdue(&from_disk, Some(after), later));
        let status = Status::new();
        status.set_known(true, false);
        assert!(!status.is_ready(), "no keys yet");
        status.set_known(false, true);
        assert!(!status.is_ready(), "certificates were not read yet");
        status.set_certificates_known();
        assert!(status.is_ready());
        status.overdue.store(true, Ordering::Relaxed);
        assert!(!status.is_ready());
    }
}
