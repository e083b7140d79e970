//! Services whose first routes wait until the registry has answered about their instances.
//!
//! A tag is in the list of services before the watch of its service has an answer. A route that went live in between would answer
//! 503 although there is an instance. So it waits for that answer, at most [`WAIT_MAX`]. A service of which nothing can be
//! learned (a token without permission, a datacenter that is down) gets its routes then: a 503 shows the fault, which a 404 would
//! hide.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{config::settings::ServiceSettings, world::World};

/// The services that wait, and since when.
#[derive(Debug, Default)]
pub struct Warming {
    waiting: BTreeMap<String, (ServiceSettings, Instant)>,
}

impl Warming {
    /// `unknown`: services without a route and without an answer of the registry. Returns those whose wait is over all the same.
    pub fn wait_for(&mut self, unknown: BTreeMap<String, ServiceSettings>, now: Instant) -> BTreeSet<String> {
        let mut before = std::mem::take(&mut self.waiting);
        let mut over = BTreeSet::new();
        for (name, service) in unknown {
            let since = before.remove(&name).map_or(now, |(_, since)| since);
            if is_over(since, now) {
                over.insert(name);
            } else {
                self.waiting.insert(name, (service, since));
            }
        }
        over
    }

    pub fn waits(&self, service: &str) -> bool {
        self.waiting.contains_key(service)
    }

    /// Whether another table is due: as soon as half of the waiting services are known. So a thousand services that come together
    /// need ten tables, not a thousand.
    pub fn has_news(&self, world: &World) -> bool {
        let known = self.waiting.values().filter(|(service, _)| world.knows(service)).count();
        known > 0 && known * 2 >= self.waiting.len()
    }

    /// As [`Warming::has_news`], for a caller that looks once a second: whether one of them is known, or its wait is over.
    pub fn is_due(&self, world: &World, now: Instant) -> bool {
        self.waiting.values().any(|(service, since)| is_over(*since, now) || world.knows(service))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.waiting.keys().map(String::as_str)
    }
}

fn is_over(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= WAIT_MAX
}

/// A working registry answers within milliseconds, also for hundreds of watches that begin together. After more than this, an
/// error says more than a missing route.
const WAIT_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use millgate_registry::WatchTarget;

    use super::*;
    use crate::config::{
        load,
        settings::{ConsulSource, EndpointSource},
    };

    fn services(names: &[&str]) -> BTreeMap<String, ServiceSettings> {
        let text = "version: 1\nroutes: [{path: /a, service: web}]\n";
        let settings = load::parse("routes.yaml", text, Path::new(""), &|_| None).unwrap().settings;
        let EndpointSource::Consul(source) = &settings.services[0].source else {
            panic!("a service of Consul")
        };
        let service = |name: &&str| {
            let source = ConsulSource { targets: vec![WatchTarget::service(*name)], ..source.clone() };
            let source = EndpointSource::Consul(source);
            ((*name).to_owned(), ServiceSettings { source, ..settings.services[0].clone() })
        };
        names.iter().map(service).collect()
    }

    fn world(known: &[&str]) -> World {
        let mut world = World::default();
        world.instances.extend(known.iter().map(|name| (WatchTarget::service(*name), Arc::from([]))));
        world
    }

    #[test]
    fn a_service_waits_until_something_is_known_of_it_or_its_time_is_over() {
        let (mut warming, begin) = (Warming::default(), Instant::now());
        assert!(warming.wait_for(services(&["web"]), begin).is_empty());
        assert!(warming.waits("web") && !warming.waits("other"));
        assert!(!warming.is_due(&world(&["other"]), begin + WAIT_MAX / 2));
        assert!(warming.is_due(&world(&["web"]), begin), "also if all that is known is that nobody is there");
        assert!(warming.is_due(&world(&[]), begin + WAIT_MAX));
        // Another change meanwhile does not begin the wait again.
        assert!(warming.wait_for(services(&["other", "web"]), begin + WAIT_MAX / 2).is_empty());
        let over = warming.wait_for(services(&["other", "web"]), begin + WAIT_MAX);
        assert_eq!(over.iter().collect::<Vec<_>>(), ["web"]);
        assert!(warming.waits("other") && !warming.waits("web"));
    }

    #[test]
    fn half_of_those_that_wait_are_enough_for_another_table() {
        let mut warming = Warming::default();
        warming.wait_for(services(&["a", "b", "c", "d"]), Instant::now());
        assert!(!warming.has_news(&world(&["a"])));
        assert!(warming.has_news(&world(&["a", "c"])));
        assert!(!Warming::default().has_news(&world(&["a"])));
    }
}
