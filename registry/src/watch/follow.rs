//! The rules of a simple loop of blocking queries: the index, the pace, and the pauses after errors.
//!
//! A key and the list of services are followed by these rules; the watch of a service has further rules about which answers
//! are believed. An index comes only from an answer, and is forgotten when it decreased, after a transport failure and
//! after a refusal, because another agent may answer next. A read from scratch every five minutes (± 20 %) makes up for a
//! lost wake-up and sees changes of permissions, for which Consul does not answer a pending query.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use rand::RngExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::client::{Backoff, Client, ClientError, Consistency, QueryOptions};
use crate::watch::pace::{Ended, Pace};
use crate::watch::patience::Patience;

/// How a key or the list of services is followed. The source file explains each default at its end.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// The longest time for which one blocking query may block.
    pub wait: Duration,
    /// The longest pause after the first error; a random part of it is taken.
    pub backoff_base: Duration,
    /// The longest pause after any error; a random part of it is taken.
    pub backoff_cap: Duration,
    /// How often the loop reads from scratch (± 20 %).
    pub resync_every: Duration,
    /// The shortest pause between an answer and the next query, for data that changes more often than it is needed.
    pub pause_min: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            wait: WAIT,
            backoff_base: BACKOFF_BASE,
            backoff_cap: BACKOFF_CAP,
            resync_every: RESYNC_EVERY,
            pause_min: Duration::ZERO,
        }
    }
}

/// Statistics of a loop that follows a key or the list of services.
#[derive(Debug, Clone, Default)]
pub struct FollowStats {
    /// When the latest query was answered.
    pub last_success: Option<Instant>,
    /// When the loop started.
    pub started: Option<Instant>,
    /// Queries that ended, with an answer or an error.
    pub queries: u64,
    /// Queries that failed.
    pub errors: u64,
    /// The error of the latest query; `None` if it was answered.
    pub last_error: Option<String>,
}

/// A running loop that follows a key or the list of services. Dropping the handle ends the loop and its pending query.
#[derive(Debug)]
pub struct FollowHandle {
    task: JoinHandle<()>,
    stats: Arc<Mutex<FollowStats>>,
}

impl FollowHandle {
    pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(
        what: String,
        consistency: Consistency,
        options: FollowOptions,
        run: impl FnOnce(Follow) -> F,
    ) -> Self {
        let first = FollowStats { started: Some(Instant::now()), ..FollowStats::default() };
        let stats = Arc::new(Mutex::new(first));
        let follow = Follow::new(what, consistency, options, Arc::clone(&stats));
        Self { task: tokio::spawn(run(follow)), stats }
    }

