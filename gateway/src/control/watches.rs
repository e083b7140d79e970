//! What `/metrics` and `/api/v1/services` show of the watches.
//!
//! Watches are listed by the name of the service in the configuration: two names may follow one service of the registry, and a
//! service may be followed by tag or datacenter.

use std::{collections::BTreeMap, time::Duration};

use millgate_registry::{WatchState, WatchStats, WatchTarget};
use serde_json::{Value, json};

use super::{
    exposition::{Families, Reading, count},
    status::Watched,
};
use crate::{clock, snapshot::Snapshot};

const COUNTERS: [Reading<WatchStats, u64>; 5] = [
    ("millgate_discovery_queries_total", "Queries sent to the registry", |s| s.queries),
    ("millgate_discovery_wakeups_total", "Blocking queries that were answered before their time", |s| {
        s.wakeups
    }),
    ("millgate_discovery_errors_total", "Queries that failed", |s| s.errors),
    ("millgate_discovery_empty_held_total", "Empty answers that were not believed", |s| s.empty_held),
    ("millgate_discovery_too_stale_total", "Answers older than discovery.consul.max_stale", |s| s.too_stale),
];

const GAUGES: [Reading<WatchStats, u64>; 7] = [
    ("millgate_discovery_index", "Index of the latest answer; 0 while it starts over", |s| s.index),
    ("millgate_discovery_fresh", "1 while the latest query was answered", |s| {
        u64::from(s.state == WatchState::Fresh)
    }),
    ("millgate_discovery_polling", "1 while the agent has no place for a blocking query", |s| {
        u64::from(s.polling)
    }),
    ("millgate_discovery_kept_instances", "Instances in use that a doubtful mass removal took away", |s| {
        s.kept as u64
    }),
    ("millgate_discovery_held_up_instances", "Healthy instances not in use because they flap", |s| {
        s.held_up as u64
    }),
    (
        "millgate_discovery_rights_missing",
        "1 while the ACL token may not see the service or its instances",
        |s| u64::from(s.missing_rights.is_some()),
    ),
    ("millgate_discovery_skipped_instances", "Instances left out because they cannot be used", |s| {
        s.skipped_instances
    }),
];

pub(super) fn families(out: &mut Families, snapshot: &Snapshot, watches: &BTreeMap<WatchTarget, Watched>) {
    let now = clock::now();
    let followed = snapshot
        .clusters
        .iter()
        .filter_map(|cluster| Some((&*cluster.name, &watches.get(cluster.watched()?)?.stats)));
    let mut followed: Vec<(&str, &WatchStats)> = followed.collect();
    followed.sort_unstable_by_key(|(service, _)| *service);
    let ages = followed.iter().filter_map(|(service, stats)| {
        Some((*service, stats.age(now.into())?, stats.state != WatchState::NeverSynced))
    });
    let ages: Vec<(&str, Duration, bool)> = ages.collect();
    let mut family =
        out.gauge("millgate_discovery_age_seconds", "Time since the registry last answered for a service");
    for (service, age, _) in &ages {
        family.add(&[("service", service)], age.as_secs_f64());
    }
    let wall = clock::unix_now();
    let mut family = out.gauge(
        "millgate_discovery_last_success_timestamp_seconds",
        "When the registry last answered for a service",
    );
    for (service, age, _) in ages.iter().filter(|(_, _, has_answered)| *has_answered) {
        family.add(&[("service", service)], wall.saturating_sub(*age).as_secs_f64());
    }
    for (name, help, read) in COUNTERS {
        let mut family = out.counter(name, help);
        for (service, stats) in &followed {
            family.add(&[("service", service)], count(read(stats)));
        }
    }
    for (name, help, read) in GAUGES {
        let mut family = out.gauge(name, help);
        for (service, stats) in &followed {
            family.add(&[("service", service)], count(read(stats)));
        }
    }
}

/// The watch of one service, with the latest transitions of its instances.
pub(super) fn json(watched: &Watched) -> Value {
    let now = clock::now();
    let stats = &watched.stats;
    let since =
        |at: Option<tokio::time::Instant>| at.map(|at| millis(now.saturating_duration_since(at.into())));
    let history = watched.history.all().into_iter().map(|(node, id, transitions)| {
        let transitions = transitions.into_iter().map(|transition| {
            json!({ "at_ms": millis(transition.at), "state": transition.state, "cause": transition.cause })
        });
        json!({ "node": node, "id": id, "transitions": transitions.collect::<Vec<_>>() })
    });
    json!({
        "index": stats.index,
        "state": match stats.state {
            WatchState::NeverSynced => "neversynced",
            WatchState::Fresh => "fresh",
            WatchState::Stale => "stale",
        },
        "mode": if stats.polling { "polling" } else { "blocking" },
        "age_ms": stats.age(now.into()).map(millis),
        "changed_ms": since(stats.last_change),
        "queries": stats.queries,
        "queries_per_second": watched.queries_per_second,
        "wakeups": stats.wakeups,
        "errors": stats.errors,
        "last_error": stats.last_error,
        "missing_rights": stats.missing_rights,
        "empty_held": stats.empty_held,
        "too_stale": stats.too_stale,
        "kept": stats.kept,
        "held_up": stats.held_up,
        "skipped_instances": stats.skipped_instances,
        "history": history.collect::<Vec<_>>(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
