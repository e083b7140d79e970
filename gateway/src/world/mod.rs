//! The world outside the file: the registry's instances, resolved names, providers' keys.
//!
//! Each value is stored under the request that it belongs to, and removed when the settings no longer make that request. This
//! matters most for keys, which must never verify a token for another source than their own.

pub mod acme;
pub mod failover;
pub mod selection;
pub mod tls_clients;
pub mod wanted;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use millgate_registry::{Instance, WatchTarget};

use self::{
    acme::AcmeWorld,
    failover::{Failover, Moved},
    tls_clients::TlsClients,
};
use crate::{
    auth::{
        Keys,
        desk::KeyDesk,
        settings::{KeySource, ProviderSettings},
    },
    config::settings::{ConsulSource, EndpointSource, ServiceSettings, Settings},
    declaration::standing::Standing,
    tls::server::ServerTls,
    upstream::cluster::Basis,
};

/// The world as far as it is known now. The control loop owns it, and snapshots are made from it and the settings.
#[derive(Default)]
pub struct World {
    pub instances: HashMap<WatchTarget, Arc<[Instance]>>,
    /// Age at the start of instances that come from disk.
    pub ages: HashMap<WatchTarget, Duration>,
    /// Targets whose instances are all proxies and gateways of a mesh.
    pub side_kinds: HashSet<WatchTarget>,
    /// Targets that the ACL token may not read, or whose instances it may not read.
    pub hidden: HashSet<WatchTarget>,
    /// Addresses by `host:port`. An empty list: the name was looked up and not found yet.
    pub resolved: HashMap<String, Vec<SocketAddr>>,
    /// Of `listen.https`, by the names of the listeners.
    pub tls: BTreeMap<Arc<str>, ServerTls>,
    pub tls_clients: TlsClients,
    pub acme: AcmeWorld,
    keys: HashMap<Arc<str>, ProviderKeys>,
    keys_generation: u64,
    /// Desks of the providers whose keys are fetched.
    desks: HashMap<Arc<str>, (KeySource, Arc<KeyDesk>)>,
    names_generation: u64,
    /// The choices of services with several datacenters, by full name.
    failovers: HashMap<String, Failover>,
}

/// One provider's keys, and their source.
#[derive(Debug, Clone)]
pub struct ProviderKeys {
    pub source: KeySource,
    pub keys: Arc<Keys>,
}

impl World {
    /// Whether the registry and the resolver have responded for every service, even if it has no instance. For a service with
    /// several datacenters, there must be a response for the first one, or for one that can serve instead.
    pub fn knows_all(&self, settings: &Settings) -> bool {
        settings.services.iter().all(|service| self.knows(service))
    }

    /// Whether there is a response for one service, as in [`World::knows_all`].
    pub fn knows(&self, service: &ServiceSettings) -> bool {
        match &service.source {
            EndpointSource::Hosts(hosts) => hosts
                .iter()
                .all(|host| host.parse::<SocketAddr>().is_ok() || self.resolved.contains_key(host)),
            EndpointSource::Consul(source) => {
                source.targets.first().is_some_and(|first| self.instances.contains_key(first))
                    || (0..source.targets.len()).any(|at| self.can_serve(service, source, at) == Some(true))
            }
        }
    }

    /// The standing of a service that declares routes, by its instances.
    pub fn standing(&self, service: &ServiceSettings) -> Standing {
        let EndpointSource::Consul(source) = &service.source else { return Standing::Unknown };
        if source.targets.iter().any(|target| self.side_kinds.contains(target)) {
            return Standing::Side;
        }
        let mut all = (0..source.targets.len()).map(|at| self.can_serve(service, source, at));
        let mut is_idle = true;
        let serves = all.any(|can| {
            is_idle &= can == Some(false);
            can == Some(true)
        });
        if serves {
            Standing::Serves
        } else if is_idle {
            Standing::Idle
        } else {
            Standing::Unknown
        }
    }

