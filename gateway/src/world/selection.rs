//! Selection: which of the registry's instances belong to a service, which of them may get requests, and by which
//! address.
//!
//! Instances are selected here and not in the query, so that any number of services, subsets and policies share one
//! watch, and an instance that is left out can be distinguished from one that is gone.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use millgate_registry::{Instance, Status};

use super::World;
use crate::{
    config::settings::{ConsulSource, EndpointSource, HealthPolicy, Selector, ServiceSettings},
    upstream::cluster::Absence,
};

/// Whether the instance belongs to the service by its tags and meta, including those of the subset. Its health does
/// not matter.
pub fn is_meant(service: &ServiceSettings, instance: &Instance) -> bool {
    let EndpointSource::Consul(source) = &service.source else { return false };
    let subset = service.subset.as_ref().map(|subset| &subset.selector);
    std::iter::once(&source.selector).chain(subset).all(|selector| selects(selector, instance))
}

/// The service's instances in one of its datacenters (an index into the source's targets) that may get requests.
pub fn routable<'a>(
    service: &'a ServiceSettings,
    source: &'a ConsulSource,
    world: &'a World,
    at: usize,
) -> impl Iterator<Item = &'a Instance> {
    let known = source.targets.get(at).and_then(|target| world.instances.get(target));
    known
        .into_iter()
        .flat_map(|list| list.iter())
        .filter(|instance| allows(source.policy, instance) && is_meant(service, instance))
}

/// Why the service has no endpoint in one of its datacenters.
pub fn absence(service: &ServiceSettings, world: &World, at: usize) -> Absence {
    let EndpointSource::Consul(source) = &service.source else { return Absence::NotResolved };
    let Some(target) = source.targets.get(at) else { return Absence::NotHeard };
    let is_hidden = world.hidden.contains(target);
    let Some(known) = world.instances.get(target) else {
        return if is_hidden { Absence::Hidden } else { Absence::NotHeard };
    };
    let healthy = || known.iter().filter(|instance| allows(source.policy, instance));
    let count = healthy().count();
    let of_entry = healthy().filter(|instance| selects(&source.selector, instance)).count();
    let found = healthy().filter(|instance| is_meant(service, instance)).count();
    match &service.subset {
        _ if known.is_empty() && is_hidden => Absence::Hidden,
        _ if known.is_empty() => Absence::NotRegistered,
        _ if count == 0 => Absence::Unhealthy { registered: known.len() },
        _ if of_entry == 0 => Absence::NotSelected { healthy: count },
        Some(subset) if found == 0 => {
            Absence::SubsetEmpty { subset: Arc::from(subset.name.as_str()), healthy: of_entry }
        }
        _ => Absence::NotResolved,
    }
}

/// The address at which this instance is reached: `host:port`, with IPv6 in brackets.
pub fn host_port(source: &ConsulSource, instance: &Instance) -> String {
    let (address, port) = instance.reached_by(source.address.as_deref());
    match address.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{address}:{port}"),
    }
}

/// The address of [`host_port`], if its host is a name that must be looked up.
pub fn host_name(source: &ConsulSource, instance: &Instance) -> Option<String> {
    let (address, port) = instance.reached_by(source.address.as_deref());
    address.parse::<IpAddr>().is_err().then(|| format!("{address}:{port}"))
}

/// Whether some instance has a host name among its addresses.
pub fn has_names(instances: &[Instance]) -> bool {
    instances.iter().any(|instance| {
        let tagged = instance.tagged_addresses.values().map(|tagged| &tagged.address);
        std::iter::once(&instance.address).chain(tagged).any(|address| address.parse::<IpAddr>().is_err())
    })
}

fn selects(selector: &Selector, instance: &Instance) -> bool {
    selector.tags.iter().all(|tag| instance.has_tag(tag))
        && selector.meta.iter().all(|(key, value)| instance.meta.get(key) == Some(value))
}

