//! A cluster: the equivalent endpoints of one service, with one balancer and the protections around it.

use std::{sync::Arc, time::Instant};

use millgate_registry::{Instance, WatchTarget};

use super::{endpoint::Endpoint, load_balancer::LoadBalancer};
use crate::{
    config::settings::ServiceSettings,
    policy::{circuit_breaker::CircuitBreaker, concurrency::ConcurrencyLimit, retry::RetryBudget},
};

/// What one `services.<name>` entry, or one of its subsets, compiles to, with the endpoints known now. Immutable: a change of the
/// registry makes a new one, and what must survive (in-flight counts, breaker state, budgets) is carried over.
///
/// The subsets of a service are clusters of their own, so that each has its balancer and its numbers. What protects the
/// service (an endpoint's state, the concurrency limit, the retry budget) is the same for all of them.
pub struct Cluster {
    /// `products`, or `products/canary` for a subset.
    pub name: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub balancer: LoadBalancer,
    /// `None`: switched off.
    pub breaker: Option<CircuitBreaker>,
    pub concurrency: ConcurrencyLimit,
    pub retry_budget: Arc<RetryBudget>,
    /// Which of the source's targets serves: 0 unless requests go to a datacenter of `failover`.
    pub target: usize,
    /// What this was compiled from.
    pub settings: ServiceSettings,
    pub basis: Basis,
}

/// What was known when a cluster was compiled. While it is the same, so is the cluster.
#[derive(Default)]
pub struct Basis {
    /// The registry's instances, the same list and not only an equal one.
    pub instances: Option<Arc<[Instance]>>,
    /// Counts the changes of resolved names.
    pub names: u64,
    /// Counts the changes of what TLS is spoken with.
    pub tls: u64,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.instances, &other.instances) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same && self.names == other.names && self.tls == other.tls
    }
}

impl Cluster {
    /// Is there an endpoint whose breaker lets a request through?
    pub fn can_be_asked(&self, now: Instant) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.state().breaker().is_routable(now))
    }

    /// What is watched in the registry for the endpoints in use; `None` for fixed hosts.
    pub fn watched(&self) -> Option<&WatchTarget> {
        self.settings.source.targets().get(self.target)
    }
}
