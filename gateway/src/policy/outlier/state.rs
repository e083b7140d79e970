//! The state of one endpoint's ejections, shared by all workers: its phase in one word, and its failures in a row.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::{Change, Proof, Reason, Standing};

/// The phase of an [`OutlierState`] when an attempt began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    pub(super) word: u64,
    /// When the last ejection before the attempt ended.
    returned_ms: u64,
}

impl Began {
    /// Whether the endpoint was in.
    pub fn was_in(self) -> bool {
        self.word == IN
    }

    /// Whether the endpoint was in, and has been out and come back since then: that ejection has settled earlier failures.
    pub(super) fn is_judged(self, state: &OutlierState) -> bool {
        self.was_in() && self.returned_ms != state.returned_ms.load(Ordering::Relaxed)
    }
}

/// The state of one endpoint's outlier detection, which all workers share.
#[derive(Debug)]
pub struct OutlierState {
    /// The phase: see [`Word`]. Written by any worker with compare-and-swap (acquire-release).
    pub(super) word: AtomicU64,
    /// Failed connects in a row. `gateway_failures` counts failed requests in a row.
    pub(super) connect_failures: AtomicU32,
    pub(super) gateway_failures: AtomicU32,
    /// Requests that have waited for too long since the last response: `answered_ms` in the upper 48 bits, their number in the
    /// lower 16.
    unanswered: AtomicU64,
    /// Ejections without a calm time between them.
    pub(super) level: AtomicU32,
    /// When the last ejection ended.
    pub(super) returned_ms: AtomicU64,
    /// When the last response head of any request came.
    answered_ms: AtomicU64,
    /// When the last response came for which a request had waited unusually long.
    late_ms: AtomicU64,
    /// Ejections for silence since the state was made.
    pub(super) silences: AtomicU32,
    /// The instant from which milliseconds are counted.
    base: Instant,
}

impl OutlierState {
    /// The state of an endpoint that is in, without failures. Its milliseconds are counted from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            word: AtomicU64::new(Word::In.pack()),
            connect_failures: AtomicU32::new(0),
            gateway_failures: AtomicU32::new(0),
            unanswered: AtomicU64::new(0),
            level: AtomicU32::new(0),
            returned_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            late_ms: AtomicU64::new(0),
            silences: AtomicU32::new(0),
            base: now,
        }
    }

    /// The phase for an attempt that begins now, with which its sign is recorded later.
    pub fn began(&self) -> Began {
        self.began_with(self.word.load(Ordering::Relaxed))
    }

    fn began_with(&self, word: u64) -> Began {
        Began { word, returned_ms: self.returned_ms.load(Ordering::Relaxed) }
    }

    /// Whether the endpoint is not ejected. It costs one load.
    pub fn is_in(&self) -> bool {
        self.word.load(Ordering::Relaxed) == IN
    }

    /// Whether the endpoint is ejected for silence.
    pub fn is_silent(&self) -> bool {
        matches!(
            Word::unpack(self.word.load(Ordering::Relaxed)),
            Word::Out { reason: Reason::Silence, .. } | Word::Probing { reason: Reason::Silence, .. }
        )
    }

    /// Number of ejections for silence.
    pub fn silences(&self) -> u32 {
        self.silences.load(Ordering::Relaxed)
    }

    /// Whether the endpoint is ejected and its pause is over, so that one probe may be made.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due(now).is_some()
    }

    /// The word, the reason of the ejection, and the time for which the pause has been over. `None`: a probe is not due.
    fn due(&self, now: Instant) -> Option<(Word, Reason, Duration)> {
        let now_ms = self.ms(now);
        let (word, reason, since_ms) = match Word::unpack(self.word.load(Ordering::Acquire)) {
            word @ Word::Out { until_ms, reason } => (word, reason, until_ms),
            // The probe was never recorded or dropped. A guard prevents that, but the endpoint must not stay out if it happens.
            word @ Word::Probing { since_ms, reason } => (word, reason, since_ms + millis(PROBE_MAX)),
            Word::In => return None,
        };
        Some((word, reason, Duration::from_millis(now_ms.checked_sub(since_ms)?)))
    }

    /// Takes the one probe that may be made now, if `may` accepts the reason of the ejection and the time since the pause
    /// ended. `state` is any handle to a value that contains this state.
    pub fn probe<S>(state: S, now: Instant, may: impl FnOnce(Reason, Duration) -> bool) -> Option<Probe<S>>
    where
        S: Deref,
        S::Target: AsRef<Self>,
    {
        let (began, reason) = {
            let this = (*state).as_ref();
            let (seen, reason, over) = this.due(now)?;
            if !may(reason, over) {
                return None;
            }
            let probing = Word::Probing { since_ms: this.ms(now), reason }.pack();
            this.word.compare_exchange(seen.pack(), probing, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            (this.began_with(probing), reason)
        };
        Some(Probe { state, began, reason })
    }

    /// Ends the ejection, if the phase is the one in which the attempt began, and the attempt has disproved the reason.
    pub(super) fn come_back(
        &self,
        began: Began,
        disproves: impl FnOnce(Reason) -> bool,
        now: Instant,
    ) -> Option<Change> {
        let (reason, proof) = match Word::unpack(began.word) {
            Word::In => return None,
            Word::Out { reason, .. } => (reason, Proof::Attempt),
            Word::Probing { reason, .. } => (reason, Proof::Probe),
        };
        if !disproves(reason) {
            return None;
        }
        self.word.compare_exchange(began.word, IN, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        self.returned_ms.store(self.ms(now), Ordering::Relaxed);
        Some(Change::Returned { reason, proof })
    }

    /// The phase for the admin API and metrics.
    pub fn standing(&self, now: Instant) -> Standing {
        match Word::unpack(self.word.load(Ordering::Relaxed)) {
            Word::In => Standing::In,
            Word::Probing { reason, .. } => Standing::Probing { reason },
            Word::Out { until_ms, reason } => {
                let until = self.base + Duration::from_millis(until_ms);
                if until > now {
                    Standing::Ejected { reason, until }
                } else {
                    Standing::Due { reason, since: until }
                }
            }
        }
    }

    /// Records that a response head came, with any status.
    pub fn answered(&self, now: Instant) {
        self.answered_ms.store(self.ms(now), Ordering::Relaxed);
    }

    /// Whether the endpoint has responded to any request since `then`.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.answered_ms.load(Ordering::Relaxed) >= self.ms(then).max(1)
    }

    /// Records that the response which comes now is for a request that has waited for long.
    pub fn answered_late(&self, now: Instant) {
        self.late_ms.store(self.ms(now), Ordering::Relaxed);
    }

    /// Whether the endpoint has responded since `then`, and has gone on responding after its last late response.
    pub fn is_quick_since(&self, then: Instant) -> bool {
        let late_ms = self.late_ms.load(Ordering::Relaxed);
        let is_over = late_ms == 0 || self.answered_ms.load(Ordering::Relaxed) > late_ms + LATE_LASTS_MS;
        self.has_answered_since(then) && is_over
    }

    /// Number of requests that have waited for too long since the last response. `is_new` counts one more.
    pub(super) fn unanswered(&self, is_new: bool) -> u32 {
        let since = self.answered_ms.load(Ordering::Relaxed) << UNANSWERED_BITS;
        let mut seen = self.unanswered.load(Ordering::Relaxed);
        loop {
            let row = if seen & !UNANSWERED_MAX == since { seen } else { since };
            let next = if is_new && row & UNANSWERED_MAX < UNANSWERED_MAX { row + 1 } else { row };
            match self.unanswered.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return u32::try_from(next & UNANSWERED_MAX).unwrap_or(u32::MAX),
                Err(now_seen) => seen = now_seen,
            }
        }
    }

    /// Ejections without a calm time between them.
    pub fn ejections(&self) -> u32 {
        self.level.load(Ordering::Relaxed)
    }

    /// Failed connects and failed requests in a row.
    pub fn failures(&self) -> (u32, u32) {
        (self.connect_failures.load(Ordering::Relaxed), self.gateway_failures.load(Ordering::Relaxed))
    }

    pub(super) fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.base)).min(MS_MAX / 2)
    }
}

