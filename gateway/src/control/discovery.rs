//! Follows the registry for every service that a route names, and resolves host names off the request path.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use millgate_registry::{Client, Seed, ServiceUpdate, WatchHandle, WatchOptions, WatchTarget, watch};
use tokio::sync::{Semaphore, mpsc};

use super::event::Event;
use crate::{
    config::settings::Settings,
    file_account::LOOKUPS_MAX,
    world::{
        World,
        wanted::{names, targets},
    },
};

/// Names are looked up again after this time; the resolver does not report how long an answer is valid.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Pause after a failed look-up.
const RESOLVE_RETRY: Duration = Duration::from_secs(2);
/// Watches that begin together.
const AT_ONCE: usize = 20;
/// Where more watches begin together, their starts are spread over this time for each, at most over [`START_SPREAD_MAX`].
const START_SPREAD: Duration = Duration::from_millis(20);
const START_SPREAD_MAX: Duration = Duration::from_secs(5);
/// Names that are looked up. Instances with further names are not routable, and the log has a warning.
const NAMES_MAX: usize = 10_000;

/// The watches and look-ups that the current settings need.
pub struct Discovery {
    events: mpsc::Sender<Event>,
    updates: mpsc::Sender<ServiceUpdate>,
    client: Option<Client>,
    /// The number of registries that were used so far.
    registry: u64,
    options: WatchOptions,
    /// Services whose known instances are from another registry.
    distrusted: HashSet<WatchTarget>,
    watches: BTreeMap<WatchTarget, WatchHandle>,
    look_ups: HashMap<String, tokio::task::JoinHandle<()>>,
}

