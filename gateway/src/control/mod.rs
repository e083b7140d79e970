//! The control plane: one thread, one loop, one enum of events.
//!
//! Whatever happens outside of requests (a file changed, an instance came or went, keys were rotated, a signal) arrives here as
//! an [`Event`], changes the [`World`], and becomes a new snapshot for the workers. A wrong configuration never replaces one that
//! runs.

#[cfg(feature = "acme")]
mod acme;
mod acme_report;
pub mod admin;
pub mod catalog;
pub mod certificates;
pub mod config_state;
pub mod declared;
pub mod discovery;
mod drain;
pub mod ending;
pub mod event;
mod exposition;
mod file_places;
pub mod files;
mod files_in_use;
mod handshakes;
mod health;
pub mod kept;
mod kept_file;
pub mod key_files;
pub mod keys;
pub mod metrics;
mod new_keys;
#[cfg(not(feature = "acme"))]
mod no_acme;
pub mod origin;
mod redeclare;
pub(crate) mod registry;
mod reload;
pub mod status;
pub mod warming;
mod watches;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use millgate_registry::{FollowHandle, HttpClient, ServiceUpdate};
use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "acme")]
use self::acme::AcmeTasks;
#[cfg(not(feature = "acme"))]
use self::no_acme::NoTasks as AcmeTasks;
use self::{
    catalog::CatalogFollow,
    declared::DeclaredRoutes,
    discovery::Discovery,
    drain::Drain,
    event::{DrainBy, EVENTS_MAX, Event, Fetched, Inbox},
    files::FileWatch,
    kept::{ClusterFollow, Kept},
    keys::{KeyFetch, kept::KeptKeys, left_out::LeftOut},
    origin::Origin,
    status::Status,
};
use crate::{
    auth::settings::KeySource,
    clock, compile,
    config::settings::Settings,
    policy::rate_limit::KeyBudget,
    snapshot::{Publisher, RouteTable},
    worker::Command,
    world::{ProviderKeys, World, selection},
};

/// Time between two sweeps, which drop cells of rate limits that are full again.
const SWEEP: Duration = Duration::from_secs(5);
/// A start is not ready before the first keys of each provider are known, or this time is over.
const FIRST_KEYS: Duration = Duration::from_secs(10);
/// Time between two looks at the statistics of watches, for admin listener and metrics.
const STATISTICS: Duration = Duration::from_secs(1);

/// Everything the loop owns.
pub struct Controller {
    pub origin: Origin,
    /// The settings in use: those of the file, with the declared routes.
    pub settings: Settings,
    /// The settings of the file alone.
    pub file: Settings,
    pub declared: DeclaredRoutes,
    /// The settings at the start of the process: its sockets, workers and log file follow these.
    pub started: Settings,
    /// The files of the configuration in use.
    pub files: Vec<PathBuf>,
    /// The fingerprint of the configuration in use ([`Origin::fingerprint`]).
    pub fingerprint: u64,
    /// When the configuration was last read again, and the result.
    pub read_again: Option<(Instant, Result<(), String>)>,
    pub world: World,
    pub publisher: Arc<Publisher>,
    pub workers: Vec<mpsc::Sender<Command>>,
    pub status: Arc<Status>,
    pub budget: Arc<KeyBudget>,
    pub http: HttpClient,
    pub kept: Kept,
    pub kept_keys: KeptKeys,
    pub left_out: LeftOut,
    pub events: mpsc::Sender<Event>,
    /// Ends the accepting of the admin listener, when another process has its socket.
    pub admin_ends: Option<oneshot::Sender<()>>,
}

/// The tasks that the current settings need.
struct Background {
    discovery: Discovery,
    fetches: HashMap<Arc<str>, KeyFetch>,
    /// Fetches of keys that are over, until the snapshot with their keys is published.
    fetched: Vec<Fetched>,
    files: FileWatch,
    /// Follows the Consul key, if the configuration is in one.
    key: Option<FollowHandle>,
    /// Follows the list of services, if services may declare routes.
    catalog: Option<CatalogFollow>,
    /// Learns the name of the registry's cluster, if state is kept.
    cluster: Option<ClusterFollow>,
    acme: AcmeTasks,
}

