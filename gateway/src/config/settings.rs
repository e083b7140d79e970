//! Effective settings: what `routes.yaml` means once defaults, policies and routes are merged.
//!
//! `raw` mirrors the file, `settings` is its meaning, the snapshot is what workers run. Everything here is
//! plain data: units are typed, names are checked, every field has its value. `config::resolve` is the only
//! producer, `compile` the only consumer. Nothing here reads a file, a clock or the network.

mod auto_routes;
mod consul;
mod route;

use std::{collections::BTreeSet, time::Duration};

pub use self::{
    auto_routes::AutoRoutesSettings,
    consul::{Consistency, ConsulSettings, Secret},
    route::RouteSettings,
};
pub use crate::{
    access_log::{AccessLogFormat, AccessLogSettings},
    listen::{Http2Settings, HttpsSettings, ListenSettings},
    upstream::settings::{
        ConsulSource, EndpointSource, HealthPolicy, SHARE_UNITS, Selector, ServiceSettings, SubsetSettings,
        TagRule,
    },
};
use crate::{
    auth::settings::ProviderSettings,
    policy::{self, of_route::Asked},
};

/// The whole configuration of one gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads; one per core unless the file says otherwise.
    pub workers: usize,
    pub listen: ListenSettings,
    /// `None` when no service needs a registry (all have `hosts`).
    pub consul: Option<ConsulSettings>,
    pub auth: Vec<ProviderSettings>,
    pub routes: Vec<RouteSettings>,
    pub services: Vec<ServiceSettings>,
    /// `defaults`: for what the gateway answers where there is no route.
    pub unrouted: policy::Written,
    pub access_log: AccessLogSettings,
    pub drain: DrainSettings,
    /// Cap of tracked rate-limit keys over all limits.
    pub rate_keys_max: usize,
    /// Files that the process may have open; `None`: as many as the system allows.
    pub files_max: Option<usize>,
    /// `None`: services declare no routes.
    pub auto_routes: Option<AutoRoutesSettings>,
}

impl Settings {
    /// Names of the claims that requirements and limits read, each once.
    pub fn claims_asked_for(&self) -> BTreeSet<Box<str>> {
        let mut asked = Asked::default();
        for route in &self.routes {
            route.policies.ask(&mut asked);
        }
        asked.claims
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainSettings {
    /// Ready says 503 for this long before listeners stop.
    pub notice: Duration,
    /// Requests in flight may take this long.
    pub timeout: Duration,
}
