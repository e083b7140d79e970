//! Shedding: if there is no place for another client, those that have sent nothing for longest are closed.

use std::time::{Duration, Instant};

use super::{
    state::{ConnectionState, Quiet},
    table::ConnectionTable,
};

/// A client is idle only after this time, which is longer than the pause between two requests of one page.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// The time for the first byte or the whole head of a new client: a TLS handshake takes two round trips, on a bad network
/// two seconds.
const OPENING_MIN: Duration = Duration::from_secs(3);
/// The time for a head, if no client has been quiet for longer: nearly every head comes at once, and clients that never
/// end one come back as soon as they are closed.
const HEAD_MIN: Duration = Duration::from_secs(1);

impl ConnectionTable {
    /// Closes the clients that have been idle for longest: `number` computes how many, from the number of idle ones. Their places are
    /// free a moment later.
    pub(crate) fn shed_idle(&self, now: Instant, number: impl FnOnce(usize) -> usize) -> Shed {
        let open = self.open.borrow();
        let quiet_for = |head_min| {
            let since = move |state| idle_since(state, now, head_min);
            open.iter().filter_map(|(_, state)| Some((since(state)?, &**state))).collect::<Vec<_>>()
        };
        let mut idle: Vec<(Instant, &ConnectionState)> = quiet_for(OPENING_MIN);
        if idle.is_empty() {
            idle = quiet_for(HEAD_MIN);
        }
        let number = number(idle.len());
        let Some(last) = number.checked_sub(1).filter(|last| *last < idle.len()) else {
            return Shed::default();
        };
        idle.select_nth_unstable_by_key(last, |(since, _)| *since);
        let chosen = idle.iter().take(number);
        let new = chosen.clone().filter(|(_, state)| !state.is_shed.get()).count();
        chosen.for_each(|(_, state)| state.shed());
        Shed { closing: number, new }
    }
}

/// The result of shedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shed {
    /// Clients that are being closed.
    pub(crate) closing: usize,
    /// Clients of these that were not being closed before.
    pub(crate) new: usize,
}

fn idle_since(state: &ConnectionState, now: Instant, head_min: Duration) -> Option<Instant> {
    let (since, quiet) = state.quiet_since()?;
    let least = match quiet {
        Quiet::Idle => IDLE_MIN,
        Quiet::Head => head_min,
        Quiet::Handshake => OPENING_MIN,
    };
    (now.saturating_duration_since(since) >= least).then_some(since)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::{admission::Scheme, clock::Clock, downstream::Phase, listen::Listener};

    #[test]
    fn heads_that_do_not_end_go_after_a_second_where_nothing_has_been_quiet_for_longer() {
        let (table, clock) = (ConnectionTable::default(), Rc::new(Clock::new()));
        let open = |scheme, phase, requests| {
            let listener = Rc::new(Listener { scheme, ..(*Listener::cleartext()).clone() });
            let state = Rc::new(ConnectionState::new(listener, &clock));
            for _ in 0..requests {
                state.request_began();
                state.request_ended(false);
            }
            state.enter(phase);
            table.open.borrow_mut().insert(Rc::clone(&state));
            state
        };
        let head = open(Scheme::Http, Phase::Head, 0);
        let silent = open(Scheme::Http, Phase::Opening, 0);
        let handshake = open(Scheme::Https, Phase::Opening, 0);
        let busy = open(Scheme::Http, Phase::Busy, 0);
        let shed = |milliseconds| {
            let now = clock.now() + Duration::from_millis(milliseconds);
            table.shed_idle(now, |idle| idle).closing
        };
        assert_eq!(shed(500), 0);
        // A client that is idle between requests is closed first.
        let idle = open(Scheme::Http, Phase::Idle, 1);
        assert_eq!(shed(1500), 1);
        assert!(idle.close.get() && !head.kill.get());
        let again = table.shed_idle(clock.now() + Duration::from_millis(1500), |idle| idle);
        assert_eq!(again, Shed { closing: 1, new: 0 }, "it is about to be closed, and counts once");
        table.open.borrow_mut().remove(4);
        assert_eq!(shed(1500), 2);
        assert!(head.kill.get() && silent.kill.get() && !handshake.kill.get());
        assert_eq!(shed(3500), 1);
        assert!(handshake.kill.get() && !busy.kill.get());
    }
}
