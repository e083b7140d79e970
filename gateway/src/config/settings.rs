//! Effective settings: what `routes.yaml` means once defaults, policies and routes are merged.
//!
//! `raw` mirrors the file, `settings` is its meaning, the snapshot is what workers run. Everything here is
//! plain data: units are typed, names are checked, every field has its value. `config::resolve` is the only
//! producer, `config::compile` the only consumer. Nothing here reads a file, a clock or the network.

mod protection;
mod traffic;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method};
use millgate_registry::{Instance, TlsOptions, WatchTarget};

pub use self::{
    protection::{BreakerSettings, FailureKinds, OutlierSettings},
    traffic::{RateLimitKey, RateLimitSettings, RetryCauses, RetrySettings},
};
use super::diagnostics::Span;
use crate::{
    auto_routes::AutoRoutesSettings,
    policy::{client_address::ClientRule, concurrency::ShareSettings, redirect::Redirect},
    router::reading::Spelling,
    upstream::tls::UpstreamTls,
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
        let limits = self.routes.iter().flat_map(|route| &route.rate_limits);
        let of_limits = limits.filter_map(|limit| match &limit.key {
            RateLimitKey::Claim(name) => Some(name.as_str().into()),
            _ => None,
        });
        let requirements = self.routes.iter().flat_map(|route| &route.require.claims);
        of_limits.chain(requirements.map(|(name, _)| name.as_str().into())).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// Cleartext listeners: HTTP/1.1, and HTTP/2 with prior knowledge.
    pub http: Vec<SocketAddr>,
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
pub struct ConsulSettings {
    /// `http://host:port` or `https://host:port`.
    pub address: String,
    /// Asked when another agent fails, and for a share of the services from the beginning.
    pub further_addresses: Vec<String>,
    pub tls: TlsOptions,
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub consistency: Consistency,
    /// A `stale` answer that is older is checked with the leader.
    pub max_stale: Duration,
    /// Longest wait of a blocking query.
    pub wait: Duration,
    /// Blocking queries at one agent at once, over cleartext.
    pub max_watches: usize,
    pub flap_damping: bool,
    /// `/readyz` says 503 when the registry has not answered for a service for this long; `None` = it does not.
    pub unready_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    #[default]
    Stale,
    Default,
    Consistent,
}

/// A secret from the file: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }
    /// The secret itself. Only for the place that sends or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One `auth.<name>` provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    pub name: String,
    pub keys: KeySource,
    /// Required `iss`; `None` accepts a token with any issuer or none.
    pub issuer: Option<String>,
    /// Required `aud`: one of these.
    pub audience: Vec<String>,
    /// Accepted algorithms by their JWA names; all of one family per key type, never `none`.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// Clock skew allowed for `exp` and `nbf`.
    pub leeway: Duration,
    /// Places to look for the token, in order.
    pub from: Vec<TokenSource>,
    /// Claim → header. The same headers from the client are always removed.
    pub forward: Vec<(String, HeaderName)>,
    /// Verified tokens remembered per worker; 0 = none.
    pub cache_max: usize,
    pub span: Span,
}

