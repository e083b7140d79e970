//! A line of the log that every event could cause: it is written once in an interval, with the number of those that
//! were not.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// At most one such line per worker and place in this time.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Cell<Option<Instant>>,
    skipped: Cell<u64>,
}

impl Seldom {
    /// `Some`: the line may be written, and so many were left out since the last one.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.skipped.set(self.skipped.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.skipped.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_an_interval_says_how_many_were_left_out() {
        let (seldom, now) = (Seldom::default(), crate::clock::now());
        let due = [0, 1, 9_999, 10_000, 10_001].map(|ms| seldom.due(now + Duration::from_millis(ms)));
        assert_eq!(due, [Some(0), None, None, Some(2), None]);
    }
}
