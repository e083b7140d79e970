//! Services: each service that a route names, once, with or without an entry in `services`.

use std::collections::{HashMap, HashSet};

use millgate_registry::{TlsOptions, WatchTarget};

use super::{defaults::Defaults, files::Files};
use crate::{
    config::{
        raw::{Named, instances::Consul, service::Service},
        settings::{ConsulSource, EndpointSource, ServiceSettings, SubsetSettings},
    },
    syntax::{
        diagnostics::{Diagnostics, Span},
        fields::unknown_name,
        tree::At,
    },
    upstream::tls::UpstreamTls,
};

pub(super) struct Services<'a> {
    raw: &'a [Named<Service>],
    tls: &'a [Option<UpstreamTls>],
    defaults: &'a Defaults,
    /// Indexes into `settings`, by name and subset.
    index: HashMap<(String, Option<String>), usize>,
    pub(super) settings: Vec<ServiceSettings>,
}

impl<'a> Services<'a> {
    /// `tls` has the TLS settings of each entry, as [`resolve_tls`] returns them.
    pub(super) fn new(
        raw: &'a [Named<Service>],
        tls: &'a [Option<UpstreamTls>],
        defaults: &'a Defaults,
    ) -> Self {
        Self { raw, tls, defaults, index: HashMap::new(), settings: Vec::new() }
    }

    /// The index of a service that a route names, or of a subset of it. A service without an entry is the Consul
    /// service of that name. `None`: the service has no such subset, which is reported.
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
        let mut entries = self.raw.iter().zip(self.tls);
        let entry = entries.find(|(entry, _)| entry.name.value == name.value);
        let (raw, tls, span) = entry
            .map_or((&absent, None, name.span), |(entry, tls)| (&entry.value, tls.as_ref(), entry.name.span));
        let mut settings = resolve(&name.value, raw, tls, span, self.defaults);
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
            by_tag: Vec::new(),
        });
    }
    let known = raw.subsets.iter().map(|entry| entry.name.value.as_str());
    let mut finding = unknown_name("subset", subset, known);
    if raw.subsets.is_empty() {
        let example = format!("services: {{{service}: {{subsets: {{{0}: {{tag: {0}}}}}}}}}", subset.value);
        finding = finding.help(format!("the service has no `subsets`; add some, such as `{example}`: parts of one service by their tags, not other services"));
    }
    sink.push(finding);
    None
}

/// The settings of a service of the registry without an entry, and those of all entries, whether or not a route
/// names them.
pub(super) fn resolve_all(
    raw: &[Named<Service>],
    tls: &[Option<UpstreamTls>],
    span: Span,
    defaults: &Defaults,
) -> (ServiceSettings, Vec<ServiceSettings>) {
    let entries = raw.iter().zip(tls).map(|(entry, tls)| {
        resolve(&entry.name.value, &entry.value, tls.as_ref(), entry.name.span, defaults)
    });
    (resolve("", &Service::default(), None, span, defaults), entries.collect())
}

/// The TLS settings of each entry. They are read once, since an entry can become several services.
pub(super) fn resolve_tls(
    raw: &[Named<Service>],
    files: &mut Files,
    sink: &mut Diagnostics,
) -> Vec<Option<UpstreamTls>> {
    let mut resolved = Vec::with_capacity(raw.len());
    for entry in raw {
        resolved.push(entry.value.tls.as_ref().map(|tls| {
            let cert_file =
                tls.cert_file.as_ref().and_then(|name| files.certificate(name, "client certificate", sink));
            let mut path = |name: &Option<At<String>>, what| {
                name.as_ref().and_then(|name| files.readable(name, what, sink)).map(|file| file.path)
            };
            let files = TlsOptions {
                ca_file: path(&tls.ca_file, "file with certificate authorities"),
                cert_file: cert_file.map(|file| file.path),
                key_file: path(&tls.key_file, "client certificate's key"),
                server_name: tls.server_name.clone(),
            };
            UpstreamTls { files, insecure: tls.insecure }
        }));
    }
    resolved
}

fn resolve(
    name: &str,
    raw: &Service,
    tls: Option<&UpstreamTls>,
    span: Span,
    defaults: &Defaults,
) -> ServiceSettings {
    let source = match (&raw.hosts, &raw.consul) {
        (Some(hosts), _) => EndpointSource::Hosts(hosts.clone()),
        (None, Some(consul)) => EndpointSource::Consul(resolve_consul(name, consul)),
        (None, None) => EndpointSource::Consul(ConsulSource::service(name)),
    };
    ServiceSettings {
        name: name.to_owned(),
        subset: None,
        source,
        tls: tls.cloned(),
        version: raw.version,
        proxy_protocol: raw.proxy_protocol,
        shares: defaults.shares,
        policies: raw.policies.clone(),
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
