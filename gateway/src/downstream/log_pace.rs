//! The pace at which a worker logs that it has refused a client's connection.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// At most one line per worker in [`LOG_INTERVAL`], so that a scanner does not fill the log.
#[derive(Debug, Default)]
pub(crate) struct LogPace {
    last_logged: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl LogPace {
    /// The number of lines that were left out since the last one. `None`: this line is left out, too.
    pub(crate) fn next(&self, now: Instant) -> Option<u64> {
        let is_soon = |last: Instant| now.saturating_duration_since(last) < LOG_INTERVAL;
        if self.last_logged.get().is_some_and(is_soon) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.last_logged.set(Some(now));
        Some(self.left_out.take())
    }
}

const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_says_how_many_were_left_out() {
        let (pace, now) = (LogPace::default(), crate::clock::now());
        let next = |milliseconds| pace.next(now + Duration::from_millis(milliseconds));
        assert_eq!([0, 1, 999, 1000, 2000].map(next), [Some(0), None, None, Some(2), Some(0)]);
    }
}
