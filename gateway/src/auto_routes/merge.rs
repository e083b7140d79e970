//! Declared routes behind the routes of the file.
//!
//! Every route of the file comes before every declared one ([`PRIORITY`]), whatever is more specific: a tag takes no
//! request away from a route that an operator wrote. Of two declared routes that match the same requests the one that
//! is in the table stays, so that a route which works is never dropped for a new one; between new ones the order of the
//! services' names decides, which is the same on every gateway. A declaration that lost is tried again at each change.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{AutoRoutesSettings, Declaration, Reason, Rejection};
use crate::{
    config::{
        service_name,
        settings::{RouteSettings, Selector, ServiceSettings, Settings, SubsetSettings, TagRule},
    },
    router::{ConflictKind, RouteConflict, Router, reading::without_parameters},
};

/// What services declare now: their names, with the tags that are about routes, and the like texts of metadata.
pub type Declared = BTreeMap<String, Vec<String>>;

/// A declared route in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub service: String,
    pub tag: String,
    /// Its weight and protocol are in `by_tag`.
    pub declaration: Declaration,
    /// Tags that say the same route and how their instances are treated, in the order of their texts.
    pub by_tag: Vec<TagRule>,
}

impl Accepted {
    pub fn new(service: String, tag: String, declaration: &Declaration) -> Self {
        let (share, tls) = (declaration.weight.unwrap_or(0), declaration.tls.clone());
        let is_rule = share > 0 || tls.is_some();
        let by_tag = is_rule.then(|| TagRule { tag: tag.clone(), share, tls }).into_iter().collect();
        Self { service, tag, declaration: declaration.of_all_instances(), by_tag }
    }

    /// Of the same service, and matching and doing the same; how its instances are treated may differ.
    pub fn is_same_route(&self, other: &Self) -> bool {
        self.service == other.service && self.declaration == other.declaration
    }

    /// Equal for the same route ([`Accepted::is_same_route`]).
    fn key(&self) -> (String, String) {
        (self.service.clone(), self.declaration.to_string())
    }

    /// Every tag without which it would be another route.
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

/// The file's settings with the declared routes that were taken.
#[derive(Debug)]
pub struct Merged {
    pub settings: Settings,
    /// In the order in which they came into the table.
    pub accepted: Vec<Accepted>,
    /// By service and tag; at most [`LISTED_OF_SERVICE_MAX`] of a service and [`LISTED_MAX`] of all.
    pub rejected: Vec<Rejected>,
    /// How many were refused for each reason, also those that are not listed.
    pub refused: Refused,
}

/// Adds what is `declared` to the settings of the file. `incumbents`: what is in the table now, oldest first.
/// `datacenter` is part of a route's origin, if it is known. `file` compiles by itself.
pub fn merge(
    file: &Settings,
    auto: &AutoRoutesSettings,
    declared: &Declared,
    incumbents: &[Accepted],
    datacenter: Option<&str>,
) -> Merged {
    let mut merged = Merged {
        settings: file.clone(),
        accepted: Vec::new(),
        rejected: Vec::new(),
        refused: Refused::new(),
    };
    let candidates = candidates(auto, declared, incumbents, datacenter, &mut merged.rejected);
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
    // What is in the table first, by itself: a route of the file may have come into its way. Then what is new.
    let (old, new): (Vec<usize>, Vec<usize>) = (0..candidates.len()).partition(|at| {
        candidates.get(*at).is_some_and(|c| incumbents.iter().any(|known| known.is_same_route(c)))
    });
    let table = Table { statics, file: &file.routes, routes: &routes, candidates: &candidates };
    let old = table.settle(&[], old, &mut merged.rejected);
    let kept = table.settle(&old, new, &mut merged.rejected);
    let mut used: HashSet<usize> =
        kept.iter().filter_map(|at| routes.get(*at)).filter_map(|route| route.service).collect();
    // Their instances are followed whether or not a route is known yet.
    let followed = with_metadata(auto, declared, &mut merged.rejected);
    used.extend(followed.into_iter().map(|service| services.whole(service)));
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

/// As many as somebody reads: each is told, compared at each change and looked for among the instances.
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

/// Services whose metadata declares routes, as far as the lists name them at all: at most [`METADATA_SERVICES_MAX`].
fn with_metadata<'a>(
    auto: &AutoRoutesSettings,
    declared: &'a Declared,
    rejected: &mut Vec<Rejected>,
) -> Vec<&'a str> {
    let mut followed = Vec::new();
    for (service, tags) in declared {
        let Some(tag) = tags.iter().find(|tag| auto.forms.points_to_metadata(tag)) else { continue };
        let why = if let Err(why) = service_name(service) {
            let detail = format!("the service must have {}: {}", why.expected, why.label);
            Rejection::new(Reason::Unsupported, detail)
        } else if !auto.allow.iter().any(|rule| rule.names(service)) {
            let detail = format!("no rule of `discovery.consul.auto_routes` is for `{service}`");
            Rejection::new(Reason::NotAllowed, detail)
        } else if followed.len() >= METADATA_SERVICES_MAX {
            let detail = format!("metadata is read of {METADATA_SERVICES_MAX} services");
            Rejection::new(Reason::TooMany, detail)
        } else {
            followed.push(service.as_str());
            continue;
        };
        rejected.push(Rejected { service: service.clone(), tag: tag.clone(), why });
    }
    followed
}

