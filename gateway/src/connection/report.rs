//! Requests and connections that were refused below admission: counted each, logged at a pace.
//!
//! hyper and h2 answer what they cannot parse before the gateway sees a request, so that no access log has it.

use super::ConnectionContext;
use crate::{
    downstream::{Ended, HEADER_TIMEOUT, SHED, budget},
    metrics::Rare,
};

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

/// How many lines were left out since the last one; `None`: this one is, too.
fn may_log(context: &ConnectionContext) -> Option<u64> {
    context.worker.connections.log_pace.next(context.worker.clock.coarse())
}
