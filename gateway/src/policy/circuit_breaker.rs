//! Circuit breaking: an endpoint that keeps failing is left alone for a while.
//!
//! closed → open → half-open → closed (or open again). `closed` lets traffic through. The breaker trips when,
//! over a sliding window of [`SLOTS`] slots, at least `requests_min` outcomes were seen and their share of
//! failures reached `error_ratio`. After `open` it lets at most `probes` requests through at a time; when
//! that many have succeeded it closes, one failure opens it again. Compiled from `BreakerSettings`.
//!
//! One [`BreakerState`] per endpoint is shared by all workers and carried across snapshots. Its phase is one
//! word, changed by compare-and-swap only, so a trip happens once and probes are counted exactly. A permit
//! remembers the epoch (phase changes so far) that it was given in: outcomes of requests that began before a
//! change are not counted after it.
//!
//! Units: milliseconds since the state was made. Limits: a million outcomes per slot, past which the slot
//! stops counting and keeps its ratio; 65,535 probes.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::config::settings::BreakerSettings;

/// Compiled parameters; small, so a permit carries its own copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitBreaker {
    error_ratio: f64,
    requests_min: u32,
    slot_ms: u64,
    open_ms: u64,
    probes: u16,
}

/// What became of a request that had a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// The phase as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// A phase change caused by a recorded outcome, for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Opened,
    Closed,
}

/// The endpoint must not be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Until the breaker may let a request through; zero when it waits for probes that are under way.
    pub retry_after: Duration,
}

/// Phase changes since the state was made, by target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transitions {
    pub opened: u32,
    pub half_opened: u32,
    pub closed: u32,
}

impl CircuitBreaker {
    /// Cannot fail: the settings were checked when they were read. Zeros that would never trip or never close
    /// are lifted to one.
    pub fn compile(settings: &BreakerSettings) -> Self {
        Self {
            error_ratio: f64::from(settings.error_ratio),
            requests_min: settings.requests_min.max(1),
            slot_ms: (millis(settings.window) / SLOTS as u64).max(1),
            open_ms: millis(settings.open).min(PAYLOAD_MAX / 2),
            probes: u16::try_from(settings.probes).unwrap_or(u16::MAX).max(1),
        }
    }

    /// May a request go to this endpoint? Closed costs one load; an ended `open` turns into half-open here.
    ///
    /// `state` is any handle (`&`, `Rc`, `Arc`) to something that holds the endpoint's breaker state; the
    /// permit keeps it.
    pub fn check<S>(&self, state: S, now: Instant) -> Result<Permit<S>, Open>
    where
        S: Deref,
        S::Target: AsRef<BreakerState>,
    {
        let (epoch, probe) = self.admit((*state).as_ref(), now)?;
        Ok(Permit { breaker: *self, state, epoch, probe, settled: false })
    }

