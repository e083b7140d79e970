//! The size of what a registry stores, its limits, and how often each limit was hit.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::server::Shared;
use crate::store::journal::Journal;

/// How often each limit was hit, by its name.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<BTreeMap<&'static str, Hits>>);

#[derive(Debug, Default)]
struct Hits {
    count: u64,
    last_logged: Option<Instant>,
}

/// One limit with its present use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) what: &'static str,
    /// How much is used; `None` for a limit of a single request.
    pub(crate) used: Option<usize>,
    pub(crate) limit: usize,
    /// Refusals because of this limit since the start.
    pub(crate) refused: u64,
}

impl Usage {
    /// Counts a refusal. It is logged at most once a minute for each limit.
    pub(crate) fn hit(&self, what: &'static str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = all.entry(what).or_default();
        hits.count += 1;
        if hits.last_logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            hits.last_logged = Some(Instant::now());
            let refused = hits.count;
            drop(all);
            warn!(limit = what, refused, "the registry is at a limit; GET /v1/agent/metrics shows them all");
        }
    }

    fn hits(&self, what: &str) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(what).map_or(0, |hits| hits.count)
    }
}

/// The limits of all requests together. The limits of a single service stand in their refusals only.
pub(crate) fn bounds(shared: &Shared) -> Vec<Bound> {
    let limits = &shared.limits;
    let pending = shared.journal.as_ref().map_or(0, Journal::pending_bytes);
    let store = shared.store();
    let held = [
        (CONNECTIONS, shared.connections.open.load(Ordering::Relaxed), limits.connections),
        (BLOCKED, limits.blocked_queries - shared.blocked.available_permits(), limits.blocked_queries),
        (BLOCKED_PER_CLIENT, shared.waiting.most(), limits.blocked_queries_per_client),
        ("nodes", store.nodes().count(), limits.store.nodes),
        ("services", store.services().count(), limits.store.services),
        ("checks", store.checks().count(), limits.store.checks),
        ("sessions", store.sessions.list().count(), limits.store.sessions),
        ("keys", store.kv.len(), limits.store.kv_keys),
        ("bytes of keys and values", store.kv.bytes(), limits.store.kv_bytes),
        (PROBES, shared.probes.running(), shared.probes.places()),
        (PENDING, pending, limits.journal.pending_bytes),
    ];
    drop(store);
    // At the limit an idle connection is closed for a new one.
    let connections = &shared.connections;
    let gone = connections.refused.load(Ordering::Relaxed) + connections.shed.load(Ordering::Relaxed);
    let closed = |what| if what == CONNECTIONS { gone } else { 0 };
    let judged = [(BODY, limits.body_bytes)];
    let held = held.into_iter().map(|(what, used, limit)| (what, Some(used), limit));
    held.chain(judged.into_iter().map(|(what, limit)| (what, None, limit)))
        .map(|(what, used, limit)| Bound {
            what,
            used,
            limit,
            refused: shared.usage.hits(what) + closed(what),
        })
        .collect()
}

pub(crate) const CONNECTIONS: &str = "connections";
pub(crate) const BLOCKED: &str = "blocked queries";
pub(crate) const BLOCKED_PER_CLIENT: &str = "blocked queries of one client";
pub(crate) const PROBES: &str = "probes";
pub(crate) const PENDING: &str = "bytes that wait for the disk";
pub(crate) const BODY: &str = "bytes of a body";
const LOG_EVERY: Duration = Duration::from_mins(1);