impl Controller {
    /// The loop. It ends when the gateway has drained.
    pub async fn run(mut self, events: mpsc::Receiver<Event>) {
        let mut inbox = Inbox::new(events);
        let mut background = Background {
            discovery: Discovery::new(self.events.clone()),
            fetches: HashMap::new(),
            fetched: Vec::new(),
            files: FileWatch::start(self.files.clone(), self.fingerprint, self.events.clone()),
            key: self.origin.follow(self.events.clone()),
            catalog: None,
            cluster: None,
            acme: AcmeTasks::new(),
        };
        self.use_registry(&mut background);
        self.follow(&mut background);
        self.follow_acme(&mut background);
        let started = clock::now();
        self.left_out.tell(&self.settings, &self.world, &self.status);
        self.update_readiness();
        self.status.set_drain(&self.settings.drain);
        self.status.certificates.read(&self.settings);
        self.look_at_certificates();
        let mut drain = None;
        let mut sweep = every(SWEEP);
        let mut statistics = every(STATISTICS);
        loop {
            tokio::select! {
                event = inbox.next() => {
                    let Some(event) = event else { return };
                    self.handle(event, &mut inbox, &mut background, &mut drain).await;
                }
                news = background.acme.next() => self.learn_acme(news, &background),
                () = Drain::finish(&mut drain) => return,
                _ = sweep.tick() => {
                    let now = clock::now();
                    for limit in self.publisher.load().table.routes.iter().flat_map(|route| &route.policies.rate_limit) {
                        limit.sweep(now);
                    }
                }
                _ = statistics.tick() => {
                    self.look_at_declared(&mut background);
                    self.record_watches(&background);
                    self.look_at_certificates();
                    let hidden = self.status.hidden();
                    let is_news = self.world.hidden != hidden;
                    self.world.hidden = hidden;
                    if is_news || self.world.is_move_due(clock::now()) {
                        self.publish();
                    }
                    if clock::now().saturating_duration_since(started) >= FIRST_KEYS {
                        self.do_without_keys();
                    }
                    self.status.record_key(background.key.as_ref().map(FollowHandle::stats));
                }
            }
        }
    }

    /// Handles one event and those that wait behind it, then publishes once. At most [`EVENTS_MAX`] are handled together, so that
    /// publishing does not depend on a quiet moment.
    async fn handle(
        &mut self,
        event: Event,
        inbox: &mut Inbox,
        background: &mut Background,
        drain: &mut Option<Drain>,
    ) {
        let mut next = Some(event);
        let mut changed = false;
        let mut answers = Vec::new();
        let mut left = EVENTS_MAX;
        while let Some(event) = next {
            match event {
                Event::Reload { reply, .. } if drain.is_some() => {
                    let _ = reply.send(Err("the gateway is draining".to_owned()));
                }
                Event::Reload { asked, reply } => {
                    let result = self.reload_once(asked, inbox, background).await;
                    let _ = reply.send(result);
                }
                // Changes of files no longer matter. A second drain is answered by its dropped reply channel.
                Event::FilesChanged(_) | Event::ConfigKey(_) | Event::Drain { .. } if drain.is_some() => {}
                Event::FilesChanged(seen) => {
                    // The report is in the log and in the status; no caller waits for it.
                    let _ = self.reload_once(seen, inbox, background).await;
                }
                Event::ConfigKey(value) => self.learn_key(value, inbox, background).await,
                Event::Drain { by, reply } => {
                    self.status.draining.store(true, Ordering::Relaxed);
                    background.acme.stop();
                    *drain = Some(self.begin_drain(by, reply));
                }
                Event::Ping(reply) => _ = reply.send(()),
                Event::Hint(hint) => self.status.take_hint(hint),
                other => {
                    if let Event::Service { update, .. } = &other {
                        answers.push(update.answered_at);
                    }
                    changed |= self.learn(other, background);
                }
            }
            left -= 1;
            next = if left > 0 { inbox.try_next() } else { None };
        }
        if changed {
            if self.declared.warming().has_news(&self.world) || self.declared.has_news() {
                self.redeclare(background);
            }
            self.publish();
            self.status.record_published(&answers);
        }
        for fetched in background.fetched.drain(..) {
            fetched.publish();
        }
    }

    fn begin_drain(&mut self, by: DrainBy, reply: oneshot::Sender<usize>) -> Drain {
        let mut settings = self.settings.drain.clone();
        let kept = match by {
            DrainBy::Stop { kept } => kept,
            DrainBy::Successor { has } => {
                // Nobody has to look for another gateway.
                settings.notice = Duration::ZERO;
                self.admin_ends.take().map(|ends| ends.send(()));
                has
            }
        };
        Drain::begin(self.workers.clone(), settings, kept, reply)
    }

