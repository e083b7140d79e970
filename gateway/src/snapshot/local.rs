//! A worker's own view of a snapshot: what it has for each route, cluster and endpoint, in memory that no other core touches.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderName, HeaderValue};
use rand::rngs::SmallRng;

use super::{Route, Snapshot};
use crate::{
    auth::provider::LocalProvider,
    clock::Clock,
    file_account::Desk,
    headers::{HeaderRules, MadeField},
    metrics::{ClusterSample, InstanceSample, Metrics, RouteSample},
    policy::limit_check::LocalLimit,
    upstream::{
        cluster::Cluster,
        endpoint::StateHandle,
        load_balancer::Cursor,
        pool::{EndpointPool, PoolKey},
        tls::EndpointTls,
    },
};

/// A worker's view of one snapshot: the shared part, and what only this worker has for it.
pub struct LocalSnapshot {
    pub shared: Arc<Snapshot>,
    pub routes: Vec<Rc<LocalRoute>>,
    /// Rules for responses of [`RouteTable::unrouted`](super::RouteTable::unrouted), as those of the routes.
    pub unrouted_rules: Rc<HeaderRules>,
    pub clusters: Vec<Rc<LocalCluster>>,
    /// By the index that routes hold.
    pub providers: Vec<Rc<LocalProvider>>,
}

pub struct LocalRoute {
    shared: Arc<Route>,
    pub metrics: Rc<RefCell<RouteSample>>,
    /// Values that go into messages, as this worker's own: a clone of one counts references, and the count of a value
    /// that all workers had in common would travel between their cores with every request.
    pub request_rules: Rc<HeaderRules>,
    pub response_rules: Rc<HeaderRules>,
    pub limits: Box<[LocalLimit]>,
}

impl LocalRoute {
    fn new(route: &Arc<Route>, rules: &mut OwnRules, metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.route(&route.name, &route.service),
            request_rules: rules.of(&route.policies.headers.request),
            response_rules: rules.of(&route.policies.headers.response),
            limits: route
                .policies
                .rate_limit
                .iter()
                .map(|limit| LocalLimit::new(limit, own_value(limit.policy_value())))
                .collect(),
            shared: Arc::clone(route),
        }
    }

    pub fn shared(&self) -> &Route {
        &self.shared
    }

    pub fn cluster_name(&self) -> &str {
        &self.shared.service
    }
}

pub struct LocalCluster {
    pub shared: Arc<Cluster>,
    /// Its name in logs; `None`: the whole service.
    pub subset: Option<Rc<str>>,
    /// The balancer's position: per worker, so that picking shares nothing.
    pub cursor: RefCell<Cursor>,
    /// By endpoint index.
    pub endpoints: Vec<LocalEndpoint>,
    pub metrics: Rc<RefCell<ClusterSample>>,
}

/// What this worker has for one endpoint.
#[derive(Clone)]
pub struct LocalEndpoint {
    pub state: StateHandle,
    pub pool: Rc<EndpointPool>,
    /// Its name in logs.
    pub instance: Rc<str>,
    /// Its name in requests, as a value of this worker's own.
    pub authority: HeaderValue,
    pub metrics: Rc<RefCell<InstanceSample>>,
}

/// All pools of a worker. They outlive a snapshot: an endpoint that stays keeps its connections.
pub type Pools = HashMap<PoolKey, Rc<EndpointPool>, foldhash::fast::RandomState>;

