//! How many blocking queries one agent gets at once. Pure.
//!
//! Over cleartext every blocking query occupies a connection, and an agent admits 200 connections from one address by
//! default (`limits.http_max_conns_per_client`). Consul 1.8 resets further connections, later releases answer 429. Over HTTP/2
//! queries are streams of one connection, of which Go's server admits 250. So there is a number that is never exceeded, and
//! a wave of refusals leaves half of what was admitted: other programs on this machine use connections too, and so do this
//! client's polls. Queries that are then too many stay pending, because an agent keeps their connections even when the client closes
//! them; until they end, no further refusal counts. That is why queries block for at most [`TIGHT_WAIT`] while there are
//! fewer places than the maximum.
//!
//! A reset connection may also mean that the agent went away. The other connections show the difference: an agent that has
//! enough resets only new connections, while an agent that stops cuts the old ones too and then accepts none. So a reset
//! does not count when an old query was cut, or a connection was not accepted, and no answer came since; or when that happens
//! right after the reset.
//!
//! The number grows back in steps. The first steps come within seconds, so that a refusal by mistake, or one with a short
//! cause, costs little; each further wave makes the steps rarer. A wave that follows a step takes this step back, so that
//! near the limit of the agent only the newest queries are refused.

use std::time::Duration;

use tokio::time::Instant;

/// The places of one agent.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    limit: usize,
    used: usize,
    /// The latest wave of refusals.
    wave: Option<Wave>,
    /// When the agent went away; `None` once it answered again.
    gone_at: Option<Instant>,
    /// From when the time to the next step counts.
    steady_since: Option<Instant>,
    grow_every: Duration,
    /// A step was made, and no refusal came since.
    grew: bool,
}

/// Refusals that come together and count as one.
#[derive(Debug)]
struct Wave {
    at: Instant,
    refusals: usize,
    /// All of them were resets; none was an answer with a status.
    supposed: bool,
    limit_before: usize,
    /// The places that were taken when the wave began.
    asked: usize,
    /// The size of the step that the wave followed.
    step: Option<usize>,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            limit: most,
            used: 0,
            wave: None,
            gone_at: None,
            steady_since: None,
            grow_every: GROW_EVERY_MIN,
            grew: false,
        }
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

    /// More places are taken than there are now: a query should give its place back.
    pub(crate) fn is_over(&self) -> bool {
        self.used > self.limit
    }

    /// The longest time for which a query may block, where that is limited.
    pub(crate) fn wait_max(&self) -> Option<Duration> {
        (self.limit < self.most).then_some(TIGHT_WAIT)
    }

    /// Records that the agent answered that there are too many queries.
    pub(crate) fn refused(&mut self, now: Instant) {
        self.shrink(false, now);
    }

    /// Records that the agent ended a new connection at once, which may mean that there are too many.
    pub(crate) fn reset(&mut self, now: Instant) {
        if self.gone_at.is_none() {
            self.shrink(true, now);
        }
    }

    /// Records an answer. An answer that was on its way when the agent went away proves nothing.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.gone_at = self.gone_at.filter(|at| now.saturating_duration_since(*at) < SAME_CAUSE);
    }

    /// Records that the agent went away: it ended a query that it had admitted, or does not accept connections.
    pub(crate) fn gone(&mut self, now: Instant) {
        self.gone_at = Some(now);
        let same_cause =
            |wave: &mut Wave| wave.supposed && now.saturating_duration_since(wave.at) < SAME_CAUSE;
        if let Some(wave) = self.wave.take_if(same_cause) {
            self.limit = wave.limit_before.min(self.most);
            self.grow_every = (self.grow_every / 2).max(GROW_EVERY_MIN);
        }
    }

    /// Lowers the maximum to `most`.
    pub(crate) fn restrict(&mut self, most: usize) {
        self.most = self.most.min(most.max(1));
        self.limit = self.limit.min(self.most);
    }

    fn shrink(&mut self, supposed: bool, now: Instant) {
        self.steady_since = Some(now);
        let together = |wave: &&mut Wave| now.saturating_duration_since(wave.at) < REFUSALS_TOGETHER;
        if let Some(wave) = self.wave.as_mut().filter(together) {
            wave.refusals += 1;
            wave.supposed &= supposed;
            self.limit = wave.leaves();
            return;
        }
        if self.is_over() {
            return;
        }
        let wave = Wave {
            at: now,
            refusals: 1,
            supposed,
            limit_before: self.limit,
            asked: self.used.min(self.limit),
            step: std::mem::take(&mut self.grew).then(|| self.step()),
        };
        self.limit = wave.leaves();
        self.wave = Some(wave);
        self.grow_every = (self.grow_every * 2).min(GROW_EVERY_MAX);
    }

    fn grow(&mut self, now: Instant) {
        let is_time =
            self.steady_since.is_some_and(|at| now.saturating_duration_since(at) >= self.grow_every);
        if self.limit < self.most && is_time && !self.is_over() {
            self.limit = (self.limit + self.step()).min(self.most);
            self.steady_since = Some(now);
            self.grew = true;
        }
        if self.limit == self.most {
            self.grow_every = GROW_EVERY_MIN;
        }
    }

    fn step(&self) -> usize {
        self.most.div_ceil(GROW_STEPS)
    }
}

