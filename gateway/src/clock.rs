//! The only file that reads a clock.
//!
//! All other code gets `now` as an argument. A worker reads the clock where time may have passed (a request
//! begins, an attempt ends, a response ends). [`Clock::coarse`] is for uses in which a time may be a second
//! old.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::HeaderValue;

/// The monotonic time.
pub fn now() -> Instant {
    Instant::now()
}

/// The wall time since the Unix epoch; zero if the machine's clock is before it.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The instant at which a timer ends that is set now and runs for `after`. At most [`LONGEST`] from now,
/// where `after` is too long for an instant.
pub fn timer_end(after: Duration) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    now.checked_add(after).unwrap_or_else(|| now + LONGEST)
}

/// Thirty years: longer than any wait, and short enough for an instant, which cannot represent every
/// duration.
pub const LONGEST: Duration = Duration::from_hours(30 * 365 * 24);

/// A worker's clock: monotonic reads, and wall time computed from them.
///
/// The pair (monotonic, wall) is read anew at every [`Clock::tick`]. So the worker follows a step of the wall
/// clock within one tick, and a request needs one clock read less.
#[derive(Debug)]
pub struct Clock {
    base: Cell<(Instant, Duration)>,
    coarse: Cell<Instant>,
    /// Seconds since the Unix epoch, and the same time as an HTTP date.
    http_date: RefCell<(u64, HeaderValue)>,
}

impl Clock {
    pub fn new() -> Self {
        let now = now();
        Self {
            base: Cell::new((now, unix_now())),
            coarse: Cell::new(now),
            http_date: RefCell::new((0, HeaderValue::from_static(""))),
        }
    }

    /// Reads the monotonic clock, and keeps the reading for [`Clock::coarse`].
    pub fn now(&self) -> Instant {
        let now = now();
        self.coarse.set(now);
        now
    }

    /// The last reading, which is at most one tick old.
    pub fn coarse(&self) -> Instant {
        self.coarse.get()
    }

    /// The wall time of a monotonic reading, since the Unix epoch.
    pub fn unix(&self, at: Instant) -> Duration {
        let (mono, wall) = self.base.get();
        if at >= mono { wall + (at - mono) } else { wall.saturating_sub(mono - at) }
    }

    /// The time of the last reading in the form of a `Date` field (RFC 9110 §6.6.1). The text is made once a
    /// second.
    pub fn http_date(&self) -> HeaderValue {
        let seconds = self.unix(self.coarse()).as_secs();
        let mut date = self.http_date.borrow_mut();
        if date.0 != seconds {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            // A date is visible ASCII, so the fallback is never taken.
            let value = HeaderValue::from_maybe_shared(Bytes::from(text));
            *date = (seconds, value.unwrap_or(HeaderValue::from_static("")));
        }
        date.1.clone()
    }

    /// Reads both clocks. The worker calls it once a second.
    pub fn tick(&self) {
        self.base.set((self.now(), unix_now()));
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_monotonic_time() {
        let clock = Clock::new();
        let at = clock.now();
        let later = at + Duration::from_secs(5);
        assert_eq!(clock.unix(later).checked_sub(clock.unix(at)).unwrap(), Duration::from_secs(5));
    }

    #[test]
    fn a_reading_before_the_base_is_before_it_in_wall_time_too() {
        let clock = Clock::new();
        let (mono, wall) = clock.base.get();
        if let Some(earlier) = mono.checked_sub(Duration::from_secs(1)) {
            assert_eq!(wall.checked_sub(clock.unix(earlier)).unwrap(), Duration::from_secs(1));
        }
    }
}
