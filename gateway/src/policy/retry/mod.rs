//! Retries: whether a failed attempt is followed by another, at which endpoint, and after which pause.
//!
//! What may be repeated follows from what the endpoint can have seen. A failed connect and a request that was handed
//! back unsent (RFC 9113 §8.7: it was not processed) are safe for every method, and cost the endpoints no work: the
//! request goes to the next endpoint at once. Only the number of endpoints bounds such attempts, since each endpoint is
//! tried once. After a later failure, a request is repeated for the configured methods only (RFC 9110 §9.2.2:
//! idempotent methods, unless the operator adds others), needs a body that can be sent again, and is charged: at most
//! `retries` for one request, and a share `budget` of the cluster's requests over the last [`BUDGET_TTL`] (the
//! budget is tower's), with [`FREE_PER_SECOND`] on top so that a quiet service can retry at all. The endpoint is picked
//! before a retry is charged. The pause is drawn evenly from `min..=min·2ⁿ`, at most `max`, so that the clients of one
//! failure do not come back together.

mod written;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use http::{Method, StatusCode};
use rand::{Rng, RngExt};
use tower::retry::budget::{Budget, TpsBudget};

use super::outlier::Sign;

/// The retry policy of one route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Retry {
    retries: u32,
    on: RetryCauses,
    on_status: Box<[StatusCode]>,
    methods: Box<[Method]>,
    backoff_min: Duration,
    backoff_max: Duration,
    body_bytes_max: usize,
}

/// The failures without a status after which another attempt may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four")]
pub struct RetryCauses {
    /// A connect failed.
    pub connect: bool,
    /// The endpoint closed a reused connection before it responded, or refused the stream.
    pub refused: bool,
    /// The endpoint broke the connection after the request was sent.
    pub reset: bool,
    /// An attempt took longer than `timeout.try`.
    pub timeout: bool,
}

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure<'a> {
    pub phase: Phase,
    pub method: &'a Method,
    /// The request has no body, or all of the body can be sent again.
    pub body_is_replayable: bool,
    /// The endpoint was ejected, and the attempt was its probe.
    pub is_probe: bool,
}

/// How far a failed attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The connect failed, and nothing was sent.
    Connect,
    /// The request was handed back: no byte of it was sent, or the endpoint refused the stream without processing it
    /// (`REFUSED_STREAM`, or past `GOAWAY`'s last stream).
    Refused,
    /// A reused connection was closed before the first byte of a response. Most likely it was idle for too long,
    /// but the endpoint may have seen the request.
    ReusedConnectionClosed,
    /// The endpoint responded with this status.
    Status(StatusCode),
    /// The request was sent, and the endpoint closed the connection without a response, or its response was not HTTP.
    Reset,
    /// The request was sent, and no response came in the time of the attempt.
    Timeout,
    /// Another attempt would end in the same way, or the client is the cause.
    Final,
}

impl Phase {
    /// The label of metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refused => "refused",
            Self::ReusedConnectionClosed => "connection_closed",
            Self::Status(_) => "status",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Final => "final",
        }
    }
}

/// The attempts of one request that count towards its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Charged retries.
    pub charged: u32,
    /// Attempts that followed a closed reused connection without charge.
    pub stale: u32,
}

/// The next attempt: at `to`, after the pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next<T> {
    pub to: T,
    pub pause: Duration,
    /// The request's attempts, this one included.
    pub spent: Spent,
}

/// Why another attempt does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRetry {
    /// The failure, the method or the body does not allow another attempt.
    NotRetryable,
    /// The request has had as many retries as the route allows.
    RetriesUsed,
    /// No endpoint can take the attempt.
    NoEndpoint,
    /// The pause would outlast the request.
    OutOfTime,
    /// The cluster's retries have reached their share of its requests.
    BudgetExhausted,
}

