//! What the admin API shows of an endpoint's breaker and outlier detection: the state, and the numbers behind it.

use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{
    clock,
    policy::{circuit_breaker::State, outlier::Standing},
    upstream::{cluster::Cluster, endpoint::Endpoint},
};

/// The breaker's state as one word, and what its window holds. `None`: switched off.
pub(super) fn breaker(
    cluster: &Cluster,
    endpoint: &Endpoint,
    now: Instant,
) -> (Option<&'static str>, Option<Value>) {
    let Some(breaker) = &cluster.breaker else { return (None, None) };
    let state = endpoint.state().breaker();
    let word = match breaker.state(state, now) {
        State::Closed => "closed",
        State::HalfOpen => "half_open",
        State::Open => "open",
    };
    let (seen, left) = (breaker.seen(state, now), breaker.retry_after(state, now));
    let window = json!({
        "failures": seen.failures,
        "requests": seen.requests,
        "seconds": seen.window.as_secs_f64(),
        "open_until": until(left),
    });
    (Some(word), Some(window))
}

/// Where the endpoint stands, and its failures in a row. `None`: switched off.
pub(super) fn outlier(cluster: &Cluster, endpoint: &Endpoint, now: Instant) -> Option<Value> {
    cluster.outlier.as_ref()?;
    let state = endpoint.state().outlier();
    let (connect_failures, gateway_failures) = state.failures();
    let (word, reason, left) = match state.standing(now) {
        Standing::In => ("in", None, Duration::ZERO),
        Standing::Ejected { reason, left } => ("ejected", Some(reason.as_str()), left),
        Standing::Probing { reason } => ("probing", Some(reason.as_str()), Duration::ZERO),
    };
    Some(json!({
        "state": word,
        "reason": reason,
        "connect_failures": connect_failures,
        "gateway_failures": gateway_failures,
        "ejections": state.ejections(),
        "until": until(left),
    }))
}

/// Wall time; `null` where nothing is waited for.
fn until(left: Duration) -> Option<String> {
    (!left.is_zero())
        .then(|| humantime::format_rfc3339_millis(UNIX_EPOCH + clock::unix_now() + left).to_string())
}