    /// The statistics now.
    pub fn stats(&self) -> FollowStats {
        // Each field is valid by itself, so the statistics of a poisoned lock can be used.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FollowHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of one loop.
pub(crate) struct Follow {
    /// The name in messages, such as "key `a/b`".
    what: String,
    consistency: Consistency,
    options: FollowOptions,
    index: u64,
    /// The agent that the index comes from.
    agent: usize,
    patience: Patience,
    pace: Pace,
    backoff: Backoff,
    /// For the refusals 403 and 429, against which a quick retry does not help.
    slow_backoff: Backoff,
    /// The latest query was denied; another token may be accepted.
    denied: bool,
    sent_at: Instant,
    resync_at: Instant,
    has_read: bool,
    /// The error that was logged last, so that it is not logged at every query.
    last_logged: Option<String>,
    stats: Arc<Mutex<FollowStats>>,
}

impl Follow {
    fn new(
        what: String,
        consistency: Consistency,
        options: FollowOptions,
        stats: Arc<Mutex<FollowStats>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            what,
            consistency,
            index: 0,
            agent: 0,
            patience: Patience::new(options.wait),
            pace: Pace::new(now),
            backoff: Backoff::new(options.backoff_base, options.backoff_cap),
            slow_backoff: Backoff::new(REFUSED_BASE, REFUSED_CAP),
            denied: false,
            sent_at: now,
            resync_at: now + jittered(options.resync_every),
            has_read: false,
            last_logged: None,
            stats,
            options,
        }
    }

    /// The next query, to this agent. An index of one agent means nothing to another one.
    pub(crate) fn query(&mut self, agent: usize) -> QueryOptions {
        let now = Instant::now();
        if now >= self.resync_at {
            self.index = 0;
            self.resync_at = now + jittered(self.options.resync_every);
        }
        if std::mem::replace(&mut self.agent, agent) != agent {
            self.index = 0;
        }
        self.sent_at = now;
        QueryOptions {
            index: Some(self.index),
            wait: Some(self.patience.wait()),
            consistency: self.consistency,
            ..QueryOptions::default()
        }
    }

    /// The pause after an answer; `news` if the answer brought something new.
    pub(crate) fn answered(&mut self, index: Option<u64>, news: bool) -> Duration {
        self.backoff.reset();
        self.slow_backoff.reset();
        (self.denied, self.has_read) = (false, true);
        if self.last_logged.take().is_some() {
            info!("{}: the registry answers again", self.what);
        }
        let now = Instant::now();
        let early = self.index > 0 && now.duration_since(self.sent_at) < self.patience.wait();
        self.record(|stats| {
            stats.last_success = Some(now);
            stats.last_error = None;
        });
        let outcome = if early && !news { Ended::Idle } else { Ended::News };
        let pace = self.pace.after(outcome, now).max(self.options.pause_min);
        let Some(index) = index else {
            // Without an index a query cannot block: a proxy removed it, or the server is not Consul.
            self.index = 0;
            return POLL_INTERVAL.max(pace);
        };
        self.index = if index < self.index { 0 } else { index };
        pace
    }

    /// The pause after an error.
    pub(crate) fn failed(&mut self, error: &ClientError) -> Duration {
        let status = error.status();
        self.denied = status == Some(StatusCode::FORBIDDEN);
        let by_proxy = matches!(status, Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
        if self.index > 0 && (by_proxy || error.is_cut()) {
            // A proxy in between gives up before Consul answers, so the next query blocks for less.
            self.patience.cut(self.sent_at.elapsed(), by_proxy);
        }
        if error.is_transport() || matches!(status, Some(StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)) {
            self.index = 0;
        }
        let text = error.to_string();
        if self.last_logged.as_deref() != Some(text.as_str()) {
            let rest = if self.has_read { "what was read last stays in use" } else { "nothing was read yet" };
            warn!("{}: {text}; {rest}", self.what);
            self.last_logged = Some(text.clone());
        }
        self.record(|stats| {
            stats.errors += 1;
            stats.last_error = Some(text);
        });
        let rng = &mut rand::rng();
        match status {
            Some(StatusCode::BAD_REQUEST) => BAD_REQUEST_PAUSE,
            Some(StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
                let pause = self.slow_backoff.next(rng);
                pause.max(error.retry_after().unwrap_or_default().min(REFUSED_CAP))
            }
            _ => self.backoff.next(rng),
        }
    }

    /// Waits before the next query; after a denial only until the token file holds another token.
    pub(crate) async fn rest(&mut self, pause: Duration, client: &Client) {
        let sleep = tokio::time::sleep(pause);
        if !self.denied {
            return sleep.await;
        }
        tokio::select! {
            () = sleep => {}
            () = client.another_token_soon() => self.slow_backoff.reset(),
        }
    }

    /// Waits for the answer to the latest query. `None` if the token changed: the query must be made again, because the token
    /// that it was sent with decides what it may see.
    pub(crate) async fn answer<T>(&mut self, client: &Client, call: impl Future<Output = T>) -> Option<T> {
        if self.index == 0 {
            return Some(call.await);
        }
        tokio::select! {
            answer = call => Some(answer),
            () = client.another_token() => {
                self.index = 0;
                None
            }
        }
    }

    fn record(&self, outcome: impl FnOnce(&mut FollowStats)) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.queries += 1;
        outcome(&mut stats);
    }
}

/// ± 20 %, so that many gateways do not all read at the same moment.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..1.2))
}

/// Below the idle timeout of 60 s that proxies commonly have.
const WAIT: Duration = Duration::from_secs(50);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// An agent that returns after an outage is noticed within this time.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
const RESYNC_EVERY: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A quick retry does not help against a refused token or a rate limit.
const REFUSED_BASE: Duration = Duration::from_secs(5);
const REFUSED_CAP: Duration = Duration::from_mins(1);
/// 400 means that the query itself is wrong; only another configuration helps.
const BAD_REQUEST_PAUSE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn follow() -> Follow {
        Follow::new("a test".to_owned(), Consistency::Leader, FollowOptions::default(), Arc::default())
    }

    fn refused(status: StatusCode) -> ClientError {
        let (call, detail) = ("GET /v1/x".to_owned(), String::new());
        ClientError::Status { call, status, detail, retry_after: None }
    }

    #[tokio::test]
    async fn an_index_is_kept_through_a_servers_error_and_forgotten_after_a_lost_connection() {
        let mut follow = follow();
        follow.answered(Some(7), true);
        follow.failed(&refused(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(follow.query(0).index, Some(7));
        let lost = ClientError::Unreachable { address: "x".to_owned(), detail: "y".to_owned() };
        follow.failed(&lost);
        assert_eq!(follow.query(0).index, Some(0));
    }

    #[tokio::test]
    async fn an_index_of_another_agent_is_forgotten() {
        let mut follow = follow();
        follow.answered(Some(7), true);
        assert_eq!((follow.query(0).index, follow.query(1).index), (Some(7), Some(0)));
    }

    #[tokio::test]
    async fn a_lower_index_begins_again_from_scratch() {
        let mut follow = follow();
        follow.answered(Some(7), true);
        follow.answered(Some(3), true);
        assert_eq!(follow.query(0).index, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_proxy_that_gives_up_earlier_it_asks_for_less() {
        let mut follow = follow();
        follow.answered(Some(7), true);
        assert_eq!(follow.query(0).wait, Some(WAIT));
        tokio::time::advance(Duration::from_secs(30)).await;
        follow.failed(&refused(StatusCode::GATEWAY_TIMEOUT));
        let query = follow.query(0);
        assert_eq!((query.index, query.wait), (Some(7), Some(Duration::from_secs(15))));
    }

    #[tokio::test]
    async fn without_an_index_it_polls_once_a_second() {
        let mut follow = follow();
        assert!(follow.answered(None, true) >= POLL_INTERVAL);
    }
}
