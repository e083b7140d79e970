//! Circuit breaking: an endpoint that keeps failing gets no requests for a while.
//!
//! closed → open → half-open → closed (or open again). `closed` lets traffic through. The breaker trips when,
//! over a sliding window of [`SLOTS`] slots, at least `requests_min` outcomes were seen and their share of
//! failures reached `error_ratio`. After `open` it lets at most `probes` requests through at a time; when
//! that many have succeeded it closes, one failure opens it again. Compiled from `BreakerSettings`.
//!
//! Some failures prove that the endpoint is at fault: a failed connect, a reset, a timeout, a broken response. A
//! status, or a client that gave up waiting, only makes it likely: one client can cause both with one bad path. Where
//! proved failures alone would not trip the breaker, the caller decides whether one more endpoint may be out, so that
//! one client cannot take out a whole service. For the same reason, after a probe that failed by its status, requests
//! of the same kind cannot be the next probe until `open` has passed once more.
//!
//! One [`BreakerState`] per endpoint is shared by all workers and carried across snapshots. Its phase is one
//! word, changed by compare-and-swap only, so a trip happens once and probes are counted exactly. A permit
//! contains the epoch (phase changes so far) in which it was given: outcomes of requests that began before a
//! change are not counted after it. The word contains the time when the breaker opened, not the time until which it
//! stays open: a reload that shortens `open`, or switches the breaker off, takes effect at once.
//!
//! Units: milliseconds since the state was made. Limits: a million outcomes per slot, past which the slot
//! stops counting and keeps its ratio; 65,535 probes.

mod permit;
mod settings;
mod state;
mod window;

use std::{
    ops::Deref,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

pub use self::{
    permit::Permit,
    settings::{BreakerSettings, FailureKinds},
    state::BreakerState,
};
use self::{
    state::{PAYLOAD_MAX, Phase, Word, millis},
    window::{Counts, SLOTS},
};

/// The compiled parameters of one service's breakers. They are small, so a permit has its own copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitBreaker {
    error_ratio: f64,
    requests_min: u32,
    slot_ms: u64,
    open_ms: u64,
    probes: u16,
    window: Duration,
}

/// How a request that had a permit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The request failed, and the request itself may be the cause: a status, or a client that gave up.
    Suspect,
    /// The endpoint is proved to be at fault.
    Failure,
}

impl Outcome {
    fn is_failure(self) -> bool {
        self != Self::Success
    }
}

/// The phase as metrics and the admin API show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// A phase change caused by a recorded outcome, for logs, with the numbers that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Opened(Opened),
    Closed,
    /// The failures would have tripped the breaker, but proved failures alone would not, and the largest permitted
    /// number of endpoints is out already.
    Spared(Seen),
}

/// Why a breaker opened, and how long it stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// `None`: a probe failed.
    pub seen: Option<Seen>,
    pub open: Duration,
}

/// The counts of a breaker's sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub failures: u32,
    pub requests: u32,
    pub window: Duration,
}

/// The breaker is open: the endpoint must not get a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Time until the breaker may let a request through; zero while it waits for probes that are in flight.
    pub retry_after: Duration,
}

/// Numbers of phase changes since the state was made, by the phase that followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transitions {
    pub opened: u32,
    pub half_opened: u32,
    pub closed: u32,
}

impl CircuitBreaker {
    /// Compiles settings, which were checked when they were read, so this cannot fail. Zeros that would never trip or
    /// never close become one.
    pub fn compile(settings: &BreakerSettings) -> Self {
        Self {
            error_ratio: f64::from(settings.error_ratio),
            requests_min: settings.requests_min.max(1),
            slot_ms: (millis(settings.window) / SLOTS as u64).max(1),
            open_ms: millis(settings.open).min(PAYLOAD_MAX / 2),
            probes: u16::try_from(settings.probes).unwrap_or(u16::MAX).max(1),
            window: settings.window,
        }
    }

    /// Whether [`CircuitBreaker::check`] would let a request through. It costs one load and changes nothing, for the
    /// balancer.
    pub fn is_routable(&self, state: &BreakerState, now: Instant) -> bool {
        match state.phase() {
            Phase::Closed => true,
            Phase::Open { since_ms } => state.ms(now) >= since_ms + self.open_ms,
            Phase::HalfOpen { in_flight, succeeded } => in_flight + succeeded < self.probes,
        }
    }

