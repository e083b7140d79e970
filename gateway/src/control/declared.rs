//! Declared routes: the list of services is followed, and its tags become routes behind those of the file
//! ([`crate::auto_routes`]).
//!
//! A tag that is gone while its service stays takes its route away at once. A service that is gone from the list keeps its routes
//! while its instances are known, so an answer that a token cut short takes nothing away: the watch of its instances decides with
//! more care. After that the routes stay for [`GONE_FOR`] and answer 503, as a route of the file does. Declarations are kept on
//! disk, so a gateway that starts while Consul is down has its routes.

mod changes;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millgate_registry::Instance;
use serde::{Deserialize, Serialize};

use self::changes::changes;
use super::{event::CatalogNews, kept_file, warming::Warming};
use crate::{
    auto_routes::merge::{Accepted, Before, Declared, Merged, Refused, Rejected, merge, without_repeats},
    config::settings::{AutoRoutesSettings, ServiceSettings, Settings},
    declaration::standing::{Standing, Standings},
    printable::printable,
    world::World,
};

pub use changes::Change;
pub use report::{DeclaredReport, RejectedView, look_at};

/// The declarations, and what became of them.
#[derive(Debug, Default)]
pub struct DeclaredRoutes {
    /// By service; also services that are gone from the list and are kept.
    services: Declared,
    /// Declarations in the metadata of instances, for services with a tag that points to it.
    metadata: Declared,
    /// How the services stood when the table was made.
    standings: Standings,
    /// Services whose routes depend on whether they, or others, have instances.
    contenders: BTreeSet<String>,
    /// Metadata or the standing of services has changed, so that another table may be due.
    has_news: bool,
    /// Services that are gone from the list, and since when they also have no instance.
    gone: BTreeMap<String, Option<Instant>>,
    /// The last list was cut short: a service that it lacks may still exist.
    filtered: bool,
    datacenter: Option<String>,
    heard: Heard,
    accepted: Vec<Accepted>,
    /// Accepted declarations that are not in the table yet.
    warming: Warming,
    rejected: Vec<Rejected>,
    refused: Refused,
    /// Ids and tags of instances that no watch follows, by service, for the report of refused declarations.
    seen: BTreeMap<String, Vec<(String, Vec<String>)>>,
    /// The last run's table in its order, read with the first merge, which knows the forms of tags.
    remembered: Vec<(String, String)>,
    memory: Option<PathBuf>,
}

/// Where the known declarations are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Heard {
    #[default]
    Nothing,
    /// From another registry: the next list replaces all of them.
    OfAnother,
    /// From the registry in use, or from disk.
    OfThis,
}

impl DeclaredRoutes {
    /// Begins with the declarations of the last run. `folder`: the state of the registry.
    pub fn remembered(folder: Option<&Path>) -> Self {
        let memory = folder.map(|dir| dir.join(FILE));
        let record = memory.as_deref().and_then(load);
        let mut known = Self { memory, ..Self::default() };
        if let Some(record) = record {
            known.heard = Heard::OfThis;
            known.datacenter = record.datacenter;
            for (service, tag) in &record.tags {
                known.services.entry(service.clone()).or_default().push(tag.clone());
            }
            known.remembered = record.tags;
        }
        known
    }

    /// Keeps the state in this folder from now on.
    pub fn keep_in(&mut self, folder: Option<&Path>) {
        self.memory = folder.map(|dir| dir.join(FILE));
        self.save(&self.accepted);
    }

    /// Another registry is used from now on; its state is in this folder. The table stays until that registry answers.
    pub fn begin_anew(&mut self, folder: Option<&Path>) {
        self.memory = folder.map(|dir| dir.join(FILE));
        if self.heard != Heard::Nothing {
            self.heard = Heard::OfAnother;
        }
    }

