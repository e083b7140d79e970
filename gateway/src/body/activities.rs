//! The exchanges that the worker ends because they stand still, or because their client is too slow ([`Activity`] counts
//! what moves).

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use slab::Slab;

use super::activity::{Activity, Awaited, Cause, wake};
use crate::policy::concurrency::UploadPlace;

/// The exchanges of one worker in which a body is being received or sent.
#[derive(Debug, Default)]
pub struct Activities(RefCell<Slab<Entry>>);

#[derive(Debug)]
struct Entry {
    activity: Rc<Activity>,
    moved: u64,
    sent: u64,
    taken: u64,
    looked: Instant,
    /// The time since which no byte has moved although one side is waited for.
    still_since: Instant,
    /// The time for which the client may still be waited for: it earns time by the bytes that it moves.
    patience: Duration,
}

/// Keeps an exchange in the table until it is dropped.
pub(crate) struct Watch {
    table: Rc<Activities>,
    key: usize,
}

impl Activities {
    /// Adds an exchange to the table. It is removed when the result is dropped.
    pub(crate) fn watch(self: &Rc<Self>, activity: &Rc<Activity>, now: Instant) -> Watch {
        let entry = Entry {
            activity: Rc::clone(activity),
            moved: 0,
            sent: 0,
            taken: 0,
            looked: now,
            still_since: now,
            patience: Duration::MAX,
        };
        Watch { table: Rc::clone(self), key: self.0.borrow_mut().insert(entry) }
    }

    /// Wakes the tasks of all streams, so that each sees what has changed.
    pub(crate) fn wake_all(&self) {
        for (_, entry) in self.0.borrow().iter() {
            wake(&entry.activity.response_waker);
        }
    }

    /// Ends the exchanges that stand still or are too slow. Returns the number of responses that their clients did not
    /// take.
    pub(crate) fn look(&self, now: Instant) -> u64 {
        let mut stalled = 0;
        for (_, entry) in self.0.borrow_mut().iter_mut() {
            if entry.activity.ended().is_none()
                && let Some(cause) = entry.look(now)
            {
                stalled += u64::from(cause == Cause::ClientStalled);
                entry.activity.end(cause);
            }
        }
        stalled
    }
}

impl Entry {
    fn look(&mut self, now: Instant) -> Option<Cause> {
        let activity = &*self.activity;
        let limits = activity.limits.get();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        let moved = difference(&mut self.moved, activity.moved.get());
        let sent = difference(&mut self.sent, activity.sent.get());
        let taken = difference(&mut self.taken, activity.taken.get());
        let waits_for = activity.waits_for(limits);
        if moved > 0 || waits_for.is_none() {
            self.still_since = now;
        }
        let cause = waits_for?;
        if now.saturating_duration_since(self.still_since) >= limits.idle {
            return Some(cause);
        }
        let is_short = activity.place.borrow().as_ref().is_some_and(UploadPlace::is_short);
        let rate = limits.min_rate?.saturating_mul(if is_short { SHORT_FACTOR } else { 1 });
        let (bytes, cause) = match cause {
            Cause::ClientStalled => (taken, cause),
            // A service that has begun its response may receive the rest of the request at any pace.
            Cause::ClientSilent(_) if activity.response.get() == Awaited::Not => {
                (sent, Cause::ClientSlow(rate))
            }
            _ => return None,
        };
        let longest = if is_short { RATE_GRACE } else { limits.idle.max(RATE_GRACE) };
        let earned = Duration::from_secs(bytes / rate) + Duration::from_secs(bytes % rate) / to_u32(rate);
        let patience = self.patience.min(longest).saturating_add(earned).min(longest).checked_sub(elapsed);
        self.patience = patience.unwrap_or_default();
        patience.is_none().then_some(cause)
    }
}

fn difference(known: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(known, now))
}

fn to_u32(rate: u64) -> u32 {
    u32::try_from(rate).unwrap_or(u32::MAX).max(1)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.table.0.borrow_mut().try_remove(self.key);
    }
}

