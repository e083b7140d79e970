//! The pace of queries: two token buckets.
//!
//! Every change of a service answers the pending query, and the next query must be out before the next change can be
//! seen. So answers with news draw on a bucket of [`BURST`] with [`REFILL_PER_SECOND`]: a handful of changes in quick
//! succession costs no delay at all; past it a query waits at most 100 ms.
//!
//! A query that fails, or an answer that comes without news although it need not have come yet (a server that never
//! blocks, a wrong index, a proxy that cuts long polls, empty answers that are not believed), draws on a second bucket
//! of [`IDLE_BURST`] with one token every [`IDLE_REFILL`]: whatever the other side does, that is at most nine such
//! queries in ten seconds.

use std::time::Duration;

use tokio::time::Instant;

/// Pure: `now` is handed in.
#[derive(Debug)]
pub(crate) struct Pace {
    news: Bucket,
    idle: Bucket,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Pays one token, and says how long it takes until the bucket is no longer in debt.
    fn pay(&mut self, burst: f64, refill_per_second: f64, now: Instant) -> Duration {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * refill_per_second;
        self.tokens = (self.tokens + refill).min(burst) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / refill_per_second)
    }
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { news: Bucket { tokens: BURST, at: now }, idle: Bucket { tokens: IDLE_BURST, at: now } }
    }

    /// Pays for one answer and says how long the next query has to wait. `idle`: the answer came early and
    /// brought nothing new, or there was none.
    pub(crate) fn after_answer(&mut self, idle: bool, now: Instant) -> Duration {
        if idle {
            self.idle.pay(IDLE_BURST, IDLE_REFILL.as_secs_f64().recip(), now)
        } else {
            self.news.pay(BURST, REFILL_PER_SECOND, now)
        }
    }
}

const BURST: f64 = 5.0;
const REFILL_PER_SECOND: f64 = 10.0;
const IDLE_BURST: f64 = 2.0;
const IDLE_REFILL: Duration = Duration::from_millis(1500);

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
    fn answers_without_news_are_at_most_nine_in_ten_seconds() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut asked = Vec::new();
        for _ in 0..40 {
            asked.push(now);
            now += pace.after_answer(true, now);
        }
        for window in asked.windows(10) {
            assert!(window[9] - window[0] >= Duration::from_secs(10), "{:?}", window[9] - window[0]);
        }
    }

    #[test]
    fn answers_without_news_do_not_delay_the_ones_with_news_for_longer_than_one_step() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            let wait = pace.after_answer(true, now);
            assert!(wait <= IDLE_REFILL, "{wait:?}");
            now += wait;
        }
        assert_eq!(pace.after_answer(false, now), Duration::ZERO);
    }
}