    fn admit(&self, state: &BreakerState, now: Instant) -> Result<(u16, bool), Open> {
        let mut seen = state.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            let next = match word.phase {
                Phase::Closed => return Ok((word.epoch, false)),
                Phase::Open { until_ms } => {
                    let wait_ms = until_ms.saturating_sub(state.ms(now));
                    if wait_ms > 0 {
                        return Err(Open { retry_after: Duration::from_millis(wait_ms) });
                    }
                    word.followed_by(Phase::HalfOpen { in_flight: 1, succeeded: 0, probes: self.probes })
                }
                Phase::HalfOpen { in_flight, succeeded, probes } if in_flight + succeeded < probes => {
                    let in_flight = in_flight + 1;
                    Word { phase: Phase::HalfOpen { in_flight, succeeded, probes }, ..word }
                }
                Phase::HalfOpen { .. } => return Err(Open { retry_after: Duration::ZERO }),
            };
            match state.swap(seen, next) {
                Ok(()) => return Ok((next.epoch, true)),
                Err(now_seen) => seen = now_seen,
            }
        }
    }

    /// Counts an outcome in the closed phase; a failure may trip the breaker.
    fn count(&self, state: &BreakerState, epoch: u16, outcome: Outcome, now: Instant) -> Option<Transition> {
        let closed = Word { phase: Phase::Closed, epoch };
        if state.word.load(Ordering::Acquire) != closed.pack() {
            return None;
        }
        let now_ms = state.ms(now);
        let tick = now_ms / self.slot_ms;
        state.slot(tick).record(Tag::new(epoch, tick), outcome);
        if outcome == Outcome::Success || !self.is_tripped(state, epoch, tick) {
            return None;
        }
        let open = closed.followed_by(Phase::Open { until_ms: now_ms + self.open_ms });
        state.swap(closed.pack(), open).ok().map(|()| Transition::Opened)
    }

    fn is_tripped(&self, state: &BreakerState, epoch: u16, tick: u64) -> bool {
        let oldest = tick.saturating_sub(SLOTS as u64 - 1);
        let (total, errors) = (oldest..=tick)
            .filter_map(|tick| state.slot(tick).counts(Tag::new(epoch, tick)))
            .fold((0_u32, 0_u32), |(total, errors), slot| (total + slot.0, errors + slot.1));
        total >= self.requests_min && f64::from(errors) >= self.error_ratio * f64::from(total)
    }

    /// Counts the outcome of a probe; `None` is a probe that was dropped without one.
    fn settle(
        &self,
        state: &BreakerState,
        epoch: u16,
        outcome: Option<Outcome>,
        now: Option<Instant>,
    ) -> Option<Transition> {
        let mut seen = state.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            let Phase::HalfOpen { in_flight, succeeded, probes } = word.phase else { return None };
            if word.epoch != epoch {
                return None;
            }
            let in_flight = in_flight.saturating_sub(1);
            let (next, transition) = match outcome {
                None => (Word { phase: Phase::HalfOpen { in_flight, succeeded, probes }, ..word }, None),
                Some(Outcome::Success) if succeeded + 1 < probes => {
                    let succeeded = succeeded + 1;
                    (Word { phase: Phase::HalfOpen { in_flight, succeeded, probes }, ..word }, None)
                }
                Some(Outcome::Success) => (word.followed_by(Phase::Closed), Some(Transition::Closed)),
                Some(Outcome::Failure) => {
                    let until_ms = now.map_or(0, |now| state.ms(now)) + self.open_ms;
                    (word.followed_by(Phase::Open { until_ms }), Some(Transition::Opened))
                }
            };
            match state.swap(seen, next) {
                Ok(()) => return transition,
                Err(now_seen) => seen = now_seen,
            }
        }
    }
}

/// Leave to ask an endpoint once. Dropped without an outcome (the client left, or the request never reached
/// the endpoint) it counts for nothing, and a probe's place is free again.
#[derive(Debug)]
#[must_use = "a permit that is dropped records nothing"]
pub struct Permit<S>
where
    S: Deref,
    S::Target: AsRef<BreakerState>,
{
    breaker: CircuitBreaker,
    state: S,
    epoch: u16,
    probe: bool,
    settled: bool,
}

impl<S> Permit<S>
where
    S: Deref,
    S::Target: AsRef<BreakerState>,
{
    /// Learns the outcome. Says when that changed the phase.
    pub fn record(mut self, outcome: Outcome, now: Instant) -> Option<Transition> {
        self.settled = true;
        let state = (*self.state).as_ref();
        if self.probe {
            self.breaker.settle(state, self.epoch, Some(outcome), Some(now))
        } else {
            self.breaker.count(state, self.epoch, outcome, now)
        }
    }
}

impl<S> Drop for Permit<S>
where
    S: Deref,
    S::Target: AsRef<BreakerState>,
{
    fn drop(&mut self) {
        if self.probe && !self.settled {
            self.breaker.settle((*self.state).as_ref(), self.epoch, None, None);
        }
    }
}

/// What all workers know of one endpoint.
#[derive(Debug)]
pub struct BreakerState {
    /// Phase, epoch and payload: see [`Word`]. Written by any worker with compare-and-swap (acquire-release).
    word: AtomicU64,
    window: [Slot; SLOTS],
    opened: AtomicU32,
    half_opened: AtomicU32,
    closed: AtomicU32,
    /// Zero of the millisecond count.
    base: Instant,
}

impl BreakerState {
    /// Closed, nothing seen. `now` becomes the zero of its clock.
    pub fn new(now: Instant) -> Self {
        Self {
            word: AtomicU64::new(Word { phase: Phase::Closed, epoch: 0 }.pack()),
            window: Default::default(),
            opened: AtomicU32::new(0),
            half_opened: AtomicU32::new(0),
            closed: AtomicU32::new(0),
            base: now,
        }
    }

