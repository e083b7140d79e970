//! The open connections of one worker, and its sweep over them.

use std::{cell::RefCell, rc::Rc, time::Instant};

use slab::Slab;

use super::{
    log_pace::LogPace,
    refusals::Refusals,
    state::{ConnectionState, Phase, Ping, Verdict},
};
use crate::{
    listen::ListenSettings,
    metrics::{Metrics, Rare},
};

/// The open connections of one worker.
#[derive(Debug, Default)]
pub struct ConnectionTable {
    pub(crate) open: RefCell<Slab<Rc<ConnectionState>>>,
    pub(crate) log_pace: LogPace,
    pub(crate) refusals: Refusals,
}

impl ConnectionTable {
    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes connections that are past a timeout, and begins another second of their budgets. It runs once a
    /// second.
    pub fn sweep(&self, now: Instant, listen: &ListenSettings, metrics: &Metrics) {
        for (_, state) in self.open.borrow().iter() {
            state.frames.second_passed();
            state.listen_for_client(now);
            match state.verdict(now, listen) {
                Verdict::Keep => continue,
                Verdict::Park => state.park.set(true),
                Verdict::Ping => state.ping.set(Ping::Due),
                Verdict::Close => state.close.set(true),
                Verdict::Kill(reason) => {
                    if !state.kill.replace(true) {
                        state.killed_for.set(Some(reason));
                        metrics.count(Rare::ConnectionError, &state.listener.name, reason);
                    }
                }
            }
            state.wake();
        }
    }

    /// Lets this share of the connections know that they are closing, before a drain: HTTP/2 connections get their GOAWAY, HTTP/1.1
    /// clients `Connection: close` with their next response. A connection that was told stays told.
    pub fn retire(&self, share: f64) {
        for (_, state) in self.open.borrow().iter().filter(|(place, _)| turn(*place) < share) {
            if !state.retires.replace(true) && state.is_http2.get() {
                state.close.set(true);
                state.wake();
            }
        }
    }

    /// Begins the drain: HTTP/2 connections get their GOAWAY now, HTTP/1.1 clients get `Connection: close` with
    /// their next response.
    pub fn begin_drain(&self) {
        self.close_where(|state| state.is_http2.get());
    }

    /// Closes connections without a request in flight. A connection that has not reached HTTP has nothing to
    /// finish.
    pub fn close_idle(&self) {
        for (_, state) in self.open.borrow().iter().filter(|(_, state)| state.phase.get() == Phase::Opening) {
            state.kill.set(true);
        }
        self.close_where(|_| true);
    }

    /// Closes connections of a listener whose certificate was verified against other authorities or revocations than `now`, after the
    /// requests in flight: their clients come back, and are verified anew.
    pub fn close_verified_before(&self, listener: &str, now: u64) {
        self.close_where(|state| {
            let verified_by = state.client_auth.get();
            verified_by != 0 && verified_by != now && *state.listener.name == *listener && !state.close.get()
        });
    }

    /// Closes all connections now.
    pub fn kill_all(&self) {
        for (_, state) in self.open.borrow().iter() {
            state.kill.set(true);
            state.wake();
        }
    }

    /// Wakes the tasks of all connections, so that each sees what has changed.
    pub(crate) fn wake_all(&self) {
        for (_, state) in self.open.borrow().iter() {
            state.wake();
        }
    }

    fn close_where(&self, wanted: impl Fn(&ConnectionState) -> bool) {
        for (_, state) in self.open.borrow().iter().filter(|(_, state)| wanted(state)) {
            state.close.set(true);
            state.wake();
        }
    }
}

/// Where a connection stands among all, from 0 to 1, by its place in the table. Multiples of the golden ratio are spread evenly, however
/// many there are (Weyl, Über die Gleichverteilung von Zahlen mod. Eins, 1916).
fn turn(place: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the table has far fewer places than 2⁵²")]
    let multiple = place as f64 * GOLDEN_RATIO;
    multiple.fract()
}

const GOLDEN_RATIO: f64 = 1.618_033_988_749_895;

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn turns_are_spread_evenly_whatever_the_number_of_connections() {
        for number in [10, 100, 5000] {
            for quarter in [0.0, 0.25, 0.5, 0.75] {
                let count = (0..number).filter(|at| (quarter..quarter + 0.25).contains(&turn(*at))).count();
                assert!(count.abs_diff(number / 4) <= 2, "{count} of {number}");
            }
        }
    }
}
