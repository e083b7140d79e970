//! Outlier detection: an endpoint that cannot be reached, or that fails as a gateway does, is left out for a while.
//!
//! An endpoint is ejected after `connect_failures` connects in a row that failed, or after `gateway_failures`
//! requests in a row that ended in a reset, a timeout, a broken answer or 502 to 504. One success ends a row. An
//! ejection lasts `pause`, doubled each time, at most [`PAUSE_MAX`]; an endpoint that then stays in for as long as
//! its last pause begins again at `pause`. When the pause is over, one probe decides: one connect where connects had
//! failed, one request otherwise. At most a share `max` of a cluster's endpoints is out at once, and while fewer than
//! `panic` of them are left, ejections are ignored and all are tried (Envoy's panic threshold).
//!
//! This is not the circuit breaker: that one needs a number of requests and a share of failures, which is right for
//! failures that an endpoint answers with and far too slow for an endpoint that is gone.
//!
//! One [`OutlierState`] per endpoint is shared by all workers and carried across snapshots. Its phase is one word, changed
//! by compare-and-swap only; zero is "in", so that a pick costs one load. Units: milliseconds since the state was made.
//! Compiled from `OutlierSettings`.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::config::settings::OutlierSettings;

/// Compiled parameters of one cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetector {
    connect_failures: u32,
    gateway_failures: u32,
    pause_ms: u64,
    max: f32,
    panic: f32,
}

/// What one attempt showed about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A new connection was made.
    Connected,
    /// A connect was refused, or was not answered in time.
    ConnectFailed,
    /// An answer that shows a working endpoint.
    Answered,
    /// A reset, a timeout, a broken answer, or a status that a gateway would give.
    GatewayFailed,
}

impl Sign {
    /// A status is held against the endpoint only where it says that the endpoint could not do its work.
    pub fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Self::GatewayFailed
            }
            _ => Self::Answered,
        }
    }
}

/// Which row of failures led to an ejection; the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Connect,
    Gateway,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect_failures",
            Self::Gateway => "gateway_failures",
        }
    }
}

/// What a sign changed, for logs, events and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected {
        reason: Reason,
        /// Failures in a row.
        failures: u32,
        pause: Duration,
        /// Ejections without a calm time between them, this one included.
        ejections: u32,
    },
    /// The row is complete, but as many endpoints as may be are out already.
    Spared {
        reason: Reason,
    },
    Returned {
        reason: Reason,
    },
}

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    In,
    /// For this much longer; zero: the next pick may probe it.
    Ejected {
        reason: Reason,
        left: Duration,
    },
    /// A probe is under way.
    Probing {
        reason: Reason,
    },
}

impl OutlierDetector {
    /// Cannot fail: the settings were checked when they were read.
    pub fn compile(settings: &OutlierSettings) -> Self {
        Self {
            connect_failures: settings.connect_failures.unwrap_or(u32::MAX),
            gateway_failures: settings.gateway_failures.unwrap_or(u32::MAX),
            pause_ms: millis(settings.pause).clamp(1, millis(PAUSE_MAX)),
            max: settings.max.clamp(0.0, 1.0),
            panic: settings.panic.clamp(0.0, 1.0),
        }
    }

    /// How many of `endpoints` may be out at once.
    #[expect(clippy::cast_precision_loss, reason = "no cluster has 16 million endpoints")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and `endpoints`")]
    pub fn out_max(&self, endpoints: usize) -> usize {
        (endpoints as f32 * self.max) as usize
    }

    /// Are so few of `endpoints` left that all are tried?
    #[expect(clippy::cast_precision_loss, reason = "no cluster has 16 million endpoints")]
    pub fn is_panic(&self, left: usize, endpoints: usize) -> bool {
        (left as f32) < endpoints as f32 * self.panic
    }

