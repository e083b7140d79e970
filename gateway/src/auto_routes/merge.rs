//! Merges declared routes into the table, behind the routes of the file.
//!
//! Every route of the file comes before every declared one ([`PRIORITY`]), even if the declared one is more specific: a tag
//! cannot take requests away from a route that an operator wrote. Of two declared routes that match the same requests the one
//! in the table stays, so that a new route never replaces one that works; but a route whose service has no instance that can
//! serve gives way to one whose service has ([`Claim`]). Between new ones the order of the
//! services' names decides, which is the same on every gateway. A refused declaration is tried again at each change.

mod candidates;
mod services;
mod settling;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use self::{
    candidates::{candidates, with_metadata},
    services::Services,
    settling::Table,
};
use crate::{
    config::settings::{AutoRoutesSettings, RouteSettings, Settings, TagRule},
    declaration::{
        Declaration, Reason, Rejection,
        standing::{Claim, Standing, Standings},
    },
};

pub use candidates::without_repeats;

/// The declarations of services: their names, with the tags and texts of metadata that declare routes.
pub type Declared = BTreeMap<String, Vec<String>>;

/// A declared route in the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    pub service: String,
    pub tag: String,
    /// The declaration without its weight and protocol, which are in `by_tag`.
    pub declaration: Declaration,
    /// How the instances of each tag with the same route are treated, in the order of the tags' texts.
    pub by_tag: Vec<TagRule>,
}

impl Accepted {
    /// The route that a service declares with this tag.
    pub fn new(service: String, tag: String, declaration: &Declaration) -> Self {
        let Declaration { tls, version, .. } = declaration.clone();
        let share = declaration.weight.unwrap_or(0);
        let is_rule = share > 0 || tls.is_some() || version.is_some();
        let by_tag = is_rule.then(|| TagRule { tag: tag.clone(), share, tls, version }).into_iter().collect();
        Self { service, tag, declaration: declaration.of_all_instances(), by_tag }
    }

    /// Whether both have the same service, match and policies. The treatment of instances may differ.
    pub fn is_same_route(&self, other: &Self) -> bool {
        self.service == other.service && self.declaration == other.declaration
    }

    /// A key that is equal for the same route ([`Accepted::is_same_route`]).
    fn key(&self) -> (String, String) {
        (self.service.clone(), self.declaration.to_string())
    }

    /// The tags that make up this route.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let own = (!self.by_tag.iter().any(|known| known.tag == self.tag)).then_some(self.tag.as_str());
        own.into_iter().chain(self.by_tag.iter().map(|known| known.tag.as_str()))
    }
}

/// A declaration that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub service: String,
    pub tag: String,
    pub why: Rejection,
}

/// Numbers of declarations that are not in the table.
pub type Refused = BTreeMap<Reason, usize>;

/// The file's settings with the accepted routes.
#[derive(Debug)]
pub struct Merged {
    pub settings: Settings,
    /// The accepted routes, in the order in which they came into the table.
    pub accepted: Vec<Accepted>,
    /// The refused declarations by service and tag, at most [`LISTED_OF_SERVICE_MAX`] of a service and [`LISTED_MAX`] of all.
    pub rejected: Vec<Rejected>,
    /// Numbers of refused declarations by reason, including those that are not listed.
    pub refused: Refused,
    /// Services without an accepted route whose instances decide whether they get one, at most [`CONTENDERS_MAX`]. The settings
    /// contain them.
    pub contenders: BTreeSet<String>,
}