impl LocalSnapshot {
    /// Builds the worker's view, taking over what `previous` has for routes and clusters that did not change.
    pub fn build(
        shared: Arc<Snapshot>,
        previous: Option<&Self>,
        pools: &mut Pools,
        metrics: &Metrics,
        own: (&Rc<Clock>, &Rc<Desk>),
        rng: &mut SmallRng,
    ) -> Self {
        let (routes, unrouted_rules) = match previous {
            Some(old) if Arc::ptr_eq(&old.shared.table, &shared.table) => {
                (old.routes.clone(), Rc::clone(&old.unrouted_rules))
            }
            _ => {
                let mut rules = OwnRules::default();
                let unrouted = rules.of(&shared.table.unrouted.headers.response);
                let local = |route| Rc::new(LocalRoute::new(route, &mut rules, metrics));
                (shared.table.routes.iter().map(local).collect(), unrouted)
            }
        };
        let old = previous.map_or(&[][..], |old| &old.clusters);
        let clusters = shared.clusters.iter().enumerate().map(|(index, cluster)| {
            let is_it = |known: &&Rc<LocalCluster>| Arc::ptr_eq(&known.shared, cluster);
            // As a rule a cluster is where it was.
            let known = old.get(index).filter(is_it).or_else(|| old.iter().find(is_it));
            known.map_or_else(|| local_cluster(cluster, pools, metrics, own, rng), Rc::clone)
        });
        let clusters = clusters.collect();
        let providers = match previous {
            Some(old) if old.shared.auth_generation == shared.auth_generation => old.providers.clone(),
            _ => local_providers(&shared),
        };
        let local = Self { shared, routes, unrouted_rules, clusters, providers };
        local.drop_unused(old, pools);
        local
    }

    /// Those that vouch for the clients of the route.
    pub fn providers_of(&self, route: &Route) -> impl Iterator<Item = &LocalProvider> {
        route.policies.auth.iter().filter_map(|&at| self.providers.get(at)).map(|provider| &**provider)
    }

    /// Forgets the pools of endpoints that are gone with a cluster of before: their idle connections close, those in
    /// use finish.
    fn drop_unused(&self, old: &[Rc<LocalCluster>], pools: &mut Pools) {
        let is_kept = |index: usize, cluster: &Rc<LocalCluster>| {
            self.clusters.get(index).is_some_and(|new| Rc::ptr_eq(new, cluster))
        };
        let replaced = old.iter().enumerate().filter(|(index, cluster)| !is_kept(*index, cluster));
        let replaced = replaced.flat_map(|(_, cluster)| &cluster.endpoints);
        let mut gone: HashSet<PoolKey, foldhash::fast::RandomState> =
            replaced.map(|endpoint| endpoint.pool.key()).collect();
        for endpoint in self.clusters.iter().flat_map(|cluster| &cluster.endpoints) {
            if gone.is_empty() {
                return;
            }
            gone.remove(&endpoint.pool.key());
        }
        for key in gone {
            if let Some(pool) = pools.remove(&key) {
                pool.clear();
            }
        }
    }
}

fn local_providers(shared: &Snapshot) -> Vec<Rc<LocalProvider>> {
    let all = shared.table.auth.iter().zip(&shared.keys);
    all.map(|(provider, keys)| Rc::new(LocalProvider::new(Arc::clone(provider), keys.clone()))).collect()
}

/// This worker's copies of rules: one of each, as the routes share them.
#[derive(Default)]
struct OwnRules {
    /// By the address of the original, which lives as long as its routes.
    copies: HashMap<*const HeaderRules, Rc<HeaderRules>, foldhash::fast::RandomState>,
}

impl OwnRules {
    fn of(&mut self, rules: &Arc<HeaderRules>) -> Rc<HeaderRules> {
        let copy = self.copies.entry(Arc::as_ptr(rules)).or_insert_with(|| Rc::new(own_rules(rules)));
        Rc::clone(copy)
    }
}

/// The same rules in memory of their own.
fn own_rules(rules: &HeaderRules) -> HeaderRules {
    let own = |fields: &[(HeaderName, HeaderValue)]| {
        fields.iter().map(|(name, value)| (own_name(name), own_value(value))).collect()
    };
    HeaderRules {
        set: own(&rules.set),
        add: own(&rules.add),
        remove: rules.remove.iter().map(own_name).collect(),
        made: rules
            .made
            .iter()
            .map(|field| MadeField { name: own_name(&field.name), ..field.clone() })
            .collect(),
    }
}

fn own_name(name: &HeaderName) -> HeaderName {
    // What was a name is one again; the fallback is never taken.
    HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone())
}

/// The same value in memory of its own: its count is touched by one core only.
pub(crate) fn own_value(value: &HeaderValue) -> HeaderValue {
    let mut own = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    own.set_sensitive(value.is_sensitive());
    own
}

