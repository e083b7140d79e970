//! Retries: whether a failed attempt is followed by another, and after what pause.
//!
//! What may be repeated follows from what the endpoint can have seen. A failed connect and a refused stream
//! (RFC 9113 §8.7: the request was not processed) are safe for every method. Anything later is repeated for
//! the configured methods only (RFC 9110 §9.2.2: idempotent ones, unless the operator knows better). Once a
//! byte of the body may have been read, the body must be replayable. The retry budget is tower's: retries may
//! add `budget` of the cluster's requests, over the last [`BUDGET_TTL`], and [`FREE_PER_SECOND`] on top so
//! that a quiet service can retry at all. The pause is drawn evenly from `min..=min·2ⁿ`, at most `max`, so
//! that clients of one failure do not come back together. Compiled from `RetrySettings`.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use http::{Method, StatusCode};
use rand::{Rng, RngExt};
use tower::retry::budget::{Budget, TpsBudget};

use crate::config::settings::RetrySettings;

/// The retry policy of one route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Retry {
    attempts: u32,
    on_connect: bool,
    on_refused: bool,
    on_status: Box<[StatusCode]>,
    methods: Box<[Method]>,
    backoff_min: Duration,
    backoff_max: Duration,
}

/// An attempt that did not give an answer worth keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure<'a> {
    pub phase: Phase,
    pub method: &'a Method,
    /// There was no body, or all of it can be sent again.
    pub body_is_replayable: bool,
}

/// How far the attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No connection: nothing was sent.
    Connect,
    /// The endpoint refused the stream without processing it (`REFUSED_STREAM`, or past `GOAWAY`'s last
    /// stream).
    Refused,
    /// A reused connection was closed before the first byte of a response: most likely it was idle too long,
    /// but the endpoint may have seen the request.
    ReusedConnectionClosed,
    /// The endpoint answered with this status.
    Status(StatusCode),
    /// The request was sent and then something broke or took too long.
    AfterSent,
}

impl Phase {
    /// One word for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refused => "refused",
            Self::ReusedConnectionClosed => "connection_closed",
            Self::Status(_) => "status",
            Self::AfterSent => "after_sent",
        }
    }
}

/// Pause this long, then try another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff(pub Duration);

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRetry {
    /// Not this kind of failure, this method or this body.
    NotRetryable,
    /// As many retries as the route allows.
    AttemptsUsed,
    /// The cluster's retries are at their share of its requests.
    BudgetExhausted,
}

impl Retry {
    /// Cannot fail: the settings were checked when they were read.
    pub fn compile(settings: &RetrySettings) -> Self {
        Self {
            attempts: settings.attempts,
            on_connect: settings.on_connect,
            on_refused: settings.on_refused,
            on_status: settings.on_status.as_slice().into(),
            methods: settings.methods.as_slice().into(),
            backoff_min: settings.backoff_min,
            backoff_max: settings.backoff_max.max(settings.backoff_min),
        }
    }

    /// Could attempt `attempt` (the first is 1) be followed by another at all? Then its request must be kept.
    pub fn may_follow(&self, attempt: u32) -> bool {
        attempt <= self.attempts
    }

    /// May an answer with this status be followed by another attempt at all?
    pub fn may_follow_status(&self, status: StatusCode) -> bool {
        self.on_status.contains(&status)
    }

