//! The pace of blocking queries that succeed: a token bucket of [`BURST`] with [`REFILL_PER_SECOND`].
//!
//! Why these numbers: every change of a service answers the pending query, and the next query must be out
//! before the next change can be seen. With a burst of 5 a handful of changes in quick succession costs no
//! delay at all; past it a query waits at most 100 ms, so that a status change is known well within a second
//! whatever came before. A server that answers at once without a change (a wrong index, a proxy that cuts
//! long polls) pays [`IDLE_COST`] per answer: at most two queries a second then, never a hot loop.

use std::time::Duration;

use tokio::time::Instant;

/// Pure: `now` is handed in.
#[derive(Debug)]
pub(crate) struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: BURST, at: now }
    }

    /// Pays for one answer and says how long the next query has to wait. `idle`: the answer came early and
    /// brought nothing new.
    pub(crate) fn after_answer(&mut self, idle: bool, now: Instant) -> Duration {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * REFILL_PER_SECOND;
        self.tokens = (self.tokens + refill).min(BURST) - if idle { IDLE_COST } else { 1.0 };
        self.at = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / REFILL_PER_SECOND)
    }
}

const BURST: f64 = 5.0;
const REFILL_PER_SECOND: f64 = 10.0;
const IDLE_COST: f64 = 5.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_changes_at_once_cost_no_delay_and_the_sixth_a_tenth_of_a_second() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..5 {
            assert_eq!(pace.after_answer(false, now), Duration::ZERO);
        }
        assert_eq!(pace.after_answer(false, now), Duration::from_millis(100));
    }

    #[test]
    fn answers_without_news_slow_down_to_two_a_second() {
        let mut now = Instant::now();
        let begin = now;
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            now += pace.after_answer(true, now);
        }
        assert!(now - begin >= Duration::from_secs(9), "{:?}", now - begin);
    }

    #[test]
    fn even_then_a_change_is_asked_for_within_half_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            let wait = pace.after_answer(true, now);
            assert!(wait <= Duration::from_millis(500), "{wait:?}");
            now += wait;
        }
    }
}
