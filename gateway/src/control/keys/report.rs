//! What admin listener and metrics show of each provider's keys: their age, the last error, the next fetch.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{
    auth::{
        desk::FetchReport,
        jwt::Skipped,
        provider::{HeldKeys, Provider},
    },
    control::exposition::{Families, count},
    printable::printable,
    snapshot::Snapshot,
};

/// The body of `/api/v1/keys`. `now`: wall time since the Unix epoch.
pub(in crate::control) fn json(snapshot: &Snapshot, now: Duration) -> Value {
    let providers = held(snapshot).map(|(provider, held)| {
        let report = held.desk.as_ref().map(|desk| desk.report());
        let keys = held.set.iter().flat_map(|set| set.names());
        let skipped = held.set.iter().flat_map(|set| set.skipped());
        let skipped = skipped.map(|left_out| {
            let text = |text: &Option<Box<str>>| text.as_deref().map(|text| printable(text).into_owned());
            let Skipped { kid, kty, alg, why } = left_out;
            json!({"kid": text(kid), "kty": text(kty), "alg": text(alg), "why": why.to_string()})
        });
        json!({
            "provider": &*provider.name,
            "issuer": provider.authenticator.shown_issuer(),
            "from": from(held, report.as_ref()),
            "keys": keys.map(|kid| json!({"kid": kid.map(printable)})).collect::<Vec<_>>(),
            "left_out": skipped.collect::<Vec<_>>(),
            "fetch": report.map(|report| fetch(&report, now)),
        })
    });
    json!({ "providers": providers.collect::<Vec<_>>() })
}

/// The providers that have keys. Those of client certificates have none: the listener has the authorities.
fn held(snapshot: &Snapshot) -> impl Iterator<Item = (&Provider, &HeldKeys)> {
    let all = snapshot.table.auth.iter().map(|provider| &**provider).zip(&snapshot.keys);
    all.filter(|(provider, _)| !provider.authenticator.takes_certificates())
}

/// The source of the keys in use.
fn from(held: &HeldKeys, report: Option<&FetchReport>) -> Option<&'static str> {
    held.set.as_ref()?;
    Some(match report {
        None => "file",
        Some(FetchReport { is_kept: true, .. }) => "last_start",
        Some(_) => "issuer",
    })
}

fn fetch(report: &FetchReport, now: Duration) -> Value {
    let time = |at: Duration| humantime::format_rfc3339_millis(UNIX_EPOCH + at).to_string();
    json!({
        "last_good": report.fetched.map(time),
        "age_seconds": report.fetched.map(|at| age(at, now)),
        "good": report.good,
        "failed": report.failed,
        "error": report.error,
        "next": report.next.map(time),
    })
}

fn age(at: Duration, now: Duration) -> f64 {
    now.saturating_sub(at).as_secs_f64()
}

/// The families for `/metrics`.
pub(in crate::control) fn families(out: &mut Families, snapshot: &Snapshot, now: Duration) {
    let mut family = out.gauge(
        "millgate_keys",
        "Usable keys of a provider; 0: its credentials get 503, or 401 where a file holds no API key",
    );
    for (provider, held) in held(snapshot) {
        let keys = held.set.as_ref().map_or(0, |set| set.len());
        family.add(&[("provider", &provider.name)], count(keys as u64));
    }
    let mut family =
        out.gauge("millgate_keys_left_out", "Members of a provider's key set that cannot be used");
    for (provider, held) in held(snapshot) {
        let left_out = held.set.as_ref().map_or(0, |set| set.skipped().len());
        family.add(&[("provider", &provider.name)], count(left_out as u64));
    }
    let reports: Vec<_> = held(snapshot)
        .filter_map(|(provider, held)| Some((&*provider.name, held.desk.as_ref()?.report())))
        .collect();
    let mut family =
        out.gauge("millgate_keys_age_seconds", "Time since the keys in use were fetched from their issuer");
    for (provider, report) in &reports {
        if let Some(fetched) = report.fetched {
            family.add(&[("provider", provider)], age(fetched, now));
        }
    }
    let mut family = out.counter("millgate_keys_fetches_total", "Fetches of a provider's keys, by result");
    for (provider, report) in &reports {
        family.add(&[("provider", provider), ("result", "good")], count(report.good));
        family.add(&[("provider", provider), ("result", "failed")], count(report.failed));
    }
    let mut family = out.gauge(
        "millgate_keys_next_fetch_timestamp_seconds",
        "When a provider's keys are fetched next, if no token asks for it before",
    );
    for (provider, report) in &reports {
        if let Some(next) = report.next {
            family.add(&[("provider", provider)], next.as_secs_f64());
        }
    }
}
