//! Effective settings: the meaning of `routes.yaml` once defaults, policies and routes are merged.
//!
//! `raw` mirrors the file, `settings` contains its meaning, and workers use the snapshot that is compiled
//! from them. Settings are plain data: units are typed, names are checked, every field has its value.
//! `config::resolve` makes them. This module reads neither files nor a clock nor the network.

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
    listen::{Http2Settings, HttpSettings, HttpsSettings, ListenSettings},
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
    /// Worker threads; one per core by default.
    pub workers: usize,
    pub listen: ListenSettings,
    /// `None`: no service needs a registry, since all have `hosts`.
    pub consul: Option<ConsulSettings>,
    pub auth: Vec<ProviderSettings>,
    pub routes: Vec<RouteSettings>,
    pub services: Vec<ServiceSettings>,
    /// `defaults`, for the gateway's replies to requests without a route.
    pub unrouted: policy::Written,
    pub access_log: AccessLogSettings,
    pub drain: DrainSettings,
    /// Most rate-limit keys that all limits may track together.
    pub rate_keys_max: usize,
    /// Most files that the process may have open; `None`: as many as the system allows.
    pub files_max: Option<usize>,
    /// `None`: services cannot declare routes.
    pub auto_routes: Option<AutoRoutesSettings>,
}

impl Settings {
    /// Names of the claims that policies of the routes need.
    pub fn claims_asked_for(&self) -> BTreeSet<Box<str>> {
        let mut asked = Asked::default();
        for route in &self.routes {
            route.policies.ask(&mut asked);
        }
        asked.claims
    }
}

/// The times of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainSettings {
    /// `/readyz` returns 503 for this long before the listeners stop.
    pub notice: Duration,
    /// Longest time that is left to requests in flight.
    pub timeout: Duration,
}