impl AuthSettings {
    /// Equal in meaning: wherever in the file.
    pub fn same_as(&self, other: &Self) -> bool {
        *self == Self { span: self.span, ..other.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// OIDC discovery: `<issuer>/.well-known/openid-configuration` names the JWKS.
    Issuer(String),
    JwksUrl(String),
    JwksFile(PathBuf),
    PublicKeyFile(PathBuf),
    Hs256SecretFile(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer …`
    Bearer,
    Cookie(String),
    Header(HeaderName),
    Query(String),
}

#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// Unique; from the file, or made from methods, host and path.
    pub name: String,
    /// Empty = any method.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// As written: `/users/**`, `/users/{id}`. Syntax is checked.
    pub path: String,
    /// What else of the same path it takes.
    pub spelling: Spelling,
    /// Every condition must hold.
    pub headers: Vec<HeaderCondition>,
    /// Overrides "most specific first"; higher wins.
    pub priority: i32,
    /// Index into `Settings::services`; where there is a `split`, of its first part that has a share. `None`: nobody is
    /// asked, since there is a `redirect`.
    pub service: Option<usize>,
    /// Parts of the service (indexes into `Settings::services`) and their shares; empty = no split.
    pub split: Vec<(usize, u32)>,
    /// All must let a client's address through.
    pub clients: Vec<ClientRule>,
    /// Any of these providers (indexes into `Settings::auth`); empty = open.
    pub auth: Vec<usize>,
    pub require: RequireSettings,
    pub rate_limits: Vec<RateLimitSettings>,
    pub timeout: TimeoutSettings,
    pub retry: RetrySettings,
    /// Largest request body; `None` = unlimited.
    pub body_bytes_max: Option<u64>,
    /// The endpoint is chosen when the body's end or its first bytes are there, not with the head.
    pub gathers_body: bool,
    pub rewrite: Option<RewriteSettings>,
    /// Answered by the gateway itself.
    pub redirect: Option<Redirect>,
    pub request_headers: HeaderRules,
    pub response_headers: HeaderRules,
    pub access_log: bool,
    /// The service that declared it, as in `consul:dc1/orders`; `None`: the file.
    pub origin: Option<String>,
    /// Where the route stands (its `path:` value).
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostPattern {
    #[default]
    Any,
    /// Lower case, without port.
    Exact(String),
    /// `*.shop.example` is kept as `.shop.example`: one or more labels in front.
    Suffix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    pub name: HeaderName,
    /// `None`: the header must be present.
    pub value: Option<HeaderValue>,
}

/// 403 unless all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequireSettings {
    /// Every one must be among the token's `scope` (space separated) or `scp`.
    pub scopes: Vec<String>,
    /// One of these must be in `role` or `roles`.
    pub roles: Vec<String>,
    /// Claim equals value (or contains it, where the claim is a list).
    pub claims: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// End of the request → response head, over all attempts; `idle` governs bodies.
    pub total: Duration,
    pub connect: Duration,
    /// One attempt; `None` = what is left of `total`.
    pub per_try: Option<Duration>,
    /// No byte in either direction of a body for this long.
    pub idle: Duration,
    /// Bytes per second that a client sends or takes at least, while it is waited for; `None` = any.
    pub min_rate: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewriteSettings {
    /// Prefix to remove, e.g. `/api`.
    pub strip: Option<String>,
    /// Prefix to add after stripping.
    pub add: Option<String>,
    /// `None`: the service gets the `Host` that the client asked for.
    pub host: Option<UpstreamHost>,
}

/// `Host` in requests to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamHost {
    Name(HeaderValue),
    /// The instance's own address and port.
    Instance,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderRules {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

/// One service that routes name, whole or a subset of it. What protects a service is shared by its subsets.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    pub name: String,
    /// Only this part of its instances.
    pub subset: Option<SubsetSettings>,
    pub source: EndpointSource,
    /// `None`: HTTP in cleartext.
    pub tls: Option<UpstreamTls>,
    pub balance: Balance,
    /// `None` = off.
    pub breaker: Option<BreakerSettings>,
    /// `None` = off.
    pub outlier: Option<OutlierSettings>,
    /// Requests in flight to the whole service; past it 503 `overloaded`.
    pub max_inflight: u32,
    pub shares: ShareSettings,
    pub pool: PoolSettings,
    pub span: Span,
}

impl ServiceSettings {
    /// Equal in meaning: a service that only moved to another line of the file is the same.
    pub fn same_as(&self, other: &Self) -> bool {
        let Self {
            name,
            subset,
            source,
            tls,
            balance,
            breaker,
            outlier,
            max_inflight,
            shares,
            pool,
            span: _,
        } = self;
        (name, subset, source, tls, balance, breaker, outlier, max_inflight, shares, pool)
            == (
                &other.name,
                &other.subset,
                &other.source,
                &other.tls,
                &other.balance,
                &other.breaker,
                &other.outlier,
                &other.max_inflight,
                &other.shares,
                &other.pool,
            )
    }

    /// With at least some of its instances.
    pub fn speaks_tls(&self) -> bool {
        let by_tag = self.subset.iter().flat_map(|subset| &subset.by_tag);
        self.tls.is_some() || by_tag.into_iter().any(|rule| rule.tls.is_some())
    }

    /// Unique among all: `products`, or `products/canary` for a subset.
    pub fn full_name(&self) -> Cow<'_, str> {
        match &self.subset {
            None => Cow::Borrowed(&self.name),
            Some(subset) => Cow::Owned(format!("{}/{}", self.name, subset.name)),
        }
    }
}

/// One of `services.<name>.subsets`, or what the tags of a declared route make of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetSettings {
    pub name: String,
    pub selector: Selector,
    /// Instances with one of these tags are treated in a way of their own; empty = all alike.
    pub by_tag: Vec<TagRule>,
}

impl SubsetSettings {
    /// What the instance's tags say of it: its own share of the requests (of several the first one; 0 = none), and how TLS
    /// is spoken with it (of several one that asks for a proof).
    pub fn rules_of(&self, instance: &Instance) -> (u32, Option<&UpstreamTls>) {
        let says = |text: &String| {
            let in_metadata = || {
                text.split_once('=')
                    .is_some_and(|(key, value)| instance.meta.get(key).is_some_and(|own| own == value))
            };
            instance.tags.contains(text) || in_metadata()
        };
        let own = || self.by_tag.iter().filter(|known| says(&known.tag));
        let share = own().map(|known| known.share).find(|share| *share > 0).unwrap_or(0);
        (share, own().filter_map(|known| known.tls.as_ref()).min_by_key(|tls| tls.insecure))
    }
}

/// How each instance with the tag, or with `KEY=VALUE` in its metadata, is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    pub tag: String,
    /// Of the requests, whatever weight it has in the registry, in units of 1 / [`SHARE_UNITS`]; 0 = none of its own.
    pub share: u32,
    /// How TLS is spoken with it; `None`: as with the service.
    pub tls: Option<UpstreamTls>,
}

/// Ten thousandths: a share of one in a hundred instances with a hundredth of the requests is still exact.
pub const SHARE_UNITS: u32 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    Consul(ConsulSource),
    /// `host:port` each; names are resolved off the request path.
    Hosts(Vec<String>),
}

impl EndpointSource {
    /// What is watched in the registry, in order of preference; nothing for fixed hosts.
    pub fn targets(&self) -> &[WatchTarget] {
        match self {
            Self::Consul(consul) => &consul.targets,
            Self::Hosts(_) => &[],
        }
    }
}

/// Instances of a service in Consul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulSource {
    /// One for each datacenter, never none: the first one with a routable instance serves.
    pub targets: Vec<WatchTarget>,
    pub selector: Selector,
    pub policy: HealthPolicy,
    /// Name of the tagged address to connect to; where an instance has none of it, its ordinary one.
    pub address: Option<String>,
}

impl ConsulSource {
    /// All routable instances of the service, in the agent's datacenter.
    pub fn service(name: impl Into<String>) -> Self {
        Self {
            targets: vec![WatchTarget::service(name)],
            selector: Selector::default(),
            policy: HealthPolicy::default(),
            address: None,
        }
    }
}

/// Which instances are meant: those with all of the tags and all of the meta pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
}

/// Up to which status an instance gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    /// All checks pass.
    Passing,
    /// No check is critical, and the weight while warning is not 0.
    #[default]
    Warning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    #[default]
    RoundRobin,
    /// Two random choices, the one with fewer requests in flight per weight.
    P2c,
    /// Fewest requests in flight per weight.
    Least,
    Random,
}

/// Upstream connections of one worker to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle connections kept per endpoint.
    pub idle_max: usize,
    pub idle: Duration,
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    pub format: AccessLogFormat,
    /// `None` = standard output.
    pub file: Option<PathBuf>,
    /// Share of requests that are logged, 0.0..=1.0 in thousandths; errors (≥ 500) always are.
    pub sample_per_mille: u32,
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