/// Everything that may be declared, incumbents first and in their order, then by name of service and text.
fn candidates(
    auto: &AutoRoutesSettings,
    declared: &Declared,
    incumbents: &[Accepted],
    datacenter: Option<&str>,
    rejected: &mut Vec<Rejected>,
) -> Vec<Accepted> {
    let mut candidates: Vec<Accepted> = Vec::new();
    // By what they say, and not by a text: another one that says the same may be all that is left of it.
    let ranks: HashMap<(String, String), usize> =
        incumbents.iter().enumerate().map(|(rank, known)| (known.key(), rank)).collect();
    for (service, tags) in declared {
        let bad_name = service_name(service).err();
        let first = candidates.len();
        for tag in tags {
            let refuse = |why| Rejected { service: service.clone(), tag: tag.clone(), why };
            match auto.forms.read(tag, datacenter) {
                None => {}
                Some(Err(why)) => rejected.push(refuse(why)),
                // Else it could have the name of a subset, or of another service's cluster.
                Some(Ok(_)) if let Some(why) = &bad_name => {
                    let detail = format!("the service must have {}: {}", why.expected, why.label);
                    rejected.push(refuse(Rejection::new(Reason::Unsupported, detail)));
                }
                Some(Ok(declaration))
                    if !auto.allow.iter().any(|rule| rule.permits(service, &declaration)) =>
                {
                    let detail = format!(
                        "no rule of `discovery.consul.auto_routes` allows `{service}` to declare `{}`",
                        declaration.condition()
                    );
                    rejected.push(refuse(Rejection::new(Reason::NotAllowed, detail)));
                }
                Some(Ok(declaration)) if let Some(option) = untrusted(auto, &declaration) => {
                    let detail = format!("`{option}` needs `trust: full` of `discovery.consul.auto_routes`");
                    rejected.push(refuse(Rejection::new(Reason::NotAllowed, detail)));
                }
                Some(Ok(declaration)) => {
                    candidates.push(Accepted::new(service.clone(), tag.clone(), &declaration));
                }
            }
        }
        // Of two that match the same requests the one that keeps somebody out goes first.
        if let Some(own) = candidates.get_mut(first..) {
            own.sort_by_key(|candidate| candidate.declaration.clients.is_empty());
        }
    }
    // Stable: new ones keep the order of services and tags.
    candidates.sort_by_cached_key(|candidate| ranks.get(&candidate.key()).copied().unwrap_or(usize::MAX));
    bound(without_repeats(candidates), datacenter, rejected)
}

/// The option with which a service would decide what is the operator's to decide.
fn untrusted(auto: &AutoRoutesSettings, declaration: &Declaration) -> Option<&'static str> {
    let skips_proof = declaration.tls.as_ref().is_some_and(|tls| tls.insecure);
    let option = match declaration.redirect {
        Some(_) => Some("redirect"),
        None => skips_proof.then_some("tlsskipverify"),
    };
    option.filter(|_| !auto.trusts_fully)
}

/// Several texts of one service may mean the same, or differ only in how their instances are treated; that is one route.
pub fn without_repeats(candidates: Vec<Accepted>) -> Vec<Accepted> {
    let mut firsts: HashMap<(String, String), usize> = HashMap::new();
    let mut kept: Vec<Accepted> = Vec::new();
    for candidate in candidates {
        let at = *firsts.entry(candidate.key()).or_insert(kept.len());
        match kept.get_mut(at) {
            Some(first) => first.by_tag.extend(candidate.by_tag),
            None => kept.push(candidate),
        }
    }
    for known in &mut kept {
        known.by_tag.sort_by(|a, b| a.tag.cmp(&b.tag));
    }
    kept
}