    /// The datacenter that serves a service: an index into its source's targets.
    pub fn datacenter_of(&self, service: &ServiceSettings) -> usize {
        match &service.source {
            source if source.targets().len() < 2 => 0,
            _ => self.failovers.get(&*service.full_name()).map_or(0, Failover::active),
        }
    }

    /// Chooses the datacenter of each service that has several, and returns the moves.
    pub fn choose_datacenters(&mut self, settings: &Settings, now: Instant) -> Vec<Moved> {
        let mut failovers = std::mem::take(&mut self.failovers);
        let mut moves = Vec::new();
        for service in &settings.services {
            let EndpointSource::Consul(source) = &service.source else { continue };
            if source.targets.len() < 2 {
                continue;
            }
            let targets = 0..source.targets.len();
            let can_serve: Vec<Option<bool>> =
                targets.map(|at| self.can_serve(service, source, at)).collect();
            let name = service.full_name().into_owned();
            let failover = failovers.entry(name.clone()).or_default();
            let from = failover.active();
            if failover.choose(&can_serve, now) {
                let datacenter = |at: usize| source.targets.get(at).and_then(|t| t.datacenter.clone());
                let to = failover.active();
                moves.push(Moved {
                    service: name,
                    from: datacenter(from),
                    to: datacenter(to),
                    is_return: to < from,
                });
            }
        }
        self.failovers = failovers;
        moves
    }

    /// The inputs from which a cluster of this service would be made now.
    pub fn basis(&self, service: &ServiceSettings, target: usize) -> Basis {
        let target = service.source.targets().get(target);
        let instances = target.and_then(|target| self.instances.get(target)).map(Arc::clone);
        let tls = if service.speaks_tls() { self.tls_clients.generation() } else { 0 };
        let hidden = target.is_some_and(|target| self.hidden.contains(target));
        Basis { instances, names: self.names_generation, tls, hidden }
    }

    /// Whether a return to a preferred datacenter is due because its hold-down is over.
    pub fn is_move_due(&self, now: Instant) -> bool {
        self.failovers.values().any(|failover| failover.is_due(now))
    }

    /// Whether the datacenter has an instance that can serve. `None`: the registry or the resolver has not responded yet.
    fn can_serve(&self, service: &ServiceSettings, source: &ConsulSource, at: usize) -> Option<bool> {
        self.instances.get(source.targets.get(at)?)?;
        let mut answer = Some(false);
        for instance in selection::routable(service, source, self, at) {
            let has_address = match selection::host_name(source, instance) {
                None => Some(true),
                Some(name) => self.resolved.get(&name).map(|found| !found.is_empty()),
            };
            match has_address {
                Some(true) => return has_address,
                Some(false) => {}
                None => answer = None,
            }
        }
        answer
    }

    /// The keys that verify a provider's tokens, if they come from its own source.
    pub fn keys_of(&self, auth: &ProviderSettings) -> Option<&Arc<Keys>> {
        let held = self.keys.get(auth.name.as_str())?;
        (held.source == auth.keys).then_some(&held.keys)
    }

    /// The desk at which requests wait for newer keys; `None`: the provider's keys are not fetched.
    pub fn desk_of(&self, auth: &ProviderSettings) -> Option<&Arc<KeyDesk>> {
        let (source, desk) = self.desks.get(auth.name.as_str())?;
        (*source == auth.keys).then_some(desk)
    }

    /// Whether there are keys of each provider, of any age.
    pub fn knows_keys(&self, settings: &Settings) -> bool {
        settings.auth.iter().all(|auth| self.keys_of(auth).is_some())
    }

