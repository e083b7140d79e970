//! Flap damping: an instance that goes down again and again is used again only after a quiet time. Pure.
//!
//! The algorithm is that of routers for unstable routes (RFC 2439 §4): going down costs a penalty of 1, which decays by half every
//! [`HALF_LIFE`]. Going down always takes effect at once. An instance whose penalty exceeds [`SUPPRESS`] when it goes
//! down is held up until the penalty has decayed to [`REUSE`]; that takes at most [`HOLD_MAX`].
//!
//! A deploy takes an instance down once, a failed deploy two or three times; neither is held up. An instance that restarts every
//! 20 s settles at a penalty of 2 and is not held up either; an instance that flaps every few seconds is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::watch::instance::Key;

/// Penalties of the instances that went down lately.
#[derive(Debug, Default)]
pub(crate) struct Damper {
    known: BTreeMap<Key, Penalty>,
    /// When decayed penalties were last removed.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Penalty {
    value: f64,
    at: Instant,
    /// Held up until then.
    until: Option<Instant>,
}

impl Penalty {
    fn now(&self, now: Instant) -> f64 {
        let halvings = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.value * (-halvings).exp2()
    }
}

impl Damper {
    /// The instance could take requests and no longer can, or it disappeared.
    pub(crate) fn went_down(&mut self, key: &Key, now: Instant) {
        // Instances that go down with the same answer have the same time, so one sweep per answer is enough.
        if self.swept != Some(now) {
            self.swept = Some(now);
            self.known.retain(|_, penalty| penalty.now(now) > FORGOTTEN);
        }
        // Past the limit further instances are not damped, which is no worse than without this feature.
        if self.known.len() >= TRACKED_MAX && !self.known.contains_key(key) {
            return;
        }
        let penalty = self.known.entry(key.clone()).or_insert(Penalty { value: 0.0, at: now, until: None });
        penalty.value = (penalty.now(now) + 1.0).min(penalty_max());
        penalty.at = now;
        let was_held = penalty.until.is_some_and(|until| until > now);
        penalty.until = (was_held || penalty.value > SUPPRESS)
            .then(|| now + HALF_LIFE.mul_f64((penalty.value / REUSE).log2().max(0.0)));
    }

    pub(crate) fn holds(&self, key: &Key, now: Instant) -> bool {
        self.known.get(key).and_then(|penalty| penalty.until).is_some_and(|until| until > now)
    }

    /// When the next instance is no longer held up.
    pub(crate) fn next_release(&self, now: Instant) -> Option<Instant> {
        self.known.values().filter_map(|penalty| penalty.until).filter(|until| *until > now).min()
    }
}

/// A penalty that decays to [`REUSE`] within [`HOLD_MAX`].
fn penalty_max() -> f64 {
    REUSE * (HOLD_MAX.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
}

const HALF_LIFE: Duration = Duration::from_secs(20);
/// Exceeded when an instance goes down for the fourth time in quick succession.
const SUPPRESS: f64 = 3.0;
const REUSE: f64 = 1.0;
/// Longer would punish an instance that was repaired; the circuit breaker watches it anyway.
const HOLD_MAX: Duration = Duration::from_mins(1);
/// An instance with a smaller penalty counts as never having been down.
const FORGOTTEN: f64 = 0.05;
/// Instances of one service; about a megabyte.
const TRACKED_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        ("n1".to_owned(), "a".to_owned())
    }

    /// Down at each of these times (ms after each other); the damper and the time of the last one.
    fn after(gaps: &[u64]) -> (Damper, Instant) {
        let mut now = Instant::now();
        let mut damper = Damper::default();
        for gap in gaps {
            now += Duration::from_millis(*gap);
            damper.went_down(&key(), now);
        }
        (damper, now)
    }

    #[test]
    fn three_restarts_in_a_row_are_not_held_up_and_the_fourth_is() {
        let (damper, now) = after(&[0, 0, 0]);
        assert!(!damper.holds(&key(), now));
        let (damper, now) = after(&[0, 500, 500, 500]);
        assert!(damper.holds(&key(), now));
        assert!(damper.holds(&key(), now + Duration::from_secs(30)));
        assert!(!damper.holds(&key(), now + Duration::from_secs(41)));
    }

    #[test]
    fn an_instance_that_restarts_every_twenty_seconds_is_never_held_up() {
        let (damper, now) = after(&[20_000; 500]);
        assert!(!damper.holds(&key(), now));
    }

    #[test]
    fn one_instance_does_not_hold_up_another() {
        let (damper, now) = after(&[0; 10]);
        assert!(!damper.holds(&("n2".to_owned(), "a".to_owned()), now));
    }

    /// A zone goes away: that is no moment to keep a thread busy.
    #[test]
    fn thousands_that_go_down_together_are_little_work() {
        let (now, mut damper) = (Instant::now(), Damper::default());
        let begin = std::time::Instant::now();
        for n in 0..TRACKED_MAX {
            damper.went_down(&("n1".to_owned(), n.to_string()), now);
        }
        // Looking at all of them for each of them took six.
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let (mut damper, now) = after(&[0; 10]);
        damper.went_down(&("n2".to_owned(), "b".to_owned()), now + Duration::from_mins(10));
        assert_eq!(damper.known.len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_held_up_longer_than_the_longest_hold(gaps in prop::collection::vec(0_u64..60_000, 1..200)) {
            let (damper, now) = after(&gaps);
            prop_assert!(!damper.holds(&key(), now + HOLD_MAX + Duration::from_millis(1)));
        }

        #[test]
        fn three_downs_are_never_enough(gaps in prop::collection::vec(0_u64..60_000, 1..=3)) {
            let (damper, now) = after(&gaps);
            prop_assert!(!damper.holds(&key(), now));
        }

        #[test]
        fn the_release_is_the_moment_at_which_it_is_no_longer_held(gaps in prop::collection::vec(0_u64..3_000, 4..50)) {
            let (damper, now) = after(&gaps);
            if let Some(release) = damper.next_release(now) {
                prop_assert!(damper.holds(&key(), release - Duration::from_millis(1)));
                prop_assert!(!damper.holds(&key(), release));
            } else {
                prop_assert!(!damper.holds(&key(), now));
            }
        }

        #[test]
        fn more_downs_never_release_earlier(gaps in prop::collection::vec(0_u64..5_000, 4..50)) {
            let (mut damper, now) = after(&gaps);
            let before = damper.next_release(now);
            damper.went_down(&key(), now);
            prop_assert!(damper.next_release(now) >= before);
        }
    }
}
