//! Requests and connections that were refused below admission: counted each, logged at a pace.
//!
//! hyper and h2 answer what they cannot parse before the gateway sees a request, so that no access log has it.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use super::{ConnectionContext, budget, state::Ended};
use crate::metrics::Rare;

/// Why a connection could not be served to its end.
pub(super) struct Failure {
    pub(super) reason: Ended,
    /// In the library's words; may be empty.
    pub(super) detail: String,
}

impl From<Ended> for Failure {
    fn from(reason: Ended) -> Self {
        Self { reason, detail: String::new() }
    }
}

/// A connection has ended in an error.
pub(super) fn ended(context: &ConnectionContext, failure: &Failure) {
    let Failure { reason, detail } = failure;
    let listener = context.scheme.as_str();
    context.worker.metrics.count(Rare::ConnectionError, listener, reason);
    if !LISTED.contains(reason) {
        return;
    }
    list(context, reason, detail);
    if !LOGGED.contains(reason) {
        return;
    }
    if let Some(left_out) = may_log(context) {
        tracing::warn!(peer = %context.peer, listener, reason, left_out, "a client's connection was refused and closed");
    }
}

/// A connection is closed. If the sweep or the want of a place has ended it, that is counted already.
pub(super) fn closed(context: &ConnectionContext) {
    if let Some(reason) = context.state.killed_for.get().filter(|reason| LISTED.contains(reason)) {
        list(context, reason, "");
    }
}

/// h2 has refused a stream, or the connection, with this code.
pub(super) fn refused_by_h2(context: &ConnectionContext, scope: &'static str, code: &'static str) {
    context.worker.metrics.count(Rare::Http2Refusal, scope, code);
    list(context, "http2", &format!("{scope}: {code}"));
    if let Some(left_out) = may_log(context) {
        let listener = context.scheme.as_str();
        tracing::warn!(peer = %context.peer, listener, scope, code, left_out, "a client's HTTP/2 frames were refused");
    }
}

fn list(context: &ConnectionContext, reason: Ended, detail: &str) {
    let clock = &context.worker.clock;
    let client = (context.peer.ip().to_canonical(), context.scheme.as_str());
    context.worker.connections.refusals.add(clock.unix(clock.now()), client, (reason, detail));
}

/// What the gateway ended, or could not begin. A client that leaves is not refused.
const LISTED: [Ended; 9] = [
    "bad_request",
    "head_too_large",
    "tls_handshake",
    "no_certificate",
    HEADER_TIMEOUT,
    SHED,
    budget::CONTROL_FLOOD,
    budget::RESET_FLOOD,
    budget::HEADER_FLOOD,
];
/// Of those, what no honest client does.
const LOGGED: [Ended; 5] =
    ["bad_request", "head_too_large", budget::CONTROL_FLOOD, budget::RESET_FLOOD, budget::HEADER_FLOOD];
pub(super) const HEADER_TIMEOUT: Ended = "header_timeout";
/// A client that had not come to the end of a head gave its place to another one.
pub(super) const SHED: Ended = "shed";

/// How many lines were left out since the last one; `None`: this one is, too.
fn may_log(context: &ConnectionContext) -> Option<u64> {
    context.worker.connections.log_pace.next(context.worker.clock.coarse())
}

/// One line per worker in [`LOG_INTERVAL`], so that a scanner does not write the log.
#[derive(Debug, Default)]
pub(super) struct LogPace {
    last_logged: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl LogPace {
    fn next(&self, now: Instant) -> Option<u64> {
        let is_soon = |last: Instant| now.saturating_duration_since(last) < LOG_INTERVAL;
        if self.last_logged.get().is_some_and(is_soon) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.last_logged.set(Some(now));
        Some(self.left_out.take())
    }
}

const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_says_how_many_were_left_out() {
        let (pace, now) = (LogPace::default(), crate::clock::now());
        let next = |milliseconds| pace.next(now + Duration::from_millis(milliseconds));
        assert_eq!([0, 1, 999, 1000, 2000].map(next), [Some(0), None, None, Some(2), Some(0)]);
    }
}