    /// Learns what an attempt showed that began when the state's word was `began`. `may_eject` is asked only when the row
    /// is complete: it says whether one more endpoint may be out.
    pub fn record(
        &self,
        state: &OutlierState,
        began: Began,
        sign: Sign,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let (row, needed, reason) = match sign {
            Sign::Connected => {
                end_row(&state.connect_failures);
                let by_connect = |reason| reason == Reason::Connect;
                return state.come_back(began, by_connect, now);
            }
            Sign::Answered => {
                end_row(&state.connect_failures);
                end_row(&state.gateway_failures);
                return state.come_back(began, |_| true, now);
            }
            Sign::ConnectFailed => (&state.connect_failures, self.connect_failures, Reason::Connect),
            Sign::GatewayFailed => (&state.gateway_failures, self.gateway_failures, Reason::Gateway),
        };
        let failures = row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        match Word::unpack(state.word.load(Ordering::Acquire)) {
            Word::In if failures >= needed => {
                if !may_eject() {
                    // The row begins anew, so that this is asked and counted once in a row and not with each failure.
                    row.store(0, Ordering::Relaxed);
                    return Some(Change::Spared { reason });
                }
                self.eject(state, Word::In, reason, failures, now)
            }
            // The probe failed. Other attempts began before it and show nothing new.
            probing @ Word::Probing { .. } if began.0 == probing.pack() => {
                self.eject(state, probing, reason, failures, now)
            }
            Word::In | Word::Out { .. } | Word::Probing { .. } => None,
        }
    }

    fn eject(
        &self,
        state: &OutlierState,
        seen: Word,
        reason: Reason,
        failures: u32,
        now: Instant,
    ) -> Option<Change> {
        let now_ms = state.ms(now);
        let level = state.level.load(Ordering::Relaxed);
        let calm = now_ms.saturating_sub(state.returned_ms.load(Ordering::Relaxed)) >= self.pause(level);
        let level = if calm && seen == Word::In { 1 } else { level.saturating_add(1) };
        let pause_ms = self.pause(level);
        let out = Word::Out { until_ms: now_ms + pause_ms, reason };
        state.word.compare_exchange(seen.pack(), out.pack(), Ordering::AcqRel, Ordering::Relaxed).ok()?;
        state.level.store(level, Ordering::Relaxed);
        let pause = Duration::from_millis(pause_ms);
        Some(Change::Ejected { reason, failures, pause, ejections: level })
    }

    /// Of the ejection with this number.
    fn pause(&self, level: u32) -> u64 {
        let doublings = level.saturating_sub(1).min(DOUBLINGS_MAX);
        (self.pause_ms << doublings).min(millis(PAUSE_MAX))
    }
}

fn end_row(failures: &AtomicU32) {
    // Nearly always there was none: a load that all cores may share, and no store.
    if failures.load(Ordering::Relaxed) != 0 {
        failures.store(0, Ordering::Relaxed);
    }
}

/// The word of an [`OutlierState`] when an attempt began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began(u64);

impl Began {
    /// The endpoint was in.
    pub fn was_in(self) -> bool {
        self.0 == IN
    }
}

/// What all workers know of one endpoint.
#[derive(Debug)]
pub struct OutlierState {
    /// See [`Word`]. Written by any worker with compare-and-swap (acquire-release).
    word: AtomicU64,
    /// In a row.
    connect_failures: AtomicU32,
    gateway_failures: AtomicU32,
    /// Ejections without a calm time between them.
    level: AtomicU32,
    /// When the last ejection ended.
    returned_ms: AtomicU64,
    /// When the head of a response came last, from any request.
    answered_ms: AtomicU64,
    /// Zero of the millisecond count.
    base: Instant,
}

impl OutlierState {
    /// In, nothing seen.
    pub fn new(now: Instant) -> Self {
        Self {
            word: AtomicU64::new(Word::In.pack()),
            connect_failures: AtomicU32::new(0),
            gateway_failures: AtomicU32::new(0),
            level: AtomicU32::new(0),
            returned_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            base: now,
        }
    }

