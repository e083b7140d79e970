//! Effective settings: what `routes.yaml` means once defaults, policies and routes are merged.
//!
//! `raw` mirrors the file, `settings` is its meaning, the snapshot is what workers run. Everything here is
//! plain data: units are typed, names are checked, every field has its value. `config::resolve` is the only
//! producer, `compile` the only consumer. Nothing here reads a file, a clock or the network.

mod auth;
mod consul;
mod route;
mod service;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

pub use self::{
    auth::{AuthSettings, KeySource, TokenSource},
    consul::{Consistency, ConsulSettings, Secret},
    route::RouteSettings,
    service::{
        ConsulSource, EndpointSource, HealthPolicy, SHARE_UNITS, Selector, ServiceSettings, SubsetSettings,
        TagRule,
    },
};
use crate::{
    auto_routes::AutoRoutesSettings,
    policy::{self, of_route::Asked},
    syntax::diagnostics::Span,
};

/// The whole configuration of one gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads; one per core unless the file says otherwise.
    pub workers: usize,
    pub listen: ListenSettings,
    /// `None` when no service needs a registry (all have `hosts`).
    pub consul: Option<ConsulSettings>,
    pub auth: Vec<AuthSettings>,
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
pub struct ListenSettings {
    /// Cleartext listeners: HTTP/1.1, and HTTP/2 with prior knowledge.
    pub http: Vec<SocketAddr>,
    /// The port of `https` to which they send every client; `None`: they serve.
    pub https_redirect: Option<u16>,
    pub https: Option<HttpsSettings>,
    /// `None` is `off`.
    pub admin: Option<SocketAddr>,
    /// Names under which the admin listener answers, beside its address.
    pub admin_hosts: Vec<String>,
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Names, or beginnings of names with `*` after them, in lower case: removed unless a trusted proxy sends them.
    pub untrusted_headers: Vec<String>,
    /// First byte to end of headers.
    pub header_timeout: Duration,
    /// Keep-alive between requests.
    pub idle_timeout: Duration,
    pub max_headers: usize,
    pub max_header_bytes: usize,
    /// Client connections, over all workers; `None`: as many as there are files for.
    pub max_connections: Option<usize>,
    /// HTTP/2 concurrent streams of one connection.
    pub max_streams: u32,
    /// Requests after which a connection ends; `None`: it does not.
    pub max_requests_per_connection: Option<u32>,
    pub http2: Http2Settings,
}

/// What an HTTP/2 client may ask for that is no progress; `None` = any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Settings {
    /// Frames of a second that are neither a request nor content.
    pub frames_per_second: Option<u32>,
    /// Requests that are taken back, beyond half of all.
    pub resets: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsSettings {
    pub bind: SocketAddr,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    pub format: AccessLogFormat,
    /// `None` = standard output.
    pub file: Option<PathBuf>,
    /// Where the file is named.
    pub file_span: Span,
    /// Share of requests that are logged, 0.0..=1.0 in thousandths; errors (≥ 500) always are.
    pub sample_per_mille: u32,
    /// Refusals that the sample leaves out, and that each worker logs nevertheless; 0: none.
    pub refusals_per_second: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    #[default]
    Json,
    Combined,
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainSettings {
    /// Ready says 503 for this long before listeners stop.
    pub notice: Duration,
    /// Requests in flight may take this long.
    pub timeout: Duration,
}
