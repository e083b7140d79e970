//! How soon a token that no known key verifies leads to a fetch of keys.
//!
//! Clients with a good token lately (regulars) get a fetch [`BETWEEN`] after the last one began: new keys are known within about
//! a second, and their requests wait for that long. Strangers get the same while they have credit ([`STRANGERS_BURST`] fetches,
//! one more each [`STRANGERS_EVERY`]). They use up only their own credit, so a flood of invented tokens costs the issuer six
//! requests a minute and does not delay a regular. Pure: `now` is an argument.

use std::time::{Duration, Instant};

use crate::auth::desk::Asker;

#[derive(Debug)]
pub(super) struct Pace {
    /// When the last fetch began.
    began: Instant,
    /// Fetches that strangers may still cause.
    credit: u32,
    /// When the credit last grew, or was complete.
    credited: Instant,
}

impl Pace {
    /// The first fetch begins at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, credit: STRANGERS_BURST, credited: now }
    }

    /// The earliest time of a fetch for this kind of client.
    pub(super) fn due(&self, asker: Asker) -> Instant {
        let soonest = self.began + BETWEEN;
        match asker {
            Asker::Stranger if self.credit == 0 => soonest.max(self.credited + STRANGERS_EVERY),
            Asker::Stranger | Asker::Regular => soonest,
        }
    }

    /// A fetch begins, for this kind of client; `None`: it was due by time.
    pub(super) fn begin(&mut self, asker: Option<Asker>, now: Instant) {
        self.began = now;
        let earned = now.saturating_duration_since(self.credited).as_secs() / STRANGERS_EVERY.as_secs();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.credit.saturating_add(earned) >= STRANGERS_BURST {
            (self.credit, self.credited) = (STRANGERS_BURST, now);
        } else {
            self.credit += earned;
            self.credited += STRANGERS_EVERY * earned;
        }
        if asker == Some(Asker::Stranger) {
            self.credit = self.credit.saturating_sub(1);
        }
    }
}

/// The least time between two fetches.
const BETWEEN: Duration = Duration::from_secs(1);
/// Enough for half a minute of a stranger's requests, or for a day of tokens that came too late.
const STRANGERS_BURST: u32 = 30;
const STRANGERS_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_use_up_their_own_credit_and_no_regulars() {
        let start = crate::clock::now();
        let mut pace = Pace::new(start);
        let mut now = start;
        let mut fetches = 0;
        // A flood of ten minutes.
        while now < start + Duration::from_mins(10) {
            now = pace.due(Asker::Stranger);
            pace.begin(Some(Asker::Stranger), now);
            fetches += 1;
            assert_eq!(pace.due(Asker::Regular), now + BETWEEN);
        }
        assert!((60..=60 + STRANGERS_BURST + 3).contains(&fetches), "{fetches}");
        assert_eq!(pace.due(Asker::Stranger).duration_since(now).as_secs(), STRANGERS_EVERY.as_secs());
    }

    #[test]
    fn credit_comes_back_with_time_and_only_up_to_the_burst() {
        let start = crate::clock::now();
        let mut pace = Pace::new(start);
        for second in 1..=30 {
            pace.begin(Some(Asker::Stranger), start + BETWEEN * second);
        }
        let later = start + Duration::from_hours(24);
        pace.begin(None, later);
        assert_eq!(pace.credit, STRANGERS_BURST);
        assert_eq!(pace.due(Asker::Stranger), later + BETWEEN);
    }
}