    /// Whether the table is complete, as far as it depends on declarations.
    pub fn is_heard(&self, settings: &Settings) -> bool {
        self.heard != Heard::Nothing || settings.auto_routes.is_none()
    }

    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Takes over a list of services. `false`: nothing in it is new.
    pub fn learn(&mut self, news: CatalogNews) -> bool {
        let before = (self.services.clone(), self.datacenter.clone(), self.heard);
        let mut services = news.services;
        if self.heard == Heard::OfAnother {
            (self.services, self.gone, self.metadata) = Default::default();
        }
        self.gone.retain(|service, _| !services.contains_key(service));
        for (service, tags) in std::mem::take(&mut self.services) {
            if let std::collections::btree_map::Entry::Vacant(missing) = services.entry(service) {
                self.gone.entry(missing.key().clone()).or_default();
                missing.insert(tags);
            }
        }
        services.retain(|_, tags| !tags.is_empty());
        // What is known of instances belongs to the tags of that time.
        self.seen.retain(|service, _| services.get(service) == before.0.get(service));
        (self.services, self.filtered) = (services, news.filtered);
        self.heard = Heard::OfThis;
        if news.datacenter.is_some() {
            self.datacenter = news.datacenter;
        }
        before != (self.services.clone(), self.datacenter.clone(), Heard::OfThis)
    }

    /// Takes over the declarations in the metadata of a service's instances, if a tag points to it. Without an instance they
    /// stay, as those in tags do.
    pub fn learn_metadata(&mut self, auto: &AutoRoutesSettings, world: &World, service: &str) {
        let points = |tags: &Vec<String>| tags.iter().any(|tag| auto.forms.points_to_metadata(tag));
        if !self.services.get(service).is_some_and(points) {
            self.has_news |= self.metadata.remove(service).is_some();
            return;
        }
        let mut is_known = false;
        let mut texts = BTreeSet::new();
        for instance in instances(auto, world, service) {
            is_known = true;
            if instance.tags.iter().any(|tag| auto.forms.points_to_metadata(tag)) {
                texts.extend(auto.forms.in_metadata(&instance.meta));
            }
        }
        let texts: Vec<String> = texts.into_iter().collect();
        if is_known && self.metadata.get(service) != Some(&texts) {
            self.metadata.insert(service.to_owned(), texts);
            self.has_news = true;
        }
    }

    /// As [`DeclaredRoutes::learn_metadata`], for all services, after tags came or went.
    pub fn relearn_metadata(&mut self, auto: &AutoRoutesSettings, world: &World) {
        let points = |tags: &Vec<String>| tags.iter().any(|tag| auto.forms.points_to_metadata(tag));
        let pointing =
            self.services.iter().filter(|(_, tags)| points(tags)).map(|(service, _)| service.clone());
        let all: BTreeSet<String> = pointing.chain(self.metadata.keys().cloned()).collect();
        for service in all {
            self.learn_metadata(auto, world, &service);
        }
    }

    /// Notices how one service stands now. A change matters where services contend for a route, and where it is about proxies of a
    /// mesh, which may declare none.
    pub fn learn_standing(&mut self, auto: &AutoRoutesSettings, world: &World, service: &str) {
        let Some(old) = self.standings.get(service).copied() else { return };
        let new = world.standing(&auto.service_of(service));
        let is_side = old == Standing::Side || new == Standing::Side;
        self.has_news |= old != new && (is_side || !self.contenders.is_empty());
    }

    /// Takes over how all services with declarations stand.
    pub fn relearn_standings(&mut self, auto: &AutoRoutesSettings, world: &World) {
        let standing = |service: &String| (service.clone(), world.standing(&auto.service_of(service)));
        self.standings = self.services.keys().map(standing).collect();
    }

    /// Whether metadata or the standing of services has changed since the last table, so that another one may be due.
    pub fn has_news(&self) -> bool {
        self.has_news
    }

    /// The declarations of tags and of metadata together.
    fn all(&self, auto: &AutoRoutesSettings) -> Declared {
        let mut all = self.services.clone();
        for (service, texts) in &self.metadata {
            let tags = all.get_mut(service);
            if let Some(tags) = tags.filter(|tags| tags.iter().any(|tag| auto.forms.points_to_metadata(tag)))
            {
                tags.extend(texts.iter().cloned());
            }
        }
        all
    }

