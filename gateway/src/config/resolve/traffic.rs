//! Timeouts and retries of a route: what it says, what it inherits, and what of it can have no effect.

use std::time::Duration;

use http::Method;

use super::ratio;
use crate::config::{
    diagnostics::{Diagnostic, Diagnostics, Span, code},
    raw::{
        traffic::{MinRate, Retry, RetryOn, Timeout},
        tree::At,
    },
    settings::{RetryCauses, RetrySettings, TimeoutSettings},
    units::show_duration,
};

pub(super) fn timeout(raw: &Timeout, defaults: &TimeoutSettings, sink: &mut Diagnostics) -> TimeoutSettings {
    let total = raw.total.unwrap_or(defaults.total);
    for (name, part) in [("connect", &raw.connect), ("try", &raw.per_try)] {
        report_longer_than(total, name, part.as_ref(), sink);
    }
    let written = |part: &Option<At<Duration>>| part.as_ref().map(|at| at.value);
    TimeoutSettings {
        total,
        connect: written(&raw.connect).unwrap_or(defaults.connect),
        // An inherited `try` that is not shorter than the route's own total says nothing more than the total.
        per_try: written(&raw.per_try).or(defaults.per_try).filter(|per_try| *per_try < total),
        idle: raw.idle.unwrap_or(defaults.idle),
        min_rate: match raw.min_rate {
            Some(MinRate::Off) => None,
            Some(MinRate::BytesPerSecond(rate)) => Some(rate),
            None => defaults.min_rate,
        },
    }
}

/// Without a place, the part was written beside another total.
fn report_longer_than(total: Duration, name: &str, part: Option<&At<Duration>>, sink: &mut Diagnostics) {
    if let Some(part) = part.filter(|part| part.value > total && part.span != Span::default()) {
        let message = format!("`timeout.{name}` is longer than `timeout.total`");
        let label = format!("never reached: the whole request has {}", show_duration(total));
        sink.push_once(
            Diagnostic::warning(code::NO_EFFECT, part.span, message)
                .label(label)
                .help("write a longer `total` beside it, or a shorter time here"),
        );
    }
}

pub(super) fn retry(raw: &Retry, defaults: &RetrySettings, sink: &mut Diagnostics) -> RetrySettings {
    let (backoff_min, backoff_max) = raw.backoff.unwrap_or((defaults.backoff_min, defaults.backoff_max));
    let mut retry = RetrySettings {
        retries: raw.retries.unwrap_or(defaults.retries),
        methods: raw.methods.as_ref().map_or_else(|| defaults.methods.clone(), |at| at.value.clone()),
        budget: raw.budget_per_mille.map_or(defaults.budget, ratio),
        backoff_min,
        backoff_max,
        body_bytes_max: raw
            .body_bytes_max
            .map_or(defaults.body_bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        ..defaults.clone()
    };
    report_bodies_that_are_not_kept(raw, &retry, sink);
    if let Some(on) = &raw.on {
        retry.on = RetryCauses {
            connect: on.contains(&RetryOn::Connect),
            refused: on.contains(&RetryOn::Refused),
            reset: on.contains(&RetryOn::Reset),
            timeout: on.contains(&RetryOn::Timeout),
        };
        retry.on_status = on
            .iter()
            .filter_map(|on| match on {
                RetryOn::Status(status) => Some(*status),
                RetryOn::Connect | RetryOn::Refused | RetryOn::Reset | RetryOn::Timeout => None,
            })
            .collect();
    }
    retry
}

/// A request with a body is sent again only if the body was kept.
fn report_bodies_that_are_not_kept(raw: &Retry, retry: &RetrySettings, sink: &mut Diagnostics) {
    let Some(methods) = raw.methods.as_ref().filter(|_| retry.retries > 0 && retry.body_bytes_max == 0)
    else {
        return;
    };
    let has_body = |method: &&Method| matches!(**method, Method::POST | Method::PUT | Method::PATCH);
    if let Some(method) = methods.value.iter().find(has_body) {
        let message = format!("`retry.methods` has `{method}`, and `retry.body` keeps no body to send again");
        sink.push_once(
            Diagnostic::warning(code::NO_EFFECT, methods.span, message)
                .label("requests with a body are not retried after they were sent")
                .help("keep bodies with `body: 64KiB`, or leave out the methods that have bodies"),
        );
    }
}