fn local_cluster(
    cluster: &Arc<Cluster>,
    pools: &mut Pools,
    metrics: &Metrics,
    (clock, files): (&Rc<Clock>, &Rc<Desk>),
    rng: &mut SmallRng,
) -> Rc<LocalCluster> {
    let endpoints = cluster.endpoints.iter().map(|endpoint| {
        let tls = endpoint.tls().map(|tls| EndpointTls::new(Arc::clone(tls), endpoint.authority()));
        let address = endpoint.address();
        let pool = pools.entry(EndpointPool::key_of(address, tls.as_ref())).or_insert_with(|| {
            let own = (Rc::clone(clock), Rc::clone(&metrics.large_reads));
            let pool = EndpointPool::new(address, tls, cluster.settings.policies.pool.clone(), own);
            Rc::new(pool.within(Rc::clone(files)))
        });
        pool.configure(&cluster.settings.policies.pool);
        LocalEndpoint {
            state: StateHandle::new(endpoint.state()),
            pool: Rc::clone(pool),
            instance: Rc::from(endpoint.key().as_str()),
            authority: own_value(endpoint.authority().as_value()),
            metrics: metrics.instance(&cluster.name, endpoint.key().as_str()),
        }
    });
    Rc::new(LocalCluster {
        endpoints: endpoints.collect(),
        cursor: RefCell::new(Cursor::new(rng)),
        metrics: metrics.cluster(&cluster.name),
        subset: cluster.settings.subset.as_ref().map(|subset| Rc::from(subset.name.as_str())),
        shared: Arc::clone(cluster),
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::{
        control::keys::kept::KeptKeys,
        file_account::{Budget, FileAccount},
        policy::rate_limit::KeyBudget,
    };

    #[test]
    fn a_workers_copy_of_a_value_shares_no_memory_with_it() {
        let mut value = HeaderValue::try_from("max-age=60".to_owned()).unwrap();
        value.set_sensitive(true);
        let own = own_value(&value);
        assert_eq!((&own, own.is_sensitive()), (&value, true));
        assert_ne!(own.as_bytes().as_ptr(), value.as_bytes().as_ptr());
        let name = HeaderName::from_bytes(b"x-made-at-run-time").unwrap();
        assert_eq!(own_name(&name), name);
        assert_ne!(own_name(&name).as_str().as_ptr(), name.as_str().as_ptr());
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_pool_and_one_that_goes_loses_it() {
        let snapshot = |hosts: &str| {
            let text = format!(
                "version: 1\nroutes: [{{path: /, service: a}}]\nservices: {{a: {{hosts: [{hosts}]}}}}\n"
            );
            let loaded =
                crate::config::parse("routes.yaml", &text, std::path::Path::new(""), &|_| None).unwrap();
            let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, crate::clock::now()));
            Arc::new(
                crate::gateway::first_snapshot(
                    &loaded,
                    &mut crate::control::declared::DeclaredRoutes::default(),
                    &crate::gateway::Known { instances: None, keys: &KeptKeys::default() },
                    &budget,
                )
                .unwrap()
                .1,
            )
        };
        let (metrics, clock) = (Metrics::default(), Rc::new(Clock::new()));
        let budget = Budget { limit: 64, reserve: 0, clients: 32, upstreams: 32 };
        let files = Rc::new(Desk { account: FileAccount::new(budget, 1), worker: 0 });
        let (mut pools, mut rng) = (Pools::default(), SmallRng::seed_from_u64(1));
        let mut build = |hosts: &str, previous: Option<&LocalSnapshot>| {
            let local = LocalSnapshot::build(
                snapshot(hosts),
                previous,
                &mut pools,
                &metrics,
                (&clock, &files),
                &mut rng,
            );
            let mut ports: Vec<u16> = pools.values().map(|pool| pool.address.port()).collect();
            ports.sort_unstable();
            (local, ports)
        };
        let (first, ports) = build("\"192.0.2.1:1\", \"192.0.2.1:2\"", None);
        assert_eq!(ports, [1, 2]);
        let (second, ports) = build("\"192.0.2.1:1\", \"192.0.2.1:3\"", Some(&first));
        assert_eq!(ports, [1, 3]);
        let pool = |local: &LocalSnapshot| Rc::clone(&local.clusters[0].endpoints[0].pool);
        assert!(Rc::ptr_eq(&pool(&first), &pool(&second)));
    }
}
