//! A cluster: the equivalent endpoints of one service, with one balancer and the protections around it.

use std::sync::Arc;

use super::{endpoint::Endpoint, load_balancer::LoadBalancer};
use crate::{
    config::settings::ServiceSettings,
    policy::{circuit_breaker::CircuitBreaker, concurrency::ConcurrencyLimit, retry::RetryBudget},
};

/// What one `services.<name>` entry compiles to, with the endpoints known now. Immutable: a change of the
/// registry makes a new one, and what must survive (in-flight counts, breaker state, budgets) is carried over.
pub struct Cluster {
    pub name: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub balancer: LoadBalancer,
    /// `None`: switched off.
    pub breaker: Option<CircuitBreaker>,
    pub concurrency: ConcurrencyLimit,
    pub retry_budget: Arc<RetryBudget>,
    /// What this was compiled from.
    pub settings: ServiceSettings,
}