    /// Opens a desk for each provider whose keys are fetched, and closes desks of other sources. `fresh` contains desks that are
    /// open already, by provider.
    pub fn open_desks(&mut self, settings: &Settings, fresh: &HashMap<Arc<str>, Arc<KeyDesk>>) {
        let wanted = |name: &str, source: &KeySource| {
            settings.auth.iter().any(|auth| auth.name == name && auth.keys == *source)
        };
        self.desks.retain(|name, (source, desk)| {
            let stays = wanted(name, source) && !fresh.contains_key(name);
            if !stays {
                desk.close();
            }
            stays
        });
        for auth in settings.auth.iter().filter(|auth| auth.keys.is_fetched()) {
            let name = auth.name.as_str();
            if !self.desks.contains_key(name) {
                let desk = fresh.get(name).map(Arc::clone).unwrap_or_default();
                self.desks.insert(Arc::from(name), (auth.keys.clone(), desk));
            }
        }
    }

    /// Changes whenever keys or auth settings change: verified tokens of another generation are not used again.
    pub fn keys_generation(&self) -> u64 {
        self.keys_generation
    }

    /// Stores a provider's keys. Returns false if they are in use already.
    pub fn learn_keys(&mut self, provider: Arc<str>, new: ProviderKeys) -> bool {
        let held = self.keys.get(&provider);
        if held.is_some_and(|held| held.source == new.source && held.keys == new.keys) {
            return false;
        }
        self.keys.insert(provider, new);
        self.keys_generation += 1;
        true
    }

    /// Stores the addresses of a look-up, and returns whether they count. A failed look-up, without addresses, counts only if it
    /// is the first one: a resolver that fails is not evidence about the host.
    pub fn learn_addresses(&mut self, name: String, addresses: Vec<SocketAddr>) -> bool {
        if addresses.is_empty() && self.resolved.contains_key(&name) {
            return false;
        }
        self.resolved.insert(name, addresses);
        self.names_generation += 1;
        true
    }

    /// Stores the registry's response, and returns the one before.
    pub fn learn_instances(
        &mut self,
        target: WatchTarget,
        instances: Arc<[Instance]>,
        only_side_kinds: bool,
    ) -> Option<Arc<[Instance]>> {
        if only_side_kinds {
            self.side_kinds.insert(target.clone());
        } else {
            self.side_kinds.remove(&target);
        }
        self.instances.insert(target, instances)
    }

    /// Removes all responses of a registry.
    pub fn forget_instances(&mut self) {
        self.instances.clear();
        self.ages.clear();
        self.side_kinds.clear();
    }

    /// Removes values that the `new` settings do not need. `old` are the settings in use so far.
    pub fn keep_for(&mut self, old: &Settings, new: &Settings) {
        self.keys.retain(|name, held| {
            new.auth.iter().any(|auth| *auth.name == **name && auth.keys == held.source)
        });
        let is_same_auth = old.auth.len() == new.auth.len()
            && old.auth.iter().zip(&new.auth).all(|(old, new)| old.same_as(new));
        // A cached token has only the claims that were needed when it was verified.
        if !is_same_auth || old.claims_asked_for() != new.claims_asked_for() {
            self.keys_generation += 1;
        }
        self.failovers.retain(|name, _| {
            let source = source_of(new, name);
            source.is_some() && source == source_of(old, name)
        });
        let targets = wanted::targets(new);
        self.instances.retain(|target, _| targets.contains(target));
        self.ages.retain(|target, _| targets.contains(target));
        self.side_kinds.retain(|target| targets.contains(target));
        let names = wanted::names(new, self);
        self.resolved.retain(|name, _| names.contains(name));
        self.names_generation += 1;
    }
}

