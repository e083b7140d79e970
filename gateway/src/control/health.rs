//! What the admin API shows of an endpoint's breaker and outlier detection: the state, and the numbers behind it.

use std::time::{Instant, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{
    clock,
    policy::{
        circuit_breaker::State,
        outlier::{Reason, Standing},
    },
    upstream::{cluster::Cluster, endpoint::Endpoint},
};

/// The breaker's state as one word, with the counts of its window, or those at which it opened. `None`: the breaker is off.
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
    let seen = breaker.seen(state, now);
    let window = json!({
        "failures": seen.failures,
        "requests": seen.requests,
        "seconds": seen.window.as_secs_f64(),
        "open_until": breaker.open_until(state).map(|until| at(until, now)),
    });
    (Some(word), Some(window))
}

/// The state of outlier detection for the endpoint, with its failures in a row. `None`: outlier detection is off.
pub(super) fn outlier(cluster: &Cluster, endpoint: &Endpoint, now: Instant) -> Option<Value> {
    cluster.outlier.as_ref()?;
    let state = endpoint.state().outlier();
    let (connect_failures, gateway_failures) = state.failures();
    let (word, reason, until) = match state.standing(now) {
        Standing::In => ("in", None, None),
        Standing::Ejected { reason, until } => ("ejected", Some(reason), Some(until)),
        Standing::Due { reason, since } => ("due", Some(reason), Some(since)),
        Standing::Probing { reason } => ("probing", Some(reason), None),
    };
    Some(json!({
        "state": word,
        "reason": reason.map(Reason::as_str),
        "connect_failures": connect_failures,
        "gateway_failures": gateway_failures,
        "ejections": state.ejections(),
        "until": until.map(|until| at(until, now)),
    }))
}

/// Wall time of a moment before or after `now`.
fn at(moment: Instant, now: Instant) -> String {
    let wall = UNIX_EPOCH + clock::unix_now();
    let wall = match moment.checked_duration_since(now) {
        Some(ahead) => wall + ahead,
        None => wall - now.saturating_duration_since(moment),
    };
    humantime::format_rfc3339_millis(wall).to_string()
}
