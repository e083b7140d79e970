//! Services: where their instances are, how requests are spread over them, and what protects them.

use std::{borrow::Cow, collections::BTreeMap};

use millgate_registry::{Instance, WatchTarget};

use super::tls::UpstreamTls;
use crate::{
    policy::{ServicePolicies, concurrency::ShareSettings},
    syntax::diagnostics::Span,
};

/// One service that routes name, whole or a subset of it. What protects a service is shared by its subsets.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    pub name: String,
    /// Only this part of its instances.
    pub subset: Option<SubsetSettings>,
    pub source: EndpointSource,
    /// `None`: HTTP in cleartext.
    pub tls: Option<UpstreamTls>,
    pub shares: ShareSettings,
    pub policies: ServicePolicies,
    pub span: Span,
}

impl ServiceSettings {
    /// Equal in meaning: a service that only moved to another line of the file is the same.
    pub fn same_as(&self, other: &Self) -> bool {
        let Self { name, subset, source, tls, shares, policies, span: _ } = self;
        (name, subset, source, tls, shares, policies)
            == (&other.name, &other.subset, &other.source, &other.tls, &other.shares, &other.policies)
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
    /// What the instance's tags mean for it: its own share of the requests (of several the first one; 0 = none), and how TLS
    /// is spoken with it (of several one that requires a proof).
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
    /// Share of the requests, independent of its weight in the registry, in units of 1 / [`SHARE_UNITS`]; 0 = none of its own.
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