impl Discovery {
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self {
            updates: forward(events.clone(), 0),
            events,
            client: None,
            registry: 0,
            options: WatchOptions::default(),
            distrusted: HashSet::new(),
            watches: BTreeMap::new(),
            look_ups: HashMap::new(),
        }
    }

    /// Uses another registry from now on. Every watch begins anew; what is known stays until that registry answers.
    pub fn use_client(&mut self, client: Option<Client>, options: WatchOptions) {
        self.watches.clear();
        self.client = client;
        self.registry += 1;
        // Updates that earlier watches have sent carry the earlier number.
        self.updates = forward(self.events.clone(), self.registry);
        self.options = options;
    }

    /// Every watch begins anew, without anything that was known.
    pub fn start_over(&mut self) {
        let (client, options) = (self.client.take(), self.options.clone());
        self.use_client(client, options);
    }

    /// Everything known is from another registry. It is used until this registry answers; then its confirmed answer counts at
    /// once, even if it is empty.
    pub fn distrust(&mut self, world: &World) {
        self.distrusted = world.instances.keys().cloned().collect();
    }

    /// The registry in use has answered about this service.
    pub fn heard(&mut self, target: &WatchTarget) {
        self.distrusted.remove(target);
    }

    /// The number of the registry in use. Events carry the number of the registry that they are from.
    pub fn registry(&self) -> u64 {
        self.registry
    }

    /// A client of the registry in use.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Starts what `settings` need and is not running, stops what they no longer need.
    pub fn follow(&mut self, settings: &Settings, world: &World) {
        let wanted = targets(settings);
        self.watches.retain(|target, _| wanted.contains(target));
        if let Some(client) = &self.client {
            let new = wanted.iter().filter(|target| !self.watches.contains_key(*target)).count();
            // A few queries at once are fine; hundreds would be a burst for the agent.
            let start_within = if new <= AT_ONCE {
                Duration::ZERO
            } else {
                START_SPREAD_MAX.min(START_SPREAD * u32::try_from(new).unwrap_or(u32::MAX))
            };
            for target in wanted {
                if !self.watches.contains_key(&target) {
                    // The watch begins with the instances in use (from disk, or from before the token changed), so that the first
                    // answer cannot take them away unconfirmed.
                    let seed = world.instances.get(&target).map(|instances| Seed {
                        instances: Arc::clone(instances),
                        of_this_registry: !self.distrusted.contains(&target),
                        age: world.ages.get(&target).copied(),
                    });
                    let handle = watch::spawn_seeded(
                        client.clone(),
                        target.clone(),
                        WatchOptions { start_within, ..self.options.clone() },
                        seed,
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
            let task = tokio::spawn(look_up(name.clone(), resolve, self.events.clone()));
            self.look_ups.insert(name, task);
        }
    }

    /// Whether an update is about a service that is still followed, and from the registry in use.
    pub fn follows(&self, target: &WatchTarget, registry: u64) -> bool {
        self.registry == registry && self.watches.contains_key(target)
    }

    /// As [`Discovery::follows`], for a look-up.
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

/// The channel for updates of watches; each goes on as an event with the number of its registry.
fn forward(events: mpsc::Sender<Event>, registry: u64) -> mpsc::Sender<ServiceUpdate> {
    let (updates, mut received) = mpsc::channel::<ServiceUpdate>(64);
    tokio::spawn(async move {
        while let Some(update) = received.recv().await {
            if events.send(Event::Service { update, registry }).await.is_err() {
                return;
            }
        }
    });
    updates
}

/// All addresses of a name, sorted.
async fn resolve(name: String) -> std::io::Result<Vec<SocketAddr>> {
    // The semaphore is never closed.
    let _turn = LOOKUPS.acquire().await.map_err(std::io::Error::other)?;
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(name).await?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Each look-up has a thread and a file or two, for which the account of files has a reserve.
static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// Sends the addresses of `name` whenever they change, until the receiver is gone.
async fn look_up<R, F>(name: String, resolve: R, events: mpsc::Sender<Event>)
where
    R: Fn(String) -> F,
    F: Future<Output = std::io::Result<Vec<SocketAddr>>>,
{
    // `None` until the first result was sent.
    let mut last: Option<Vec<SocketAddr>> = None;
    let mut failing = false;
    loop {
        let (found, wait) = match resolve(name.clone()).await {
            Ok(addresses) => {
                failing = false;
                (Some(addresses), RESOLVE_EVERY)
            }
            Err(error) => {
                // The last answer stays in use: a resolver that is down proves nothing about the host.
                if !failing {
                    let known = last.as_ref().is_some_and(|addresses| !addresses.is_empty());
                    let rest = if known { "the last addresses stay in use" } else { "it has no address yet" };
                    tracing::warn!(%name, %error, "host name could not be resolved; {rest}");
                }
                failing = true;
                // A first failure is sent, too: one bad name must not keep the gateway unready.
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io, path::Path, sync::Mutex};

    use super::*;
    use crate::config::load;

    fn settings(text: &str) -> Settings {
        load::parse("routes.yaml", &format!("version: 1\n{text}"), Path::new(""), &|_| None).unwrap().settings
    }

    #[test]
    fn one_watch_serves_all_that_select_from_it() {
        let settings = settings(
            "routes:\n  - {path: /a, service: web}\n  - {path: /b, service: tagged}\n\
             \x20 - {path: /c, service: strict}\n  - {path: /d, service: web, split: {v1: 1, v2: 1}}\n\
             \x20 - {path: /e, service: remote}\n  - {path: /f, service: huge}\n\
             services:\n  web: {subsets: {v1: {tag: v1}, v2: {meta: {version: 2}}}}\n\
             \x20 tagged: {consul: {name: web, tag: v1, address: wan}}\n\
             \x20 strict: {consul: {name: web, policy: passing, failover: dc2}}\n\
             \x20 remote: {consul: {name: web, datacenter: dc2}}\n\
             \x20 huge: {consul: {name: web, only_passing: true}}\n",
        );
        let web = WatchTarget::service("web");
        let of_dc2 = WatchTarget { datacenter: Some("dc2".to_owned()), ..web.clone() };
        let only_passing = WatchTarget { only_passing: true, ..web.clone() };
        assert_eq!(targets(&settings), BTreeSet::from([web, of_dc2, only_passing]));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_a_name_are_told_and_failures_take_nothing_away() {
        let address = |last: u8| SocketAddr::from(([192, 0, 2, last], 80));
        let answers = Mutex::new(vec![
            Ok(vec![address(3)]),
            Err(io::Error::other("the resolver is away")),
            Err(io::Error::other("the resolver is away")),
            Ok(vec![address(1), address(2)]),
            Ok(vec![address(1), address(2)]),
            Err(io::Error::other("not found yet")),
        ]);
        let next = |_| std::future::ready(answers.lock().unwrap().pop().unwrap_or_else(|| Ok(Vec::new())));
        let (events, mut told) = mpsc::channel(8);
        let told = async move {
            let mut seen = Vec::new();
            while seen.len() < 3 {
                let Some(Event::Resolved { name, addresses }) = told.recv().await else {
                    panic!("no answer")
                };
                assert_eq!(name, "web.example:80");
                seen.push(addresses);
            }
            seen
        };
        let ((), seen) = tokio::join!(look_up("web.example:80".to_owned(), next, events), told);
        // Unknown at first, then two addresses, then another one; nothing of what lies between.
        assert_eq!(seen, [vec![], vec![address(1), address(2)], vec![address(3)]]);
    }
}
