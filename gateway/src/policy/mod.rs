//! The policies: one file or folder each, all of one shape.
//!
//! [`of_route`] defines a policy of a route, [`of_service`] a policy of a service. The lists below are all that the rest of the
//! gateway uses: the fields that a route or a service may have, and the reading, merging, checking, compiling and showing of
//! policies, are derived from them. A policy acts where [`forward`](crate::request) calls its verb: the order of evaluation is
//! code, not the order of the list.

pub(crate) mod access_log;
pub(crate) mod allow_in_path;
pub(crate) mod auth;
pub mod balance;
pub(crate) mod body_limit;
pub(crate) mod body_start;
pub mod circuit_breaker;
pub mod clients;
pub mod concurrency;
pub mod cors;
pub(crate) mod gate;
pub mod headers;
pub mod limit_check;
pub mod limit_key;
pub(crate) mod max_inflight;
pub(crate) mod max_tunnels;
pub(crate) mod of_route;
pub(crate) mod of_service;
pub mod outlier;
pub mod pool;
pub mod rate_limit;
pub(crate) mod rate_limits;
pub mod redirect;
pub mod require;
pub mod retry;
pub mod rewrite;
pub(crate) mod spelling;
pub mod timeout;
pub(crate) mod upgrade;

use std::fmt;

use self::{
    of_route::{Asked, BadOption, Check, Compile, RoutePolicy, Shown, View, joined, length, route_policies},
    of_service::{ServicePolicy, service_policies},
};
use crate::syntax::{diagnostics::Diagnostics, fields::Fields, hidden::Hidden};

// Each line has the name in `Written` and `Policies`, and the policy. The order is that of evaluation, from the choice of the route
// to the log.
route_policies! {
    spelling: crate::router::reading::Spelling,
    allow_in_path: crate::admission::Oddities,
    clients: clients::ClientRule,
    cors: cors::Cors,
    auth: auth::Access,
    require: require::Requirement,
    rate_limit: rate_limit::RateLimit,
    redirect: redirect::Redirect,
    upgrade: upgrade::Upgrade,
    body_limit: body_limit::BodyLimit,
    rewrite: rewrite::Rewrite,
    headers: headers::Headers,
    timeout: timeout::Timeouts,
    body: body_start::BodyStart,
    retry: retry::Retry,
    access_log: access_log::LogThis,
}

// Each line has the name in `ServicePolicies`, and the policy.
service_policies! {
    balance: balance::Balance,
    breaker: circuit_breaker::CircuitBreaker,
    outlier: outlier::OutlierDetector,
    max_inflight: max_inflight::MaxInflight,
    max_tunnels: max_tunnels::MaxTunnels,
    pool: pool::PoolSettings,
}

/// Policies that the format reserves and this version does not have yet.
pub(crate) const LATER: &[&str] = &["compress", "buffer"];