/// The cost of another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Price {
    Nothing,
    /// Nothing the first time in a request, then one retry.
    StaleConnection,
    OneRetry,
}

impl Retry {
    /// Whether a request with these attempts may be sent again after bytes of it were sent. If so, it must be kept.
    pub fn may_repeat(&self, method: &Method, spent: Spent) -> bool {
        let may_follow = spent.charged < self.retries || (self.retries > 0 && spent.stale == 0);
        may_follow && self.methods.contains(method)
    }

    /// Whether an attempt that breaks or times out is followed by another one, in a request with these attempts whose body
    /// can be sent again. The budget may still refuse.
    pub fn outlasts_a_failure(&self, method: &Method, spent: Spent) -> bool {
        self.on.reset && self.on.timeout && spent.charged < self.retries && self.methods.contains(method)
    }

    /// Whether another attempt may follow a response with this status. If a probe fails as the endpoint failed before its
    /// ejection, the client does not get that response, whatever `on` is.
    pub fn may_follow_status(&self, status: StatusCode, is_probe: bool) -> bool {
        self.on_status.contains(&status) || (is_probe && Sign::of(status) == Sign::GatewayFailed)
    }

    /// Largest body, in bytes, that is kept to be sent again for a request with this method. `proves`: the service can prove that
    /// it has not processed a request (HTTP/2), which may then be sent again whatever its method is.
    pub fn kept_bytes(&self, method: &Method, proves: bool) -> u64 {
        let repeats = self.retries > 0 && (self.methods.contains(method) || (proves && self.on.refused));
        if repeats { self.body_bytes_max as u64 } else { 0 }
    }

    /// Decides whether another attempt follows the failed one, and charges it. `left` is the time that the request has
    /// left. `pick` finds an endpoint that can take the attempt; it is called before a retry is charged.
    pub fn check<R: Rng, T>(
        &self,
        failure: &Failure<'_>,
        spent: Spent,
        left: Duration,
        budget: &RetryBudget,
        rng: &mut R,
        pick: impl FnOnce(&mut R) -> Option<T>,
    ) -> Result<Next<T>, NoRetry> {
        let price = match self.price(failure).ok_or(NoRetry::NotRetryable)? {
            Price::StaleConnection if spent.stale > 0 => Price::OneRetry,
            price => price,
        };
        if price == Price::OneRetry && spent.charged >= self.retries {
            return Err(NoRetry::RetriesUsed);
        }
        let (pause, spent) = match price {
            Price::Nothing => (Duration::ZERO, spent),
            Price::StaleConnection => (Duration::ZERO, Spent { stale: spent.stale + 1, ..spent }),
            Price::OneRetry => {
                let charged = spent.charged + 1;
                (self.pause(charged, rng), Spent { charged, ..spent })
            }
        };
        if pause >= left {
            return Err(NoRetry::OutOfTime);
        }
        let to = pick(rng).ok_or(NoRetry::NoEndpoint)?;
        if price == Price::OneRetry && !budget.withdraw() {
            return Err(NoRetry::BudgetExhausted);
        }
        Ok(Next { to, pause, spent })
    }

    fn price(&self, failure: &Failure<'_>) -> Option<Price> {
        let repeatable = failure.body_is_replayable && self.methods.contains(failure.method);
        let price = match failure.phase {
            Phase::Connect => self.on.connect.then_some(Price::Nothing),
            Phase::Refused => (self.on.refused && failure.body_is_replayable).then_some(Price::Nothing),
            Phase::ReusedConnectionClosed => {
                (self.on.refused && repeatable).then_some(Price::StaleConnection)
            }
            Phase::Reset => (self.on.reset && repeatable).then_some(Price::OneRetry),
            Phase::Timeout => (self.on.timeout && repeatable).then_some(Price::OneRetry),
            Phase::Status(status) => {
                let may_follow = self.may_follow_status(status, failure.is_probe);
                (may_follow && repeatable).then_some(Price::OneRetry)
            }
            Phase::Final => None,
        };
        price.filter(|_| self.retries > 0)
    }

