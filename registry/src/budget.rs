//! How many blocking queries one agent gets at once. Pure.
//!
//! Over cleartext every blocking query occupies a connection, and an agent admits 200 connections from one address by
//! default (`limits.http_max_conns_per_client`); past it 1.8 resets them without a word, later releases answer 429. Over
//! HTTP/2 they are streams of one connection, of which Go's server admits 250. So there is a number that is never
//! exceeded, and a refusal halves it: others on this machine use connections, too. It grows back slowly.

use tokio::time::Instant;

/// The places of one agent.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    limit: usize,
    used: usize,
    /// The last time at which the limit changed.
    changed: Option<Instant>,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), limit: most.max(1), used: 0, changed: None }
    }

    /// Takes a place, if one is free.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.grow(now);
        let free = self.used < self.limit;
        self.used += usize::from(free);
        free
    }

    pub(crate) fn give_back(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    /// More places are taken than there are by now: whoever asks should give his back.
    pub(crate) fn is_over(&self) -> bool {
        self.used > self.limit
    }

    /// The agent refused a query because of too many. Refusals that come together count once.
    pub(crate) fn refused(&mut self, now: Instant) {
        if self.changed.is_some_and(|at| now.saturating_duration_since(at) < REFUSALS_TOGETHER) {
            return;
        }
        self.limit = (self.used.min(self.limit) / 2).max(1);
        self.changed = Some(now);
    }

    /// There are no more than `most` from now on.
    pub(crate) fn restrict(&mut self, most: usize) {
        self.most = self.most.min(most.max(1));
        self.limit = self.limit.min(self.most);
    }

    fn grow(&mut self, now: Instant) {
        if self.limit < self.most
            && self.changed.is_some_and(|at| now.saturating_duration_since(at) >= GROW_EVERY)
        {
            self.limit = (self.limit + self.most.div_ceil(GROW_STEPS)).min(self.most);
            self.changed = Some(now);
        }
    }
}

/// When an agent refuses, it refuses all that ask.
const REFUSALS_TOGETHER: std::time::Duration = std::time::Duration::from_secs(5);
/// A tenth more each half minute: from nothing to everything in five minutes.
const GROW_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
const GROW_STEPS: usize = 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn full(most: usize, now: Instant) -> Budget {
        let mut budget = Budget::new(most);
        for _ in 0..most {
            assert!(budget.take(now));
        }
        budget
    }

    #[test]
    fn past_the_limit_there_is_no_place_until_one_is_given_back() {
        let now = Instant::now();
        let mut budget = full(100, now);
        assert!(!budget.take(now));
        budget.give_back();
        assert!(budget.take(now) && !budget.take(now));
    }

    #[test]
    fn a_refusal_halves_what_was_in_use_and_refusals_that_come_together_count_once() {
        let now = Instant::now();
        let mut budget = full(100, now);
        for _ in 0..50 {
            budget.refused(now);
        }
        for _ in 0..50 {
            assert!(budget.is_over());
            budget.give_back();
        }
        assert!(!budget.is_over() && !budget.take(now));
        budget.refused(now + REFUSALS_TOGETHER);
        assert_eq!(budget.limit, 25);
    }

    #[test]
    fn one_query_is_always_allowed() {
        let mut now = Instant::now();
        let mut budget = Budget::new(0);
        for _ in 0..10 {
            budget.refused(now);
            now += Duration::from_secs(10);
        }
        assert!(budget.take(now));
    }

    #[test]
    fn the_limit_grows_back_within_minutes_and_not_past_where_it_was() {
        let mut now = Instant::now();
        let mut budget = full(100, now);
        budget.refused(now);
        let begin = now;
        while budget.limit < 100 {
            now += GROW_EVERY;
            budget.grow(now);
        }
        assert!(now - begin <= Duration::from_mins(5), "{:?}", now - begin);
        budget.grow(now + GROW_EVERY);
        assert_eq!(budget.limit, 100);
    }
}