    /// Would `check` let a request through? For the balancer: one load, changes nothing.
    pub fn is_routable(&self, now: Instant) -> bool {
        match Word::unpack(self.word.load(Ordering::Relaxed)).phase {
            Phase::Closed => true,
            Phase::Open { until_ms } => self.ms(now) >= until_ms,
            Phase::HalfOpen { in_flight, succeeded, probes } => in_flight + succeeded < probes,
        }
    }

    /// Until a request may be let through: zero in closed, and in half-open, where nobody knows.
    pub fn retry_after(&self, now: Instant) -> Duration {
        match Word::unpack(self.word.load(Ordering::Relaxed)).phase {
            Phase::Closed | Phase::HalfOpen { .. } => Duration::ZERO,
            Phase::Open { until_ms } => Duration::from_millis(until_ms.saturating_sub(self.ms(now))),
        }
    }

    /// The phase, for metrics and the admin API. An `open` that has ended is half-open: the next request is a
    /// probe.
    pub fn state(&self, now: Instant) -> State {
        match Word::unpack(self.word.load(Ordering::Relaxed)).phase {
            Phase::Closed => State::Closed,
            Phase::Open { until_ms } if self.ms(now) < until_ms => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Phase changes so far.
    pub fn transitions(&self) -> Transitions {
        Transitions {
            opened: self.opened.load(Ordering::Relaxed),
            half_opened: self.half_opened.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.base)).min(PAYLOAD_MAX / 2)
    }

    fn slot(&self, tick: u64) -> &Slot {
        // The remainder is below SLOTS, on every platform.
        &self.window[usize::try_from(tick % SLOTS as u64).unwrap_or(0)]
    }

    /// The only writer of the word. A change of epoch is a change of phase, and is counted.
    fn swap(&self, seen: u64, next: Word) -> Result<(), u64> {
        self.word.compare_exchange(seen, next.pack(), Ordering::AcqRel, Ordering::Acquire)?;
        if Word::unpack(seen).epoch != next.epoch {
            let counter = match next.phase {
                Phase::Closed => &self.closed,
                Phase::Open { .. } => &self.opened,
                Phase::HalfOpen { .. } => &self.half_opened,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl AsRef<BreakerState> for BreakerState {
    fn as_ref(&self) -> &BreakerState {
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until_ms: u64,
    },
    /// `probes` is kept here so that the balancer can tell without the settings.
    HalfOpen {
        in_flight: u16,
        succeeded: u16,
        probes: u16,
    },
}

/// The phase word: bits 0–1 phase, 2–15 epoch, 16–63 payload (until when, or three counts of 16 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    phase: Phase,
    epoch: u16,
}

impl Word {
    fn followed_by(self, phase: Phase) -> Self {
        Self { phase, epoch: (self.epoch + 1) & EPOCH_MASK }
    }

    fn pack(self) -> u64 {
        let (phase, payload) = match self.phase {
            Phase::Closed => (0, 0),
            Phase::Open { until_ms } => (1, until_ms & PAYLOAD_MAX),
            Phase::HalfOpen { in_flight, succeeded, probes } => {
                (2, u64::from(in_flight) | u64::from(succeeded) << 16 | u64::from(probes) << 32)
            }
        };
        phase | u64::from(self.epoch) << 2 | payload << 16
    }

    #[allow(clippy::cast_possible_truncation)] // each cast takes the 16 bits that `pack` put there
    fn unpack(word: u64) -> Self {
        let payload = word >> 16;
        let phase = match word & 0b11 {
            0 => Phase::Closed,
            1 => Phase::Open { until_ms: payload },
            _ => Phase::HalfOpen {
                in_flight: payload as u16,
                succeeded: (payload >> 16) as u16,
                probes: (payload >> 32) as u16,
            },
        };
        Self { phase, epoch: (word >> 2) as u16 & EPOCH_MASK }
    }
}

/// One slot of the window: bits 0–19 failures, 20–39 outcomes, 40–63 the tag they belong to. A slot whose tag
/// is not the asked one is empty, so nothing ever has to be cleared: neither as time goes on nor on closing.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

impl Slot {
    fn record(&self, tag: Tag, outcome: Outcome) {
        let failed = u64::from(outcome == Outcome::Failure);
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let next = if seen >> TAG_SHIFT != tag.0 {
                tag.0 << TAG_SHIFT | 1 << COUNT_BITS | failed
            } else if seen >> COUNT_BITS & COUNT_MAX == COUNT_MAX {
                return;
            } else {
                seen + (1 << COUNT_BITS) + failed
            };
            match self.0.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now_seen) => seen = now_seen,
            }
        }
    }

    /// Outcomes and failures, if the slot holds this tag's.
    #[allow(clippy::cast_possible_truncation)] // 20 bits each
    fn counts(&self, tag: Tag) -> Option<(u32, u32)> {
        let seen = self.0.load(Ordering::Acquire);
        (seen >> TAG_SHIFT == tag.0)
            .then_some(((seen >> COUNT_BITS & COUNT_MAX) as u32, (seen & COUNT_MAX) as u32))
    }
}

/// Low 8 bits of the epoch and low 16 of the tick. Two ticks share a tag and a slot only after 327,680 slots
/// (9 hours of silence at the shortest window in use); the error would be one stale slot.
#[derive(Clone, Copy)]
struct Tag(u64);

impl Tag {
    fn new(epoch: u16, tick: u64) -> Self {
        Self(u64::from(epoch & 0xFF) << 16 | tick & 0xFFFF)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Slots of the sliding window: it forgets in steps of a tenth.
pub const SLOTS: usize = 10;
/// Outcomes that one slot can hold.
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const COUNT_BITS: u32 = 20;
const TAG_SHIFT: u32 = 2 * COUNT_BITS;
const EPOCH_MASK: u16 = (1 << 14) - 1;
/// Largest payload of a phase word: 8,900 years in milliseconds; half of it is the latest moment, so that a
/// sum of two still fits.
const PAYLOAD_MAX: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::compile(&BreakerSettings {
            error_ratio: 0.5,
            requests_min: 4,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            probes: 2,
        })
    }

