//! A limit for lines of the log that a frequent event causes: one line is written per interval, with the number of
//! those that were left out.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// At most one such line per worker and place is written in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// The state of one kind of line.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Cell<Option<Instant>>,
    skipped: Cell<u64>,
}

impl Seldom {
    /// `Some`: the line may be written now; the number is how many were left out since the last one. `None`: it is
    /// left out.
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