    /// For an attempt that begins now, and will be recorded.
    pub fn began(&self) -> Began {
        Began(self.word.load(Ordering::Relaxed))
    }

    /// One load.
    pub fn is_in(&self) -> bool {
        self.word.load(Ordering::Relaxed) == IN
    }

    /// Ejected, and the pause is over: one probe may be made.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due(now).is_some()
    }

    fn due(&self, now: Instant) -> Option<(Word, Reason)> {
        match Word::unpack(self.word.load(Ordering::Acquire)) {
            word @ Word::Out { until_ms, reason } if self.ms(now) >= until_ms => Some((word, reason)),
            // Whoever made that probe has not come back, which a guard prevents; a state must not hang on it all the same.
            word @ Word::Probing { since_ms, reason } if self.ms(now) >= since_ms + millis(PROBE_MAX) => {
                Some((word, reason))
            }
            _ => None,
        }
    }

    /// Takes the one probe that may be made now. `state` is any handle to something that holds this state.
    pub fn probe<S>(state: S, now: Instant) -> Option<Probe<S>>
    where
        S: Deref,
        S::Target: AsRef<Self>,
    {
        let (began, reason) = {
            let this = (*state).as_ref();
            let (seen, reason) = this.due(now)?;
            let probing = Word::Probing { since_ms: this.ms(now), reason }.pack();
            this.word.compare_exchange(seen.pack(), probing, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            (Began(probing), reason)
        };
        Some(Probe { state, began, reason })
    }

    /// In again, if the endpoint stands where it stood when the attempt began, and was out for a reason that the attempt
    /// has disproved.
    fn come_back(
        &self,
        began: Began,
        disproves: impl FnOnce(Reason) -> bool,
        now: Instant,
    ) -> Option<Change> {
        let reason = match Word::unpack(began.0) {
            Word::In => return None,
            Word::Out { reason, .. } | Word::Probing { reason, .. } => reason,
        };
        if !disproves(reason) {
            return None;
        }
        self.word.compare_exchange(began.0, IN, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        self.returned_ms.store(self.ms(now), Ordering::Relaxed);
        Some(Change::Returned { reason })
    }

    /// For the admin API and metrics.
    pub fn standing(&self, now: Instant) -> Standing {
        match Word::unpack(self.word.load(Ordering::Relaxed)) {
            Word::In => Standing::In,
            Word::Probing { reason, .. } => Standing::Probing { reason },
            Word::Out { until_ms, reason } => {
                let left = Duration::from_millis(until_ms.saturating_sub(self.ms(now)));
                Standing::Ejected { reason, left }
            }
        }
    }

    /// The head of a response came, whatever it says.
    pub fn answered(&self, now: Instant) {
        self.answered_ms.store(self.ms(now), Ordering::Relaxed);
    }

    /// Whether the endpoint has answered any request since then.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.answered_ms.load(Ordering::Relaxed) >= self.ms(then).max(1)
    }

    /// Ejections without a calm time between them.
    pub fn ejections(&self) -> u32 {
        self.level.load(Ordering::Relaxed)
    }

    /// Failed connects and failed requests in a row.
    pub fn failures(&self) -> (u32, u32) {
        (self.connect_failures.load(Ordering::Relaxed), self.gateway_failures.load(Ordering::Relaxed))
    }

    fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.base)).min(MS_MAX / 2)
    }
}

impl AsRef<OutlierState> for OutlierState {
    fn as_ref(&self) -> &OutlierState {
        self
    }
}

/// The right to make the one probe of an ejected endpoint. Dropped before a sign was recorded (the client left), it gives
/// the right back.
#[derive(Debug)]
#[must_use = "a probe that is dropped shows nothing"]
pub struct Probe<S>
where
    S: Deref,
    S::Target: AsRef<OutlierState>,
{
    state: S,
    began: Began,
    reason: Reason,
}

impl<S> Probe<S>
where
    S: Deref,
    S::Target: AsRef<OutlierState>,
{
    /// What is to be probed: a connect is enough where connects had failed.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What the probe's sign is recorded with.
    pub fn began(&self) -> Began {
        self.began
    }
}