    fn pause(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let doublings = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let ceiling = self.backoff_min.saturating_mul(doublings).min(self.backoff_max);
        rng.random_range(self.backoff_min..=ceiling)
    }
}

/// The retries that one cluster may have, shared by its routes and workers and kept across snapshots.
///
/// tower's budget takes a lock and reads tokio's clock in each call, which would be once per request. So
/// requests are counted here with one relaxed add, and only every `BATCH`th request becomes a deposit in the budget,
/// which stands for the whole batch.
#[derive(Debug)]
pub struct RetryBudget {
    share: f32,
    tower: TpsBudget,
    pending: AtomicU32,
}

impl RetryBudget {
    /// A budget of `share` retries per request. A share outside 0.0..=1.0 becomes the nearest bound.
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

    /// Whether a budget of `share` would be the same. If so, this one is carried over into the next snapshot.
    pub fn matches(&self, share: f32) -> bool {
        self.share.to_bits() == bounded(share).to_bits()
    }

    /// Counts a request, but not its retries.
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
/// Time for which a request's share can pay for a retry.
pub const BUDGET_TTL: Duration = Duration::from_secs(10);
/// Retries per second that are free. Requests are deposited in batches, and a service with few
/// requests must be able to retry each of them. Ten a second are a negligible load for any endpoint.
pub const FREE_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn retry() -> Retry {
        Retry {
            retries: 2,
            on: RetryCauses { connect: true, refused: true, reset: true, timeout: true },
            on_status: [StatusCode::SERVICE_UNAVAILABLE].into(),
            methods: [Method::GET, Method::HEAD].into(),
            backoff_min: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            body_bytes_max: 1024,
        }
    }

    const LONG: Duration = Duration::from_secs(10);

    fn check(
        retry: &Retry,
        failure: &Failure<'_>,
        spent: Spent,
        budget: &RetryBudget,
    ) -> Result<Next<()>, NoRetry> {
        retry.check(failure, spent, LONG, budget, &mut SmallRng::seed_from_u64(1), |_| Some(()))
    }

    fn may(phase: Phase, method: &Method, body_is_replayable: bool) -> bool {
        let failure = Failure { phase, method, body_is_replayable, is_probe: false };
        check(&retry(), &failure, Spent::default(), &RetryBudget::new(0.2)).is_ok()
    }

    const STATUS: Phase = Phase::Status(StatusCode::SERVICE_UNAVAILABLE);

    #[test]
    fn what_may_be_repeated_follows_from_what_the_endpoint_can_have_seen() {
        // (phase, GET without body, POST without body, GET with a body that is gone)
        for (phase, get, post, gone) in [
            (Phase::Connect, true, true, true),
            (Phase::Refused, true, true, false),
            (Phase::ReusedConnectionClosed, true, false, false),
            (Phase::Reset, true, false, false),
            (Phase::Timeout, true, false, false),
            (STATUS, true, false, false),
            (Phase::Status(StatusCode::BAD_GATEWAY), false, false, false),
            (Phase::Final, false, false, false),
        ] {
            assert_eq!(may(phase, &Method::GET, true), get, "GET after {phase:?}");
            assert_eq!(may(phase, &Method::POST, true), post, "POST after {phase:?}");
            assert_eq!(may(phase, &Method::GET, false), gone, "GET with a body after {phase:?}");
        }
    }