impl AsRef<OutlierState> for OutlierState {
    fn as_ref(&self) -> &OutlierState {
        self
    }
}

/// The right to make the one probe of an ejected endpoint. If it is dropped before a sign was recorded (the client left), a
/// new probe is due at once.
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
    /// Why the endpoint was ejected. A connect is a sufficient probe where connects had failed.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The phase with which the probe's sign is recorded.
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
        let Word::Probing { since_ms, reason } = Word::unpack(self.began.word) else { return };
        let due = Word::Out { until_ms: since_ms, reason }.pack();
        // This fails if a sign was recorded, and then nothing is to be done.
        let word = &(*self.state).as_ref().word;
        let _ = word.compare_exchange(self.began.word, due, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The phase word: bits 0–1 phase, 2–3 reason, 4–63 milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    In,
    Out { until_ms: u64, reason: Reason },
    Probing { since_ms: u64, reason: Reason },
}

impl Word {
    pub(super) fn pack(self) -> u64 {
        let with = |phase: u64, ms: u64, reason: Reason| {
            let reason = match reason {
                Reason::Connect => 0,
                Reason::Gateway => 1,
                Reason::Silence => 2,
            };
            phase | reason << 2 | (ms & MS_MAX) << 4
        };
        match self {
            Self::In => IN,
            Self::Out { until_ms, reason } => with(1, until_ms, reason),
            Self::Probing { since_ms, reason } => with(2, since_ms, reason),
        }
    }

    pub(super) fn unpack(word: u64) -> Self {
        let reason = match word >> 2 & 0b11 {
            0 => Reason::Connect,
            1 => Reason::Gateway,
            _ => Reason::Silence,
        };
        match word & 0b11 {
            0 => Self::In,
            1 => Self::Out { until_ms: word >> 4, reason },
            _ => Self::Probing { since_ms: word >> 4, reason },
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) const IN: u64 = 0;
pub(super) const MS_MAX: u64 = (1 << 60) - 1;
const UNANSWERED_BITS: u32 = 16;
const UNANSWERED_MAX: u64 = (1 << UNANSWERED_BITS) - 1;
/// A response so soon after a late one may be that late response, or another late one.
const LATE_LASTS_MS: u64 = 100;
/// A probe that takes longer is over: no attempt lasts for a day.
const PROBE_MAX: Duration = Duration::from_hours(24);
