//! The policies: one file or folder each, all of one shape.
//!
//! [`of_route`] says what a policy of a route is. The list below is all that the rest of the gateway knows of them: which fields a
//! route may have, how they are read, merged, checked, compiled and shown is derived from it. A policy acts where
//! [`forward`](crate::proxy) calls its verb: the order is code, and not the order of the list.

pub(crate) mod auth;
pub mod circuit_breaker;
pub mod clients;
pub mod concurrency;
pub mod jwt;
pub mod limit_check;
pub mod limit_key;
pub(crate) mod of_route;
pub mod outlier;
pub mod rate_limit;
pub mod redirect;
pub mod require;
pub mod retry;
pub mod timeout;

use self::of_route::{Asked, Check, Compile, RoutePolicy, Shown, View, joined, length, route_policies};
use crate::config::{diagnostics::Diagnostics, fields::Fields, hidden::Hidden};

route_policies! {
    clients: clients::ClientRule,
    auth: auth::Access,
    require: require::Requirement,
    rate_limit: rate_limit::RateLimit,
    redirect: redirect::Redirect,
    timeout: timeout::Timeouts,
    retry: retry::Retry,
}

/// Policies of the format that this version does not have yet.
pub(crate) const LATER: &[&str] = &["cors", "compress", "upgrade", "buffer"];
