//! Settings of services: where their instances are, how requests are spread over them, and what protects them.

use std::{borrow::Cow, collections::BTreeMap};

use millgate_registry::{Instance, WatchTarget};

use super::tls::UpstreamTls;
use crate::{
    policy::{ServicePolicies, concurrency::ShareSettings},
    proxy_protocol::HeaderVersion,
    syntax::diagnostics::Span,
};

/// One service to which routes lead, whole or a subset of it. The subsets of a service share its protections.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    pub name: String,
    /// The part of its instances that belong to the subset. `None`: all of them.
    pub subset: Option<SubsetSettings>,
    pub source: EndpointSource,
    /// `None`: HTTP in cleartext.
    pub tls: Option<UpstreamTls>,
    pub version: HttpVersion,
    /// The header of the PROXY protocol that each connection begins with. `None`: none.
    pub proxy_protocol: Option<HeaderVersion>,
    pub shares: ShareSettings,
    pub policies: ServicePolicies,
    pub span: Span,
}

impl ServiceSettings {
    /// Whether both mean the same. A service that only moved to another line of the file is the same.
    pub fn same_as(&self, other: &Self) -> bool {
        let Self { name, subset, source, tls, version, proxy_protocol, shares, policies, span: _ } = self;
        let of_other = (&other.name, &other.subset, &other.source, &other.tls, &other.version);
        (name, subset, source, tls, version) == of_other
            && (shares, policies) == (&other.shares, &other.policies)
            && *proxy_protocol == other.proxy_protocol
    }

    /// Whether a connection to it may be one of HTTP/2.
    pub fn may_speak_http2(&self) -> bool {
        let by_tag = self.subset.iter().flat_map(|subset| &subset.by_tag);
        self.version != HttpVersion::Http1 || by_tag.into_iter().any(|rule| rule.version.is_some())
    }

    /// Whether the operator, or a tag of its instances, says that it serves gRPC. A content type alone says nothing: each client
    /// can send one, and limits of bodies would end there.
    pub fn takes_calls(&self) -> bool {
        let by_tag = self.subset.iter().flat_map(|subset| &subset.by_tag);
        self.version == HttpVersion::Grpc
            || by_tag.into_iter().any(|rule| rule.version == Some(HttpVersion::Grpc))
    }

    /// Whether connections to at least some of its instances use TLS.
    pub fn speaks_tls(&self) -> bool {
        let by_tag = self.subset.iter().flat_map(|subset| &subset.by_tag);
        self.tls.is_some() || by_tag.into_iter().any(|rule| rule.tls.is_some())
    }

    /// The name, unique among all services and subsets: `products`, or `products/canary` for a subset.
    pub fn full_name(&self) -> Cow<'_, str> {
        match &self.subset {
            None => Cow::Borrowed(&self.name),
            Some(subset) => Cow::Owned(format!("{}/{}", self.name, subset.name)),
        }
    }
}

/// The version of HTTP that a service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HttpVersion {
    #[default]
    Http1,
    /// By ALPN over TLS; in cleartext without asking (RFC 9113 §3.3: prior knowledge).
    Http2,
    /// The same, for a service of gRPC: the messages of a call pass as they come.
    Grpc,
    /// The one that the service chooses by ALPN.
    Either,
}

/// One of `services.<name>.subsets`, or the subset that a declared route's tags make of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetSettings {
    pub name: String,
    pub selector: Selector,
    /// Rules for the instances with certain tags. Empty: all instances are treated alike.
    pub by_tag: Vec<TagRule>,
}

impl SubsetSettings {
    /// The effect of the instance's tags: its own share of the requests (the first one that is not 0; 0: it has no own
    /// share), its TLS settings (of several, those that verify the endpoint), and its version of HTTP.
    pub fn rules_of(&self, instance: &Instance) -> (u32, Option<&UpstreamTls>, Option<HttpVersion>) {
        let says = |text: &String| {
            let in_metadata = || {
                text.split_once('=')
                    .is_some_and(|(key, value)| instance.meta.get(key).is_some_and(|own| own == value))
            };
            instance.tags.contains(text) || in_metadata()
        };
        let own = || self.by_tag.iter().filter(|known| says(&known.tag));
        let share = own().map(|known| known.share).find(|share| *share > 0).unwrap_or(0);
        let tls = own().filter_map(|known| known.tls.as_ref()).min_by_key(|tls| tls.insecure);
        (share, tls, own().find_map(|known| known.version))
    }
}

/// A rule for each instance that has the tag, or `KEY=VALUE` in its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    pub tag: String,
    /// The share of the requests, independent of the weight in the registry, in units of 1 / [`SHARE_UNITS`]. 0: it has no
    /// own share.
    pub share: u32,
    /// The TLS settings for these instances. `None`: those of the service.
    pub tls: Option<UpstreamTls>,
    /// The version of HTTP for these instances. `None`: that of the service.
    pub version: Option<HttpVersion>,
}

/// Ten thousandths: if one in a hundred instances gets a hundredth of the requests, its share is still exact.
pub const SHARE_UNITS: u32 = 10_000;

/// Where the endpoints of a service come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    Consul(ConsulSource),
    /// `host:port` each. Names are resolved off the request path.
    Hosts(Vec<String>),
}

impl EndpointSource {
    /// The watches in the registry, in order of preference. Empty for fixed hosts.
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
    /// One watch for each datacenter, at least one. The first datacenter with a routable instance serves.
    pub targets: Vec<WatchTarget>,
    pub selector: Selector,
    pub policy: HealthPolicy,
    /// The name of the tagged address to connect to. An instance without it is reached at its ordinary address.
    pub address: Option<String>,
}

impl ConsulSource {
    /// All routable instances of the service in the agent's datacenter.
    pub fn service(name: impl Into<String>) -> Self {
        Self {
            targets: vec![WatchTarget::service(name)],
            selector: Selector::default(),
            policy: HealthPolicy::default(),
            address: None,
        }
    }
}

/// A condition on instances: those with all of the tags and all of the meta pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
}

/// The statuses in which an instance gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    /// All checks pass.
    Passing,
    /// No check is critical, and the weight while warning is not 0.
    #[default]
    Warning,
}