fn allows(policy: HealthPolicy, instance: &Instance) -> bool {
    match policy {
        HealthPolicy::Passing => instance.status == Status::Passing,
        HealthPolicy::Warning => instance.is_routable(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millgate_registry::{TaggedAddress, testing};

    use super::*;

    fn instance(tags: &[&str], meta: &[(&str, &str)]) -> Instance {
        let text = |text: &&str| (*text).to_owned();
        Instance {
            address: "2001:db8::1".to_owned(),
            tagged_addresses: BTreeMap::from([(
                "wan".to_owned(),
                TaggedAddress { address: "api.example".to_owned(), port: 8080 },
            )]),
            tags: tags.iter().map(text).collect(),
            meta: meta.iter().map(|(key, value)| (text(key), text(value))).collect(),
            ..testing::instance("a", Status::Passing)
        }
    }

    fn selector(tags: &[&str], meta: &[(&str, &str)]) -> Selector {
        let Instance { tags, meta, .. } = instance(tags, meta);
        Selector { tags, meta }
    }

    #[test]
    fn a_host_name_is_found_behind_any_address() {
        let mut one = instance(&[], &[]);
        assert!(has_names(std::slice::from_ref(&one)), "as a tagged address");
        one.tagged_addresses.clear();
        assert!(!has_names(std::slice::from_ref(&one)));
        let named = Instance { address: "api.example".to_owned(), ..one.clone() };
        assert!(has_names(&[one, named]));
    }

    #[test]
    fn every_tag_and_every_meta_pair_must_be_there() {
        let one = instance(&["v2", "eu"], &[("version", "2"), ("tier", "gold")]);
        for (tags, meta, selected) in [
            (&[][..], &[][..], true),
            (&["eu"], &[], true),
            (&["eu", "v2"], &[("version", "2")], true),
            (&["eu", "v1"], &[], false),
            (&[], &[("version", "20")], false),
            (&[], &[("zone", "2")], false),
        ] {
            assert_eq!(selects(&selector(tags, meta), &one), selected, "{tags:?} {meta:?}");
        }
    }

    #[test]
    fn the_policy_says_whether_a_warning_is_good_enough() {
        let at = |status, weight| Instance { status, weight, ..instance(&[], &[]) };
        for (instance, passing, warning) in [
            (at(Status::Passing, 1), true, true),
            (at(Status::Warning, 1), false, true),
            (at(Status::Warning, 0), false, false),
            (at(Status::Critical, 1), false, false),
            (at(Status::Maintenance, 1), false, false),
        ] {
            assert_eq!(allows(HealthPolicy::Passing, &instance), passing, "{:?}", instance.status);
            assert_eq!(allows(HealthPolicy::Warning, &instance), warning, "{:?}", instance.status);
        }
    }

    #[test]
    fn what_keeps_a_service_without_an_endpoint_is_said() {
        let text = "version: 1\nroutes: [{path: /a, service: web, subset: v3}]\n\
                    services: {web: {consul: {tag: eu}, subsets: {v3: {tag: v3}}}}\n";
        let settings = crate::config::load::parse("routes.yaml", text, std::path::Path::new(""), &|_| None);
        let settings = settings.unwrap().settings;
        let service = settings.services.iter().find(|service| service.subset.is_some()).unwrap();
        let said = |is_hidden: bool, instances: Option<Vec<Instance>>| {
            let mut world = World::default();
            let target = service.source.targets()[0].clone();
            world.hidden.extend(is_hidden.then(|| target.clone()));
            world.instances.extend(instances.map(|list| (target, Arc::from(list))));
            absence(service, &world, 0).to_string()
        };
        let critical = Instance { status: Status::Critical, ..instance(&["eu", "v3"], &[]) };
        for (instances, sentence) in [
            (None, "the registry has not answered for this service yet"),
            (Some(vec![]), "no healthy instance of the service is registered"),
            (Some(vec![critical]), "none of the 1 registered instances of the service is healthy"),
            (
                Some(vec![instance(&["v3"], &[])]),
                "none of the 1 healthy instances has the tags and metadata that the service's entry asks for",
            ),
            (
                Some(vec![instance(&["eu", "v2"], &[])]),
                "subset `v3` of the service matches 0 of 1 healthy instances",
            ),
        ] {
            assert_eq!(said(false, instances), sentence);
        }
        for instances in [None, Some(vec![])] {
            let sentence = "the gateway may not see the instances of the service in the registry";
            assert_eq!(said(true, instances), sentence);
        }
    }

    #[test]
    fn an_address_is_the_tagged_one_if_the_instance_has_it() {
        let by = |name: &str| ConsulSource { address: Some(name.to_owned()), ..ConsulSource::service("a") };
        assert_eq!(host_port(&ConsulSource::service("a"), &instance(&[], &[])), "[2001:db8::1]:80");
        assert_eq!(host_port(&by("wan"), &instance(&[], &[])), "api.example:8080");
        assert_eq!(host_port(&by("lan"), &instance(&[], &[])), "[2001:db8::1]:80");
    }
}
