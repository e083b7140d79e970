//! The pace of queries: three token buckets.
//!
//! Consul answers the pending query at every change of a service, and the next change is seen only by the next query. So
//! answers with news draw on a bucket of [`BURST`] with [`REFILL_PER_SECOND`]: a few changes in quick succession cost no
//! delay; after them a query waits for at most 100 ms.
//!
//! A query that fails, or an answer that comes early and without news (from a server that never blocks, for a wrong index, from
//! a proxy that cuts long polls, or an empty answer that is not believed), draws on a second bucket of [`IDLE_BURST`] with
//! one token every [`IDLE_REFILL`]: at most nine such queries in ten seconds.
//!
//! A service without instances is in between. Consul answers its query whenever any service in the datacenter loses its last
//! instance, because it keeps one index for all services that do not exist. Such an answer has no news, but it is correct,
//! and the awaited registration may come next; so these draw on a third bucket of [`EMPTY_BURST`] with
//! [`EMPTY_REFILL_PER_SECOND`]. The load depends on how often services disappear, and is bounded.

use std::time::Duration;

use tokio::time::Instant;

/// The three buckets of one loop. Pure: `now` is an argument.
#[derive(Debug)]
pub(crate) struct Pace {
    news: Bucket,
    empty: Bucket,
    idle: Bucket,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The answer brought something new, or the time of the query was over.
    News,
    /// The service still has no instances, at a higher index.
    StillEmpty,
    /// The answer came early and brought nothing new, or the query failed.
    Idle,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Takes one token; returns how long it takes until the bucket is out of debt.
    fn pay(&mut self, burst: f64, refill_per_second: f64, now: Instant) -> Duration {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * refill_per_second;
        self.tokens = (self.tokens + refill).min(burst) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / refill_per_second)
    }
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            news: Bucket { tokens: BURST, at: now },
            empty: Bucket { tokens: EMPTY_BURST, at: now },
            idle: Bucket { tokens: IDLE_BURST, at: now },
        }
    }

    /// Accounts for one query; returns how long the next one has to wait.
    pub(crate) fn after(&mut self, outcome: Ended, now: Instant) -> Duration {
        match outcome {
            Ended::News => self.news.pay(BURST, REFILL_PER_SECOND, now),
            Ended::StillEmpty => self.empty.pay(EMPTY_BURST, EMPTY_REFILL_PER_SECOND, now),
            Ended::Idle => self.idle.pay(IDLE_BURST, IDLE_REFILL.as_secs_f64().recip(), now),
        }
    }
}

const BURST: f64 = 5.0;
const REFILL_PER_SECOND: f64 = 10.0;
const EMPTY_BURST: f64 = 5.0;
const EMPTY_REFILL_PER_SECOND: f64 = 4.0;
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
            assert_eq!(pace.after(Ended::News, now), Duration::ZERO);
        }
        assert_eq!(pace.after(Ended::News, now), Duration::from_millis(100));
    }

    #[test]
    fn an_empty_service_is_asked_for_again_within_a_quarter_of_a_second_however_many_others_disappear() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..40 {
            let wait = pace.after(Ended::StillEmpty, now);
            assert!(wait <= Duration::from_millis(250), "{wait:?}");
            now += wait;
        }
    }

    #[test]
    fn answers_without_news_are_at_most_nine_in_ten_seconds() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut asked = Vec::new();
        for _ in 0..40 {
            asked.push(now);
            now += pace.after(Ended::Idle, now);
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
            let wait = pace.after(Ended::Idle, now);
            assert!(wait <= IDLE_REFILL, "{wait:?}");
            now += wait;
        }
        assert_eq!(pace.after(Ended::News, now), Duration::ZERO);
    }
}
