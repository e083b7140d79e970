//! Failover: the datacenter that serves a service is the first in order of preference with an instance that can serve.
//!
//! A datacenter without such an instance is left at once, since requests to it would fail. A preferred one gets the requests back
//! when it has been able to serve for [`HOLD_DOWN`] without a break, so that a datacenter that comes and goes does not move the
//! requests each time. If the registry had not reported on a preferred datacenter before, requests go to it without a wait. While
//! no datacenter can serve, the choice does not change.

use std::time::{Duration, Instant};

/// The choice of a datacenter for one service.
#[derive(Debug, Default)]
pub struct Failover {
    active: usize,
    /// When the active datacenter was chosen, the registry had not reported on some preferred one.
    is_provisional: bool,
    /// A preferred datacenter, and the time since which it can serve.
    better: Option<(usize, Instant)>,
}

impl Failover {
    /// Index of the datacenter that serves.
    pub fn active(&self) -> usize {
        self.active
    }

    /// Chooses the datacenter, and returns whether it is another one than before. `can_serve` has, by datacenter, whether it has
    /// an instance that can serve; `None`: the registry has not responded yet.
    pub fn choose(&mut self, can_serve: &[Option<bool>], now: Instant) -> bool {
        let Some(best) = can_serve.iter().position(|can| *can == Some(true)) else {
            self.better = None;
            return false;
        };
        if best == self.active {
            self.better = None;
            self.is_provisional &= is_unknown_before(can_serve, best);
            return false;
        }
        let must_leave = can_serve.get(self.active) != Some(&Some(true));
        if must_leave || self.is_provisional {
            self.go_to(best, can_serve);
            return true;
        }
        // The best datacenter is preferred to the active one, which can serve.
        match self.better {
            Some((known, since)) if known == best => {
                let is_held = now.saturating_duration_since(since) < HOLD_DOWN;
                if !is_held {
                    self.go_to(best, can_serve);
                }
                !is_held
            }
            _ => {
                self.better = Some((best, now));
                false
            }
        }
    }

    /// Whether [`Failover::choose`] would choose another datacenter now with the same `can_serve` as before.
    pub fn is_due(&self, now: Instant) -> bool {
        self.better.is_some_and(|(_, since)| now.saturating_duration_since(since) >= HOLD_DOWN)
    }

    fn go_to(&mut self, at: usize, can_serve: &[Option<bool>]) {
        self.active = at;
        self.better = None;
        self.is_provisional = is_unknown_before(can_serve, at);
    }
}

fn is_unknown_before(can_serve: &[Option<bool>], at: usize) -> bool {
    can_serve.iter().take(at).any(Option::is_none)
}

/// A move of a service's requests from one datacenter to another.
#[derive(Debug)]
pub struct Moved {
    pub service: String,
    /// `None`: the agent's own datacenter.
    pub from: Option<String>,
    pub to: Option<String>,
    /// The move goes to a preferred datacenter.
    pub is_return: bool,
}

impl Moved {
    /// Logs the move.
    pub fn log(&self) {
        let own = "the agent's own";
        let (service, from, to) =
            (&self.service, self.from.as_deref().unwrap_or(own), self.to.as_deref().unwrap_or(own));
        if self.is_return {
            tracing::info!(%service, %from, %to, "requests go back to the preferred datacenter");
        } else {
            tracing::warn!(%service, %from, %to, "no instance to ask in this datacenter; requests go to another one");
        }
    }
}

/// Longer than a restart that fails again, and short enough for an operator who waits for the requests to come back.
const HOLD_DOWN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);

    /// Each step has the seconds, the datacenters that can serve, and the one that is expected to serve then.
    fn check(steps: &[(u64, &[Option<bool>], usize)]) {
        let start = Instant::now();
        let mut failover = Failover::default();
        for (step, (seconds, can_serve, active)) in steps.iter().enumerate() {
            let before = failover.active();
            let moved = failover.choose(can_serve, start + Duration::from_secs(*seconds));
            assert_eq!(failover.active(), *active, "step {step}");
            assert_eq!(moved, before != *active, "step {step}");
        }
    }

    #[test]
    fn it_leaves_at_once_and_comes_back_after_the_hold_down() {
        check(&[
            (0, &[YES, YES], 0),
            (1, &[NO, YES], 1),
            (2, &[YES, YES], 1),
            (11, &[YES, YES], 1),
            (12, &[YES, YES], 0),
        ]);
    }

    #[test]
    fn a_break_starts_the_hold_down_anew() {
        check(&[
            (0, &[YES, YES], 0),
            (1, &[NO, YES], 1),
            (2, &[YES, YES], 1),
            (8, &[NO, YES], 1),
            (9, &[YES, YES], 1),
            (18, &[YES, YES], 1),
            (19, &[YES, YES], 0),
        ]);
    }

    #[test]
    fn the_active_one_is_left_for_the_better_one_without_a_hold_down_when_it_cannot_serve() {
        check(&[(0, &[YES, YES], 0), (1, &[NO, YES], 1), (2, &[YES, YES], 1), (3, &[YES, NO], 0)]);
    }

    #[test]
    fn while_none_can_serve_nothing_changes() {
        check(&[(0, &[YES, YES], 0), (1, &[NO, YES], 1), (2, &[NO, NO], 1), (3, &[NO, YES], 1)]);
    }

    #[test]
    fn the_order_is_the_order_of_preference() {
        check(&[
            (0, &[NO, YES, YES], 1),
            (1, &[NO, NO, YES], 2),
            (2, &[NO, YES, YES], 2),
            (12, &[NO, YES, YES], 1),
        ]);
    }

    #[test]
    fn a_datacenter_that_was_only_unknown_is_not_held_down() {
        check(&[(0, &[None, YES], 1), (1, &[YES, YES], 0)]);
        // The registry has reported on it: from now on it counts as a datacenter that was left.
        check(&[(0, &[None, YES], 1), (1, &[NO, YES], 1), (2, &[YES, YES], 1), (12, &[YES, YES], 0)]);
    }

    #[test]
    fn the_return_is_due_when_the_hold_down_is_over() {
        let start = Instant::now();
        let mut failover = Failover::default();
        failover.choose(&[NO, YES], start);
        assert!(!failover.is_due(start + HOLD_DOWN));
        failover.choose(&[YES, YES], start);
        assert!(!failover.is_due(start + HOLD_DOWN / 2));
        assert!(failover.is_due(start + HOLD_DOWN));
    }
}
