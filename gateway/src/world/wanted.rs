//! What a configuration needs from the registry and from the resolver.

use std::{collections::BTreeSet, net::SocketAddr};

use millgate_registry::WatchTarget;

use super::{World, selection};
use crate::config::settings::{EndpointSource, Settings};

/// All that is to be watched, each once however many services select from it. Datacenters of `failover` are watched
/// from the start: one more blocking query for each, so that no request waits for the first answer when they are needed.
pub fn targets(settings: &Settings) -> BTreeSet<WatchTarget> {
    settings.services.iter().flat_map(|service| service.source.targets()).cloned().collect()
}

/// All `host:port` texts whose host is not an address.
pub fn names(settings: &Settings, world: &World) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for service in &settings.services {
        match &service.source {
            EndpointSource::Hosts(hosts) => {
                names.extend(hosts.iter().filter(|host| host.parse::<SocketAddr>().is_err()).cloned());
            }
            // Of each status: an instance that becomes healthy has its addresses at hand.
            EndpointSource::Consul(source) => {
                let known = source.targets.iter().filter_map(|target| world.instances.get(target));
                let meant = known.flat_map(|list| list.iter()).filter(|i| selection::is_meant(service, i));
                names.extend(meant.filter_map(|instance| selection::host_name(source, instance)));
            }
        }
    }
    names
}
