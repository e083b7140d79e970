//! Reports requests and connections that were refused below admission: counts each one, and logs them at a
//! limited rate.
//!
//! hyper and h2 answer what they cannot parse before the gateway sees a request, so the access log does not
//! contain these.

use super::ConnectionContext;
use crate::{
    downstream::{CERTIFICATE_AWAITED, Ended, HEADER_TIMEOUT, PROXY_PROTOCOL, PROXY_UNTRUSTED, SHED, budget},
    metrics::Rare,
};

/// The reason for which a connection was not served to its end.
pub(super) struct Failure {
    pub(super) reason: Ended,
    /// The library's description; may be empty.
    pub(super) detail: String,
}

impl From<Ended> for Failure {
    fn from(reason: Ended) -> Self {
        Self { reason, detail: String::new() }
    }
}

/// Reports a connection that has ended with an error.
pub(super) fn ended(context: &ConnectionContext, failure: &Failure) {
    let Failure { reason, detail } = failure;
    let listener = &context.listener().name;
    context.worker.metrics.count(Rare::ConnectionError, listener, reason);
    if !LISTED.contains(reason) {
        return;
    }
    list(context, reason, detail);
    if !LOGGED.contains(reason) {
        return;
    }
    if let Some(left_out) = may_log(context) {
        tracing::warn!(peer = %context.peer, %listener, reason, left_out, "a client's connection was refused and closed");
    }
}

/// Reports a connection that is closed. If the sweep closed it, or it gave its place to another client, it is
/// counted already.
pub(super) fn closed(context: &ConnectionContext) {
    if let Some(reason) = context.state.killed_for.get().filter(|reason| LISTED.contains(reason)) {
        list(context, reason, "");
    }
}

/// Reports that h2 has refused a stream, or the connection, with this code.
pub(super) fn refused_by_h2(context: &ConnectionContext, scope: &'static str, code: &'static str) {
    context.worker.metrics.count(Rare::Http2Refusal, scope, code);
    list(context, "http2", &format!("{scope}: {code}"));
    if let Some(left_out) = may_log(context) {
        let listener = &context.listener().name;
        tracing::warn!(peer = %context.peer, %listener, scope, code, left_out, "a client's HTTP/2 frames were refused");
    }
}

fn list(context: &ConnectionContext, reason: Ended, detail: &str) {
    let clock = &context.worker.clock;
    let client = (context.peer.ip().to_canonical(), &context.listener().name);
    context.worker.connections.refusals.add(clock.unix(clock.now()), client, (reason, detail));
}

/// Connections that the gateway ended or could not begin. A client that leaves is not refused.
const LISTED: [Ended; 12] = [
    PROXY_PROTOCOL,
    PROXY_UNTRUSTED,
    "bad_request",
    "head_too_large",
    "tls_handshake",
    "no_certificate",
    CERTIFICATE_AWAITED,
    HEADER_TIMEOUT,
    SHED,
    budget::CONTROL_FLOOD,
    budget::RESET_FLOOD,
    budget::HEADER_FLOOD,
];
/// Those of `LISTED` that no honest client causes.
const LOGGED: [Ended; 7] = [
    PROXY_PROTOCOL,
    PROXY_UNTRUSTED,
    "bad_request",
    "head_too_large",
    budget::CONTROL_FLOOD,
    budget::RESET_FLOOD,
    budget::HEADER_FLOOD,
];

/// The number of lines that were left out since the last one. `None`: this line is left out, too.
fn may_log(context: &ConnectionContext) -> Option<u64> {
    context.worker.connections.log_pace.next(context.worker.clock.coarse())
}
