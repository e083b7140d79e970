//! Services: the ones that routes name, each once, with or without an entry in `services`.

use std::collections::{HashMap, HashSet};

use millgate_registry::WatchTarget;

use super::{defaults::Defaults, ratio, route::unknown_name};
use crate::config::{
    diagnostics::{Diagnostics, Span},
    raw::{
        Named,
        instances::Consul,
        service::{Breaker, Pool, Service},
        tree::At,
    },
    settings::{
        BreakerSettings, ConsulSource, EndpointSource, PoolSettings, ServiceSettings, SubsetSettings,
    },
};

pub(super) struct Services<'a> {
    raw: &'a [Named<Service>],
    defaults: &'a Defaults,
    /// By name and subset.
    index: HashMap<(String, Option<String>), usize>,
    pub(super) settings: Vec<ServiceSettings>,
}

impl<'a> Services<'a> {
    pub(super) fn new(raw: &'a [Named<Service>], defaults: &'a Defaults) -> Self {
        Self { raw, defaults, index: HashMap::new(), settings: Vec::new() }
    }

    /// The index of a service that a route names, or of a subset of it. Without an entry it is the Consul service of
    /// that name. `None`: it has no such subset, which is reported.
    pub(super) fn index(
        &mut self,
        name: &At<String>,
        subset: Option<&At<String>>,
        sink: &mut Diagnostics,
    ) -> Option<usize> {
        let key = (name.value.clone(), subset.map(|subset| subset.value.clone()));
        if let Some(index) = self.index.get(&key) {
            return Some(*index);
        }
        let absent = Service::default();
        let entry = self.raw.iter().find(|entry| entry.name.value == name.value);
        let (raw, span) = entry.map_or((&absent, name.span), |entry| (&entry.value, entry.name.span));
        let mut settings = resolve(&name.value, raw, span, self.defaults);
        if let Some(subset) = subset {
            settings.subset = Some(find_subset(&name.value, raw, subset, sink)?);
        }
        let index = self.settings.len();
        self.settings.push(settings);
        self.index.insert(key, index);
        Some(index)
    }

    pub(super) fn used_names(&self) -> HashSet<String> {
        self.index.keys().map(|(name, _)| name.clone()).collect()
    }
}

fn find_subset(
    service: &str,
    raw: &Service,
    subset: &At<String>,
    sink: &mut Diagnostics,
) -> Option<SubsetSettings> {
    if let Some(found) = raw.subsets.iter().find(|entry| entry.name.value == subset.value) {
        return Some(SubsetSettings {
            name: subset.value.clone(),
            selector: found.value.clone(),
            shares: Vec::new(),
        });
    }
    let known = raw.subsets.iter().map(|entry| entry.name.value.as_str());
    let mut finding = unknown_name("subset", subset, known);
    if raw.subsets.is_empty() {
        let example = format!("services: {{{service}: {{subsets: {{{0}: {{tag: {0}}}}}}}}}", subset.value);
        finding = finding.help(format!("the service has no `subsets`; add some, such as `{example}`"));
    }
    sink.push(finding);
    None
}

/// What a service of the registry is without an entry, and all entries, whether or not a route names them.
pub(super) fn resolve_all(
    raw: &[Named<Service>],
    span: Span,
    defaults: &Defaults,
) -> (ServiceSettings, Vec<ServiceSettings>) {
    let entry = |entry: &Named<Service>| resolve(&entry.name.value, &entry.value, entry.name.span, defaults);
    (resolve("", &Service::default(), span, defaults), raw.iter().map(entry).collect())
}

fn resolve(name: &str, raw: &Service, span: Span, defaults: &Defaults) -> ServiceSettings {
    let source = match (&raw.hosts, &raw.consul) {
        (Some(hosts), _) => EndpointSource::Hosts(hosts.clone()),
        (None, Some(consul)) => EndpointSource::Consul(resolve_consul(name, consul)),
        (None, None) => EndpointSource::Consul(ConsulSource::service(name)),
    };
    ServiceSettings {
        name: name.to_owned(),
        subset: None,
        source,
        balance: raw.balance.unwrap_or_default(),
        breaker: resolve_breaker(raw.breaker.as_ref(), &defaults.breaker),
        max_inflight: raw.max_inflight.unwrap_or(defaults.max_inflight),
        pool: resolve_pool(&raw.pool, &defaults.pool),
        span,
    }
}

fn resolve_consul(name: &str, raw: &Consul) -> ConsulSource {
    let target = |datacenter: Option<&String>| WatchTarget {
        service: raw.name.as_deref().unwrap_or(name).to_owned(),
        datacenter: datacenter.cloned(),
        namespace: raw.namespace.clone(),
        partition: raw.partition.clone(),
        only_passing: raw.only_passing,
    };
    let first = target(raw.datacenter.as_ref());
    ConsulSource {
        targets: std::iter::once(first).chain(raw.failover.iter().map(|dc| target(Some(dc)))).collect(),
        selector: raw.selector.clone(),
        policy: raw.policy.unwrap_or_default(),
        address: raw.address.clone(),
    }
}

fn resolve_breaker(raw: Option<&Breaker>, defaults: &BreakerSettings) -> Option<BreakerSettings> {
    let Some(raw) = raw else { return Some(defaults.clone()) };
    (!raw.off).then(|| BreakerSettings {
        error_ratio: raw.errors_per_mille.map_or(defaults.error_ratio, ratio),
        requests_min: raw.requests_min.unwrap_or(defaults.requests_min),
        window: raw.window.unwrap_or(defaults.window),
        open: raw.open.unwrap_or(defaults.open),
        probes: raw.probes.unwrap_or(defaults.probes),
    })
}

fn resolve_pool(raw: &Pool, defaults: &PoolSettings) -> PoolSettings {
    PoolSettings {
        idle_max: raw.idle_max.unwrap_or(defaults.idle_max),
        idle: raw.idle.unwrap_or(defaults.idle),
        max_age: raw.max_age.unwrap_or(defaults.max_age),
    }
}