impl Wave {
    /// The places that the wave leaves. A refused query is made again and counted again; so at most half of the queries count as
    /// refused.
    fn leaves(&self) -> usize {
        if let Some(step) = self.step {
            return self.limit_before.saturating_sub(step).max(1);
        }
        let admitted = self.asked.saturating_sub(self.refusals).max(self.asked / 2);
        (admitted / 2).max(1)
    }
}

/// An agent that refuses one query refuses all that come at that moment.
const REFUSALS_TOGETHER: Duration = Duration::from_secs(3);
/// All connections of a process end within milliseconds; on a busy machine the client notices within this time.
const SAME_CAUSE: Duration = Duration::from_secs(2);
/// A place is given back within this time while the agent has fewer than the maximum.
const TIGHT_WAIT: Duration = Duration::from_secs(5);
/// A tenth more in each step. A wave doubles the time between two steps, so after the first wave the budget grows from
/// nothing to everything in forty seconds; an agent that keeps refusing is tried once a minute.
const GROW_STEPS: usize = 10;
const GROW_EVERY_MIN: Duration = Duration::from_secs(2);
const GROW_EVERY_MAX: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn full(most: usize, now: Instant) -> Budget {
        let mut budget = Budget::new(most);
        for _ in 0..most {
            assert!(budget.take(now));
        }
        budget
    }

    /// A budget of 100 after one refusal, when all have given back what was too much.
    fn after_a_wave(now: Instant) -> Budget {
        let mut budget = full(100, now);
        budget.refused(now);
        while budget.is_over() {
            budget.give_back();
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
    fn refusals_leave_half_of_what_was_admitted_and_those_that_come_together_count_once() {
        let now = Instant::now();
        let mut budget = full(100, now);
        for _ in 0..20 {
            budget.refused(now);
        }
        assert_eq!(budget.limit, 40);
        // The refused queries are made again.
        for _ in 0..200 {
            budget.refused(now);
        }
        assert_eq!(budget.limit, 25);
    }

    #[test]
    fn refusals_count_again_when_the_places_that_were_too_many_are_given_back() {
        let now = Instant::now();
        let mut budget = full(100, now);
        budget.refused(now);
        let later = now + REFUSALS_TOGETHER;
        budget.refused(later);
        assert_eq!(budget.limit, 49);
        while budget.is_over() {
            budget.give_back();
        }
        assert!(!budget.take(later));
        budget.refused(later);
        assert_eq!(budget.limit, 24);
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
    fn resets_while_older_queries_live_are_refusals() {
        let now = Instant::now();
        let mut budget = full(100, now);
        budget.reset(now);
        budget.gone(now + SAME_CAUSE);
        assert_eq!(budget.limit, 49, "what happens later has another cause");
    }

    #[test]
    fn resets_of_an_agent_that_goes_away_do_not_count_whichever_is_noticed_first() {
        let now = Instant::now();
        let mut budget = full(100, now);
        budget.reset(now);
        budget.gone(now + Duration::from_millis(10));
        budget.reset(now + Duration::from_millis(20));
        assert_eq!(budget.limit, 100);
        // A proxy before it accepts and resets, until the agent is back.
        budget.reset(now + Duration::from_mins(1));
        assert_eq!(budget.limit, 100);
        budget.answered(now + Duration::from_mins(1));
        budget.reset(now + Duration::from_mins(1));
        assert_eq!(budget.limit, 49);
    }

    #[test]
    fn an_answer_that_was_on_its_way_when_the_agent_went_away_does_not_bring_it_back() {
        let now = Instant::now();
        let mut budget = full(100, now);
        budget.gone(now);
        budget.answered(now + Duration::from_millis(10));
        budget.reset(now + Duration::from_millis(20));
        assert_eq!(budget.limit, 100);
    }

    #[test]
    fn a_limit_that_is_restored_stays_within_the_maximum_of_that_time() {
        let now = Instant::now();
        let mut budget = full(100, now);
        budget.reset(now);
        budget.restrict(10);
        budget.gone(now + Duration::from_millis(10));
        assert_eq!(budget.limit, 10);
    }

    #[test]
    fn a_refusal_with_a_status_still_counts_when_the_agent_goes_away() {
        let now = Instant::now();
        let mut budget = after_a_wave(now);
        budget.gone(now);
        assert_eq!(budget.limit, 49);
    }

    #[test]
    fn the_limit_grows_back_within_seconds_and_not_past_where_it_was() {
        let mut now = Instant::now();
        let mut budget = after_a_wave(now);
        let begin = now;
        while budget.wait_max().is_some() {
            now += Duration::from_millis(100);
            while budget.take(now) {}
        }
        assert!(now - begin <= Duration::from_secs(25), "{:?}", now - begin);
        assert_eq!((budget.used, budget.take(now + GROW_EVERY_MAX)), (100, false));
    }

    #[test]
    fn near_the_limit_of_the_agent_only_the_last_step_is_tried_again_and_ever_more_rarely() {
        const ADMITTED: usize = 55;
        let mut now = Instant::now();
        let mut budget = after_a_wave(now);
        let begin = now;
        let mut refused = 0;
        while now - begin < Duration::from_mins(10) {
            now += TIGHT_WAIT;
            while budget.is_over() {
                budget.give_back();
            }
            while budget.take(now) {}
            if budget.used > ADMITTED {
                budget.refused(now);
                assert_eq!(budget.limit, 49);
                refused += 1;
            }
        }
        assert!((10..=15).contains(&refused), "{refused}");
    }
}