    fn of(phase: Phase) -> Failure<'static> {
        Failure { phase, method: &Method::GET, body_is_replayable: true, is_probe: false }
    }

    #[test]
    fn what_is_switched_off_is_not_retried() {
        let mut retry = retry();
        retry.on = RetryCauses { connect: false, refused: false, reset: false, timeout: false };
        for phase in
            [Phase::Connect, Phase::Refused, Phase::ReusedConnectionClosed, Phase::Reset, Phase::Timeout]
        {
            let verdict = check(&retry, &of(phase), Spent::default(), &RetryBudget::new(1.0));
            assert_eq!(verdict, Err(NoRetry::NotRetryable));
        }
        let off = Retry { retries: 0, ..self::retry() };
        let verdict = check(&off, &of(Phase::Connect), Spent::default(), &RetryBudget::new(1.0));
        assert_eq!(verdict, Err(NoRetry::NotRetryable), "`retry: off` means one attempt");
    }

    #[test]
    fn attempts_that_cost_no_endpoint_any_work_are_not_charged_and_do_not_wait() {
        let (retry, budget) = (retry(), RetryBudget::new(0.0));
        for _ in 0..1_000 {
            for phase in [Phase::Connect, Phase::Refused] {
                let next = check(&retry, &of(phase), Spent { charged: 2, stale: 1 }, &budget).unwrap();
                assert_eq!((next.pause, next.spent.charged), (Duration::ZERO, 2));
            }
        }
        let free = BUDGET_TTL.as_secs() * u64::from(FREE_PER_SECOND);
        let left = (0..1_000).filter(|_| budget.withdraw()).count();
        assert_eq!(left as u64, free, "nothing was taken");
    }

    #[test]
    fn a_closed_connection_is_free_once_and_then_a_retry() {
        let (retry, budget) = (retry(), RetryBudget::new(0.2));
        let stale = |spent| check(&retry, &of(Phase::ReusedConnectionClosed), spent, &budget);
        let first = stale(Spent::default()).unwrap();
        assert_eq!((first.spent, first.pause), (Spent { charged: 0, stale: 1 }, Duration::ZERO));
        assert_eq!(stale(first.spent).unwrap().spent, Spent { charged: 1, stale: 1 });
    }

    #[test]
    fn retries_of_a_request_are_counted() {
        let (retry, budget) = (retry(), RetryBudget::new(0.2));
        let after = |charged| check(&retry, &of(STATUS), Spent { charged, stale: 0 }, &budget);
        assert_eq!(after(0).unwrap().spent.charged, 1);
        assert_eq!(after(1).unwrap().spent.charged, 2);
        assert_eq!(after(2), Err(NoRetry::RetriesUsed));
    }

    #[test]
    fn nothing_is_charged_where_no_endpoint_can_be_tried_or_no_time_is_left() {
        let (retry, budget, mut rng) = (retry(), RetryBudget::new(0.0), SmallRng::seed_from_u64(1));
        let failure = of(STATUS);
        for _ in 0..1_000 {
            let none = retry.check(&failure, Spent::default(), LONG, &budget, &mut rng, |_| None::<()>);
            assert_eq!(none, Err(NoRetry::NoEndpoint));
            let left = Duration::from_millis(25);
            let late = retry.check(&failure, Spent::default(), left, &budget, &mut rng, |_| Some(()));
            assert_eq!(late, Err(NoRetry::OutOfTime));
        }
        assert!(check(&retry, &failure, Spent::default(), &budget).is_ok(), "the budget is whole");
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

    /// The budget is ten seconds' free retries and a fifth of the requests. A batch that is not full does not count yet.
    #[test]
    fn retries_stop_at_their_share_of_the_requests() {
        let (retry, budget) = (retry(), RetryBudget::new(0.2));
        for _ in 0..640 {
            budget.deposit();
        }
        let one = || check(&retry, &of(STATUS), Spent::default(), &budget);
        let granted = (0..1_000).filter(|_| one().is_ok()).count();
        let free = BUDGET_TTL.as_secs() * u64::from(FREE_PER_SECOND);
        let granted = u64::try_from(granted).unwrap();
        assert!((free + 125..=free + 130).contains(&granted), "{granted} of 640 requests");
        assert_eq!(one(), Err(NoRetry::BudgetExhausted));
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