    /// May a request of this method be sent twice at all, if it has no body?
    pub fn repeats(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// Shortest pause before a retry.
    pub fn pause_min(&self) -> Duration {
        self.backoff_min
    }

    /// May attempt `attempt` (the first is 1) be followed by another? `Ok` has taken one retry from the budget.
    pub fn check(
        &self,
        failure: &Failure<'_>,
        attempt: u32,
        budget: &RetryBudget,
        rng: &mut impl Rng,
    ) -> Result<Backoff, NoRetry> {
        if !self.is_retryable(failure) {
            return Err(NoRetry::NotRetryable);
        }
        if attempt > self.attempts {
            return Err(NoRetry::AttemptsUsed);
        }
        if !budget.withdraw() {
            return Err(NoRetry::BudgetExhausted);
        }
        Ok(Backoff(self.pause(attempt, rng)))
    }

    fn is_retryable(&self, failure: &Failure<'_>) -> bool {
        let repeatable = failure.body_is_replayable && self.methods.contains(failure.method);
        match failure.phase {
            Phase::Connect => self.on_connect,
            Phase::Refused => self.on_refused && failure.body_is_replayable,
            Phase::ReusedConnectionClosed => self.on_refused && repeatable,
            Phase::Status(status) => self.on_status.contains(&status) && repeatable,
            // It may still be working on it: a second one would only add to its load.
            Phase::AfterSent => false,
        }
    }

    fn pause(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let doublings = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let ceiling = self.backoff_min.saturating_mul(doublings).min(self.backoff_max);
        rng.random_range(self.backoff_min..=ceiling)
    }
}

/// How much retrying one cluster can bear. Shared by its routes and workers, kept across snapshots.
///
/// tower's budget takes a lock and reads tokio's clock in each call, which would be once per request. So
/// requests are counted here with one relaxed add, and only every `BATCH`th reaches the budget, as one
/// deposit that is worth a whole batch.
#[derive(Debug)]
pub struct RetryBudget {
    share: f32,
    tower: TpsBudget,
    pending: AtomicU32,
}

impl RetryBudget {
    /// `share`: retries per request, 0.0..=1.0; what is outside is brought inside.
    pub fn new(share: f32) -> Self {
        let share = bounded(share);
        #[allow(clippy::cast_precision_loss)] // BATCH is a small power of two
        let share_of_batch = share * BATCH as f32;
        Self {
            share,
            tower: TpsBudget::new(BUDGET_TTL, FREE_PER_SECOND, share_of_batch),
            pending: AtomicU32::new(0),
        }
    }

    /// Would a budget of `share` be the same? Then this one is carried over into the next snapshot.
    pub fn matches(&self, share: f32) -> bool {
        self.share.to_bits() == bounded(share).to_bits()
    }

    /// Counts a request (not its retries).
    pub fn deposit(&self) {
        if self.pending.fetch_add(1, Ordering::Relaxed) % BATCH == BATCH - 1 {
            self.tower.deposit();
        }
    }

    fn withdraw(&self) -> bool {
        self.tower.withdraw()
    }
}

fn bounded(share: f32) -> f32 {
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
}

/// Requests that are deposited together.
const BATCH: u32 = 64;
/// How long a request's share can be used for a retry.
pub const BUDGET_TTL: Duration = Duration::from_secs(10);
/// Retries per second that need no requests to pay for them.
pub const FREE_PER_SECOND: u32 = 1;

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn retry() -> Retry {
        Retry::compile(&RetrySettings {
            attempts: 2,
            on_connect: true,
            on_refused: true,
            on_status: vec![StatusCode::SERVICE_UNAVAILABLE],
            methods: vec![Method::GET, Method::HEAD],
            budget: 0.2,
            backoff_min: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
        })
    }

    fn check(phase: Phase, method: &Method, body_is_replayable: bool) -> bool {
        let failure = Failure { phase, method, body_is_replayable };
        let budget = RetryBudget::new(0.2);
        retry().check(&failure, 1, &budget, &mut SmallRng::seed_from_u64(1)).is_ok()
    }