    fn send(
        breaker: &CircuitBreaker,
        state: &BreakerState,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Transition> {
        breaker.check(state, now).expect("the breaker lets the request through").record(outcome, now)
    }

    fn tripped(breaker: &CircuitBreaker, now: Instant) -> BreakerState {
        let state = BreakerState::new(now);
        for _ in 0..3 {
            assert_eq!(send(breaker, &state, Outcome::Failure, now), None);
        }
        assert_eq!(send(breaker, &state, Outcome::Failure, now), Some(Transition::Opened));
        state
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_trips_at_the_ratio_once_the_minimum_was_seen() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        assert_eq!(breaker.check(&state, now).unwrap_err().retry_after, Duration::from_secs(5));
        assert!(!state.is_routable(now));
        assert_eq!(state.state(now), State::Open);
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
        assert_eq!(send(&breaker, &state, Outcome::Failure, now), Some(Transition::Opened));
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        for _ in 0..3 {
            send(&breaker, &state, Outcome::Failure, now);
        }
        assert_eq!(send(&breaker, &state, Outcome::Failure, now + 10 * SECOND), None);
        // Within the window they still count.
        for age in [11, 12] {
            assert_eq!(send(&breaker, &state, Outcome::Failure, now + age * SECOND), None);
        }
        assert_eq!(
            send(&breaker, &state, Outcome::Failure, now + 19 * SECOND),
            Some(Transition::Opened),
            "four failures within ten seconds"
        );
    }

    #[test]
    fn half_open_admits_as_many_probes_as_configured_and_no_more() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        assert!(state.is_routable(later));
        let first = breaker.check(&state, later).unwrap();
        let second = breaker.check(&state, later).unwrap();
        assert_eq!(breaker.check(&state, later).unwrap_err().retry_after, Duration::ZERO);
        assert!(!state.is_routable(later));
        assert_eq!(first.record(Outcome::Success, later), None);
        assert!(breaker.check(&state, later).is_err(), "one succeeded and one in flight are two");
        assert_eq!(second.record(Outcome::Success, later), Some(Transition::Closed));
        assert_eq!(state.state(later), State::Closed);
        assert_eq!(state.transitions(), Transitions { opened: 1, half_opened: 1, closed: 1 });
    }

