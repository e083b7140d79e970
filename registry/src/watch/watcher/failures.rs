//! A query that failed: what it says about the watch, and when the next one goes out.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::{Purpose, Query, REFUSED_CAP, Watcher};
use crate::client::ClientError;
use crate::watch::pace::Ended;
use crate::watch::report::WatchState;

impl Watcher {
    /// Handles an error; returns the pause before the next query.
    pub(super) async fn failed(&mut self, error: &ClientError, sent: &Query) -> Option<Duration> {
        let status = error.status();
        self.denied = status == Some(StatusCode::FORBIDDEN);
        if error.is_transport() {
            self.circumstances.other_history = true;
        }
        if error.is_transport() || matches!(status, Some(StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)) {
            self.gate.forget_index();
        }
        let by_proxy = matches!(status, Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
        if sent.blocking.is_some() && (by_proxy || error.is_cut()) {
            // A proxy in between gives up before Consul answers, so the next query blocks for less.
            self.patience.cut(sent.at.elapsed(), by_proxy);
        }
        self.report_error(error);
        let backoff = match status {
            Some(StatusCode::BAD_REQUEST) => BAD_REQUEST_PAUSE,
            Some(StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
                let pause = self.slow_backoff.next(&mut rand::rng());
                pause.max(error.retry_after().unwrap_or_default().min(REFUSED_CAP))
            }
            _ => self.backoff.next(&mut rand::rng()),
        };
        // Jitter may choose short pauses several times in a row; the pace does not.
        let pause = backoff.max(self.pace.after(Ended::Idle, Instant::now()));
        if sent.purpose == Purpose::Refresh {
            self.purpose = Purpose::Follow;
            self.gate.resync();
        }
        // The leader cannot be read, so the old answer is used.
        if let Some(answer) = self.set_aside.take() {
            let pace = self.believe(answer, sent).await?;
            return Some(pause.max(pace));
        }
        if sent.purpose == Purpose::Follow && self.leader_until.take().is_some() {
            self.gate.resync();
        }
        Some(pause)
    }

    pub(super) fn report_error(&mut self, error: &ClientError) {
        let text = self.logged.error(&self.target.service, error, !self.settle.is_new());
        self.report.record(|stats| {
            stats.queries += 1;
            stats.errors += 1;
            stats.index = self.gate.index();
            stats.last_error = Some(text);
            if stats.state == WatchState::Fresh {
                stats.state = WatchState::Stale;
            }
        });
    }
}

/// 400 means that the query itself is wrong; only another configuration helps.
const BAD_REQUEST_PAUSE: Duration = Duration::from_mins(1);
