//! Makes clusters from settings and the world: the endpoints that a service has now, with their state from before.
//!
//! An endpoint stays the same as long as its instance and its address stay the same. Then a change of its weight, its
//! status or its neighbours does not affect its breaker's state, its requests in flight or its connections.

use std::{cell::OnceCell, collections::HashMap, net::SocketAddr, sync::Arc, time::Instant};

use crate::{
    clock,
    config::settings::{EndpointSource, ServiceSettings, Settings},
    file_account,
    policy::{
        circuit_breaker::CircuitBreaker,
        concurrency::{ConcurrencyLimit, Places},
        max_tunnels::TunnelLimit,
        outlier::OutlierDetector,
        retry::RetryBudget,
    },
    upstream::{
        cluster::{Absence, Cluster},
        endpoint::{Endpoint, EndpointKey, EndpointState, WEIGHT_MAX},
        load_balancer::LoadBalancer,
        settings::{HttpVersion, SHARE_UNITS},
        tls::{ClientTls, UpstreamTls},
    },
    world::{World, selection},
};

/// The clusters by the index of their service. Clusters that did not change are the same `Arc` as in `previous`.
pub(super) fn compile(settings: &Settings, world: &World, previous: &[Arc<Cluster>]) -> Vec<Arc<Cluster>> {
    let now = clock::now();
    let known = Known { clusters: previous, by_name: OnceCell::new() };
    // A service may have had subsets until now, or have some from now on.
    let before = previous.iter().map(|cluster| &cluster.settings);
    let has_subsets = settings.services.iter().chain(before).any(|service| service.subset.is_some());
    let shares = budget_shares(settings);
    let places = previous.first().map_or_else(
        || Places::of(&super::file_budget(file_account::raise_limit(), settings)),
        |cluster| Arc::clone(cluster.concurrency.places()),
    );
    let mut made: Vec<Arc<Cluster>> = Vec::with_capacity(settings.services.len());
    for (index, service) in settings.services.iter().enumerate() {
        let share = shares.get(service.name.as_str()).copied().unwrap_or(RETRY_BUDGET_DEFAULT);
        let old = known.find(index, &service.full_name());
        let target = world.datacenter_of(service);
        let basis = world.basis(service, target);
        let like_before = old.filter(|old| {
            old.target == target && old.retry_budget.matches(share) && old.settings.same_as(service)
        });
        // Of many services hardly one changes at a time, and all others end here.
        if let Some(same) = like_before.filter(|old| old.basis == basis) {
            made.push(Arc::clone(same));
            continue;
        }
        let found = found(service, world, target);
        let absence =
            if found.is_empty() { selection::absence(service, world, target) } else { Absence::default() };
        if let Some(same) = like_before.filter(|old| old.absence == absence && is_same(old, &found)) {
            made.push(Arc::clone(same));
            continue;
        }
        let mut relatives: Vec<&Cluster> = old.map(|old| &**old).into_iter().collect();
        if has_subsets {
            let others = previous.iter().chain(&made).map(|cluster| &**cluster);
            relatives.extend(others.filter(|cluster| cluster.settings.name == service.name));
        }
        let endpoints = endpoints(&found, &relatives, now);
        let limit = relatives.first().map(|cluster| &cluster.concurrency);
        let budget = relatives.iter().map(|cluster| &cluster.retry_budget).find(|b| b.matches(share));
        made.push(Arc::new(Cluster {
            name: Arc::from(service.full_name()),
            balancer: LoadBalancer::compile(service.policies.balance, &endpoints),
            endpoints,
            breaker: service.policies.breaker.as_ref().map(CircuitBreaker::compile),
            outlier: service.policies.outlier.as_ref().map(OutlierDetector::compile),
            concurrency: ConcurrencyLimit::compile(
                service.policies.max_inflight,
                service.shares,
                &places,
                limit,
            ),
            tunnels: TunnelLimit::compile(
                service.policies.max_tunnels,
                relatives.first().map(|cluster| &cluster.tunnels),
            ),
            retry_budget: budget.map_or_else(|| Arc::new(RetryBudget::new(share)), Arc::clone),
            target,
            absence,
            settings: service.clone(),
            basis,
        }));
    }
    made
}

