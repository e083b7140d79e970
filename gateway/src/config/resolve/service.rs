//! Services: the ones that routes name, each once, with or without an entry in `services`.

use std::collections::{HashMap, HashSet};

use super::{defaults::Defaults, ratio};
use crate::config::{
    diagnostics::Span,
    raw::{
        Named,
        service::{Breaker, Pool, Service},
        tree::At,
    },
    settings::{BreakerSettings, EndpointSource, PoolSettings, ServiceSettings},
};

pub(super) struct Services<'a> {
    raw: &'a [Named<Service>],
    defaults: &'a Defaults,
    index: HashMap<String, usize>,
    pub(super) settings: Vec<ServiceSettings>,
}

impl<'a> Services<'a> {
    pub(super) fn new(raw: &'a [Named<Service>], defaults: &'a Defaults) -> Self {
        Self { raw, defaults, index: HashMap::new(), settings: Vec::new() }
    }

    /// The index of a service that a route names. Without an entry it is the Consul service of that name.
    pub(super) fn index(&mut self, name: &At<String>) -> usize {
        if let Some(index) = self.index.get(&name.value) {
            return *index;
        }
        let absent = Service::default();
        let entry = self.raw.iter().find(|entry| entry.name.value == name.value);
        let settings = match entry {
            Some(entry) => resolve(&name.value, &entry.value, entry.name.span, self.defaults),
            None => resolve(&name.value, &absent, name.span, self.defaults),
        };
        let index = self.settings.len();
        self.settings.push(settings);
        self.index.insert(name.value.clone(), index);
        index
    }

    pub(super) fn used_names(&self) -> HashSet<String> {
        self.index.keys().cloned().collect()
    }
}

fn resolve(name: &str, raw: &Service, span: Span, defaults: &Defaults) -> ServiceSettings {
    let source = match (&raw.hosts, &raw.consul) {
        (Some(hosts), _) => EndpointSource::Hosts(hosts.clone()),
        (None, Some(consul)) => EndpointSource::Consul {
            name: consul.name.clone().unwrap_or_else(|| name.to_owned()),
            tag: consul.tag.clone(),
            datacenter: consul.datacenter.clone(),
        },
        (None, None) => EndpointSource::Consul { name: name.to_owned(), tag: None, datacenter: None },
    };
    ServiceSettings {
        name: name.to_owned(),
        source,
        balance: raw.balance.unwrap_or_default(),
        breaker: resolve_breaker(raw.breaker.as_ref(), &defaults.breaker),
        max_inflight: raw.max_inflight.unwrap_or(defaults.max_inflight),
        pool: resolve_pool(&raw.pool, &defaults.pool),
        span,
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
