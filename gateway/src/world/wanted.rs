//! The watches and look-ups that a configuration needs from the registry and the resolver.

use std::{collections::BTreeSet, net::SocketAddr};

use millgate_registry::WatchTarget;

use super::{World, selection};
use crate::config::settings::{EndpointSource, Settings};

/// All targets to watch, each once for any number of services that select from it. Datacenters of `failover` are watched
/// from the start, with one more blocking query for each, so that requests need not wait when they are needed.
pub fn targets(settings: &Settings) -> BTreeSet<WatchTarget> {
    settings.services.iter().flat_map(|service| service.source.targets()).cloned().collect()
}

/// All `host:port` texts to look up, whose host is not an address.
pub fn names(settings: &Settings, world: &World) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for service in &settings.services {
        match &service.source {
            EndpointSource::Hosts(hosts) => {
                names.extend(hosts.iter().filter(|host| host.parse::<SocketAddr>().is_err()).cloned());
            }
            // Instances of each status are looked up, so that an instance that becomes healthy has its addresses
            // already.
            EndpointSource::Consul(source) => {
                let known = source.targets.iter().filter_map(|target| world.instances.get(target));
                let meant = known.flat_map(|list| list.iter()).filter(|i| selection::is_meant(service, i));
                names.extend(meant.filter_map(|instance| selection::host_name(source, instance)));
            }
        }
    }
    names
}
