//! When a tunnel has stood still for too long.
//!
//! Each thing that a tunnel waits for has a clock of its own: bytes in any direction, each end that takes nothing, and the answers
//! to the gateway's Close frame. So a direction that moves keeps no end alive that takes nothing, and an end that takes its bytes
//! slowly stays.
//!
//! There is one timer for all of them, and it is moved only when it fires or when an earlier end comes: bytes that move cost a clock
//! read, beside at least two system calls.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use super::pump::Pump;
use crate::clock::Clock;

/// What a tunnel has waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standstill {
    /// Bytes, in any direction.
    Idle,
    /// An end that takes what is there for it.
    Stalled,
    /// The end of a tunnel whose ends were told by a frame that the gateway goes away.
    Farewell,
}

/// The clocks of one tunnel.
#[derive(Debug)]
pub(crate) struct Standstills {
    idle: Duration,
    moved: Since<u64>,
    blocked: [Since<Option<u64>>; 2],
    farewell: Since<bool>,
    timer: Option<(Pin<Box<Sleep>>, Instant)>,
}

/// How many bytes have moved, how many each blocked end has taken, and whether the gateway has sent its Close frame.
type Observed = (u64, [Option<u64>; 2], bool);

/// A value, and the time at which it became what it is.
#[derive(Debug, Clone, Copy)]
struct Since<T> {
    value: T,
    at: Instant,
}

impl<T: PartialEq> Since<T> {
    fn see(&mut self, value: T, now: Instant) {
        if self.value != value {
            *self = Self { value, at: now };
        }
    }
}

impl Standstills {
    /// `idle`: how long a tunnel may move nothing.
    pub(crate) fn new(idle: Duration, at: Instant) -> Self {
        Self {
            idle,
            moved: Since { value: 0, at },
            blocked: [Since { value: None, at }; 2],
            farewell: Since { value: false, at },
            timer: None,
        }
    }

    /// Ready when the tunnel has waited for too long. `is_closing`: the gateway stops.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (pump, is_closing): (&Pump, bool),
        clock: &Clock,
    ) -> Poll<Standstill> {
        self.see((pump.moved(), pump.blocked(), is_closing && pump.says_farewell()), || clock.now());
        loop {
            let (due, standstill) = self.next(pump.is_half_closed());
            let timer =
                self.timer.get_or_insert_with(|| (Box::pin(tokio::time::sleep_until(due.into())), due));
            // A timer that fires too early is set anew then; only an earlier end must be set now.
            if due < timer.1 {
                timer.0.as_mut().reset(due.into());
                timer.1 = due;
            }
            ready!(timer.0.as_mut().poll(cx));
            if clock.now() >= due {
                return Poll::Ready(standstill);
            }
            timer.0.as_mut().reset(due.into());
            timer.1 = due;
        }
    }

    fn see(&mut self, (moved, blocked, farewell): Observed, now: impl FnOnce() -> Instant) {
        let is_same = moved == self.moved.value
            && blocked == self.blocked.map(|since| since.value)
            && farewell == self.farewell.value;
        if is_same {
            return;
        }
        let now = now();
        self.moved.see(moved, now);
        self.farewell.see(farewell, now);
        for (since, value) in self.blocked.iter_mut().zip(blocked) {
            since.see(value, now);
        }
    }

    /// The first time at which one of the clocks has run for too long.
    fn next(&self, is_half_closed: bool) -> (Instant, Standstill) {
        let silence = if is_half_closed { self.idle.min(HALF_CLOSED_MAX) } else { self.idle };
        let mut next = (self.moved.at + silence, Standstill::Idle);
        let stalled = self.blocked.iter().filter(|since| since.value.is_some());
        let stalled = stalled.map(|since| (since.at + self.idle.min(STALLED_MAX), Standstill::Stalled));
        let farewell = self.farewell.value.then(|| (self.farewell.at + FAREWELL_MAX, Standstill::Farewell));
        for other in stalled.chain(farewell) {
            // At the same time, the clock that says more counts.
            if other.0 <= next.0 {
                next = other;
            }
        }
        next
    }
}

/// An end that takes none of the bytes that wait for it. nginx closes after 60 s (`proxy_send_timeout`).
const STALLED_MAX: Duration = Duration::from_mins(1);
/// After one end has closed its direction, the other one may be silent for so long. WebSocket has no half-closed connections.
const HALF_CLOSED_MAX: Duration = Duration::from_mins(1);
/// After the gateway's Close frame, both ends may take so long to answer it (RFC 6455 §7.1.1), whatever they send meanwhile.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_hours(1);

    /// When the tunnel ends, in seconds, and why, after it was observed so at these seconds.
    fn ends(observed: &[(u64, Observed)], is_half_closed: bool) -> (u64, Standstill) {
        let began = crate::clock::now();
        let mut clocks = Standstills::new(IDLE, began);
        for &(second, observed) in observed {
            clocks.see(observed, || began + Duration::from_secs(second));
        }
        let (due, standstill) = clocks.next(is_half_closed);
        ((due - began).as_secs(), standstill)
    }

    #[test]
    fn each_byte_in_any_direction_begins_the_idle_time_anew() {
        assert_eq!(ends(&[], false), (3600, Standstill::Idle));
        assert_eq!(ends(&[(10, (5, [None, None], false))], false), (3610, Standstill::Idle));
        assert_eq!(ends(&[(10, (5, [None, None], false))], true), (70, Standstill::Idle));
    }

    #[test]
    fn an_end_that_takes_its_bytes_slowly_stays() {
        let seen = [(10, (9, [Some(1), None], false)), (65, (10, [Some(2), None], false))];
        assert_eq!(ends(&seen, false), (125, Standstill::Stalled));
    }

    #[test]
    fn bytes_in_the_other_direction_do_not_keep_an_end_that_takes_nothing() {
        let seen = [
            (10, (9, [Some(1), None], false)),
            (30, (500, [Some(1), Some(7)], false)),
            (60, (900, [Some(1), None], false)),
        ];
        assert_eq!(ends(&seen, false), (70, Standstill::Stalled));
    }

    #[test]
    fn what_is_sent_after_the_close_frame_does_not_make_its_time_longer() {
        let seen = [(10, (9, [None, None], true)), (14, (500, [None, None], true))];
        assert_eq!(ends(&seen, false), (15, Standstill::Farewell));
        // Nor does a direction that blocks then.
        let seen = [(10, (9, [None, None], true)), (14, (500, [Some(3), None], true))];
        assert_eq!(ends(&seen, false), (15, Standstill::Farewell));
    }
}
