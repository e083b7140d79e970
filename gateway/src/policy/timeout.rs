//! Timeouts: how long a request, one attempt, a connect and a silent body may take.
//!
//! `total` runs from the end of the request to the response head, over all attempts and the pauses between them. While a
//! body is on its way, in either direction, `idle` and `min_rate` govern it. Compiled from `TimeoutSettings`; reads no clock and
//! sets no timer.

use std::time::{Duration, Instant};

use crate::{clock::LONGEST, config::settings::TimeoutSettings};

/// The timeouts of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    total: Duration,
    connect: Duration,
    per_try: Option<Duration>,
    idle: Duration,
    min_rate: Option<u64>,
}

/// The instant by which one request must have its response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    timeouts: Timeouts,
}

impl Timeouts {
    /// Cannot fail: the settings were checked when they were read.
    pub fn compile(settings: &TimeoutSettings) -> Self {
        Self {
            total: settings.total.min(LONGEST),
            connect: settings.connect.min(LONGEST),
            per_try: settings.per_try.map(|per_try| per_try.min(LONGEST)),
            idle: settings.idle,
            min_rate: settings.min_rate,
        }
    }

    /// Starts the clock of one request that is ready to be sent at `now`.
    pub fn apply(&self, now: Instant) -> Deadline {
        Deadline { at: now + self.total, timeouts: *self }
    }

    /// From the end of the request to the response head.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Longest silence while a body is on its way, in both directions together.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// Bytes per second that a client sends or takes at least, while it is waited for.
    pub fn min_rate(&self) -> Option<u64> {
        self.min_rate
    }
}

impl Deadline {
    /// When the request as a whole is over.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// What a first attempt has that begins with the request.
    pub fn usual(&self) -> Duration {
        self.timeouts.per_try.map_or(self.timeouts.total, |per_try| per_try.min(self.timeouts.total))
    }

    /// As it is when the end of the request came at `at`.
    #[must_use]
    pub fn received(self, at: Instant) -> Self {
        Self { at: self.at.max(at + self.timeouts.total), ..self }
    }

    /// For an attempt at an endpoint that is most likely still broken: half of the usual time is left for another one.
    #[must_use]
    pub fn of_a_probe(self) -> Self {
        let timeouts = Timeouts { per_try: Some(self.usual() / 2), ..self.timeouts };
        Self { timeouts, ..self }
    }

    /// When an attempt that begins at `now` is over: after `try`, and never later than the request.
    pub fn attempt(&self, now: Instant) -> Instant {
        self.timeouts.per_try.map_or(self.at, |per_try| self.at.min(now + per_try))
    }

    /// When a connect that begins at `now` is given up: after `connect`, and never later than its attempt.
    pub fn connect(&self, now: Instant) -> Instant {
        self.attempt(now).min(now + self.timeouts.connect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts(per_try: Option<u64>) -> Timeouts {
        Timeouts::compile(&TimeoutSettings {
            total: Duration::from_secs(10),
            connect: Duration::from_secs(1),
            per_try: per_try.map(Duration::from_secs),
            idle: Duration::from_mins(1),
            min_rate: None,
        })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_deadline_counts_from_the_requests_first_moment() {
        let now = Instant::now();
        let deadline = timeouts(None).apply(now);
        assert_eq!(deadline.at(), now + 10 * SECOND);
    }

    #[test]
    fn an_attempt_ends_after_its_own_time_or_with_the_request() {
        let now = Instant::now();
        let deadline = timeouts(Some(3)).apply(now);
        assert_eq!(deadline.attempt(now + SECOND), now + 4 * SECOND);
        assert_eq!(deadline.attempt(now + 9 * SECOND), now + 10 * SECOND);
        assert_eq!(timeouts(None).apply(now).attempt(now), now + 10 * SECOND);
    }

    #[test]
    fn a_connect_ends_before_its_attempt() {
        let now = Instant::now();
        let deadline = timeouts(Some(3)).apply(now);
        assert_eq!(deadline.connect(now), now + SECOND);
        assert_eq!(deadline.connect(now + 9 * SECOND + SECOND / 2), now + 10 * SECOND);
    }

    #[test]
    fn a_timeout_past_the_range_of_instants_does_not_panic() {
        let settings = TimeoutSettings {
            total: Duration::MAX,
            connect: Duration::MAX,
            per_try: Some(Duration::MAX),
            idle: Duration::MAX,
            min_rate: None,
        };
        let now = Instant::now();
        let deadline = Timeouts::compile(&settings).apply(now);
        assert!(deadline.connect(now) > now);
    }
}
