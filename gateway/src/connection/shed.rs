//! Which clients are closed when there is no place for another one: those that have sent nothing for longest.

use std::time::{Duration, Instant};

use super::state::{ConnectionState, ConnectionTable};

/// A client between two requests of one page is not idle.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// A client that has not sent its first byte, or its whole head: a TLS handshake takes two round trips, on a bad network
/// two seconds.
const OPENING_MIN: Duration = Duration::from_secs(3);

impl ConnectionTable {
    /// Closes the clients that have been idle for longest: of so many idle ones, `number` says how many. Returns how many
    /// it closes; their places are free a moment later.
    pub(crate) fn shed_idle(&self, now: Instant, number: impl FnOnce(usize) -> usize) -> usize {
        let open = self.open.borrow();
        let mut idle: Vec<(Instant, &ConnectionState)> =
            open.iter().filter_map(|(_, state)| Some((idle_since(state, now)?, &**state))).collect();
        let number = number(idle.len());
        let Some(last) = number.checked_sub(1).filter(|last| *last < idle.len()) else { return 0 };
        idle.select_nth_unstable_by_key(last, |(since, _)| *since);
        for (_, state) in idle.iter().take(number) {
            state.shed();
        }
        number
    }
}

fn idle_since(state: &ConnectionState, now: Instant) -> Option<Instant> {
    let (since, is_opening) = state.quiet_since()?;
    let least = if is_opening { OPENING_MIN } else { IDLE_MIN };
    (now.saturating_duration_since(since) >= least).then_some(since)
}