    /// Separates tags from metadata in what was kept on disk, once the forms of tags are known.
    fn recall(&mut self, auto: &AutoRoutesSettings) {
        for (service, tags) in &mut self.services {
            let texts: Vec<String> = tags.extract_if(.., |tag| auto.forms.is_metadata(tag)).collect();
            if let Some(pointer) = auto.forms.native.clone().filter(|_| !texts.is_empty()) {
                tags.push(pointer);
                self.metadata.insert(service.clone(), texts);
            }
        }
        let datacenter = self.datacenter.clone();
        let read = |(service, tag): (String, String)| {
            let declaration = auto.forms.read(&tag, datacenter.as_deref())?.ok()?;
            Some(Accepted::new(service, tag, &declaration))
        };
        self.accepted = without_repeats(self.remembered.drain(..).filter_map(read).collect());
    }

    /// Forgets services that have been gone for long enough. `false`: there was none.
    pub fn expire(&mut self, auto: &AutoRoutesSettings, world: &World, now: Instant) -> bool {
        if self.filtered {
            return false;
        }
        let mut over = Vec::new();
        for (service, since) in &mut self.gone {
            if instances(auto, world, service).next().is_some() {
                *since = None;
            } else if now.saturating_duration_since(*since.get_or_insert(now)) >= GONE_FOR {
                over.push(service.clone());
            }
        }
        for service in &over {
            self.gone.remove(service);
            self.services.remove(service);
            self.metadata.remove(service);
        }
        !over.is_empty()
    }

    pub fn warming(&self) -> &Warming {
        &self.warming
    }

    /// The settings of the file with the declared routes, and the differences from before. The first routes of a service wait
    /// until it `is_known` ([`Warming`]); until then the settings have the service, but no route of it.
    pub fn merge(
        &mut self,
        file: &Settings,
        is_known: impl Fn(&ServiceSettings) -> bool,
        now: Instant,
    ) -> (Settings, Vec<Change>) {
        let Some(auto) = &file.auto_routes else {
            (self.accepted, self.rejected, self.refused) = Default::default();
            self.warming = Warming::default();
            return (file.clone(), Vec::new());
        };
        if !self.remembered.is_empty() {
            self.recall(auto);
        }
        self.has_news = false;
        let before = Before { incumbents: &self.accepted, standings: &self.standings };
        let merged = merge(file, auto, &self.all(auto), &before, self.datacenter.as_deref());
        let Merged { mut settings, accepted, rejected, refused, contenders } = merged;
        self.contenders = contenders;
        let (accepted, silent) = self.live(&mut settings, file.routes.len(), accepted, is_known, now);
        let mut changes = changes((&self.accepted, &accepted), (&self.rejected, &rejected));
        changes.extend(silent.iter().map(|service| Change {
            kind: "service_unknown",
            text: printable(&format!(
                "the registry has not spoken of service `{service}`; its declared routes answer 503 until then"
            ))
            .into_owned(),
        }));
        if accepted != self.accepted {
            self.save(&accepted);
        }
        (self.accepted, self.rejected, self.refused) = (accepted, rejected, refused);
        (settings, changes)
    }

    /// Takes the routes that wait out of the settings, whose first `statics` routes are the file's. Returns the declarations in
    /// the table, and the services that are not known and no longer wait.
    fn live(
        &mut self,
        settings: &mut Settings,
        statics: usize,
        accepted: Vec<Accepted>,
        is_known: impl Fn(&ServiceSettings) -> bool,
        now: Instant,
    ) -> (Vec<Accepted>, BTreeSet<String>) {
        let live: BTreeSet<&str> = self.accepted.iter().map(|known| known.service.as_str()).collect();
        let routes = settings.routes.split_off(statics.min(settings.routes.len()));
        let unknown = accepted.iter().zip(&routes).filter_map(|(known, route)| {
            let service = settings.services.get(route.service?)?;
            let is_new = !live.contains(known.service.as_str()) && !is_known(service);
            is_new.then(|| (known.service.clone(), service.clone()))
        });
        let over = self.warming.wait_for(unknown.collect(), now);
        let waits = |known: &Accepted| self.warming.waits(&known.service);
        let declared = accepted.into_iter().zip(routes).filter(|(known, _)| !waits(known));
        let (accepted, routes): (Vec<_>, Vec<_>) = declared.unzip();
        settings.routes.extend(routes);
        (accepted, over)
    }

