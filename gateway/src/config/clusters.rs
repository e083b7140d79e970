//! Settings and the world → clusters: which endpoints a service has now, and what they keep from before. Pure.
//!
//! An endpoint stays the same as long as the instance behind it and its address do: then a change of its weight, its
//! status or its neighbours costs it neither its breaker's memory nor its requests in flight nor its connections.

use std::{cell::OnceCell, collections::HashMap, net::SocketAddr, sync::Arc, time::Instant};

use super::settings::{EndpointSource, ServiceSettings, Settings};
use crate::{
    clock,
    control::{selection, world::World},
    policy::{circuit_breaker::CircuitBreaker, concurrency::ConcurrencyLimit, retry::RetryBudget},
    upstream::{
        cluster::Cluster,
        endpoint::{Endpoint, EndpointKey, EndpointState},
        load_balancer::LoadBalancer,
    },
};

/// By the index of the service. Clusters that did not change are the same `Arc` as in `previous`.
pub(super) fn compile(settings: &Settings, world: &World, previous: &[Arc<Cluster>]) -> Vec<Arc<Cluster>> {
    let now = clock::now();
    let known = Known { clusters: previous, by_name: OnceCell::new() };
    let has_subsets = settings.services.iter().any(|service| service.subset.is_some());
    let shares = budget_shares(settings);
    let mut made: Vec<Arc<Cluster>> = Vec::with_capacity(settings.services.len());
    for (index, service) in settings.services.iter().enumerate() {
        let share = shares.get(service.name.as_str()).copied().unwrap_or(RETRY_BUDGET_DEFAULT);
        let old = known.find(index, &service.full_name());
        let target = world.datacenter_of(service);
        let found = found(service, world, target);
        let unchanged = old.filter(|old| {
            old.settings.same_as(service)
                && old.retry_budget.matches(share)
                && old.target == target
                && is_same(old, &found)
        });
        let cluster = match unchanged {
            Some(old) => Arc::clone(old),
            None => {
                let mut relatives: Vec<&Cluster> = old.map(|old| &**old).into_iter().collect();
                if has_subsets {
                    let others = previous.iter().chain(&made).map(|cluster| &**cluster);
                    relatives.extend(others.filter(|cluster| cluster.settings.name == service.name));
                }
                Arc::new(cluster(service, share, (target, &found), &relatives, now))
            }
        };
        made.push(cluster);
    }
    made
}

/// The previous snapshot's clusters, by name.
struct Known<'a> {
    clusters: &'a [Arc<Cluster>],
    /// Made once, and only if a service moved: as a rule a name is where it was.
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

/// An endpoint to be: key, address, authority, weight.
struct Found {
    key: EndpointKey,
    address: SocketAddr,
    authority: String,
    weight: u32,
}

/// What can be routed to, in a stable order. A host name with several addresses is as many endpoints, each with the
/// instance's weight.
fn found(service: &ServiceSettings, world: &World, target: usize) -> Vec<Found> {
    let addresses = |name: &str| match name.parse::<SocketAddr>() {
        Ok(address) => vec![address],
        Err(_) => world.resolved.get(name).cloned().unwrap_or_default(),
    };
    let mut found = Vec::new();
    match &service.source {
        EndpointSource::Hosts(hosts) => {
            for host in hosts {
                for address in addresses(host) {
                    let key = EndpointKey::address(address);
                    found.push(Found { key, address, authority: host.clone(), weight: 1 });
                }
            }
        }
        EndpointSource::Consul(source) => {
            for instance in selection::routable(service, source, world, target) {
                let authority = selection::host_port(source, instance);
                for address in addresses(&authority) {
                    let key = EndpointKey::instance(address, instance.identity());
                    found.push(Found { key, address, authority: authority.clone(), weight: instance.weight });
                }
            }
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    // The same instance, listed twice.
    found.dedup_by(|a, b| a.key.as_str() == b.key.as_str());
    found
}

fn is_same(old: &Cluster, found: &[Found]) -> bool {
    old.endpoints.len() == found.len()
        && old.endpoints.iter().zip(found).all(|(old, new)| {
            *old.key() == new.key && old.weight() == new.weight && old.authority() == new.authority
        })
}

/// `relatives`: the clusters of the same service, of before and of this snapshot. They agree on what they share; the
/// first one that knows something is asked.
fn cluster(
    service: &ServiceSettings,
    budget_share: f32,
    (target, found): (usize, &[Found]),
    relatives: &[&Cluster],
    now: Instant,
) -> Cluster {
    let mut known: HashMap<&EndpointKey, &Endpoint> = HashMap::new();
    for endpoint in relatives.iter().flat_map(|cluster| &cluster.endpoints) {
        known.entry(endpoint.key()).or_insert(endpoint);
    }
    let endpoints: Vec<Endpoint> = found
        .iter()
        .map(|new| {
            let state = known
                .get(&new.key)
                .map_or_else(|| Arc::new(EndpointState::new(now)), |old| Arc::clone(old.state()));
            Endpoint::new(new.key.clone(), new.address, &new.authority, new.weight, state)
        })
        .collect();
    let limit = relatives.first().map(|cluster| &cluster.concurrency);
    let budget = relatives.iter().map(|cluster| &cluster.retry_budget).find(|b| b.matches(budget_share));
    Cluster {
        name: Arc::from(service.full_name()),
        balancer: LoadBalancer::compile(service.balance, &endpoints),
        endpoints,
        breaker: service.breaker.as_ref().map(CircuitBreaker::compile),
        concurrency: ConcurrencyLimit::compile(service.max_inflight, limit),
        retry_budget: budget.map_or_else(|| Arc::new(RetryBudget::new(budget_share)), Arc::clone),
        target,
        settings: service.clone(),
    }
}

/// By name of the service: its routes share its budget, and the most careful of them sets it.
fn budget_shares(settings: &Settings) -> HashMap<&str, f32> {
    let mut shares: HashMap<&str, f32> = HashMap::new();
    for route in &settings.routes {
        if let Some(service) = settings.services.get(route.service) {
            let share = shares.entry(&service.name).or_insert(route.retry.budget);
            *share = share.min(route.retry.budget);
        }
    }
    shares
}

/// Share of requests that retries may add, where no route of a service says otherwise.
const RETRY_BUDGET_DEFAULT: f32 = 0.2;
