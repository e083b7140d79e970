//! Counters that rarely change: their names, and the merged samples of the workers.

use std::collections::HashMap;

use crate::{
    control::exposition::{Families, count},
    metrics::{Rare, RareKey, WorkerSample},
};

/// Name, help and label names of each rare counter.
const RARE: [(Rare, &str, &str, &[&str]); 25] = [
    (
        Rare::LocalReply,
        "millgate_local_replies_total",
        "Responses that the gateway made itself",
        &["route", "reason"],
    ),
    (
        Rare::RateLimited,
        "millgate_rate_limited_total",
        "Requests that a rate limit refused",
        &["route", "policy"],
    ),
    (
        Rare::AuthFailure,
        "millgate_auth_failures_total",
        "Credentials that were refused",
        &["provider", "reason"],
    ),
    (Rare::Retry, "millgate_retries_total", "Attempts after the first", &["service", "reason"]),
    (
        Rare::RetryBudgetExhausted,
        "millgate_retry_budget_exhausted_total",
        "Retries that the retry budget refused",
        &["service"],
    ),
    (
        Rare::CallFailed,
        "millgate_grpc_failures_total",
        "gRPC calls that their service ended with another status than OK, by its number",
        &["service", "grpc_status"],
    ),
    (
        Rare::TunnelEnded,
        "millgate_tunnels_ended_total",
        "Tunnels that have ended, by the reason",
        &["service", "reason"],
    ),
    (
        Rare::Ejection,
        "millgate_ejections_total",
        "Ejections by outlier detection, by the failures in a row",
        &["service", "reason"],
    ),
    (
        Rare::EjectionSpared,
        "millgate_ejections_spared_total",
        "Ejections that did not happen, because as many endpoints as `outlier.max` allows were out",
        &["service", "reason"],
    ),
    (
        Rare::BreakerSpared,
        "millgate_breaker_spared_total",
        "Failures after which a breaker stayed closed, because as many endpoints as `breaker.max_by_status` allows were out",
        &["service"],
    ),
    (
        Rare::PanicPick,
        "millgate_panic_picks_total",
        "Attempts at ejected endpoints, because less than the share `outlier.panic` of the endpoints was left",
        &["service"],
    ),
    (
        Rare::PoolFull,
        "millgate_pool_full_total",
        "Upstream connections that were closed because the pool had enough",
        &["service"],
    ),
    (
        Rare::Shed,
        "millgate_connections_shed_total",
        "Idle connections that were closed to make room",
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
    (Rare::Panic, "millgate_panics_total", "Requests that a bug in the gateway ended", &[]),
    (Rare::LogDropped, "millgate_log_dropped_total", "Lost lines of the access log, by reason", &["reason"]),
    (
        Rare::RefusalNotLogged,
        "millgate_log_refusals_left_out_total",
        "Refusals past access_log.refusals_per_second that the access log's sample left out",
        &[],
    ),
    (Rare::TokenCache, "millgate_token_cache_total", "Look-ups in the cache of verified tokens", &["result"]),
    (
        Rare::KeyWait,
        "millgate_keys_waits_total",
        "Requests that waited for newer keys because no known key verified their token, by result",
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
        "Responses that were ended because their client did not read them, or read them too slowly",
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
        "Informational responses (1xx) of services, by result",
        &["result"],
    ),
    (
        Rare::NotGathered,
        "millgate_bodies_not_gathered_total",
        "Requests that got an instance before their body was gathered, because too many bytes were held already",
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