fn source_of<'a>(settings: &'a Settings, full_name: &str) -> Option<&'a EndpointSource> {
    settings.services.iter().find(|service| service.full_name() == full_name).map(|service| &service.source)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millgate_registry::{Status, testing};

    use super::*;
    use crate::{auth::desk::Asker, config::load, policy::require::Written};

    const SERVICE: &str = "services: {a: {hosts: [\"127.0.0.1:1\"]}}\n";

    fn settings(text: &str) -> Settings {
        let text = format!("version: 1\n{text}");
        load::parse("routes.yaml", &text, Path::new(""), &|_| None).unwrap_or_else(|e| panic!("{e}")).settings
    }

    fn guarded(jwks: &str, more: &str) -> Settings {
        settings(&format!(
            "auth: {{main: {{jwks: \"{jwks}\", audience: api{more}}}}}\n\
             routes:\n  - {{path: /a, service: a, auth: main}}\n{SERVICE}"
        ))
    }

    fn keys(auth: &ProviderSettings, secret: u8) -> ProviderKeys {
        ProviderKeys {
            source: auth.keys.clone(),
            keys: Arc::new(Keys::Jwt(crate::auth::jwt::KeySet::from_secret(&[secret; 32]).unwrap())),
        }
    }

    /// A world with keys from the source of its provider.
    fn world(settings: &Settings) -> World {
        let mut world = World::default();
        assert!(world.learn_keys("main".into(), keys(&settings.auth[0], 1)));
        world
    }

    #[test]
    fn keys_of_another_source_are_not_the_providers() {
        let (old, new) = (guarded("http://a.test/jwks", ""), guarded("http://b.test/jwks", ""));
        let mut world = world(&old);
        assert!(world.keys_of(&old.auth[0]).is_some());
        world.keep_for(&old, &new);
        assert!(world.keys_of(&new.auth[0]).is_none());
        // A fetch that was under way ends late.
        world.learn_keys("main".into(), keys(&old.auth[0], 1));
        assert!(world.keys_of(&new.auth[0]).is_none());
    }

    #[test]
    fn a_desk_is_its_sources_and_closes_with_it() {
        let (old, new) = (guarded("http://a.test/jwks", ""), guarded("http://b.test/jwks", ""));
        let mut world = World::default();
        world.open_desks(&old, &HashMap::new());
        let desk = Arc::clone(world.desk_of(&old.auth[0]).unwrap());
        world.open_desks(&old, &HashMap::new());
        assert!(Arc::ptr_eq(world.desk_of(&old.auth[0]).unwrap(), &desk), "it stays with its source");
        assert!(world.desk_of(&new.auth[0]).is_none());
        let fresh = HashMap::from([("main".into(), Arc::<KeyDesk>::default())]);
        world.open_desks(&new, &fresh);
        assert!(world.desk_of(&old.auth[0]).is_none());
        assert!(Arc::ptr_eq(world.desk_of(&new.auth[0]).unwrap(), &fresh["main"]));
        assert!(desk.ask(Asker::Stranger).is_none(), "nothing is to be waited for there");
    }

    #[test]
    fn verified_tokens_stay_while_neither_keys_nor_auth_settings_change() {
        let first = guarded("http://a.test/jwks", "");
        let mut world = world(&first);
        let generation = world.keys_generation();
        assert!(!world.learn_keys("main".into(), keys(&first.auth[0], 1)), "the same keys again");
        let mut moved = first.clone();
        moved.auth[0].span.line += 1;
        world.keep_for(&first, &moved);
        assert_eq!(world.keys_generation(), generation);
        world.keep_for(&moved, &guarded("http://a.test/jwks", ", leeway: 5s"));
        assert_eq!(world.keys_generation(), generation + 1);
        assert!(world.learn_keys("main".into(), keys(&first.auth[0], 2)));
        assert_eq!(world.keys_generation(), generation + 2);
        let mut asking = first.clone();
        let claims = vec![("tenant".to_owned(), vec!["blue".to_owned()])];
        Arc::make_mut(&mut asking.routes[0].policies).require = Some(Written::claims(claims));
        world.keep_for(&first, &asking);
        assert_eq!(world.keys_generation(), generation + 3, "a remembered token does not have this claim");
    }

    #[test]
    fn what_is_no_longer_asked_for_is_forgotten() {
        let consul = settings("routes:\n  - {path: /a, service: a}\n  - {path: /b, service: b}\n");
        let hosts = settings(
            "routes:\n  - {path: /a, service: a}\nservices: {a: {hosts: [\"one.test:80\", \"two.test:80\"]}}\n",
        );
        let mut world = World::default();
        for name in ["a", "b"] {
            world.instances.insert(WatchTarget::service(name), Arc::from([]));
        }
        for name in ["one.test:80", "three.test:80"] {
            world.resolved.insert(name.into(), Vec::new());
        }
        world.keep_for(&consul, &settings("routes:\n  - {path: /a, service: a}\n"));
        assert_eq!(world.instances.keys().collect::<Vec<_>>(), [&WatchTarget::service("a")]);
        assert!(world.resolved.is_empty());
        world.resolved.insert("one.test:80".into(), Vec::new());
        world.keep_for(&consul, &hosts);
        assert!(world.instances.is_empty());
        assert_eq!(world.resolved.len(), 1);
    }

    #[test]
    fn a_failed_look_up_is_heard_of_and_takes_no_address_away() {
        let settings =
            settings("routes:\n  - {path: /a, service: a}\nservices: {a: {hosts: [\"one.test:80\"]}}\n");
        let mut world = World::default();
        assert!(!world.knows_all(&settings));
        assert!(world.learn_addresses("one.test:80".into(), Vec::new()));
        assert!(world.knows_all(&settings));
        assert!(world.learn_addresses("one.test:80".into(), vec!["192.0.2.1:80".parse().unwrap()]));
        assert!(!world.learn_addresses("one.test:80".into(), Vec::new()));
        assert_eq!(world.resolved["one.test:80"].len(), 1);
    }

    #[test]
    fn a_service_with_failover_is_known_as_soon_as_it_can_be_served() {
        let settings =
            settings("routes: [{path: /a, service: a}]\nservices: {a: {consul: {failover: dc2}}}\n");
        let service = &settings.services[0];
        let [own, other] = service.source.targets() else { panic!("two datacenters") };
        let instances = |status| instance("192.0.2.1", status);
        let now = crate::clock::now();
        let mut world = World::default();
        world.instances.insert(other.clone(), instances(Status::Critical));
        assert!(!world.knows_all(&settings));
        world.instances.insert(other.clone(), instances(Status::Passing));
        assert!(world.knows_all(&settings));
        let moves = world.choose_datacenters(&settings, now);
        assert_eq!((moves.len(), world.datacenter_of(service)), (1, 1));
        assert!(world.choose_datacenters(&settings, now).is_empty(), "told once");
        // The registry reports on the own datacenter for the first time.
        world.instances.insert(own.clone(), instances(Status::Passing));
        assert!(world.choose_datacenters(&settings, now).iter().all(|moved| moved.is_return));
        assert_eq!(world.datacenter_of(service), 0);
    }

    /// A list of one.
    fn instance(address: &str, status: Status) -> Arc<[Instance]> {
        Arc::from([Instance { address: address.to_owned(), ..testing::instance("a", status) }])
    }

    #[test]
    fn a_name_that_was_not_looked_up_yet_sends_no_request_away_for_the_hold_down() {
        let settings =
            settings("routes: [{path: /a, service: a}]\nservices: {a: {consul: {failover: dc2}}}\n");
        let service = &settings.services[0];
        let [own, other] = service.source.targets() else { panic!("two datacenters") };
        let now = crate::clock::now();
        let mut world = World::default();
        world.instances.insert(own.clone(), instance("web.example", Status::Passing));
        world.instances.insert(other.clone(), instance("192.0.2.1", Status::Passing));
        world.choose_datacenters(&settings, now);
        assert_eq!(world.datacenter_of(service), 1);
        world.learn_addresses("web.example:80".into(), vec!["192.0.2.9:80".parse().unwrap()]);
        world.choose_datacenters(&settings, now);
        assert_eq!(world.datacenter_of(service), 0, "it was only unknown");
    }
}
