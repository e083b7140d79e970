//! A cluster: the equivalent endpoints of one service, with one balancer and the protections around them.

use std::{sync::Arc, time::Instant};

use millgate_registry::{Instance, WatchTarget};

use super::{endpoint::Endpoint, health::Health, load_balancer::LoadBalancer, settings::ServiceSettings};
use crate::policy::{
    circuit_breaker::CircuitBreaker, concurrency::ConcurrencyLimit, max_tunnels::TunnelLimit,
    outlier::OutlierDetector, retry::RetryBudget,
};

/// The compiled form of one `services.<name>` entry, or of one of its subsets, with the endpoints that are known now. It is
/// immutable: a change of the registry makes a new one, and state that must survive (in-flight counts, breaker state,
/// budgets) is carried over.
///
/// Each subset of a service is a cluster of its own, with its balancer and its numbers. The protections of a service (an
/// endpoint's state, the concurrency limit, the retry budget) are shared by all its subsets.
pub struct Cluster {
    /// `products`, or `products/canary` for a subset.
    pub name: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub balancer: LoadBalancer,
    /// `None`: switched off.
    pub breaker: Option<CircuitBreaker>,
    /// `None`: switched off.
    pub outlier: Option<OutlierDetector>,
    pub concurrency: ConcurrencyLimit,
    pub tunnels: TunnelLimit,
    pub retry_budget: Arc<RetryBudget>,
    /// The index of the source's target that serves: 0 unless requests go to a datacenter of `failover`.
    pub target: usize,
    /// The reason that there is no endpoint, while there is none.
    pub absence: Absence,
    /// The settings from which this was compiled.
    pub settings: ServiceSettings,
    /// The other inputs from which this was compiled.
    pub basis: Basis,
}

/// The reason that no endpoint of a service can take a request, as a sentence for clients and the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub enum Absence {
    /// Each endpoint was tried, or is left out because of its failures.
    #[default]
    #[error("no instance of the service can take the request")]
    Tried,
    #[error("the registry has not answered for this service yet")]
    NotHeard,
    /// The ACL token lacks rights.
    #[error("the gateway may not see the instances of the service in the registry")]
    Hidden,
    #[error("no healthy instance of the service is registered")]
    NotRegistered,
    #[error("none of the {registered} registered instances of the service is healthy")]
    Unhealthy { registered: usize },
    #[error(
        "none of the {healthy} healthy instances has the tags and metadata that the service's entry asks for"
    )]
    NotSelected { healthy: usize },
    #[error("subset `{subset}` of the service matches 0 of {healthy} healthy instances")]
    SubsetEmpty { subset: Arc<str>, healthy: usize },
    #[error("no address is known of the host names of the service")]
    NotResolved,
}

/// The inputs of a cluster other than its settings. As long as they are the same, the cluster is kept.
#[derive(Default)]
pub struct Basis {
    /// The registry's instances. Two are the same only if they are one list in memory.
    pub instances: Option<Arc<[Instance]>>,
    /// The number of changes of the resolved names.
    pub names: u64,
    /// The number of changes of the TLS configuration.
    pub tls: u64,
    /// The registry may have left out instances.
    pub hidden: bool,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.instances, &other.instances) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same && self.names == other.names && self.tls == other.tls && self.hidden == other.hidden
    }
}

impl Cluster {
    /// The protections that keep requests from its endpoints.
    pub fn health(&self) -> Health<'_> {
        Health { breaker: self.breaker.as_ref(), outlier: self.outlier.as_ref() }
    }

    /// Whether some endpoint takes requests.
    pub fn can_be_asked(&self, now: Instant) -> bool {
        let health = self.health();
        self.endpoints
            .iter()
            .any(|endpoint| !health.is_ejected(endpoint, now) && health.is_closed(endpoint, now))
    }

    /// The number of endpoints that are ejected now, without the one at `except`.
    pub fn ejected(&self, except: usize) -> usize {
        let others = self.others(except);
        others.filter(|endpoint| self.outlier.is_some() && !endpoint.state().outlier().is_in()).count()
    }

    /// The number of endpoints that are ejected or whose breaker is not closed, without the one at `except`.
    pub fn out(&self, except: usize, now: Instant) -> usize {
        let health = self.health();
        self.others(except).filter(|endpoint| health.is_out(endpoint, now)).count()
    }

    fn others(&self, except: usize) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().enumerate().filter(move |(at, _)| *at != except).map(|(_, endpoint)| endpoint)
    }

    /// The registry's watch for the endpoints in use. `None` for fixed hosts.
    pub fn watched(&self) -> Option<&WatchTarget> {
        self.settings.source.targets().get(self.target)
    }
}
