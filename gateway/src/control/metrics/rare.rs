//! Counters that rarely change: their names, and the merged samples of the workers.

use std::collections::HashMap;

use crate::{
    control::exposition::{Families, count},
    metrics::{Rare, RareKey, WorkerSample},
};

/// Name, help and label names of each rare counter.
const RARE: [(Rare, &str, &str, &[&str]); 23] = [
    (Rare::LocalReply, "millgate_local_replies_total", "Responses made by the gateway", &["route", "reason"]),
    (
        Rare::RateLimited,
        "millgate_rate_limited_total",
        "Requests refused by a rate limit",
        &["route", "policy"],
    ),
    (Rare::AuthFailure, "millgate_auth_failures_total", "Tokens refused", &["provider", "reason"]),
    (Rare::Retry, "millgate_retries_total", "Attempts after the first", &["service", "reason"]),
    (
        Rare::RetryBudgetExhausted,
        "millgate_retry_budget_exhausted_total",
        "Retries that the budget refused",
        &["service"],
    ),
    (
        Rare::Ejection,
        "millgate_ejections_total",
        "Endpoints that outlier detection left out, by what had failed in a row",
        &["service", "reason"],
    ),
    (
        Rare::EjectionSpared,
        "millgate_ejections_spared_total",
        "Endpoints not ejected, since as many as `outlier.max` allows were out",
        &["service", "reason"],
    ),
    (
        Rare::BreakerSpared,
        "millgate_breaker_spared_total",
        "Failures after which a breaker stayed closed, since `breaker.max_by_status` of the endpoints were out",
        &["service"],
    ),
    (
        Rare::PanicPick,
        "millgate_panic_picks_total",
        "Attempts at ejected endpoints, since fewer than `outlier.panic` of the endpoints were left",
        &["service"],
    ),
    (
        Rare::PoolFull,
        "millgate_pool_full_total",
        "Connections closed because the pool had enough",
        &["service"],
    ),
    (
        Rare::Shed,
        "millgate_connections_shed_total",
        "Idle connections closed to make room",
        &["what", "reason"],
    ),
    (
        Rare::ConnectionError,
        "millgate_connection_errors_total",
        "Client connections that ended in an error",
        &["listener", "reason"],
    ),
    (
        Rare::Http2Refusal,
        "millgate_http2_refusals_total",
        "Streams and connections that the HTTP/2 library refused as malformed",
        &["scope", "code"],
    ),
    (Rare::Panic, "millgate_panics_total", "Requests ended by a bug in the gateway", &[]),
    (Rare::LogDropped, "millgate_log_dropped_total", "Access-log lines lost, by reason", &["reason"]),
    (
        Rare::RefusalNotLogged,
        "millgate_log_refusals_left_out_total",
        "Refusals that the access log's sample left out, past access_log.refusals_per_second",
        &[],
    ),
    (Rare::TokenCache, "millgate_token_cache_total", "Look-ups in the cache of verified tokens", &["result"]),
    (
        Rare::KeyWait,
        "millgate_keys_waits_total",
        "Requests whose token no known key verified, by how the wait for newer keys ended",
        &["provider", "result"],
    ),
    (
        Rare::ClientGone,
        "millgate_client_gone_total",
        "Clients that left before their response was complete",
        &[],
    ),
    (
        Rare::ClientStalled,
        "millgate_client_stalled_total",
        "Responses ended because their client took nothing of them, or took them too slowly",
        &[],
    ),
    (
        Rare::SmallWindows,
        "millgate_http2_small_windows_total",
        "HTTP/2 connections that began with small windows, because enough others have large ones",
        &[],
    ),
    (
        Rare::Informational,
        "millgate_informational_responses_total",
        "Informational responses (1xx) of services, by what became of them",
        &["result"],
    ),
    (
        Rare::NotGathered,
        "millgate_bodies_not_gathered_total",
        "Requests sent on before their body was gathered, because too much was held already",
        &["limit"],
    ),
];

pub(super) fn families(out: &mut Families, samples: &[WorkerSample]) {
    let mut merged: HashMap<&RareKey, u64> = HashMap::new();
    for (key, n) in samples.iter().flat_map(|worker| &worker.rare) {
        *merged.entry(key).or_default() += n;
    }
    let mut merged: Vec<_> = merged.into_iter().collect();
    merged.sort_unstable();
    for (what, name, help, labels) in RARE {
        let mut family = out.counter(name, help);
        for ((_, first, second), n) in merged.iter().filter(|((known, ..), _)| *known == what) {
            let values = [&**first, &**second];
            let pairs: Vec<_> = labels.iter().copied().zip(values).collect();
            family.add(&pairs, count(*n));
        }
    }
}
