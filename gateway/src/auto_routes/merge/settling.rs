//! Settling: the table is compiled, and declared routes give way, until no route is in conflict with another.

use std::collections::BTreeMap;

use super::{Accepted, Rejected, reject};
use crate::{
    config::settings::RouteSettings,
    declaration::{Reason, Rejection},
    router::{ConflictKind, RouteConflict, Router},
};

/// The routes of the file, and the declared ones in the order of their ranks.
pub(super) struct Table<'a> {
    pub(super) statics: usize,
    pub(super) file: &'a [RouteSettings],
    pub(super) routes: &'a [RouteSettings],
    pub(super) candidates: &'a [Accepted],
}

impl Table<'_> {
    /// Adds the `new` candidates that are not in conflict to the `firm` ones. Both are indexes of candidates.
    pub(super) fn settle(
        &self,
        firm: &[usize],
        mut new: Vec<usize>,
        rejected: &mut Vec<Rejected>,
    ) -> Vec<usize> {
        for pass in 0.. {
            let declared = firm.iter().chain(&new).filter_map(|at| self.routes.get(*at));
            let table: Vec<RouteSettings> = self.of_file().chain(declared.cloned()).collect();
            let Err(conflicts) = Router::compile(&RouteSettings::matches(&table)) else { break };
            let first = self.statics + firm.len();
            let lost = self.losers(&conflicts, first, table.len(), pass >= CAREFUL_PASSES);
            if lost.is_empty() {
                // Only routes of the file are in conflict, which its own compilation reports.
                break;
            }
            for (at, conflict) in &lost {
                let candidate = new.get(at - first).and_then(|at| self.candidates.get(*at));
                let Some(candidate) = candidate else { continue };
                reject(candidate, &self.rejection(*at, conflict, &table), rejected);
            }
            let mut at = first;
            new.retain(|_| {
                at += 1;
                !lost.contains_key(&(at - 1))
            });
        }
        [firm, &new].concat()
    }

    /// The routes of the file, as far as declared ones must keep off them. A path that the file gives to some listeners is the
    /// operator's on all of them, since a tag must not bring to clients of another listener what the file keeps from them. Where
    /// the file says on which listeners declared routes are, that is what it means.
    fn of_file(&self) -> impl Iterator<Item = RouteSettings> {
        let are_anywhere = self.routes.first().is_some_and(|route| route.listeners.is_empty());
        self.file.iter().map(move |route| {
            let listeners = if are_anywhere { Vec::new() } else { route.listeners.clone() };
            RouteSettings { listeners, ..route.clone() }
        })
    }

    /// The routes of the table that give way, by index, with the conflict. Routes before `first` never do. Unless
    /// `all` is set, a route that has lost cannot make another one lose. With `all`, every new route in a conflict
    /// gives way, so that settling ends.
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
                // Several new routes together match all requests of one in the table: the newest of them gives way.
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

    fn rejection(&self, at: usize, conflict: &RouteConflict, table: &[RouteSettings]) -> Rejection {
        // The other route matches its requests first, or it would match those of a route in the table.
        let other = if conflict.route == at { conflict.other } else { conflict.route };
        let name = table.get(other).map_or("", |route| route.name.as_str());
        if other < self.statics {
            let is_of_some = self.file.get(other).is_some_and(|route| !route.listeners.is_empty());
            let detail = if is_of_some && table.get(at).is_some_and(|route| route.listeners.is_empty()) {
                format!(
                    "route `{name}` of the configuration has what it would match, for some listeners; \
                     `discovery.consul.auto_routes.listener` names those of declared routes"
                )
            } else {
                format!("route `{name}` of the configuration takes everything that it would match")
            };
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
            ConflictKind::Dead => {
                format!("it would take everything from `{name}`, which was there first")
            }
        };
        Rejection::new(Reason::Conflict, detail)
    }
}

/// Conflicts that appear only after others are solved are rare. After this many passes, all routes in a conflict
/// give way.
const CAREFUL_PASSES: usize = 8;
