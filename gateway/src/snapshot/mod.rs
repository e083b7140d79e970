//! The compiled, immutable configuration and world that one request sees, and how workers get the newest one.
//!
//! The control plane publishes whole [`Snapshot`]s; a generation word shows workers that there is a new one.
//! A worker reads that word once per request and swaps its own [`LocalSnapshot`] between requests; a request
//! that has begun keeps its snapshot. This costs a request one atomic load, without a lock or a shared count.

mod local;
mod publish;

use std::sync::Arc;

pub use self::{
    local::{LocalCluster, LocalEndpoint, LocalRoute, LocalSnapshot, Pools},
    publish::Publisher,
};
use crate::{
    access_log::AccessLogSettings,
    admission::AdmissionLimits,
    auth::provider::{HeldKeys, Provider},
    certificate::{ListenerTls, issued::HttpAnswers},
    listen::ListenSettings,
    message::GuardedNames,
    policy::{
        Policies, gate::Gate, headers::Headers, of_route::Shown, rate_limit::RateLimit, rewrite::UpstreamHost,
    },
    router::Router,
    upstream::{cluster::Cluster, split::Split},
};

/// The compiled configuration with the endpoints and keys of one moment.
pub struct Snapshot {
    /// The part that comes from `routes.yaml` and declared routes; the same `Arc` while only endpoints or keys change.
    pub table: Arc<RouteTable>,
    /// Clusters by the index that routes contain.
    pub clusters: Vec<Arc<Cluster>>,
    /// Keys by provider index.
    pub keys: Vec<HeldKeys>,
    /// Changes whenever keys or auth settings change: verified tokens of another generation are not used again.
    pub auth_generation: u64,
    /// Some service gets the addresses of clients in front of its connections.
    pub states_clients: bool,
    /// By the name of the listener.
    pub tls: Vec<(Arc<str>, Arc<ListenerTls>)>,
    /// Answers to an authority that is about to verify hosts by requests. `None`: no request is looked at.
    pub answers: Option<Arc<HttpAnswers>>,
}

impl Snapshot {
    /// What a TLS listener presents and accepts.
    pub fn tls_of(&self, listener: &str) -> Option<Arc<ListenerTls>> {
        let found = self.tls.iter().find(|(name, _)| **name == *listener);
        found.map(|(_, tls)| Arc::clone(tls))
    }
}

/// Routes, policies and limits of one configuration.
pub struct RouteTable {
    pub router: Router,
    pub routes: Vec<Arc<Route>>,
    pub auth: Vec<Arc<Provider>>,
    /// Names of fields that the sender of a request may not decide.
    pub names: Arc<GuardedNames>,
    /// Policies of the gateway's replies to requests without a route.
    pub unrouted: Policies,
    pub admission: AdmissionLimits,
    pub listen: ListenSettings,
    pub access_log: AccessLogSettings,
}

/// One compiled route. It is small, and shares equal values with other routes ([`Interner`]).
///
/// [`Interner`]: crate::interner::Interner
pub struct Route {
    pub name: Arc<str>,
    pub service: Arc<str>,
    /// Index into [`Snapshot::clusters`]; `None`: the route has a `redirect` and no service.
    pub cluster: Option<usize>,
    /// Splits the requests among several clusters; then `cluster` is the first that has a share.
    pub split: Option<Split>,
    pub policies: Policies,
    /// The route as `/api/v1/routes` and `millgate routes` show it.
    pub view: Box<RouteView>,
}

impl Route {
    /// Whether every request that passes this route would pass the other one. A limit of the other route must have an equal
    /// limit in this route, such as one that both have from `defaults`.
    pub fn is_as_strict_as(&self, other: &Self) -> bool {
        let (own, others) = (&self.policies, &other.policies);
        let has_equal = |limit: &Arc<RateLimit>| own.rate_limit.iter().any(|own| own.is_equal_to(limit));
        std::ptr::eq(self, other)
            || (others.rate_limit.iter().all(has_equal) && gate(own).is_as_strict_as(&gate(others)))
    }

    /// The rate limits of the route.
    pub fn limits(&self) -> &[Arc<RateLimit>] {
        &self.policies.rate_limit
    }

    /// The header rules of the route.
    pub fn header_rules(&self) -> &Headers {
        &self.policies.headers
    }

    /// The `Host` for the service instead of the client's, if the route has one.
    pub fn upstream_host(&self) -> Option<&UpstreamHost> {
        self.policies.rewrite.as_ref()?.host.as_ref()
    }
}

fn gate(policies: &Policies) -> Gate<'_, usize> {
    Gate { clients: &policies.clients, auth: &policies.auth, require: &policies.require }
}

/// A route as the admin API and `millgate routes` show it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RouteView {
    pub name: Arc<str>,
    pub methods: Vec<String>,
    pub host: String,
    /// The listeners through which a request may come; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Arc<str>>,
    pub path: String,
    /// Empty if the route has a `redirect` and no service.
    pub service: Arc<str>,
    /// The only subset of the service that gets requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Subsets of the service and their shares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<SplitView>,
    #[serde(flatten)]
    pub policies: Shown,
    pub priority: i32,
    /// `file`, or the service that declared it: `consul:dc1/orders`.
    pub origin: String,
    /// Line in the configuration file; 0 for a declared route.
    pub line: u32,
}

/// One part of a split.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SplitView {
    pub subset: String,
    pub share: u32,
}