/// The TLS client of a service. If it is missing, connects fail: a service with TLS never gets cleartext instead.
fn tls_client(tls: &UpstreamTls, world: &World) -> Arc<ClientTls> {
    let unknown = || Arc::new(ClientTls::new(Err("TLS was not set up".to_owned()), tls, 0));
    world.tls_clients.get(tls).map_or_else(unknown, Arc::clone)
}

/// The previous snapshot's clusters, by name.
struct Known<'a> {
    clusters: &'a [Arc<Cluster>],
    /// Made at most once, when a service has another index than before, which is rare.
    by_name: OnceCell<HashMap<&'a str, &'a Arc<Cluster>>>,
}

impl<'a> Known<'a> {
    fn find(&self, index: usize, name: &str) -> Option<&'a Arc<Cluster>> {
        if let Some(same) = self.clusters.get(index).filter(|cluster| *cluster.name == *name) {
            return Some(same);
        }
        let by_name = || self.clusters.iter().map(|cluster| (&*cluster.name, cluster)).collect();
        self.by_name.get_or_init(by_name).get(name).copied()
    }
}

/// A future endpoint: key, address, authority, weight.
struct Found {
    key: EndpointKey,
    address: SocketAddr,
    authority: String,
    weight: u32,
    /// Share of the requests that a tag gives to the endpoint, in units of 1 / [`SHARE_UNITS`]; 0 = none.
    share: u32,
    tls: Option<Arc<ClientTls>>,
    version: HttpVersion,
}