    /// When an open breaker lets its first probe through, which may be in the past. `None` in closed and in half-open.
    pub fn open_until(&self, state: &BreakerState) -> Option<Instant> {
        match state.phase() {
            Phase::Closed | Phase::HalfOpen { .. } => None,
            Phase::Open { since_ms } => Some(state.at(since_ms + self.open_ms)),
        }
    }

    /// Time until a request may be let through. Zero in closed, and in half-open, where the time is not known.
    pub fn retry_after(&self, state: &BreakerState, now: Instant) -> Duration {
        match state.phase() {
            Phase::Closed | Phase::HalfOpen { .. } => Duration::ZERO,
            Phase::Open { since_ms } => {
                Duration::from_millis((since_ms + self.open_ms).saturating_sub(state.ms(now)))
            }
        }
    }

    /// The phase, for metrics and the admin API. An `open` that has ended is half-open: the next request is a
    /// probe.
    pub fn state(&self, state: &BreakerState, now: Instant) -> State {
        match state.phase() {
            Phase::Closed => State::Closed,
            Phase::Open { since_ms } if state.ms(now) < since_ms + self.open_ms => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// The counts for the admin API: those of the window in closed, otherwise those with which the breaker opened.
    pub fn seen(&self, state: &BreakerState, now: Instant) -> Seen {
        let word = Word::unpack(state.word.load(Ordering::Relaxed));
        if word.phase == Phase::Closed {
            self.shown(state.window.counts(word.epoch, state.ms(now) / self.slot_ms))
        } else {
            self.shown(state.opened_by())
        }
    }

    fn shown(&self, counts: Counts) -> Seen {
        Seen { failures: counts.failures, requests: counts.total, window: self.window }
    }

    /// Gives a permit if a request may go to this endpoint. Closed costs one load; an ended `open` becomes half-open
    /// here.
    ///
    /// `state` is any handle (`&`, `Rc`, `Arc`) to a value that contains the endpoint's breaker state; the
    /// permit keeps it. `kind` returns the number of the request's kind (never 0) and is called only for probes.
    ///
    /// # Errors
    /// [`Open`] where the breaker is open, or half-open with all of its probes in flight.
    pub fn check<S>(&self, state: S, now: Instant, kind: impl FnOnce() -> u32) -> Result<Permit<S>, Open>
    where
        S: Deref,
        S::Target: AsRef<BreakerState>,
    {
        let breaker = (*state).as_ref();
        let (epoch, probe) = match Word::unpack(breaker.word.load(Ordering::Acquire)) {
            Word { phase: Phase::Closed, epoch } => (epoch, None),
            _ => self.admit_probe(breaker, now, kind())?,
        };
        Ok(Permit::new(*self, state, epoch, probe))
    }

    fn admit_probe(&self, state: &BreakerState, now: Instant, kind: u32) -> Result<(u16, Option<u32>), Open> {
        let mut seen = state.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            let next = match word.phase {
                Phase::Closed => return Ok((word.epoch, None)),
                Phase::Open { since_ms } => {
                    let over_for_ms = state.ms(now).checked_sub(since_ms + self.open_ms);
                    let Some(over_for_ms) = over_for_ms else {
                        return Err(Open { retry_after: self.retry_after(state, now) });
                    };
                    // Requests of the kind that failed the last probe wait for `open` once more, so that another kind
                    // can come first.
                    let failed_before = state.failed_kind.load(Ordering::Relaxed) == kind;
                    if failed_before && over_for_ms < self.open_ms {
                        let left = self.open_ms - over_for_ms;
                        return Err(Open { retry_after: Duration::from_millis(left) });
                    }
                    word.followed_by(Phase::HalfOpen { in_flight: 1, succeeded: 0 })
                }
                Phase::HalfOpen { in_flight, succeeded } if in_flight + succeeded < self.probes => {
                    Word { phase: Phase::HalfOpen { in_flight: in_flight + 1, succeeded }, ..word }
                }
                Phase::HalfOpen { .. } => return Err(Open { retry_after: Duration::ZERO }),
            };
            match state.swap(seen, next) {
                Ok(()) => return Ok((next.epoch, Some(kind))),
                Err(now_seen) => seen = now_seen,
            }
        }
    }

    /// Counts an outcome in the closed phase. A failure may trip the breaker.
    fn count(
        &self,
        state: &BreakerState,
        epoch: u16,
        outcome: Outcome,
        now: Instant,
        may_open: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        if state.word.load(Ordering::Acquire) != Word::closed(epoch).pack() {
            return None;
        }
        let tick = state.ms(now) / self.slot_ms;
        state.window.record(epoch, tick, outcome.is_failure());
        if outcome == Outcome::Failure {
            state.proved.record(epoch, tick, true);
        }
        if outcome.is_failure() { self.trip(state, epoch, now, may_open) } else { None }
    }

    /// The endpoint broke off a response whose head was counted as `counted` in this epoch. One request is one outcome: a head
    /// that was a failure already is not counted again, but the failure is proved now.
    pub fn take_back(
        &self,
        state: &BreakerState,
        (epoch, counted): (u16, Outcome),
        now: Instant,
        may_open: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        if state.word.load(Ordering::Acquire) != Word::closed(epoch).pack() {
            return None;
        }
        let tick = state.ms(now) / self.slot_ms;
        if counted == Outcome::Success {
            state.window.turn_to_failure(epoch, tick);
        }
        state.proved.record(epoch, tick, true);
        self.trip(state, epoch, now, may_open)
    }

    fn trip(
        &self,
        state: &BreakerState,
        epoch: u16,
        now: Instant,
        may_open: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        let now_ms = state.ms(now);
        let tick = now_ms / self.slot_ms;
        let counts = state.window.counts(epoch, tick);
        let reaches = |failures: u32| f64::from(failures) >= self.error_ratio * f64::from(counts.total);
        if counts.total < self.requests_min || !reaches(counts.failures) {
            return None;
        }
        let seen = self.shown(counts);
        if !reaches(state.proved.counts(epoch, tick).failures) && !may_open() {
            return Some(Transition::Spared(seen));
        }
        state.opens_by(counts);
        let open = Word::closed(epoch).followed_by(Phase::Open { since_ms: now_ms });
        let opened = Opened { seen: Some(seen), open: Duration::from_millis(self.open_ms) };
        state.swap(Word::closed(epoch).pack(), open).ok().map(|()| Transition::Opened(opened))
    }

    /// Counts the outcome of a probe. `None` stands for a probe that was dropped without an outcome.
    fn settle(
        &self,
        state: &BreakerState,
        (epoch, kind): (u16, u32),
        outcome: Option<(Outcome, Instant)>,
        may_open: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        let mut may_open = Some(may_open);
        let mut stays_closed = None;
        let mut seen = state.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            let Phase::HalfOpen { in_flight, succeeded } = word.phase else { return None };
            if word.epoch != epoch {
                return None;
            }
            let in_flight = in_flight.saturating_sub(1);
            let mut is_success = |outcome| match outcome {
                Outcome::Success => true,
                // The endpoint responds, and its statuses may not take one more endpoint out.
                Outcome::Suspect => {
                    *stays_closed.get_or_insert_with(|| may_open.take().is_some_and(|may_open| !may_open()))
                }
                Outcome::Failure => false,
            };
            let (next, transition) = match outcome {
                None => (Word { phase: Phase::HalfOpen { in_flight, succeeded }, ..word }, None),
                Some((outcome, _)) if is_success(outcome) => {
                    if succeeded + 1 < self.probes {
                        let succeeded = succeeded + 1;
                        (Word { phase: Phase::HalfOpen { in_flight, succeeded }, ..word }, None)
                    } else {
                        (word.followed_by(Phase::Closed), Some(Transition::Closed))
                    }
                }
                Some((outcome, now)) => {
                    let kind = if outcome == Outcome::Suspect { kind } else { 0 };
                    state.failed_kind.store(kind, Ordering::Relaxed);
                    let opened = Opened { seen: None, open: Duration::from_millis(self.open_ms) };
                    let open = word.followed_by(Phase::Open { since_ms: state.ms(now) });
                    (open, Some(Transition::Opened(opened)))
                }
            };
            match state.swap(seen, next) {
                Ok(()) => return transition,
                Err(now_seen) => seen = now_seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::{state::EPOCH_MASK, *};

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::compile(&BreakerSettings {
            error_ratio: 0.5,
            requests_min: 4,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            probes: 2,
            count: FailureKinds { connect: true, reset: true, timeout: true, statuses: Vec::new() },
            max_by_status: 0.5,
        })
    }

    fn send(
        breaker: &CircuitBreaker,
        state: &BreakerState,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Transition> {
        breaker.check(state, now, || 1).expect("the breaker lets the request through").record(
            outcome,
            now,
            || true,
        )
    }

    fn opens(transition: Option<Transition>) -> bool {
        matches!(transition, Some(Transition::Opened(_)))
    }

    fn tripped(breaker: &CircuitBreaker, now: Instant) -> BreakerState {
        let state = BreakerState::new(now);
        for _ in 0..3 {
            assert_eq!(send(breaker, &state, Outcome::Failure, now), None);
        }
        assert!(opens(send(breaker, &state, Outcome::Failure, now)));
        state
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_trips_at_the_ratio_once_the_minimum_was_seen() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        assert_eq!(breaker.check(&state, now, || 1).unwrap_err().retry_after, Duration::from_secs(5));
        assert!(!breaker.is_routable(&state, now));
        assert_eq!(breaker.state(&state, now), State::Open);
    }

    #[test]
    fn it_stays_closed_below_the_ratio() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        for _ in 0..51 {
            send(&breaker, &state, Outcome::Success, now);
        }
        for _ in 0..50 {
            assert_eq!(send(&breaker, &state, Outcome::Failure, now), None);
        }
        assert!(opens(send(&breaker, &state, Outcome::Failure, now)));
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        for _ in 0..3 {
            send(&breaker, &state, Outcome::Failure, now);
        }
        assert_eq!(send(&breaker, &state, Outcome::Failure, now + 10 * SECOND), None);
        // Within the window the outcomes still count.
        for age in [11, 12] {
            assert_eq!(send(&breaker, &state, Outcome::Failure, now + age * SECOND), None);
        }
        let fourth = send(&breaker, &state, Outcome::Failure, now + 19 * SECOND);
        assert!(opens(fourth), "four failures within ten seconds");
    }

    #[test]
    fn half_open_admits_as_many_probes_as_configured_and_no_more() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        assert!(breaker.is_routable(&state, later));
        let first = breaker.check(&state, later, || 1).unwrap();
        let second = breaker.check(&state, later, || 1).unwrap();
        assert_eq!(breaker.check(&state, later, || 1).unwrap_err().retry_after, Duration::ZERO);
        assert!(!breaker.is_routable(&state, later));
        assert_eq!(first.record(Outcome::Success, later, || true), None);
        assert!(breaker.check(&state, later, || 1).is_err(), "one succeeded and one in flight are two");
        assert_eq!(second.record(Outcome::Success, later, || true), Some(Transition::Closed));
        assert_eq!(breaker.state(&state, later), State::Closed);
        assert_eq!(state.transitions(), Transitions { opened: 1, half_opened: 1, closed: 1 });
    }

    #[test]
    fn one_failed_probe_opens_it_again_for_the_whole_time() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        let other = breaker.check(&state, later, || 1).unwrap();
        let probe = breaker.check(&state, later, || 1).unwrap();
        assert!(opens(probe.record(Outcome::Failure, later, || true)));
        assert_eq!(breaker.retry_after(&state, later), Duration::from_secs(5));
        assert_eq!(other.record(Outcome::Success, later, || true), None, "its phase is over");
        assert_eq!(breaker.state(&state, later), State::Open);
    }

