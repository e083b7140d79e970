//! The control plane: one thread, one loop, one enum of events.
//!
//! Whatever happens outside of requests (the file changed, an instance came or went, keys were rotated, a
//! signal) arrives here as an [`Event`], changes the [`World`], and becomes a new snapshot for the workers.
//! A configuration that is wrong never replaces one that runs.

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
mod health;
pub mod kept;
mod kept_file;
pub mod key_files;
pub mod keys;
pub mod metrics;
mod new_keys;
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
use tokio::sync::mpsc;

use self::{
    catalog::CatalogFollow,
    declared::DeclaredRoutes,
    discovery::Discovery,
    drain::Drain,
    event::{EVENTS_MAX, Event, Fetched, Inbox},
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

/// Cells of rate limits that are full again are dropped this often.
const SWEEP: Duration = Duration::from_secs(5);
/// A start waits this long for the first keys of each provider before it says that it is ready.
const FIRST_KEYS: Duration = Duration::from_secs(10);
/// How often the statistics of watches are taken over for admin and metrics.
const STATISTICS: Duration = Duration::from_secs(1);

/// Everything the loop owns.
pub struct Controller {
    pub origin: Origin,
    /// Of the file, with what services declare.
    pub settings: Settings,
    /// Of the file alone.
    pub file: Settings,
    pub declared: DeclaredRoutes,
    /// What the process was started with: sockets, workers and the log's file are as these say.
    pub started: Settings,
    /// Of the configuration in use.
    pub files: Vec<PathBuf>,
    /// Of what is in use ([`Origin::fingerprint`]).
    pub fingerprint: u64,
    /// When the configuration was last read again, and what came of it.
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
}

/// What runs in the background for the current settings.
struct Background {
    discovery: Discovery,
    fetches: HashMap<Arc<str>, KeyFetch>,
    /// Fetches of keys that are over, until what they brought is published.
    fetched: Vec<Fetched>,
    files: FileWatch,
    /// Where the configuration is a key.
    key: Option<FollowHandle>,
    /// Where services may declare routes.
    catalog: Option<CatalogFollow>,
    /// Where state is kept.
    cluster: Option<ClusterFollow>,
}

impl Controller {
    /// The loop. Ends when the gateway has drained.
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
        };
        self.use_registry(&mut background);
        self.follow(&mut background);
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

    /// Handles one event and what else is waiting, then publishes once. At most [`EVENTS_MAX`] are taken together,
    /// so that publishing does not wait for a quiet moment.
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
                // Files no longer matter, and a second drain is answered by its dropped reply channel.
                Event::FilesChanged(_) | Event::ConfigKey(_) | Event::Drain { .. } if drain.is_some() => {}
                Event::FilesChanged(seen) => {
                    // The report is in the log and in the status; nobody waits for it.
                    let _ = self.reload_once(seen, inbox, background).await;
                }
                Event::ConfigKey(value) => self.learn_key(value, inbox, background).await,
                Event::Drain { reply } => {
                    self.status.draining.store(true, Ordering::Relaxed);
                    *drain = Some(Drain::begin(self.workers.clone(), self.settings.drain.clone(), reply));
                }
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

    /// Takes an event that changes the world. `false`: nothing that a snapshot shows.
    fn learn(&mut self, event: Event, background: &mut Background) -> bool {
        match event {
            // What was on its way while a reload made it needless is not taken in.
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
                // What was on its way while a reload made it needless is not taken in.
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
        // As a rule instances have addresses, and then all others need not be looked through.
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

    /// An issuer that is away for so long does not keep routes of others out of service.
    fn do_without_keys(&self) {
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

/// A tick that does not catch up: what it does is for the moment.
fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// The process's environment, for `${VAR}` in the file.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