    #[test]
    fn what_may_be_repeated_follows_from_what_the_endpoint_can_have_seen() {
        let unavailable = Phase::Status(StatusCode::SERVICE_UNAVAILABLE);
        // (phase, GET without body, POST without body, GET with a body that is gone)
        for (phase, get, post, gone) in [
            (Phase::Connect, true, true, true),
            (Phase::Refused, true, true, false),
            (Phase::ReusedConnectionClosed, true, false, false),
            (unavailable, true, false, false),
            (Phase::Status(StatusCode::BAD_GATEWAY), false, false, false),
            (Phase::AfterSent, false, false, false),
        ] {
            assert_eq!(check(phase, &Method::GET, true), get, "GET after {phase:?}");
            assert_eq!(check(phase, &Method::POST, true), post, "POST after {phase:?}");
            assert_eq!(check(phase, &Method::GET, false), gone, "GET with a body after {phase:?}");
        }
    }

    #[test]
    fn what_is_switched_off_is_not_retried() {
        let mut retry = retry();
        retry.on_connect = false;
        retry.on_refused = false;
        for phase in [Phase::Connect, Phase::Refused, Phase::ReusedConnectionClosed] {
            let failure = Failure { phase, method: &Method::GET, body_is_replayable: true };
            let verdict = retry.check(&failure, 1, &RetryBudget::new(1.0), &mut SmallRng::seed_from_u64(1));
            assert_eq!(verdict, Err(NoRetry::NotRetryable));
        }
    }

    const CONNECT: Failure<'_> =
        Failure { phase: Phase::Connect, method: &Method::GET, body_is_replayable: true };

    #[test]
    fn the_attempts_of_a_request_are_counted_from_one() {
        let (retry, budget, mut rng) = (retry(), RetryBudget::new(0.2), SmallRng::seed_from_u64(1));
        assert!(retry.check(&CONNECT, 1, &budget, &mut rng).is_ok());
        assert!(retry.check(&CONNECT, 2, &budget, &mut rng).is_ok());
        assert_eq!(retry.check(&CONNECT, 3, &budget, &mut rng), Err(NoRetry::AttemptsUsed));
    }

    #[test]
    fn the_pause_grows_and_stays_between_its_bounds() {
        let (retry, mut rng) = (retry(), SmallRng::seed_from_u64(7));
        for (attempt, ceiling_ms) in [(1, 50), (2, 100), (3, 200), (4, 250), (40, 250)] {
            let pauses: Vec<_> = (0..500).map(|_| retry.pause(attempt, &mut rng).as_millis()).collect();
            let (shortest, longest) = (*pauses.iter().min().unwrap(), *pauses.iter().max().unwrap());
            assert!((25..35).contains(&shortest), "attempt {attempt}: {shortest} ms");
            assert!(
                longest <= ceiling_ms && longest * 10 >= ceiling_ms * 9,
                "attempt {attempt}: {longest} ms"
            );
        }
    }

    /// Ten seconds' free retries and a fifth of the requests; a batch that is not full does not count yet.
    #[test]
    fn retries_stop_at_their_share_of_the_requests() {
        let (retry, budget, mut rng) = (retry(), RetryBudget::new(0.2), SmallRng::seed_from_u64(1));
        for _ in 0..640 {
            budget.deposit();
        }
        let granted = (0..1_000).filter(|_| retry.check(&CONNECT, 1, &budget, &mut rng).is_ok()).count();
        let free = BUDGET_TTL.as_secs() * u64::from(FREE_PER_SECOND);
        let granted = u64::try_from(granted).unwrap();
        assert!((free + 125..=free + 130).contains(&granted), "{granted} of 640 requests");
        assert_eq!(retry.check(&CONNECT, 1, &budget, &mut rng), Err(NoRetry::BudgetExhausted));
    }

    #[test]
    fn a_budget_is_carried_over_only_for_its_own_share() {
        let budget = RetryBudget::new(0.2);
        assert!(budget.matches(0.2) && !budget.matches(0.1));
        assert!(RetryBudget::new(7.0).matches(1.0));
    }

    #[test]
    fn a_share_outside_its_range_is_brought_inside() {
        for share in [-1.0, f32::NAN, f32::INFINITY, 7.0] {
            let budget = RetryBudget::new(share);
            assert!(budget.withdraw(), "the free retries remain");
        }
    }
}