    fn save(&self, accepted: &[Accepted]) {
        let Some(path) = &self.memory else { return };
        let of_route = |known: &Accepted| {
            known.tags().map(|tag| (known.service.clone(), tag.to_owned())).collect::<Vec<_>>()
        };
        let tags = accepted.iter().flat_map(of_route).collect();
        let record = Record { version: VERSION, datacenter: self.datacenter.clone(), tags };
        if let Ok(bytes) = serde_json::to_vec(&record) {
            kept_file::write(path, &bytes);
        }
    }
}

/// The instances of a service that watches follow, because a route that it declares is in the table.
fn instances<'a>(
    auto: &AutoRoutesSettings,
    world: &'a World,
    service: &str,
) -> impl Iterator<Item = &'a Instance> + use<'a> {
    let targets = auto.service_of(service).source.targets().to_vec();
    targets.into_iter().filter_map(|target| world.instances.get(&target)).flat_map(|list| list.iter())
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    datacenter: Option<String>,
    /// Service and tag of each declaration, in the order of the table.
    tags: Vec<(String, String)>,
}

fn load(path: &Path) -> Option<Record> {
    kept_file::read_json(path).filter(|record: &Record| record.version == VERSION)
}

/// The restart of a service's last instance takes less, and meanwhile a 503 says more than a 404.
const GONE_FOR: Duration = Duration::from_mins(1);
const FILE: &str = "declared+routes.json";
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load as config;

    fn file() -> Settings {
        let text = "version: 1\ndiscovery: {consul: {auto_routes: {allow_hosts: \"*\", allow_paths: /**}}}\nroutes: []\n";
        config::parse("routes.yaml", text, Path::new(""), &|_| None).unwrap().settings
    }

    fn news(services: &[(&str, &str)]) -> CatalogNews {
        let tags = |(name, tag): &(&str, &str)| ((*name).to_owned(), vec![format!("millgate.route={tag}")]);
        CatalogNews {
            services: services.iter().map(tags).collect(),
            filtered: false,
            datacenter: Some("dc1".into()),
        }
    }

    fn paths(declared: &mut DeclaredRoutes) -> Vec<String> {
        declared
            .merge(&file(), |_| true, Instant::now())
            .0
            .routes
            .into_iter()
            .map(|route| route.path)
            .collect()
    }

    /// The registry knows one instance of `web`, or none.
    fn world(instances: usize) -> World {
        let mut world = World::default();
        let json = r#"{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":1}}"#;
        let entry = serde_json::from_str(json).unwrap();
        let one = millgate_registry::Instance::read(&entry).unwrap();
        world.instances.insert(millgate_registry::WatchTarget::service("web"), vec![one; instances].into());
        world
    }

    #[test]
    fn a_tag_that_is_gone_takes_its_route_and_a_service_that_is_gone_keeps_it_while_it_has_instances() {
        let auto = file().auto_routes.unwrap();
        let (mut declared, begin) = (DeclaredRoutes::default(), Instant::now());
        assert!(declared.learn(news(&[("web", "/a"), ("other", "/o")])));
        assert_eq!(paths(&mut declared), ["/o", "/a"]);
        assert!(declared.learn(news(&[("web", "/b"), ("other", "/o")])));
        assert_eq!(paths(&mut declared), ["/o", "/b"]);
        let mut without = news(&[("other", "/o"), ("web", "")]);
        without.services.get_mut("web").unwrap().clear();
        declared.learn(without);
        assert_eq!(paths(&mut declared), ["/o"], "the service is there, and declares nothing");
        declared.learn(news(&[("web", "/b"), ("other", "/o")]));
        declared.learn(news(&[("other", "/o")]));
        let later = begin + GONE_FOR * 10;
        assert!(!declared.expire(&auto, &world(1), begin) && !declared.expire(&auto, &world(1), later));
        assert_eq!(paths(&mut declared), ["/o", "/b"]);
        assert!(!declared.expire(&auto, &world(0), later), "its time begins");
        assert!(!declared.expire(&auto, &world(0), later + GONE_FOR / 2));
        assert!(declared.expire(&auto, &world(0), later + GONE_FOR));
        assert_eq!(paths(&mut declared), ["/o"]);
    }

    #[test]
    fn a_list_that_was_cut_short_by_permissions_ends_nothing() {
        let auto = file().auto_routes.unwrap();
        let (mut declared, begin) = (DeclaredRoutes::default(), Instant::now());
        declared.learn(news(&[("web", "/a")]));
        declared.learn(CatalogNews { filtered: true, ..news(&[]) });
        declared.expire(&auto, &world(0), begin);
        assert!(!declared.expire(&auto, &world(0), begin + GONE_FOR * 2));
        assert_eq!(paths(&mut declared), ["/a"]);
    }

    #[test]
    fn the_first_routes_of_a_service_wait_until_it_is_known_and_later_ones_do_not() {
        let (mut declared, now) = (DeclaredRoutes::default(), Instant::now());
        let names = |(settings, changes): (Settings, Vec<Change>)| {
            let paths: Vec<String> = settings.routes.into_iter().map(|route| route.path).collect();
            let services = settings.services.into_iter().map(|service| service.name);
            (
                paths.join(" "),
                services.collect::<Vec<_>>().join(" "),
                changes.iter().map(|c| c.kind).collect(),
            )
        };
        let expect = |paths: &str, services: &str, kinds: &[&'static str]| {
            (paths.to_owned(), services.to_owned(), kinds.to_vec())
        };
        declared.learn(news(&[("a", "/a"), ("b", "/b")]));
        let merged = names(declared.merge(&file(), |service| service.name == "a", now));
        assert_eq!(merged, expect("/a", "a b", &["route_declared"]), "b is watched");
        let merged = names(declared.merge(&file(), |_| true, now));
        assert_eq!(merged, expect("/a /b", "a b", &["route_declared"]));
        // As after a change of the registry: what works is not taken away.
        declared.learn(news(&[("a", "/new"), ("b", "/b")]));
        let merged = names(declared.merge(&file(), |_| false, now));
        assert_eq!(merged, expect("/b /new", "b a", &["route_withdrawn", "route_declared"]));
        declared.learn(news(&[("a", "/new"), ("b", "/b"), ("c", "/c")]));
        declared.merge(&file(), |_| false, now);
        let merged = names(declared.merge(&file(), |_| false, now + Duration::from_mins(1)));
        assert_eq!(merged, expect("/b /new /c", "b a c", &["route_declared", "service_unknown"]));
    }

    #[test]
    fn metadata_declares_where_a_tag_points_to_it_and_stays_like_tags() {
        let dir = tempfile::tempdir().unwrap();
        let auto = file().auto_routes.unwrap();
        let mut declared = DeclaredRoutes::remembered(Some(dir.path()));
        let with = |value: &str| {
            let mut world = world(1);
            for list in world.instances.values_mut() {
                let mut one = list[0].clone();
                one.tags = vec!["millgate".to_owned()];
                one.meta.insert("millgate-route-1".to_owned(), value.to_owned());
                *list = vec![one].into();
            }
            world
        };
        let mut pointing = news(&[("web", "/t")]);
        pointing.services.get_mut("web").unwrap().push("millgate".to_owned());
        declared.learn(pointing.clone());
        declared.relearn_metadata(&auto, &World::default());
        assert_eq!(paths(&mut declared), ["/t"]);
        declared.learn_metadata(&auto, &with("/m"), "web");
        assert!(declared.has_news());
        assert_eq!(paths(&mut declared), ["/t", "/m"]);
        declared.learn_metadata(&auto, &with("/m"), "web");
        assert!(!declared.has_news(), "nothing new");
        declared.learn_metadata(&auto, &world(0), "web");
        assert_eq!(paths(&mut declared), ["/t", "/m"], "nobody is there to say otherwise");
        let mut next = DeclaredRoutes::remembered(Some(dir.path()));
        assert_eq!(paths(&mut next), ["/t", "/m"], "without the registry");
        next.learn(pointing);
        assert_eq!(paths(&mut next), ["/t", "/m"], "before its instances are known");
        next.learn_metadata(&auto, &with("/n"), "web");
        assert_eq!(paths(&mut next), ["/t", "/n"]);
        next.learn(news(&[("web", "/t")]));
        next.relearn_metadata(&auto, &with("/n"));
        assert_eq!(paths(&mut next), ["/t"], "no tag points to it any more");
    }

    #[test]
    fn a_service_whose_metadata_is_to_be_read_is_followed_before_it_has_a_route() {
        let mut declared = DeclaredRoutes::default();
        let mut pointing = news(&[("web", ""), ("other", "")]);
        pointing.services.insert("web".to_owned(), vec!["millgate".to_owned()]);
        declared.learn(pointing);
        let (settings, _) = declared.merge(&file(), |_| false, Instant::now());
        let names: Vec<&str> = settings.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!((names, settings.routes.len()), (vec!["web"], 0));
    }

    #[test]
    fn shares_change_without_the_route_and_are_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut declared = DeclaredRoutes::remembered(Some(dir.path()));
        let kinds = |declared: &mut DeclaredRoutes| {
            let (settings, changes) = declared.merge(&file(), |_| true, Instant::now());
            let shares = settings.services[0].subset.as_ref().map(|subset| subset.by_tag.clone());
            let told: Vec<String> = changes.iter().map(|c| format!("{} {}", c.kind, c.text)).collect();
            (shares.unwrap_or_default().iter().map(|known| known.share).collect::<Vec<_>>(), told)
        };
        declared.learn(news(&[("web", "/x")]));
        assert_eq!(kinds(&mut declared).0, [0_u32; 0]);
        let mut weighted = news(&[("web", "/x")]);
        weighted.services.get_mut("web").unwrap().push("millgate.route=/x weight=0.0525".to_owned());
        declared.learn(weighted.clone());
        let told = "route_changed `/x` by service `web`: 5.25 % by `millgate.route=/x weight=0.0525`";
        assert_eq!(kinds(&mut declared), (vec![525], vec![told.to_owned()]));
        let mut next = DeclaredRoutes::remembered(Some(dir.path()));
        assert_eq!(kinds(&mut next), (vec![525], vec![]), "without the registry");
        next.learn(weighted);
        assert_eq!(kinds(&mut next), (vec![525], vec![]));
        next.learn(news(&[("web", "/x")]));
        let told = "route_changed `/x` by service `web`: all instances alike";
        assert_eq!(kinds(&mut next), (vec![], vec![told.to_owned()]));
    }

    #[test]
    fn what_was_declared_is_there_at_the_next_start_in_the_same_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut declared = DeclaredRoutes::remembered(Some(dir.path()));
        assert!(!declared.is_heard(&file()));
        declared.learn(news(&[("b", "/x")]));
        paths(&mut declared);
        declared.learn(news(&[("a", "/x"), ("b", "/x")]));
        paths(&mut declared);
        let mut next = DeclaredRoutes::remembered(Some(dir.path()));
        assert!(next.is_heard(&file()));
        next.learn(news(&[("a", "/x"), ("b", "/x")]));
        assert_eq!(next.merge(&file(), |_| true, Instant::now()).0.routes[0].name, "consul:dc1/b /x");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(!DeclaredRoutes::remembered(Some(dir.path())).is_heard(&file()));
    }
}
