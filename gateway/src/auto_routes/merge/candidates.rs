//! Candidates: declarations that can be read, that a rule allows, and that are within the limits. Of candidates
//! that match the same requests only the first is kept, before a table is compiled.

use std::collections::HashMap;

use super::{Accepted, Before, Declared, Rejected, reject, route_name};
use crate::{
    config::settings::AutoRoutesSettings,
    declaration::{
        Declaration, Reason, Rejection,
        standing::{Claim, Standing},
    },
    router::reading::without_parameters,
    syntax::fields::name as service_name,
};

/// All candidates in the order of claims. Incumbents keep their order, new ones are ordered by name of service and text.
pub(super) fn candidates(
    auto: &AutoRoutesSettings,
    declared: &Declared,
    before: &Before<'_>,
    datacenter: Option<&str>,
    rejected: &mut Vec<Rejected>,
) -> Vec<Accepted> {
    let mut candidates: Vec<Accepted> = Vec::new();
    let ranks = before.ranks();
    for (service, tags) in declared {
        let bad_name = service_name(service).err();
        let first = candidates.len();
        for tag in tags {
            let refuse = |why| Rejected { service: service.clone(), tag: tag.clone(), why };
            match auto.forms.read(tag, datacenter) {
                None => {}
                Some(Err(why)) => rejected.push(refuse(why)),
                Some(Ok(_)) if before.standing(service) == Standing::Side => {
                    let detail = format!(
                        "all instances of `{service}` are proxies beside others, which declare themselves"
                    );
                    rejected.push(refuse(Rejection::new(Reason::Unsupported, detail)));
                }
                // A name that is not valid could be that of a subset, or of another service's cluster.
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
        // Of two that match the same requests the one that restricts clients comes first.
        if let Some(own) = candidates.get_mut(first..) {
            own.sort_by_key(|candidate| candidate.declaration.policies.clients.rules().is_empty());
        }
    }
    // The sort is stable, so new candidates keep the order of services and tags.
    candidates.sort_by_cached_key(|candidate| {
        let rank = ranks.get(&candidate.key()).copied();
        (before.claim(&candidate.service, rank.is_some()), rank.unwrap_or(usize::MAX))
    });
    bound(without_repeats(candidates), before, datacenter, rejected)
}

/// Services whose metadata declares routes, as far as a rule names them, at most [`METADATA_SERVICES_MAX`].
pub(super) fn with_metadata<'a>(
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

/// The first option that only fully trusted services may use. `None`: the declaration has none.
fn untrusted(auto: &AutoRoutesSettings, declaration: &Declaration) -> Option<&'static str> {
    let skips_proof = declaration.tls.as_ref().is_some_and(|tls| tls.insecure);
    let option = declaration.policies.needs_trust().or(skips_proof.then_some("tlsskipverify"));
    option.filter(|_| !auto.trusts_fully)
}

/// Joins candidates of one service that are the same route, or differ only in how their instances are treated.
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

/// Refuses candidates past the limits, and all but the first of those that match the same requests, since each would be
/// in conflict with each other one.
fn bound(
    candidates: Vec<Accepted>,
    before: &Before<'_>,
    datacenter: Option<&str>,
    rejected: &mut Vec<Rejected>,
) -> Vec<Accepted> {
    let mut of_service: HashMap<String, usize> = HashMap::new();
    let mut claims: HashMap<String, String> = HashMap::new();
    let mut kept = Vec::new();
    for candidate in candidates {
        let count = of_service.entry(candidate.service.clone()).or_default();
        let claim = claim(&candidate.declaration);
        if let Some(first) = claims.get(&claim) {
            let is_idle = before.claim(&candidate.service, true) == Claim::IdleIncumbent;
            let why = if is_idle {
                "comes first while no instance of this service can be asked"
            } else {
                "was there first"
            };
            let detail = format!("`{first}` matches the same requests and {why}");
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

/// The match as the router reads it, without the names of segments and without the text after a `;`.
fn claim(declaration: &Declaration) -> String {
    let path = declaration.path.split('/').map(|segment| match without_parameters(segment) {
        text if text.starts_with('{') => "*",
        text => text,
    });
    let path = path.collect::<Vec<_>>().join("/");
    Declaration { path, ..declaration.clone() }.condition()
}

/// Most routes of a service. More routes are most likely a mistake in a generator of tags.
pub(super) const ROUTES_OF_SERVICE_MAX: usize = 100;
/// Most declared routes. It is enough for a thousand services with two routes each, and such a table compiles in
/// milliseconds.
const ROUTES_MAX: usize = 2000;
/// Each such service costs one blocking query, and any client of the registry that may register services can add one.
pub(super) const METADATA_SERVICES_MAX: usize = 1000;