    /// Takes an event that changes the world. `false`: no snapshot would show a difference.
    fn learn(&mut self, event: Event, background: &mut Background) -> bool {
        match event {
            // An event that was on its way when a reload made it needless is dropped.
            Event::Service { update, registry }
                if !background.discovery.follows(&update.target, registry) =>
            {
                return false;
            }
            Event::Catalog { registry, .. } | Event::Cluster { registry, .. }
                if registry != background.discovery.registry() =>
            {
                return false;
            }
            Event::Cluster { name, .. } => {
                if self.kept.meet(name) {
                    self.forget_registry(background);
                    return true;
                }
                return false;
            }
            Event::Resolved { name, .. } if !background.discovery.follows_name(&name) => return false,
            Event::Catalog { news, .. } => {
                if self.declared.learn(news) {
                    self.redeclare(background);
                }
                self.update_readiness();
                return false;
            }
            Event::Seen { service, instances } => {
                self.declared.see(service, instances);
                return false;
            }
            Event::Service { update, .. } => self.learn_instances(update, background),
            Event::Resolved { name, addresses } => {
                return self.world.learn_addresses(name, addresses);
            }
            Event::Keys { provider, source, keys, fetched } => {
                background.fetched.push(fetched);
                // Keys that were on their way when a reload made them needless are dropped.
                let Some(keys) = keys.filter(|_| self.wants_keys(&provider, &source)) else { return false };
                self.kept_keys.save(&provider, &source, &keys, clock::unix_now());
                return self.world.learn_keys(provider, ProviderKeys { source, keys });
            }
            _ => return false,
        }
        true
    }

    fn learn_instances(&mut self, update: ServiceUpdate, background: &mut Background) {
        background.discovery.heard(&update.target);
        self.kept.save(update.clone());
        self.status.count_update();
        let ServiceUpdate { target, instances, only_side_kinds, .. } = update;
        let (service, new) = (target.service.clone(), Arc::clone(&instances));
        let old = self.world.learn_instances(target, instances, only_side_kinds);
        if let Some(auto) = &self.file.auto_routes {
            self.declared.learn_metadata(auto, &self.world, &service);
            self.declared.learn_standing(auto, &self.world, &service);
        }
        // Most instances have addresses; only a name makes a look at all others necessary.
        if [old, Some(new)].iter().flatten().any(|list| selection::has_names(list)) {
            background.discovery.follow_names(&self.settings, &self.world);
        }
    }

    fn record_watches(&self, background: &Background) {
        let unready_after = self.settings.consul.as_ref().and_then(|consul| consul.unready_after);
        self.status.record_watches(background.discovery.watches(), unready_after);
    }

    fn look_at_certificates(&self) {
        for remark in self.status.certificates.look(clock::unix_now()) {
            tracing::warn!(kind = remark.kind, "{}", remark.text);
            self.status.note(remark.kind, remark.text);
        }
    }

    fn wants_keys(&self, provider: &str, source: &KeySource) -> bool {
        self.settings.auth.iter().any(|auth| auth.name == provider && auth.keys == *source)
    }

    fn publish(&mut self) {
        self.publish_table(Arc::clone(&self.publisher.load().table));
    }

    fn publish_table(&mut self, table: Arc<RouteTable>) {
        for moved in self.world.choose_datacenters(&self.settings, clock::now()) {
            moved.log();
        }
        self.world.tls_clients.complete(&self.settings);
        let previous = self.publisher.load();
        let snapshot = compile::snapshot(&self.settings, table, &self.world, Some(&previous));
        self.publisher.publish(snapshot);
        self.left_out.tell(&self.settings, &self.world, &self.status);
        self.update_readiness();
    }

    fn update_readiness(&self) {
        if self.status.is_synced() {
            return;
        }
        let is_discovered = self.world.knows_all(&self.settings) && self.declared.is_heard(&self.settings);
        self.status.set_known(is_discovered, self.world.knows_keys(&self.settings));
    }

    /// Ends the wait for keys: an issuer that is down must not keep routes with other providers out of service.
    fn do_without_keys(&self) {
        // The same for a storage of certificates that is down.
        self.status.set_certificates_known();
        if self.status.knows_keys() {
            return;
        }
        let without = self.settings.auth.iter().filter(|auth| self.world.keys_of(auth).is_none());
        let without: Vec<&str> = without.map(|auth| auth.name.as_str()).collect();
        tracing::warn!(providers = without.join(", "), "no keys yet: tokens of these providers get 503");
        self.status.note("keys_unavailable", without.join(", "));
        self.status.set_known(self.status.is_discovered(), true);
    }
}

/// A timer that skips missed ticks.
fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Reads a variable of the process's environment, for `${VAR}` in the file.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
