//! A cluster: the equivalent endpoints of one service, with one balancer and the protections around it.

use std::{sync::Arc, time::Instant};

use millgate_registry::{Instance, WatchTarget};

use super::{endpoint::Endpoint, health::Health, load_balancer::LoadBalancer, settings::ServiceSettings};
use crate::policy::{
    circuit_breaker::CircuitBreaker, concurrency::ConcurrencyLimit, outlier::OutlierDetector,
    retry::RetryBudget,
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
    /// `None`: switched off.
    pub outlier: Option<OutlierDetector>,
    pub concurrency: ConcurrencyLimit,
    pub retry_budget: Arc<RetryBudget>,
    /// Which of the source's targets serves: 0 unless requests go to a datacenter of `failover`.
    pub target: usize,
    /// Why there is no endpoint, while there is none.
    pub absence: Absence,
    /// What this was compiled from.
    pub settings: ServiceSettings,
    pub basis: Basis,
}

/// Why no endpoint of a service can be asked, as a sentence for clients and the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub enum Absence {
    /// Each was tried, or is left out for its failures.
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

/// What was known when a cluster was compiled. While it is the same, so is the cluster.
#[derive(Default)]
pub struct Basis {
    /// The registry's instances, the same list and not only an equal one.
    pub instances: Option<Arc<[Instance]>>,
    /// Counts the changes of resolved names.
    pub names: u64,
    /// Counts the changes of what TLS is spoken with.
    pub tls: u64,
    /// The registry may hide instances.
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
    /// What keeps requests from its endpoints.
    pub fn health(&self) -> Health<'_> {
        Health { breaker: self.breaker.as_ref(), outlier: self.outlier.as_ref() }
    }

    /// Is there an endpoint that takes requests?
    pub fn can_be_asked(&self, now: Instant) -> bool {
        let health = self.health();
        self.endpoints
            .iter()
            .any(|endpoint| !health.is_ejected(endpoint, now) && health.is_closed(endpoint, now))
    }

    /// Endpoints that are ejected now, without the one at `except`.
    pub fn ejected(&self, except: usize) -> usize {
        let others = self.others(except);
        others.filter(|endpoint| self.outlier.is_some() && !endpoint.state().outlier().is_in()).count()
    }

    /// Endpoints that are ejected or whose breaker is not closed, without the one at `except`.
    pub fn out(&self, except: usize, now: Instant) -> usize {
        let health = self.health();
        self.others(except).filter(|endpoint| health.is_out(endpoint, now)).count()
    }

    fn others(&self, except: usize) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().enumerate().filter(move |(at, _)| *at != except).map(|(_, endpoint)| endpoint)
    }

    /// What is watched in the registry for the endpoints in use; `None` for fixed hosts.
    pub fn watched(&self) -> Option<&WatchTarget> {
        self.settings.source.targets().get(self.target)
    }
}