/// The longest time in which a client that is waited for may move no byte (or `timeout.idle`, if that is longer). After
/// it, the client's rate counts.
const RATE_GRACE: Duration = Duration::from_secs(10);
/// The factor on `timeout.min_rate` while places for uploads are short; a client may then move no byte for [`RATE_GRACE`]
/// at most. With the default this is 3.8 KB/s, half of what a phone at the edge of its network sends.
const SHORT_FACTOR: u64 = 16;

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::body::Limits;
    use crate::policy::concurrency::{ConcurrencyLimit, Places, ShareSettings};

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs `step` every tenth of a second. Returns the time until the exchange was ended, and the cause.
    fn run(limits: Limits, seconds: u32, mut step: impl FnMut(&Activity, u32)) -> Option<(Duration, Cause)> {
        let (table, activity) = (Rc::new(Activities::default()), Activity::new(None));
        activity.limit(limits);
        let began = crate::clock::now();
        let _watch = table.watch(&activity, began);
        for at in 0..seconds * 10 {
            step(&activity, at);
            let elapsed = SECOND / 10 * (at + 1);
            table.look(began + elapsed);
            if let Some(cause) = activity.ended() {
                return Some((elapsed, cause));
            }
        }
        None
    }

    fn limits(idle: u64, min_rate: Option<u64>) -> Limits {
        Limits { idle: Duration::from_secs(idle), min_rate }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_client_that_sends_nothing_is_waited_for_as_long_as_idle() {
        let ended = run(limits(2, None), 10, |activity, _| activity.waits_for_request(&cx()));
        assert_eq!(ended, Some((2 * SECOND, Cause::ClientSilent(2 * SECOND))));
    }

    #[test]
    fn a_byte_in_either_direction_counts_for_both() {
        let ended = run(limits(2, None), 20, |activity, at| {
            activity.waits_for_request(&cx());
            if at % 15 == 0 {
                activity.response_came(1);
                activity.response_goes(1);
            }
            activity.waits_for_response(&cx());
        });
        assert_eq!(ended, None);
        let ended = run(limits(2, None), 20, |activity, at| {
            activity.waits_for_response(&cx());
            if at % 15 == 0 {
                activity.request_came(1);
            }
            activity.waits_for_request(&cx());
        });
        assert_eq!(ended, None);
    }

    #[test]
    fn what_was_handed_over_is_not_what_was_taken() {
        let ended = run(limits(2, None), 10, |activity, at| {
            if at == 0 {
                activity.response_came(100);
                activity.response_goes(99);
                activity.response_is_over();
            }
        });
        assert_eq!(ended, Some((2 * SECOND + SECOND / 10, Cause::ClientStalled)));
    }

    #[test]
    fn a_client_that_takes_a_byte_a_second_is_too_slow() {
        let ended = run(limits(2, Some(240)), 30, |activity, at| {
            if at == 0 {
                activity.response_came(100_000);
            }
            activity.response_goes(usize::from(at % 10 == 0));
        });
        let (after, cause) = ended.unwrap();
        assert!(after > RATE_GRACE && after < RATE_GRACE + SECOND, "{after:?}");
        assert_eq!(cause, Cause::ClientStalled);
    }

    #[test]
    fn a_rate_at_the_minimum_is_not_too_slow_and_half_of_it_is() {
        for (bytes, is_slow) in [(24, false), (12, true)] {
            let ended = run(limits(2, Some(240)), 60, |activity, _| {
                activity.request_came(bytes);
                activity.waits_for_request(&cx());
            });
            assert_eq!(ended.is_some(), is_slow, "{ended:?}");
            assert!(ended.is_none_or(|(_, cause)| cause == Cause::ClientSlow(240)));
        }
    }

    #[test]
    fn while_places_are_short_a_client_must_be_faster() {
        let shares = ShareSettings { uploads: Some(1000), ..ShareSettings::default() };
        for (uploads, bytes, is_slow) in
            [(2, 24, false), (3, 24, true), (3, 190, true), (3, 390, false), (6, 800, false)]
        {
            let limit = ConcurrencyLimit::compile(6, shares, &Places::any(), None);
            let mut places: Vec<_> = (0..uploads).map(|_| limit.check_upload().unwrap()).collect();
            let mut mine = places.pop();
            let ended = run(limits(60, Some(240)), 120, |activity, _| {
                if let Some(mine) = mine.take() {
                    activity.hold(mine);
                }
                activity.request_came(bytes);
                activity.waits_for_request(&cx());
            });
            assert_eq!(ended.is_some(), is_slow, "{bytes} bytes beside {uploads}: {ended:?}");
            assert!(ended.is_none_or(|(_, cause)| cause == Cause::ClientSlow(16 * 240)));
            if bytes == 24 && is_slow {
                assert!(ended.is_some_and(|(after, _)| after < 12 * SECOND), "{ended:?}");
            }
        }
    }

    #[test]
    fn a_place_is_free_again_when_the_request_is_there() {
        let shares = ShareSettings { uploads: Some(1000), ..ShareSettings::default() };
        let limit = ConcurrencyLimit::compile(1, shares, &Places::any(), None);
        let activity = Activity::new(None);
        activity.hold(limit.check_upload().unwrap());
        assert!(limit.check_upload().is_err());
        activity.request_is_over();
        assert!(limit.check_upload().is_ok());
    }

    #[test]
    fn time_is_not_saved_up_beyond_the_longest_pause() {
        let ended = run(limits(15, Some(240)), 60, |activity, at| {
            if at == 0 {
                activity.request_came(100_000_000);
            }
            activity.request_came(usize::from(at % 10 == 0));
            activity.waits_for_request(&cx());
        });
        let (after, cause) = ended.unwrap();
        assert!(after > 15 * SECOND && after < 17 * SECOND, "{after:?}");
        assert_eq!(cause, Cause::ClientSlow(240));
    }

    #[test]
    fn what_waits_for_neither_side_is_left_alone() {
        assert_eq!(run(limits(1, Some(240)), 30, |_, _| {}), None);
        let ended = run(limits(1, Some(240)), 30, |activity, at| {
            if at == 0 {
                activity.request_came(1);
                activity.request_is_over();
            }
        });
        assert_eq!(ended, None, "the deadline of the request bounds the wait for its response");
    }

    #[test]
    fn a_service_that_takes_nothing_of_an_upload_is_silent() {
        let ended = run(limits(2, Some(240)), 30, |activity, at| {
            if at == 0 {
                activity.request_came(1000);
            }
        });
        assert_eq!(ended, Some((2 * SECOND + SECOND / 10, Cause::ServiceSilent)));
    }
}