/// Adds the `declared` routes to the settings of the file, which compile without them. `datacenter` becomes part of a route's
/// origin, if it is known.
pub fn merge(
    file: &Settings,
    auto: &AutoRoutesSettings,
    declared: &Declared,
    before: &Before<'_>,
    datacenter: Option<&str>,
) -> Merged {
    let mut merged = Merged {
        settings: file.clone(),
        accepted: Vec::new(),
        rejected: Vec::new(),
        refused: Refused::new(),
        contenders: BTreeSet::new(),
    };
    let candidates = candidates(auto, declared, before, datacenter, &mut merged.rejected);
    let mut services = Services::new(auto, file);
    let statics = file.routes.len();
    let routes: Vec<RouteSettings> = candidates
        .iter()
        .map(|candidate| RouteSettings {
            name: route_name(&candidate.service, &candidate.declaration, datacenter),
            priority: PRIORITY,
            service: Some(services.index(candidate)),
            origin: Some(origin(&candidate.service, datacenter)),
            ..auto.route_of(&candidate.declaration)
        })
        .collect();
    // Routes in the table come first, by themselves, since a new route of the file may be in their way. New routes follow.
    let ranks = before.ranks();
    let rank = |candidate: &Accepted| ranks.get(&candidate.key()).copied();
    let mut claims: BTreeMap<Claim, Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        claims.entry(before.claim(&candidate.service, rank(candidate).is_some())).or_default().push(at);
    }
    let table = Table { statics, file: &file.routes, routes: &routes, candidates: &candidates };
    let mut kept = Vec::new();
    for members in claims.into_values() {
        kept = table.settle(&kept, members, &mut merged.rejected);
    }
    // A service without an instance for a while keeps its place in the table.
    kept.sort_by_key(|at| (candidates.get(*at).and_then(rank).unwrap_or(usize::MAX), *at));
    let mut used: HashSet<usize> =
        kept.iter().filter_map(|at| routes.get(*at)).filter_map(|route| route.service).collect();
    // The instances of services with metadata are watched before a route of theirs is known.
    let followed = with_metadata(auto, declared, &mut merged.rejected);
    used.extend(followed.into_iter().map(|service| services.whole(service)));
    let holders =
        kept.iter().filter_map(|at| candidates.get(*at)).map(|known| known.service.as_str()).collect();
    merged.contenders = contenders(&merged.rejected, before, &holders);
    used.extend(merged.contenders.iter().map(|service| services.whole(service)));
    let moved = services.add_to(&mut merged.settings, &used);
    for at in kept {
        let (Some(route), Some(candidate)) = (routes.get(at), candidates.get(at)) else { continue };
        let service = route.service.map(|at| moved.get(&at).copied().unwrap_or(at));
        merged.settings.routes.push(RouteSettings { service, ..route.clone() });
        merged.accepted.push(candidate.clone());
    }
    merged.rejected.sort_by(|a, b| (&a.service, &a.tag).cmp(&(&b.service, &b.tag)));
    for rejected in &merged.rejected {
        *merged.refused.entry(rejected.why.reason).or_default() += 1;
    }
    merged.rejected = listed(merged.rejected);
    merged
}

/// Services that would get a route if the state of their instances changed.
fn contenders(rejected: &[Rejected], before: &Before<'_>, holders: &HashSet<&str>) -> BTreeSet<String> {
    let is_one = |rejected: &&Rejected| {
        rejected.why.reason == Reason::Conflict || before.standing(&rejected.service) == Standing::Side
    };
    let all = rejected.iter().filter(is_one).map(|rejected| &rejected.service);
    // Services with another route are watched already.
    let all: BTreeSet<&String> = all.filter(|service| !holders.contains(service.as_str())).collect();
    all.into_iter().take(CONTENDERS_MAX).cloned().collect()
}

/// The state before a merge.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The routes in the table, oldest first.
    pub incumbents: &'a [Accepted],
    /// The standings of the services.
    pub standings: &'a Standings,
}

impl Before<'_> {
    /// The rank of each incumbent by its meaning, not by its text: another tag with the same meaning may have replaced it.
    fn ranks(&self) -> HashMap<(String, String), usize> {
        self.incumbents.iter().enumerate().map(|(rank, known)| (known.key(), rank)).collect()
    }

    fn standing(&self, service: &str) -> Standing {
        self.standings.get(service).copied().unwrap_or_default()
    }

    fn claim(&self, service: &str, is_incumbent: bool) -> Claim {
        Claim::of(self.standing(service), is_incumbent)
    }
}

/// Limits the listed refusals to a number that an operator can read. Each listed one is reported, compared at each change and
/// looked for among the instances.
fn listed(rejected: Vec<Rejected>) -> Vec<Rejected> {
    let mut listed: Vec<Rejected> = Vec::new();
    let mut of_service = 0;
    for one in rejected {
        let is_another = listed.last().is_none_or(|last| last.service != one.service);
        of_service = if is_another { 0 } else { of_service + 1 };
        if of_service < LISTED_OF_SERVICE_MAX && listed.len() < LISTED_MAX {
            listed.push(one);
        }
    }
    listed
}

/// Refuses a candidate, with an entry for each of its tags, since the tags may have different owners.
fn reject(candidate: &Accepted, why: &Rejection, rejected: &mut Vec<Rejected>) {
    rejected.extend(candidate.tags().map(|tag| Rejected {
        service: candidate.service.clone(),
        tag: tag.to_owned(),
        why: why.clone(),
    }));
}

fn route_name(service: &str, declaration: &Declaration, datacenter: Option<&str>) -> String {
    format!("{} {}", origin(service, datacenter), declaration.condition())
}

/// The origin of a declared route, such as `consul:dc1/orders`.
pub fn origin(service: &str, datacenter: Option<&str>) -> String {
    match datacenter {
        Some(datacenter) => format!("consul:{datacenter}/{service}"),
        None => format!("consul:{service}"),
    }
}

/// Priority of declared routes, below every priority of the file (-1000 to 1000).
pub const PRIORITY: i32 = -1001;
/// Each contender costs one blocking query, and any client of the registry that may register services can add one.
const CONTENDERS_MAX: usize = 100;
/// Most refused declarations of a service that are listed and reported. `LISTED_MAX` is the limit of all services together.
const LISTED_OF_SERVICE_MAX: usize = 20;
const LISTED_MAX: usize = 1000;
#[cfg(test)]
mod tests;
