//! A worker's own view of a snapshot: its values for each route, cluster and endpoint, in memory that no other core touches.

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
    headers::{HeaderRules, MadeField, RequestTrailers},
    message::GuardedNames,
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

/// A worker's view of one snapshot: the shared part, and the worker's own values for it.
pub struct LocalSnapshot {
    pub shared: Arc<Snapshot>,
    pub routes: Vec<Rc<LocalRoute>>,
    /// The worker's own response rules of [`RouteTable::unrouted`](super::RouteTable::unrouted).
    pub unrouted_rules: Rc<HeaderRules>,
    pub clusters: Vec<Rc<LocalCluster>>,
    /// The providers of credentials, by the index that routes contain.
    pub providers: Vec<Rc<LocalProvider>>,
    /// What decides about the trailers of requests, which may come when their snapshot is gone.
    pub request_trailers: Rc<RequestTrailers>,
}

/// One worker's values for one route.
pub struct LocalRoute {
    shared: Arc<Route>,
    pub metrics: Rc<RefCell<RouteSample>>,
    /// The worker's own copies of values for messages: a clone of a value counts references, and the count of a shared value
    /// would travel between cores with every request.
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

    /// The compiled route, which all workers share.
    pub fn shared(&self) -> &Route {
        &self.shared
    }

    /// The name of the route's service; empty for a route that redirects.
    pub fn cluster_name(&self) -> &str {
        &self.shared.service
    }
}

/// One worker's values for one cluster.
pub struct LocalCluster {
    pub shared: Arc<Cluster>,
    /// The subset's name in logs; `None`: the cluster is a whole service.
    pub subset: Option<Rc<str>>,
    /// The balancer's position. Each worker has its own, so that picking shares nothing.
    pub cursor: RefCell<Cursor>,
    /// The endpoints, by the index that the cluster has for them.
    pub endpoints: Vec<LocalEndpoint>,
    pub metrics: Rc<RefCell<ClusterSample>>,
}

/// One worker's values for one endpoint.
#[derive(Clone)]
pub struct LocalEndpoint {
    pub state: StateHandle,
    pub pool: Rc<EndpointPool>,
    /// The endpoint's name in logs and metrics.
    pub instance: Rc<str>,
    /// The endpoint's `Host`, as the worker's own value.
    pub authority: HeaderValue,
    pub metrics: Rc<RefCell<InstanceSample>>,
}

/// All pools of a worker. They outlive a snapshot, so an endpoint that stays keeps its connections.
pub type Pools = HashMap<PoolKey, Rc<EndpointPool>, foldhash::fast::RandomState>;

impl LocalSnapshot {
    /// Builds the worker's view. Routes and clusters that did not change are taken over from `previous`.
    pub fn build(
        shared: Arc<Snapshot>,
        previous: Option<&Self>,
        pools: &mut Pools,
        metrics: &Metrics,
        own: (&Rc<Clock>, &Rc<Desk>),
        rng: &mut SmallRng,
    ) -> Self {
        let (routes, unrouted_rules, request_trailers) = match previous {
            Some(old) if Arc::ptr_eq(&old.shared.table, &shared.table) => {
                (old.routes.clone(), Rc::clone(&old.unrouted_rules), Rc::clone(&old.request_trailers))
            }
            _ => {
                let mut rules = OwnRules::default();
                let unrouted = rules.of(&shared.table.unrouted.headers.response);
                let local = |route| Rc::new(LocalRoute::new(route, &mut rules, metrics));
                let (names, listen) = (GuardedNames::clone(&shared.table.names), &shared.table.listen);
                let trailers = RequestTrailers::new(names, listen.max_headers, listen.max_header_bytes);
                (shared.table.routes.iter().map(local).collect(), unrouted, Rc::new(trailers))
            }
        };
        let old = previous.map_or(&[][..], |old| &old.clusters);
        let clusters = shared.clusters.iter().enumerate().map(|(index, cluster)| {
            let is_it = |known: &&Rc<LocalCluster>| Arc::ptr_eq(&known.shared, cluster);
            // Usually a cluster has the same index as before.
            let known = old.get(index).filter(is_it).or_else(|| old.iter().find(is_it));
            known.map_or_else(|| local_cluster(cluster, pools, metrics, own, rng), Rc::clone)
        });
        let clusters = clusters.collect();
        let providers = match previous {
            Some(old) if old.shared.auth_generation == shared.auth_generation => old.providers.clone(),
            _ => local_providers(&shared),
        };
        let local = Self { shared, routes, unrouted_rules, clusters, providers, request_trailers };
        local.drop_unused(old, pools);
        local
    }

