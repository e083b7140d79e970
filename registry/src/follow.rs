//! The rules of a loop of blocking queries, whatever is read: the index, the pace, the pauses after errors.
//!
//! The watch of a service has rules of its own about what may be believed ([`crate::watch`]); for a key and for
//! the list of services these suffice. An index comes only from an answer, and is forgotten when it decreased,
//! after a transport failure and after a refusal: what answers next may be another agent. A read from scratch every
//! five minutes (± 20 %) heals a wake-up that got lost and sees changes of permissions, which wake nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use rand::RngExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;
use crate::pace::{Outcome, Pace};
use crate::patience::Patience;
use crate::types::{Consistency, QueryOptions};

/// How something is followed. Each default is argued where it is defined, at the end of this file.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// How long one blocking query may block.
    pub wait: Duration,
    /// First and longest pause after errors; a random part of it is taken.
    pub backoff_base: Duration,
    pub backoff_cap: Duration,
    pub resync_every: Duration,
    /// The least pause between an answer and the next query: what changes often need not be read as often.
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

/// What a loop has done so far.
#[derive(Debug, Clone, Default)]
pub struct FollowStats {
    pub last_success: Option<Instant>,
    /// Since when the first answer is awaited.
    pub started: Option<Instant>,
    pub queries: u64,
    pub errors: u64,
    /// The error of the latest query; `None` if it was answered.
    pub last_error: Option<String>,
}

/// A running loop; dropping it ends the loop and its pending query.
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

    pub fn stats(&self) -> FollowStats {
        // Each field is whole by itself, so a lock that a panic poisoned still holds statistics.
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
    /// In messages: "the key `a/b`".
    what: String,
    consistency: Consistency,
    options: FollowOptions,
    index: u64,
    /// Whose index it is.
    agent: usize,
    patience: Patience,
    pace: Pace,
    backoff: Backoff,
    /// For refusals, which a quick retry does not heal: 403 and 429.
    slow_backoff: Backoff,
    /// The latest query was denied: another token may heal that.
    denied: bool,
    asked_at: Instant,
    resync_at: Instant,
    has_read: bool,
    /// What was logged last, so that the same thing is not said at every query.
    said_error: Option<String>,
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
            asked_at: now,
            resync_at: now + jittered(options.resync_every),
            has_read: false,
            said_error: None,
            stats,
            options,
        }
    }

    /// The next query, to this agent. An index means nothing to another one.
    pub(crate) fn query(&mut self, agent: usize) -> QueryOptions {
        let now = Instant::now();
        if now >= self.resync_at {
            self.index = 0;
            self.resync_at = now + jittered(self.options.resync_every);
        }
        if std::mem::replace(&mut self.agent, agent) != agent {
            self.index = 0;
        }
        self.asked_at = now;
        QueryOptions {
            index: Some(self.index),
            wait: Some(self.patience.wait()),
            consistency: self.consistency,
            ..QueryOptions::default()
        }
    }

    /// The pause after an answer. `news`: it told something that was not known.
    pub(crate) fn answered(&mut self, index: Option<u64>, news: bool) -> Duration {
        self.backoff.reset();
        self.slow_backoff.reset();
        (self.denied, self.has_read) = (false, true);
        if self.said_error.take().is_some() {
            info!("{}: the registry answers again", self.what);
        }
        let now = Instant::now();
        let early = self.index > 0 && now.duration_since(self.asked_at) < self.patience.wait();
        self.record(|stats| {
            stats.last_success = Some(now);
            stats.last_error = None;
        });
        let outcome = if early && !news { Outcome::Idle } else { Outcome::News };
        let pace = self.pace.after(outcome, now).max(self.options.pause_min);
        let Some(index) = index else {
            // No index to wait from: a proxy in between, or not Consul.
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
        let said_so = matches!(status, Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
        if self.index > 0 && (said_so || error.is_cut()) {
            // A proxy in between gives up earlier than Consul answers: ask for less.
            self.patience.cut(self.asked_at.elapsed(), said_so);
        }
        if error.is_transport() || matches!(status, Some(StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)) {
            self.index = 0;
        }
        let text = error.to_string();
        if self.said_error.as_deref() != Some(text.as_str()) {
            let rest = if self.has_read { "what was read last stays in use" } else { "nothing was read yet" };
            warn!("{}: {text}; {rest}", self.what);
            self.said_error = Some(text.clone());
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

    /// Waits before the next query; after a denial at most until there is another token.
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

    /// Waits for the answer to the query that was made last. `None`: there is another token, so it is to be made anew, since
    /// what a query may see is decided by the token that it was asked with.
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
/// An agent that is back after an outage is noticed within this time.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
const RESYNC_EVERY: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A refused token or a rate limit is not healed by haste.
const REFUSED_BASE: Duration = Duration::from_secs(5);
const REFUSED_CAP: Duration = Duration::from_mins(1);
/// 400 means that the query itself is wrong; only a change of configuration heals it.
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
