//! Follows the registry for every service that a route names, and resolves host names off the request path.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use millgate_registry::{Client, ServiceUpdate, WatchHandle, WatchOptions, WatchTarget, watch};
use tokio::sync::mpsc;

use super::{event::Event, selection, world::World};
use crate::config::settings::{EndpointSource, Settings};

/// Names are looked up again this often; the resolver does not tell how long an answer is valid.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// After a failed look-up.
const RESOLVE_RETRY: Duration = Duration::from_secs(2);
/// Names followed at once; past it instances with further names are not routable, which is said.
const NAMES_MAX: usize = 10_000;

/// The watches and look-ups that the current settings need.
pub struct Discovery {
    events: mpsc::Sender<Event>,
    updates: mpsc::Sender<ServiceUpdate>,
    client: Option<Client>,
    options: WatchOptions,
    watches: BTreeMap<WatchTarget, WatchHandle>,
    look_ups: HashMap<String, tokio::task::JoinHandle<()>>,
}

impl Discovery {
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        let (updates, mut received) = mpsc::channel::<ServiceUpdate>(64);
        let forward = events.clone();
        tokio::spawn(async move {
            while let Some(update) = received.recv().await {
                if forward.send(Event::Service(update)).await.is_err() {
                    return;
                }
            }
        });
        Self {
            events,
            updates,
            client: None,
            options: WatchOptions::default(),
            watches: BTreeMap::new(),
            look_ups: HashMap::new(),
        }
    }

    /// Uses another registry from now on. Every watch starts anew; what is known stays until it answers.
    pub fn use_client(&mut self, client: Option<Client>, options: WatchOptions) {
        self.watches.clear();
        self.client = client;
        self.options = options;
    }

    /// Starts what `settings` need and is not running, stops what they no longer need.
    pub fn follow(&mut self, settings: &Settings, world: &World) {
        let wanted = targets(settings);
        self.watches.retain(|target, _| wanted.contains(target));
        if let Some(client) = &self.client {
            for target in wanted {
                if !self.watches.contains_key(&target) {
                    // With what is in use (from disk, or from before the registry changed), so that the first
                    // answer cannot take it away unconfirmed.
                    let handle = watch::spawn_seeded(
                        client.clone(),
                        target.clone(),
                        self.options.clone(),
                        world.instances.get(&target).cloned(),
                        self.updates.clone(),
                    );
                    self.watches.insert(target, handle);
                }
            }
        }
        self.follow_names(settings, world);
    }

    /// Looks up the names that fixed hosts and instances use.
    pub fn follow_names(&mut self, settings: &Settings, world: &World) {
        let wanted = names(settings, world);
        self.look_ups.retain(|name, task| {
            let keep = wanted.contains(name);
            if !keep {
                task.abort();
            }
            keep
        });
        for name in wanted {
            if self.look_ups.contains_key(&name) {
                continue;
            }
            if self.look_ups.len() >= NAMES_MAX {
                tracing::warn!(%name, limit = NAMES_MAX, "too many host names; this one is not followed");
                break;
            }
            let task = tokio::spawn(look_up(name.clone(), self.events.clone()));
            self.look_ups.insert(name, task);
        }
    }

    /// Is this update of something that is still wanted?
    pub fn follows(&self, target: &WatchTarget) -> bool {
        self.watches.contains_key(target)
    }

    /// As [`Discovery::follows`], of a look-up.
    pub fn follows_name(&self, name: &str) -> bool {
        self.look_ups.contains_key(name)
    }

    pub fn watches(&self) -> impl Iterator<Item = (&WatchTarget, &WatchHandle)> {
        self.watches.iter()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        for task in self.look_ups.values() {
            task.abort();
        }
    }
}

/// All that is to be watched, each once however many services select from it. Datacenters of `failover` are watched
/// from the start: one blocking query more for each, and no request that waits for the first answer when they are
/// needed.
pub(super) fn targets(settings: &Settings) -> BTreeSet<WatchTarget> {
    settings.services.iter().flat_map(|service| service.source.targets()).cloned().collect()
}

/// All `host:port` texts whose host is not an address.
pub(super) fn names(settings: &Settings, world: &World) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for service in &settings.services {
        match &service.source {
            EndpointSource::Hosts(hosts) => names.extend(hosts.iter().cloned()),
            // Whatever their status: an instance that becomes healthy has its addresses at hand.
            EndpointSource::Consul(source) => {
                let known = source.targets.iter().filter_map(|target| world.instances.get(target));
                let meant = known.flat_map(|list| list.iter()).filter(|i| selection::is_meant(service, i));
                names.extend(meant.map(|instance| selection::host_port(source, instance)));
            }
        }
    }
    names.retain(|name| name.parse::<SocketAddr>().is_err());
    names
}

async fn look_up(name: String, events: mpsc::Sender<Event>) {
    // `None` until anything was said of the name.
    let mut last: Option<Vec<SocketAddr>> = None;
    let mut failing = false;
    loop {
        let (found, wait) = match tokio::net::lookup_host(&name).await {
            Ok(found) => {
                failing = false;
                let mut addresses: Vec<SocketAddr> = found.collect();
                addresses.sort_unstable();
                addresses.dedup();
                (Some(addresses), RESOLVE_EVERY)
            }
            Err(error) => {
                // The last answer stays in use: a resolver that is away says nothing about the host.
                if !failing {
                    tracing::warn!(%name, %error, "host name could not be resolved; the last addresses stay in use");
                }
                failing = true;
                // A first failure is told, too: one bad name must not keep the gateway unready.
                (last.is_none().then(Vec::new), RESOLVE_RETRY)
            }
        };
        if let Some(addresses) = found
            && last.as_ref() != Some(&addresses)
        {
            last = Some(addresses.clone());
            if events.send(Event::Resolved { name: name.clone(), addresses }).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(wait).await;
    }
}