    /// The providers whose credentials the route accepts.
    pub fn providers_of(&self, route: &Route) -> impl Iterator<Item = &LocalProvider> {
        route.policies.auth.iter().filter_map(|&at| self.providers.get(at)).map(|provider| &**provider)
    }

    /// Removes the pools of endpoints that only replaced clusters had. Their idle connections are closed, and connections in
    /// use finish their request.
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

/// The worker's copies of header rules. Routes that share rules share a copy.
#[derive(Default)]
struct OwnRules {
    /// Copies by the address of the original, which lives as long as its routes.
    copies: HashMap<*const HeaderRules, Rc<HeaderRules>, foldhash::fast::RandomState>,
}

impl OwnRules {
    fn of(&mut self, rules: &Arc<HeaderRules>) -> Rc<HeaderRules> {
        let copy = self.copies.entry(Arc::as_ptr(rules)).or_insert_with(|| Rc::new(own_rules(rules)));
        Rc::clone(copy)
    }
}

/// Copies rules into memory of their own.
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
    // A valid name stays valid, so the fallback is never taken.
    HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone())
}

/// Copies a value into memory of its own, so that only one core counts its references.
fn own_value(value: &HeaderValue) -> HeaderValue {
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
    let service: Rc<str> = Rc::from(cluster.settings.name.as_str());
    let endpoints = cluster.endpoints.iter().map(|endpoint| {
        let tls = endpoint.tls().map(|tls| EndpointTls::new(Arc::clone(tls), endpoint.authority()));
        let address = endpoint.address();
        let version = endpoint.version();
        let proxy_protocol = cluster.settings.proxy_protocol;
        let key = EndpointPool::key_of((&service, address), (tls.as_ref(), version, proxy_protocol));
        let pool = pools.entry(key).or_insert_with(|| {
            let own = (Rc::clone(clock), Rc::clone(&metrics.large_reads));
            let destination = (Rc::clone(&service), address);
            let pool = EndpointPool::new(
                destination,
                (tls, version, proxy_protocol),
                cluster.settings.policies.pool.clone(),
                own,
            );
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
                "version: 1\nroutes: [{{path: /, service: a}}, {{path: /b, service: b}}]\n\
                 services: {{a: {{hosts: [{hosts}]}}, b: {{hosts: [\"192.0.2.1:1\"]}}}}\n"
            );
            let loaded =
                crate::config::parse("routes.yaml", &text, std::path::Path::new(""), &|_| None).unwrap();
            let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, crate::clock::now()));
            Arc::new(
                crate::gateway::first::first_snapshot(
                    &loaded,
                    &mut crate::control::declared::DeclaredRoutes::default(),
                    &crate::gateway::first::Known { instances: None, keys: &KeptKeys::default() },
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
        // The other service has settings of its own, and so a pool of its own at the same address.
        assert_eq!(ports, [1, 1, 2]);
        let (second, ports) = build("\"192.0.2.1:1\", \"192.0.2.1:3\"", Some(&first));
        assert_eq!(ports, [1, 1, 3]);
        let pool = |local: &LocalSnapshot| Rc::clone(&local.clusters[0].endpoints[0].pool);
        assert!(Rc::ptr_eq(&pool(&first), &pool(&second)));
    }
}