impl<S> Drop for Probe<S>
where
    S: Deref,
    S::Target: AsRef<OutlierState>,
{
    fn drop(&mut self) {
        let Word::Probing { since_ms, reason } = Word::unpack(self.began.0) else { return };
        let due = Word::Out { until_ms: since_ms, reason }.pack();
        // Fails where a sign was recorded.
        let word = &(*self.state).as_ref().word;
        let _ = word.compare_exchange(self.began.0, due, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The phase word: bits 0–1 phase, bit 2 reason, 3–63 milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    In,
    Out { until_ms: u64, reason: Reason },
    Probing { since_ms: u64, reason: Reason },
}

impl Word {
    fn pack(self) -> u64 {
        let with = |phase: u64, ms: u64, reason: Reason| {
            phase | u64::from(reason == Reason::Gateway) << 2 | (ms & MS_MAX) << 3
        };
        match self {
            Self::In => IN,
            Self::Out { until_ms, reason } => with(1, until_ms, reason),
            Self::Probing { since_ms, reason } => with(2, since_ms, reason),
        }
    }

    fn unpack(word: u64) -> Self {
        let reason = if word & 0b100 == 0 { Reason::Connect } else { Reason::Gateway };
        match word & 0b11 {
            0 => Self::In,
            1 => Self::Out { until_ms: word >> 3, reason },
            _ => Self::Probing { since_ms: word >> 3, reason },
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const IN: u64 = 0;
const MS_MAX: u64 = (1 << 61) - 1;
/// The longest pause. An endpoint that is back gets requests within this time.
pub const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Past these the pause is [`PAUSE_MAX`] whatever `pause` is.
const DOUBLINGS_MAX: u32 = 16;
/// A probe that takes longer is over: no attempt lasts for a day.
const PROBE_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn detector() -> OutlierDetector {
        OutlierDetector::compile(&OutlierSettings {
            connect_failures: Some(3),
            gateway_failures: Some(5),
            pause: 5 * SECOND,
            max: 0.5,
            panic: 0.5,
        })
    }

    fn record(state: &OutlierState, sign: Sign, now: Instant) -> Option<Change> {
        detector().record(state, state.began(), sign, now, || true)
    }

    fn ejected(now: Instant) -> OutlierState {
        let state = OutlierState::new(now);
        assert_eq!([1, 2].map(|_| record(&state, Sign::ConnectFailed, now)), [None, None]);
        let reason = Reason::Connect;
        let third = Change::Ejected { reason, failures: 3, pause: 5 * SECOND, ejections: 1 };
        assert_eq!(record(&state, Sign::ConnectFailed, now), Some(third));
        state
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        for _ in 0..10 {
            for _ in 0..2 {
                assert_eq!(record(&state, Sign::ConnectFailed, now), None);
            }
            for _ in 0..4 {
                assert_eq!(record(&state, Sign::GatewayFailed, now), None);
            }
            assert_eq!(record(&state, Sign::Answered, now), None);
        }
        assert!(state.is_in());
        for _ in 0..4 {
            record(&state, Sign::GatewayFailed, now);
        }
        // A connection says nothing about answers.
        record(&state, Sign::Connected, now);
        assert!(matches!(
            record(&state, Sign::GatewayFailed, now),
            Some(Change::Ejected { failures: 5, .. })
        ));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_calm_time() {
        let mut now = Instant::now();
        let state = ejected(now);
        let mut pauses = Vec::new();
        for pause in [5, 10, 20, 40, 60, 60] {
            assert!(!state.is_due(now + (pause - 1) * SECOND), "not before {pause} s");
            now += pause * SECOND;
            let probe = OutlierState::probe(&state, now).expect("the pause is over");
            let failed = detector().record(&state, probe.began(), Sign::ConnectFailed, now, || false);
            let Some(Change::Ejected { pause, .. }) = failed else { panic!("{failed:?}") };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 60, 60, 60]);
        now += 60 * SECOND;
        let probe = OutlierState::probe(&state, now).unwrap();
        let back = detector().record(&state, probe.began(), Sign::Connected, now, || false);
        assert_eq!(back, Some(Change::Returned { reason: Reason::Connect }));
        let eject = |now| {
            let last =
                [1, 2, 3].map(|_| record(&state, Sign::ConnectFailed, now)).into_iter().flatten().last();
            let Some(Change::Ejected { pause, ejections, .. }) = last else { panic!("{last:?}") };
            (pause.as_secs(), ejections)
        };
        assert_eq!(eject(now + SECOND), (60, 8), "still the same trouble");
        now += 61 * SECOND;
        let probe = OutlierState::probe(&state, now).unwrap();
        let _ = detector().record(&state, probe.began(), Sign::Connected, now, || false);
        assert_eq!(eject(now + 61 * SECOND), (5, 1));
    }

    #[test]
    fn one_probe_is_made_at_a_time_and_one_that_is_dropped_may_be_made_again() {
        let now = Instant::now();
        let state = ejected(now);
        assert!(OutlierState::probe(&state, now).is_none(), "during the pause");
        let later = now + 5 * SECOND;
        let probe = OutlierState::probe(&state, later).unwrap();
        assert!(OutlierState::probe(&state, later).is_none() && !state.is_due(later));
        assert_eq!(state.standing(later), Standing::Probing { reason: Reason::Connect });
        drop(probe);
        assert!(state.is_due(later) && OutlierState::probe(&state, later).is_some());
    }

    #[test]
    fn an_attempt_from_before_the_ejection_brings_nothing_back() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        let began = state.began();
        for _ in 0..3 {
            record(&state, Sign::ConnectFailed, now);
        }
        assert_eq!(detector().record(&state, began, Sign::Answered, now, || true), None);
        assert!(!state.is_in(), "its connection was there before");
        // Where all endpoints are tried, one that answers is back.
        assert!(matches!(record(&state, Sign::Answered, now), Some(Change::Returned { .. })));
    }

    #[test]
    fn a_connection_is_no_proof_for_an_endpoint_whose_answers_had_failed() {
        let now = Instant::now();
        let state = OutlierState::new(now);
        for _ in 0..5 {
            record(&state, Sign::GatewayFailed, now);
        }
        let later = now + 5 * SECOND;
        let probe = OutlierState::probe(&state, later).unwrap();
        assert_eq!(probe.reason(), Reason::Gateway);
        assert_eq!(detector().record(&state, probe.began(), Sign::Connected, later, || true), None);
        let answered = detector().record(&state, probe.began(), Sign::Answered, later, || true);
        assert_eq!(answered, Some(Change::Returned { reason: Reason::Gateway }));
    }

    #[test]
    fn shares_are_rounded_to_the_careful_side() {
        let detector = detector();
        assert_eq!([1, 2, 3, 4, 10].map(|count| detector.out_max(count)), [0, 1, 1, 2, 5]);
        assert!(!detector.is_panic(1, 2) && detector.is_panic(1, 3) && detector.is_panic(0, 1));
        let now = Instant::now();
        let state = OutlierState::new(now);
        let spared = [1, 2, 3].map(|_| {
            let began = state.began();
            detector.record(&state, began, Sign::ConnectFailed, now, || false)
        });
        assert_eq!(spared, [None, None, Some(Change::Spared { reason: Reason::Connect })]);
        assert!(state.is_in());
    }

    #[test]
    fn every_word_survives_packing() {
        for reason in [Reason::Connect, Reason::Gateway] {
            for word in
                [Word::In, Word::Out { until_ms: MS_MAX, reason }, Word::Probing { since_ms: 7, reason }]
            {
                assert_eq!(Word::unpack(word.pack()), word);
            }
        }
        assert_ne!(Word::Out { until_ms: 0, reason: Reason::Connect }.pack(), IN);
    }
}