/// The routable endpoints of a service, in a stable order. A host name with several addresses becomes several endpoints, each
/// with the instance's weight.
fn found(service: &ServiceSettings, world: &World, target: usize) -> Vec<Found> {
    let addresses = |name: &str| match name.parse::<SocketAddr>() {
        Ok(address) => vec![address],
        Err(_) => world.resolved.get(name).cloned().unwrap_or_default(),
    };
    let of_service = service.tls.as_ref().map(|tls| tls_client(tls, world));
    let mut found = Vec::new();
    match &service.source {
        EndpointSource::Hosts(hosts) => {
            for host in hosts {
                for address in addresses(host) {
                    let key = EndpointKey::address(address);
                    let (authority, tls, version) = (host.clone(), of_service.clone(), service.version);
                    found.push(Found { key, address, authority, weight: 1, share: 0, tls, version });
                }
            }
        }
        EndpointSource::Consul(source) => {
            for instance in selection::routable(service, source, world, target) {
                let authority = selection::host_port(source, instance);
                let addresses = addresses(&authority);
                let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
                let (share, tls, version) =
                    service.subset.as_ref().map_or((0, None, None), |subset| subset.rules_of(instance));
                let version = version.unwrap_or(service.version);
                let share = share.div_ceil(count);
                let own = || tls.map(|tls| tls_client(tls, world));
                let tls = of_service.clone().or_else(own);
                for address in addresses {
                    let key = EndpointKey::instance(address, instance.identity());
                    let (authority, weight, tls) = (authority.clone(), instance.weight, tls.clone());
                    found.push(Found { key, address, authority, weight, share, tls, version });
                }
            }
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    // An instance may be listed twice.
    found.dedup_by(|a, b| a.key.as_str() == b.key.as_str());
    if found.iter().any(|one| one.share > 0) { by_shares(found) } else { found }
}

/// Turns shares into weights. Endpoints with a share of their own get it, and the others get the rest by their weights.
/// Shares that sum up to more than the whole, or to less if there are no other instances, are scaled in proportion. If
/// nothing is left for the others, they get no requests. (Fabio's rules, <https://fabiolb.net/feature/traffic-shaping/>.)
fn by_shares(mut found: Vec<Found>) -> Vec<Found> {
    let shared: u64 = found.iter().map(|one| u64::from(one.share)).sum();
    let others = found.iter().filter(|one| one.share == 0);
    let weights: u64 = others.map(|one| u64::from(one.weight)).sum();
    let left = u64::from(SHARE_UNITS).saturating_sub(shared);
    // Both have the same denominator, so that shares are rounded only in the last step.
    let exact = |one: &Found| match one.share {
        0 => left * u64::from(one.weight),
        share => u64::from(share) * weights.max(1),
    };
    // Weights above the largest permitted one are scaled down, all in proportion.
    let largest = found.iter().map(exact).max().unwrap_or(0);
    let scale = largest.div_ceil(u64::from(WEIGHT_MAX)).max(1);
    for one in &mut found {
        let weight = exact(one);
        let scaled = if weight == 0 { 0 } else { ((weight + scale / 2) / scale).max(1) };
        one.weight = u32::try_from(scaled).unwrap_or(u32::MAX);
    }
    found.retain(|one| one.weight > 0);
    found
}

fn is_same(old: &Cluster, found: &[Found]) -> bool {
    old.endpoints.len() == found.len()
        && old.endpoints.iter().zip(found).all(|(old, new)| {
            *old.key() == new.key
                && old.weight() == new.weight
                && old.authority().as_str() == new.authority
                && old.version() == new.version
                && old.tls().map(Arc::as_ptr) == new.tls.as_ref().map(Arc::as_ptr)
        })
}

/// Endpoints with the states that they have in `relatives`: the clusters of the same service in the previous snapshot and in
/// this one. Clusters with the same endpoint share its state, so the first one is used.
fn endpoints(found: &[Found], relatives: &[&Cluster], now: Instant) -> Vec<Endpoint> {
    let mut known: HashMap<&EndpointKey, &Endpoint> = HashMap::new();
    for endpoint in relatives.iter().flat_map(|cluster| &cluster.endpoints) {
        known.entry(endpoint.key()).or_insert(endpoint);
    }
    found
        .iter()
        .map(|new| {
            let state = known
                .get(&new.key)
                .map_or_else(|| Arc::new(EndpointState::new(now)), |old| Arc::clone(old.state()));
            Endpoint::new(new.key.clone(), new.address, &new.authority, new.weight, state)
                .over(new.tls.clone(), new.version)
        })
        .collect()
}

/// Retry budgets by name of the service. The routes of a service share its budget, which is the smallest of theirs.
fn budget_shares(settings: &Settings) -> HashMap<&str, f32> {
    let mut shares: HashMap<&str, f32> = HashMap::new();
    for route in &settings.routes {
        if let Some(service) = route.service.and_then(|at| settings.services.get(at)) {
            let budget = route.policies.retry.budget();
            let share = shares.entry(&service.name).or_insert(budget);
            *share = share.min(budget);
        }
    }
    shares
}

/// Share of requests that retries may add to a service without routes.
const RETRY_BUDGET_DEFAULT: f32 = 0.2;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millgate_registry::{Instance, Status, WatchTarget, testing};

    use super::*;
    use crate::{
        config::{
            load,
            settings::{Selector, SubsetSettings, TagRule},
        },
        policy::concurrency::Holder,
    };

    const SPLIT: &str = "routes:\n  - {path: /all, service: web}\n\
         \x20 - {path: /split, service: web, split: {v1: 95, canary: 5}}\n\
         services: {web: {subsets: {v1: {tag: v1}, canary: {tag: v2}}}}\n";

    fn settings(text: &str) -> Settings {
        load::parse("routes.yaml", &format!("version: 1\n{text}"), Path::new(""), &|_| None).unwrap().settings
    }

    fn instance(id: &str, tag: &str) -> Instance {
        Instance { tags: vec![tag.to_owned()], ..testing::instance(id, Status::Passing) }
    }

    fn world(instances: impl IntoIterator<Item = Instance>) -> World {
        let mut world = World::default();
        world.instances.insert(WatchTarget::service("web"), instances.into_iter().collect());
        world
    }

    fn names(cluster: &Cluster) -> Vec<&str> {
        cluster.endpoints.iter().map(|endpoint| endpoint.key().as_str()).collect()
    }

    #[test]
    fn subsets_are_clusters_that_share_what_protects_their_service() {
        let settings = settings(SPLIT);
        let clusters = compile(&settings, &world([instance("a", "v1"), instance("b", "v2")]), &[]);
        let [all, v1, canary] = &clusters[..] else { panic!("{} clusters", clusters.len()) };
        assert_eq!([&*all.name, &*v1.name, &*canary.name], ["web", "web/v1", "web/canary"]);
        assert_eq!((names(v1), names(canary)), (vec!["10.0.0.1:80#a"], vec!["10.0.0.1:80#b"]));
        assert!(Arc::ptr_eq(all.endpoints[0].state(), v1.endpoints[0].state()));
        assert!(Arc::ptr_eq(all.endpoints[1].state(), canary.endpoints[0].state()));
        assert!(Arc::ptr_eq(&all.retry_budget, &canary.retry_budget));
        let _slot = canary.concurrency.check(&Holder::default()).unwrap();
        assert_eq!((all.concurrency.in_flight(), v1.concurrency.in_flight()), (1, 1));
    }

    #[test]
    fn a_subset_that_comes_later_finds_the_states_of_its_service() {
        let known = world([instance("a", "v1"), instance("b", "v2")]);
        let before = compile(&settings("routes: [{path: /all, service: web}]\n"), &known, &[]);
        let after = compile(&settings(SPLIT), &known, &before);
        assert!(Arc::ptr_eq(before[0].endpoints[1].state(), after[2].endpoints[0].state()));
        // An instance that moves to the other subset keeps its state.
        let moved = compile(&settings(SPLIT), &world([instance("a", "v1"), instance("b", "v1")]), &after);
        assert!(moved[2].endpoints.is_empty());
        assert!(Arc::ptr_eq(before[0].endpoints[1].state(), moved[1].endpoints[1].state()));
    }

    #[test]
    fn an_endpoint_stays_itself_while_its_instance_and_address_stay() {
        let settings = settings("routes: [{path: /all, service: web}]\n");
        let first = instance("a", "v1");
        let before = compile(&settings, &world([first.clone()]), &[]);
        let after = |now: Instance| {
            let after = compile(&settings, &world([now]), &before);
            assert_eq!(after[0].endpoints.len(), 1);
            Arc::ptr_eq(before[0].endpoints[0].state(), after[0].endpoints[0].state())
        };
        assert!(after(Instance { weight: 7, status: Status::Warning, ..first.clone() }));
        assert!(after(Instance { tags: Vec::new(), ..first.clone() }));
        assert!(!after(Instance { node: "n2".to_owned(), ..first.clone() }), "another node");
        assert!(!after(Instance { datacenter: "dc2".to_owned(), ..first.clone() }), "another datacenter");
        assert!(!after(Instance { port: 81, ..first.clone() }), "another address");
        assert!(!after(Instance { id: "b".to_owned(), ..first }), "another id");
    }

    /// Weights of `(share, weight)` by these rules, as thousandths of all.
    fn per_mille(endpoints: &[(u32, u32)]) -> Vec<u64> {
        let mut found = Vec::new();
        for (port, &(share, weight)) in (1_u16..).zip(endpoints) {
            let address = ([10, 0, 0, 1], port).into();
            let key = EndpointKey::address(address);
            found.push(Found {
                key,
                address,
                authority: String::new(),
                weight,
                share,
                tls: None,
                version: HttpVersion::Http1,
            });
        }
        let endpoints = super::endpoints(&by_shares(found), &[], clock::now());
        let weights: Vec<u64> = endpoints.iter().map(|endpoint| u64::from(endpoint.weight())).collect();
        let total: u64 = weights.iter().sum();
        weights.iter().map(|weight| (weight * 1000 + total / 2) / total).collect()
    }

    #[test]
    fn a_share_is_of_each_instance_and_the_others_take_what_is_left_by_their_weights() {
        for (endpoints, expected) in [
            (&[(500, 1), (0, 1), (0, 1)][..], &[50, 475, 475][..]),
            (&[(500, 1), (500, 1), (0, 1)], &[50, 50, 900]),
            (&[(1000, 9), (0, 1), (0, 2)], &[100, 300, 600]),
            // Shares of more than the whole, without other instances.
            (&[(9000, 1), (9000, 1)], &[500, 500]),
            (&[(9000, 1), (6000, 1), (0, 1)], &[600, 400]),
            (&[(1000, 1), (3000, 1)], &[250, 750]),
            (&[(10_000, 1), (0, 1)], &[1000]),
            (&[(1000, 65_535), (0, 65_535), (0, 65_535)], &[100, 450, 450]),
            (&[(500, 1), (0, 100), (0, 100)], &[50, 475, 475]),
            (&[(500, 1), (0, 7), (0, 1)], &[50, 831, 119]),
            (&[(10, 1), (0, 3000), (0, 1)], &[1, 999, 0]),
        ] {
            assert_eq!(per_mille(endpoints), expected, "{endpoints:?}");
        }
    }

    #[test]
    fn of_several_tags_of_an_instance_each_says_what_it_says() {
        let rule = |tag: &str, share: u32, insecure: Option<bool>| TagRule {
            tag: tag.to_owned(),
            share,
            tls: insecure.map(|insecure| UpstreamTls { insecure, ..UpstreamTls::default() }),
            version: None,
        };
        let by_tag = vec![rule("a", 500, None), rule("b", 0, Some(true)), rule("c", 700, Some(false))];
        let subset = SubsetSettings { name: "x".to_owned(), selector: Selector::default(), by_tag };
        for (tags, expected) in [
            (&["a"][..], (500, None)),
            (&["b", "a"], (500, Some(true))),
            (&["c", "b"], (700, Some(false))),
            (&["c", "a"], (500, Some(false))),
            (&[], (0, None)),
        ] {
            let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
            let instance = Instance { tags, ..testing::instance("i", Status::Passing) };
            let (share, tls, _) = subset.rules_of(&instance);
            assert_eq!((share, tls.map(|tls| tls.insecure)), expected);
        }
    }

    #[test]
    fn an_instance_with_several_addresses_has_its_share_once() {
        let mut settings = settings("routes: [{path: /all, service: web}]\n");
        let by_tag =
            vec![TagRule { tag: "canary".to_owned(), share: SHARE_UNITS / 10, tls: None, version: None }];
        settings.services[0].subset =
            Some(SubsetSettings { name: "weighted".to_owned(), selector: Selector::default(), by_tag });
        let named = Instance { address: "web.example".to_owned(), ..instance("a", "canary") };
        let mut world = world([named, instance("b", "v1")]);
        let addresses = ["192.0.2.1:80", "192.0.2.2:80"].map(|text| text.parse().unwrap());
        world.learn_addresses("web.example:80".to_owned(), addresses.to_vec());
        let clusters = compile(&settings, &world, &[]);
        let weights: Vec<u32> = clusters[0].endpoints.iter().map(Endpoint::weight).collect();
        assert_eq!(names(&clusters[0]), ["10.0.0.1:80#b", "192.0.2.1:80#a", "192.0.2.2:80#a"]);
        assert_eq!(weights, [9000, 500, 500]);
    }

    #[test]
    fn what_protects_a_service_outlives_the_last_of_its_subsets() {
        let parts = settings(
            "routes: [{path: /split, service: web, split: {v1: 95, canary: 5}}]\n\
             services: {web: {subsets: {v1: {tag: v1}, canary: {tag: v2}}}}\n",
        );
        let world = world([instance("a", "v1"), instance("b", "v2")]);
        let before = compile(&parts, &world, &[]);
        let whole = compile(&settings("routes: [{path: /all, service: web}]\n"), &world, &before);
        let again = compile(&parts, &world, &whole);
        let state = |cluster: &Arc<Cluster>, at: usize| Arc::as_ptr(cluster.endpoints[at].state());
        assert_eq!([0, 1].map(|at| state(&whole[0], at)), [state(&before[0], 0), state(&before[1], 0)]);
        assert_eq!([0, 1].map(|at| state(&again[at], 0)), [state(&before[0], 0), state(&before[1], 0)]);
        let _slot = whole[0].concurrency.check(&Holder::default()).unwrap();
        assert_eq!((before[1].concurrency.in_flight(), again[0].concurrency.in_flight()), (1, 1));
    }

    #[test]
    fn what_did_not_change_is_the_same_cluster() {
        let settings = settings(SPLIT);
        let before = compile(&settings, &world([instance("a", "v1"), instance("b", "v2")]), &[]);
        let heavier = Instance { weight: 3, ..instance("b", "v2") };
        let after = compile(&settings, &world([instance("a", "v1"), heavier]), &before);
        let same: Vec<bool> = before.iter().zip(&after).map(|(old, new)| Arc::ptr_eq(old, new)).collect();
        assert_eq!(same, [false, true, false]);
    }

    #[test]
    fn every_address_of_a_host_name_is_an_endpoint() {
        let settings = settings("routes: [{path: /all, service: web}]\n");
        let named = Instance { address: "web.example".to_owned(), ..instance("a", "v1") };
        let mut world = world([named]);
        assert!(compile(&settings, &world, &[])[0].endpoints.is_empty());
        let addresses =
            ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"].map(|text| text.parse().unwrap());
        world.learn_addresses("web.example:80".to_owned(), addresses.to_vec());
        let clusters = compile(&settings, &world, &[]);
        assert_eq!(names(&clusters[0]), ["192.0.2.1:80#a", "192.0.2.2:80#a", "[2001:db8::1]:80#a"]);
        assert!(
            clusters[0].endpoints.iter().all(|endpoint| endpoint.authority().as_str() == "web.example:80")
        );
    }
}