/// Each of those that match the same requests would be in conflict with each other one: the first of them stays, before
/// the table is compiled.
fn bound(candidates: Vec<Accepted>, datacenter: Option<&str>, rejected: &mut Vec<Rejected>) -> Vec<Accepted> {
    let mut of_service: HashMap<String, usize> = HashMap::new();
    let mut claims: HashMap<String, String> = HashMap::new();
    let mut kept = Vec::new();
    for candidate in candidates {
        let count = of_service.entry(candidate.service.clone()).or_default();
        let claim = claim(&candidate.declaration);
        if let Some(first) = claims.get(&claim) {
            let detail = format!("`{first}` matches the same requests and was there first");
            reject(&candidate, &Rejection::new(Reason::Conflict, detail), rejected);
            continue;
        }
        let detail = if *count >= ROUTES_OF_SERVICE_MAX {
            format!("a service may declare {ROUTES_OF_SERVICE_MAX} routes")
        } else if kept.len() >= ROUTES_MAX {
            format!("all services together may declare {ROUTES_MAX} routes")
        } else {
            *count += 1;
            claims.insert(claim, route_name(&candidate.service, &candidate.declaration, datacenter));
            kept.push(candidate);
            continue;
        };
        reject(&candidate, &Rejection::new(Reason::TooMany, detail), rejected);
    }
    kept
}

/// With each of its tags: their owners need not be the same.
fn reject(candidate: &Accepted, why: &Rejection, rejected: &mut Vec<Rejected>) {
    rejected.extend(candidate.tags().map(|tag| Rejected {
        service: candidate.service.clone(),
        tag: tag.to_owned(),
        why: why.clone(),
    }));
}

/// What it matches, as the router reads it: names of segments, and what follows a `;`, make no difference.
fn claim(declaration: &Declaration) -> String {
    let path = declaration.path.split('/').map(|segment| match without_parameters(segment) {
        text if text.starts_with('{') => "*",
        text => text,
    });
    let path = path.collect::<Vec<_>>().join("/");
    Declaration { path, ..declaration.clone() }.condition()
}

/// Routes of the file, then declared ones in the order of their ranks.
struct Table<'a> {
    statics: usize,
    file: &'a [RouteSettings],
    routes: &'a [RouteSettings],
    candidates: &'a [Accepted],
}

impl Table<'_> {
    /// Adds `new` to what is `firm`, both as indexes of candidates, without those that are in conflict.
    fn settle(&self, firm: &[usize], mut new: Vec<usize>, rejected: &mut Vec<Rejected>) -> Vec<usize> {
        for pass in 0.. {
            let declared = firm.iter().chain(&new).filter_map(|at| self.routes.get(*at));
            let table: Vec<RouteSettings> = self.file.iter().chain(declared).cloned().collect();
            let Err(conflicts) = Router::compile(&table) else { break };
            let first = self.statics + firm.len();
            let lost = self.losers(&conflicts, first, table.len(), pass >= CAREFUL_PASSES);
            if lost.is_empty() {
                // Only routes of the file are in conflict, which its own compilation reports.
                break;
            }
            for (at, conflict) in &lost {
                let candidate = new.get(at - first).and_then(|at| self.candidates.get(*at));
                let Some(candidate) = candidate else { continue };
                reject(candidate, &rejection(*at, conflict, &table, self.statics), rejected);
            }
            let mut at = first;
            new.retain(|_| {
                at += 1;
                !lost.contains_key(&(at - 1))
            });
        }
        [firm, &new].concat()
    }

    /// Which routes of the table give way, by index, and to what; those before `first` do not. Careful: a route that
    /// lost already makes no other one lose. Not careful: everything in a conflict gives way, so that it ends.
    fn losers(
        &self,
        conflicts: &[RouteConflict],
        first: usize,
        end: usize,
        all: bool,
    ) -> BTreeMap<usize, RouteConflict> {
        let mut lost: BTreeMap<usize, RouteConflict> = BTreeMap::new();
        let mut ordered: Vec<&RouteConflict> = conflicts.iter().collect();
        ordered.sort_by_key(|conflict| conflict.route.max(conflict.other));
        for conflict in ordered {
            let (older, newer) = (conflict.route.min(conflict.other), conflict.route.max(conflict.other));
            let losers = match newer {
                newer if newer >= first && (all || !lost.contains_key(&older)) => newer..newer + 1,
                // Several new routes together leave nothing to one that is there: the newest of them goes.
                newer if newer < first && newer >= self.statics && all => first..end,
                newer if newer < first && newer >= self.statics && end > first => end - 1..end,
                _ => continue,
            };
            for at in losers {
                lost.entry(at).or_insert_with(|| conflict.clone());
            }
        }
        lost
    }
}

