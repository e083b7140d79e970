//! Where routes lead to, and under which name of a host: what tells a service's routes apart, beside the path.

use std::collections::BTreeSet;

use crate::{
    config::settings::{EndpointSource, RouteSettings, Settings},
    policy::rewrite::UpstreamHost,
    router::HostPattern,
};

/// What a route leads to: addresses, and names in Consul whatever their tags, since instances of one name are one program.
pub(super) fn places_of(settings: &Settings, route: &RouteSettings) -> BTreeSet<String> {
    let services = route.service.into_iter().chain(route.split.iter().map(|(at, _)| *at));
    let services = services.filter_map(|at| settings.services.get(at));
    let places = services.flat_map(|service| {
        let places: Vec<String> = match &service.source {
            EndpointSource::Hosts(hosts) => hosts.iter().map(|host| place_of(host)).collect(),
            EndpointSource::Consul(consul) => {
                consul.targets.iter().map(|target| format!("consul:{}", target.service)).collect()
            }
        };
        places.into_iter().chain(Some(format!("name:{}", service.name)))
    });
    places.collect()
}

/// One program has one place, whether it is named by `localhost` or by the address that this stands for (RFC 6761 §6.3).
fn place_of(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let of_this_machine = ["127.0.0.1", "[::1]"].iter().find_map(|address| {
        let port = host.strip_prefix(address)?;
        port.starts_with(':').then(|| format!("localhost{port}"))
    });
    of_this_machine.unwrap_or(host)
}

/// Whether `rewrite.host` gives the service one name for the hosts of both routes.
pub(super) fn is_one_name(one: &RouteSettings, other: &RouteSettings) -> bool {
    let is_rewritten = [one, other].iter().any(|route| route.policies.rewrite.upstream_host().is_some());
    let names = [one, other].map(upstream_host);
    is_rewritten && names[0].is_some() && names[0] == names[1]
}

/// The `Host` that the service gets; `None`: the one that the client has named.
fn upstream_host(route: &RouteSettings) -> Option<UpstreamHost> {
    let of_client = || match &route.host {
        HostPattern::Exact(host) => Some(UpstreamHost::Name(host.parse().ok()?)),
        HostPattern::Any | HostPattern::Suffix(_) => None,
    };
    route.policies.rewrite.upstream_host().cloned().or_else(of_client)
}
