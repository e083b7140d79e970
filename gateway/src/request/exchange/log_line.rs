//! The line of a request in the access log, from what its exchange has collected.

use std::time::{Duration, Instant};

use super::{Exchange, flags};
use crate::access_log::{AccessLog, LogEntry};

impl Exchange {
    /// Writes the line of this request, if the log takes it. `upstream` is the duration of the last attempt.
    pub(super) fn log(
        &self,
        log: &AccessLog,
        ended: Instant,
        duration: Duration,
        upstream: Option<Duration>,
    ) {
        let route = self.route.as_ref();
        let is_left_out = route.is_some_and(|route| !route.shared().policies.access_log);
        if is_left_out || !log.takes(self.status_code(), self.is_refusal(), ended) {
            return;
        }
        let head =
            self.attempts.ended.map_or(duration, |head| head.saturating_duration_since(self.request.started));
        let failure = self.auth_failure.get();
        let entry = LogEntry {
            request_id: self.request.id.as_str(),
            client: self.request.client,
            client_text: self.known_client_text(),
            method: self.request.method.as_str(),
            host: self.host(),
            path: self.path(),
            version: self.request.version,
            is_tls: self.is_tls(),
            listener: &self.connection.listener().name,
            status: self.status_code(),
            bytes_in: self.bytes_in(),
            bytes_out: self.bytes_out,
            started: self.request.started,
            duration,
            upstream,
            overhead: head.saturating_sub(upstream.unwrap_or_default()),
            route: route.map(|route| (&*route.shared().name, route.cluster_name())),
            subset: self.attempts.subset.as_deref(),
            instance: self.attempts.instance.as_deref(),
            attempts: self.attempts.number,
            grpc_status: self.grpc_status.get(),
            tried: self.attempts.list(),
            user: self.user(),
            provider: self.provider(),
            denied: self.denied.as_ref(),
            auth_failure: failure.map(|failure| (failure.reason, failure.claim.as_deref())),
            flag: self.flag,
        };
        log.write(&entry, ended);
    }

    /// The gateway has refused the request with a 4xx status. Operators look for these lines, so they have a sampling budget of their own.
    fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status_code()) && ![flags::NONE, flags::CLIENT_GONE].contains(&self.flag)
    }
}