    #[test]
    fn one_failed_probe_opens_it_again_for_the_whole_time() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        let other = breaker.check(&state, later).unwrap();
        let probe = breaker.check(&state, later).unwrap();
        assert_eq!(probe.record(Outcome::Failure, later), Some(Transition::Opened));
        assert_eq!(state.retry_after(later), Duration::from_secs(5));
        assert_eq!(other.record(Outcome::Success, later), None, "its phase is over");
        assert_eq!(state.state(later), State::Open);
    }

    #[test]
    fn a_probe_that_is_dropped_frees_its_place() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        let first = breaker.check(&state, later).unwrap();
        let _second = breaker.check(&state, later).unwrap();
        assert!(breaker.check(&state, later).is_err());
        drop(first);
        assert!(breaker.check(&state, later).is_ok());
    }

    #[test]
    fn the_window_is_empty_after_closing() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let later = now + 5 * SECOND;
        for _ in 0..2 {
            send(&breaker, &state, Outcome::Success, later);
        }
        assert_eq!(state.state(later), State::Closed);
        for _ in 0..3 {
            assert_eq!(send(&breaker, &state, Outcome::Failure, later), None);
        }
        assert_eq!(send(&breaker, &state, Outcome::Failure, later), Some(Transition::Opened));
    }

    #[test]
    fn an_outcome_from_before_the_trip_does_not_count_after_it() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        let slow = breaker.check(&state, now).unwrap();
        for _ in 0..4 {
            send(&breaker, &state, Outcome::Failure, now);
        }
        let later = now + 5 * SECOND;
        let _probe = breaker.check(&state, later).unwrap();
        assert_eq!(slow.record(Outcome::Failure, later), None);
        assert_eq!(state.state(later), State::HalfOpen);
    }

    #[test]
    fn an_outcome_from_before_the_trip_does_not_wipe_what_was_seen_since() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = BreakerState::new(now);
        let slow = breaker.check(&state, now).unwrap();
        for _ in 0..4 {
            send(&breaker, &state, Outcome::Failure, now);
        }
        let later = now + 5 * SECOND;
        for outcome in
            [Outcome::Success, Outcome::Success, Outcome::Failure, Outcome::Failure, Outcome::Failure]
        {
            send(&breaker, &state, outcome, later);
        }
        assert_eq!(slow.record(Outcome::Failure, later), None);
        assert_eq!(send(&breaker, &state, Outcome::Failure, later), Some(Transition::Opened));
    }

    #[test]
    fn a_probe_of_an_earlier_half_open_phase_does_not_count_in_the_next() {
        let (breaker, now) = (breaker(), Instant::now());
        let state = tripped(&breaker, now);
        let slow = breaker.check(&state, now + 5 * SECOND).unwrap();
        send(&breaker, &state, Outcome::Failure, now + 5 * SECOND);
        let later = now + 10 * SECOND;
        let _probe = breaker.check(&state, later).unwrap();
        let word = state.word.load(Ordering::SeqCst);
        assert_eq!(slow.record(Outcome::Success, later), None);
        assert_eq!(state.word.load(Ordering::SeqCst), word);
    }

    #[test]
    fn a_full_slot_stops_counting_and_does_not_overflow() {
        let slot = Slot(AtomicU64::new(7 << TAG_SHIFT | COUNT_MAX << COUNT_BITS | COUNT_MAX));
        slot.record(Tag(7), Outcome::Failure);
        assert_eq!(slot.counts(Tag(7)), Some((0xF_FFFF, 0xF_FFFF)));
    }

    #[test]
    fn every_phase_survives_packing() {
        for phase in [
            Phase::Closed,
            Phase::Open { until_ms: PAYLOAD_MAX },
            Phase::HalfOpen { in_flight: u16::MAX, succeeded: 1, probes: u16::MAX },
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
                        while let Ok(permit) = breaker.check(&*state, now) {
                            if permit.record(Outcome::Failure, now) == Some(Transition::Opened) {
                                opened.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        start.wait();
                        let later = now + 5 * SECOND;
                        for _ in 0..200 {
                            if let Ok(probe) = breaker.check(&*state, later) {
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
            assert!(state.is_routable(now + 5 * SECOND), "every place is free again");
        }
    }
}