    #[test]
    fn a_probe_that_is_dropped_frees_its_place() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        let first = breaker.check(&state, later, || 1).unwrap();
        let _second = breaker.check(&state, later, || 1).unwrap();
        assert!(breaker.check(&state, later, || 1).is_err());
        drop(first);
        assert!(breaker.check(&state, later, || 1).is_ok());
    }

    #[test]
    fn the_window_is_empty_after_closing() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        for _ in 0..2 {
            send(&breaker, &state, Outcome::Success, later);
        }
        assert_eq!(breaker.state(&state, later), State::Closed);
        for _ in 0..3 {
            assert_eq!(send(&breaker, &state, Outcome::Failure, later), None);
        }
        assert!(opens(send(&breaker, &state, Outcome::Failure, later)));
    }

    #[test]
    fn the_numbers_that_opened_it_are_shown_until_it_is_closed() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let shown = |now| {
            let seen = breaker.seen(&state, now);
            (seen.failures, seen.requests)
        };
        assert_eq!(shown(now), (4, 4));
        assert_eq!(breaker.open_until(&state), Some(now + 5 * SECOND));
        let later = now + 20 * SECOND;
        assert_eq!(shown(later), (4, 4), "its pause is over, and so is the window");
        assert!(opens(send(&breaker, &state, Outcome::Failure, later)));
        assert_eq!(shown(later), (4, 4), "a probe failed");
        let probes = later + 5 * SECOND;
        send(&breaker, &state, Outcome::Success, probes);
        assert_eq!((shown(probes), breaker.open_until(&state)), ((4, 4), None));
        send(&breaker, &state, Outcome::Success, probes);
        assert_eq!(shown(probes), (0, 0));
    }

    #[test]
    fn an_outcome_from_before_the_trip_does_not_count_after_it() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        let slow = breaker.check(&state, now, || 1).unwrap();
        for _ in 0..4 {
            send(&breaker, &state, Outcome::Failure, now);
        }
        let later = now + 5 * SECOND;
        let _probe = breaker.check(&state, later, || 1).unwrap();
        assert_eq!(slow.record(Outcome::Failure, later, || true), None);
        assert_eq!(breaker.state(&state, later), State::HalfOpen);
    }

    #[test]
    fn an_outcome_from_before_the_trip_does_not_wipe_what_was_seen_since() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        let slow = breaker.check(&state, now, || 1).unwrap();
        for _ in 0..4 {
            send(&breaker, &state, Outcome::Failure, now);
        }
        let later = now + 5 * SECOND;
        for outcome in
            [Outcome::Success, Outcome::Success, Outcome::Failure, Outcome::Failure, Outcome::Failure]
        {
            send(&breaker, &state, outcome, later);
        }
        assert_eq!(slow.record(Outcome::Failure, later, || true), None);
        assert!(opens(send(&breaker, &state, Outcome::Failure, later)));
    }

    #[test]
    fn a_probe_of_an_earlier_half_open_phase_does_not_count_in_the_next() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let slow = breaker.check(&state, now + 5 * SECOND, || 1).unwrap();
        send(&breaker, &state, Outcome::Failure, now + 5 * SECOND);
        let later = now + 10 * SECOND;
        let _probe = breaker.check(&state, later, || 1).unwrap();
        let word = state.word.load(Ordering::SeqCst);
        assert_eq!(slow.record(Outcome::Success, later, || true), None);
        assert_eq!(state.word.load(Ordering::SeqCst), word);
    }

    #[test]
    fn failures_that_are_not_proved_open_it_only_where_one_more_endpoint_may_be_out() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        let fail = |outcome, may_open: bool| {
            breaker.check(&state, now, || 1).unwrap().record(outcome, now, || may_open)
        };
        for _ in 0..3 {
            assert_eq!(fail(Outcome::Suspect, false), None);
        }
        assert!(
            matches!(fail(Outcome::Suspect, false), Some(Transition::Spared(seen)) if seen.failures == 4)
        );
        // A quarter of all outcomes is proved, which is below the ratio.
        for _ in 0..2 {
            assert!(matches!(fail(Outcome::Failure, false), Some(Transition::Spared(_))));
        }
        for _ in 0..2 {
            fail(Outcome::Failure, false);
        }
        assert_eq!(breaker.state(&state, now), State::Open, "half of eight is proved");
        let other = BreakerState::new(now);
        for _ in 0..4 {
            let _ = breaker.check(&other, now, || 1).unwrap().record(Outcome::Suspect, now, || true);
        }
        assert_eq!(breaker.state(&other, now), State::Open);
    }

    #[test]
    fn a_probe_that_failed_by_its_status_is_followed_by_another_kind_of_request_for_a_while() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let probe = |seconds: u32, kind: u32| breaker.check(&state, now + seconds * SECOND, || kind);
        assert!(opens(probe(5, 7).unwrap().record(Outcome::Suspect, now + 5 * SECOND, || true)));
        assert_eq!(probe(10, 7).unwrap_err().retry_after, 5 * SECOND);
        let _other = probe(10, 8).expect("a request of another kind");
        let _same = probe(10, 7).expect("the phase has begun, and there is a second place");
        let alone = tripped(&breaker, now);
        let probe = |seconds: u32| breaker.check(&alone, now + seconds * SECOND, || 7);
        assert!(opens(probe(5).unwrap().record(Outcome::Suspect, now + 5 * SECOND, || true)));
        assert!(probe(14).is_err());
        assert!(probe(15).is_ok(), "where there is no other kind, it is only later");
    }

    #[test]
    fn a_probe_whose_status_may_not_keep_it_open_counts_as_an_answer() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        let record = || breaker.check(&state, later, || 1).unwrap().record(Outcome::Suspect, later, || false);
        assert_eq!((record(), record()), (None, Some(Transition::Closed)));
    }

    #[test]
    fn settings_of_a_reload_count_at_once() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let shorter = CircuitBreaker { open_ms: 1_000, ..breaker };
        let later = now + SECOND;
        assert!(!breaker.is_routable(&state, later) && shorter.is_routable(&state, later));
        assert!(shorter.check(&state, later, || 1).is_ok());
    }

    #[test]
    fn a_response_that_breaks_off_is_a_failure_in_place_of_the_success() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        let mut opened = false;
        for _ in 0..4 {
            let permit = breaker.check(&state, now, || 1).unwrap();
            let epoch = permit.epoch();
            let _ = permit.record(Outcome::Success, now, || true);
            opened = opens(breaker.take_back(&state, (epoch, Outcome::Success), now, || false));
        }
        assert!(opened, "four of four, each proved");
    }

    #[test]
    fn a_failed_response_that_also_breaks_off_is_one_failure() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        for outcome in [Outcome::Success, Outcome::Success, Outcome::Suspect] {
            let permit = breaker.check(&state, now, || 1).unwrap();
            let epoch = permit.epoch();
            assert_eq!(permit.record(outcome, now, || true), None);
            if outcome == Outcome::Suspect {
                assert_eq!(breaker.take_back(&state, (epoch, outcome), now, || true), None);
            }
        }
        let seen = breaker.seen(&state, now);
        assert_eq!((seen.failures, seen.requests), (1, 3));
        let proved = state.proved.counts(0, 0);
        assert_eq!(proved.failures, 1, "a broken response proves it");
    }

    #[test]
    fn every_phase_survives_packing() {
        for phase in [
            Phase::Closed,
            Phase::Open { since_ms: PAYLOAD_MAX },
            Phase::HalfOpen { in_flight: u16::MAX, succeeded: u16::MAX },
        ] {
            let word = Word { phase, epoch: EPOCH_MASK };
            assert_eq!(Word::unpack(word.pack()), word);
        }
        assert_eq!(Word { phase: Phase::Closed, epoch: EPOCH_MASK }.followed_by(Phase::Closed).epoch, 0);
    }

    /// Threads stand for workers: they race to trip one breaker, then race for its probes.
    #[test]
    fn racing_workers_open_it_once_and_never_exceed_the_probes() {
        const WORKERS: usize = 8;
        for _ in 0..50 {
            let (breaker, now) = (breaker(), Instant::now());
            let state = Arc::new(BreakerState::new(now));
            let start = Arc::new(Barrier::new(WORKERS));
            let (opened, flying, peak) =
                (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let workers: Vec<_> = (0..WORKERS)
                .map(|_| {
                    let (state, start) = (Arc::clone(&state), Arc::clone(&start));
                    let (opened, flying, peak) =
                        (Arc::clone(&opened), Arc::clone(&flying), Arc::clone(&peak));
                    std::thread::spawn(move || {
                        start.wait();
                        while let Ok(permit) = breaker.check(&*state, now, || 1) {
                            if opens(permit.record(Outcome::Failure, now, || true)) {
                                opened.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        start.wait();
                        let later = now + 5 * SECOND;
                        for _ in 0..200 {
                            if let Ok(probe) = breaker.check(&*state, later, || 1) {
                                let together = flying.fetch_add(1, Ordering::SeqCst) + 1;
                                peak.fetch_max(together, Ordering::SeqCst);
                                std::thread::yield_now();
                                flying.fetch_sub(1, Ordering::SeqCst);
                                drop(probe);
                            }
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.join().unwrap();
            }
            assert_eq!(opened.load(Ordering::SeqCst), 1);
            assert!((1..=2).contains(&peak.load(Ordering::SeqCst)));
            assert_eq!(state.transitions(), Transitions { opened: 1, half_opened: 1, closed: 0 });
            assert!(breaker.is_routable(&state, now + 5 * SECOND), "every place is free again");
        }
    }
}