fn rejection(at: usize, conflict: &RouteConflict, table: &[RouteSettings], statics: usize) -> Rejection {
    // What it matches is taken by the other one; or it would take something from one that is in the table.
    let other = if conflict.route == at { conflict.other } else { conflict.route };
    let name = table.get(other).map_or("", |route| route.name.as_str());
    if other < statics {
        let detail = format!("route `{name}` of the configuration takes everything that it would match");
        return Rejection::new(Reason::StaticRoute, detail);
    }
    let detail = match conflict.kind {
        ConflictKind::Duplicate => format!("`{name}` matches the same requests and was there first"),
        ConflictKind::Ambiguous => {
            format!(
                "`{name}` matches some of the same requests, neither is more specific, and it was there first"
            )
        }
        ConflictKind::Dead if conflict.route == at => {
            format!("`{name}` takes everything that it would match")
        }
        ConflictKind::Dead => format!("it would take everything from `{name}`, which was there first"),
    };
    Rejection::new(Reason::Conflict, detail)
}

fn route_name(service: &str, declaration: &Declaration, datacenter: Option<&str>) -> String {
    format!("{} {}", origin(service, datacenter), declaration.condition())
}

/// `consul:dc1/orders`.
pub fn origin(service: &str, datacenter: Option<&str>) -> String {
    match datacenter {
        Some(datacenter) => format!("consul:{datacenter}/{service}"),
        None => format!("consul:{service}"),
    }
}

/// The services of the file, and behind them those that only declared routes name.
struct Services<'a> {
    auto: &'a AutoRoutesSettings,
    file: &'a Settings,
    added: Vec<ServiceSettings>,
    /// By name in the registry, and of the subset.
    indexes: HashMap<(String, Option<String>), usize>,
}

impl<'a> Services<'a> {
    fn new(auto: &'a AutoRoutesSettings, file: &'a Settings) -> Self {
        Self { auto, file, added: Vec::new(), indexes: HashMap::new() }
    }

    fn whole(&mut self, service: &str) -> usize {
        self.index_of(service, None)
    }

    /// Of the whole service, or of what the tags of its instances make of it for this route.
    fn index(&mut self, candidate: &Accepted) -> usize {
        let is_weighted = candidate.by_tag.iter().any(|known| known.share > 0);
        let word = if is_weighted { "weighted" } else { "https" };
        let subset = (!candidate.by_tag.is_empty()).then(|| SubsetSettings {
            name: format!("{word} {}", candidate.declaration.condition()),
            selector: Selector::default(),
            by_tag: candidate.by_tag.clone(),
        });
        self.index_of(&candidate.service, subset)
    }

    fn index_of(&mut self, service: &str, subset: Option<SubsetSettings>) -> usize {
        let key = (service.to_owned(), subset.as_ref().map(|subset| subset.name.clone()));
        if let Some(index) = self.indexes.get(&key) {
            return *index;
        }
        let settings = ServiceSettings { subset, ..self.auto.service_of(service) };
        let is_same =
            |known: &ServiceSettings| known.name == settings.name && known.subset == settings.subset;
        let of_file = self.file.services.iter().position(is_same);
        let index = of_file.unwrap_or_else(|| {
            self.added.push(settings);
            self.file.services.len() + self.added.len() - 1
        });
        self.indexes.insert(key, index);
        index
    }

    /// Adds those in `used` to the settings; their new indexes by the old ones.
    fn add_to(self, settings: &mut Settings, used: &HashSet<usize>) -> HashMap<usize, usize> {
        let first = settings.services.len();
        let mut moved = HashMap::new();
        for (at, service) in self.added.into_iter().enumerate() {
            if used.contains(&(first + at)) {
                moved.insert(first + at, settings.services.len());
                settings.services.push(service);
            }
        }
        moved
    }
}

/// Below everything that the file can say (-1000 to 1000).
pub const PRIORITY: i32 = -1001;
/// More is a generator that has gone wrong.
const ROUTES_OF_SERVICE_MAX: usize = 100;
/// Enough for a thousand services with two routes each; a table of this size compiles in milliseconds.
const ROUTES_MAX: usize = 2000;
/// Each is one blocking query, asked for by whoever may register a service.
const METADATA_SERVICES_MAX: usize = 1000;
/// Refused declarations that are listed and told.
const LISTED_OF_SERVICE_MAX: usize = 20;
const LISTED_MAX: usize = 1000;
/// Conflicts that come to light only after others are solved are rare; past this the rest gives way at once.
const CAREFUL_PASSES: usize = 8;

#[cfg(test)]
mod tests;
