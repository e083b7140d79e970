//! The state of one endpoint's breaker, shared by all workers: its phase in one word, its windows, and the counts
//! that opened it.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::{
    Transitions,
    window::{Counts, Window},
};

/// The state of one endpoint's breaker, which all workers share.
#[derive(Debug)]
pub struct BreakerState {
    /// Phase, epoch and payload: see [`Word`]. Written by any worker with compare-and-swap (acquire-release).
    pub(super) word: AtomicU64,
    /// Counts of all outcomes. `proved` counts the proved failures only.
    pub(super) window: Window,
    pub(super) proved: Window,
    /// The window's counts when the breaker opened last: failures in the upper 32 bits, outcomes in the lower 32.
    opened_by: AtomicU64,
    /// Kind of the request whose status failed the last probe; 0 if none did.
    pub(super) failed_kind: AtomicU32,
    opened: AtomicU32,
    half_opened: AtomicU32,
    closed: AtomicU32,
    /// The instant from which milliseconds are counted.
    base: Instant,
}

impl BreakerState {
    /// A closed breaker without outcomes. Its milliseconds are counted from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            word: AtomicU64::new(Word { phase: Phase::Closed, epoch: 0 }.pack()),
            window: Window::default(),
            proved: Window::default(),
            opened_by: AtomicU64::new(0),
            failed_kind: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            half_opened: AtomicU32::new(0),
            closed: AtomicU32::new(0),
            base: now,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        Word::unpack(self.word.load(Ordering::Relaxed)).phase
    }

    pub(super) fn at(&self, ms: u64) -> Instant {
        self.base + Duration::from_millis(ms)
    }

    /// The window's counts when the breaker opened last.
    pub(super) fn opened_by(&self) -> Counts {
        let counts = self.opened_by.load(Ordering::Relaxed);
        Counts { failures: low_half(counts >> 32), total: low_half(counts) }
    }

    /// Stores the counts that open the breaker. Called before the word changes, so that a reader of an open phase
    /// finds its counts. Workers that race to open the breaker have nearly the same counts.
    pub(super) fn opens_by(&self, counts: Counts) {
        let counts = u64::from(counts.failures) << 32 | u64::from(counts.total);
        self.opened_by.store(counts, Ordering::Relaxed);
    }

    /// Numbers of phase changes so far.
    pub fn transitions(&self) -> Transitions {
        Transitions {
            opened: self.opened.load(Ordering::Relaxed),
            half_opened: self.half_opened.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.base)).min(PAYLOAD_MAX / 2)
    }

    /// The only writer of the word. A change of epoch is a change of phase, and is counted.
    pub(super) fn swap(&self, seen: u64, next: Word) -> Result<(), u64> {
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
pub(super) enum Phase {
    Closed,
    Open { since_ms: u64 },
    HalfOpen { in_flight: u16, succeeded: u16 },
}

/// The phase word: bits 0–1 phase, 2–15 epoch, 16–63 payload (since when, or two counts of 16 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) phase: Phase,
    pub(super) epoch: u16,
}

impl Word {
    pub(super) fn closed(epoch: u16) -> Self {
        Self { phase: Phase::Closed, epoch }
    }

    pub(super) fn followed_by(self, phase: Phase) -> Self {
        Self { phase, epoch: (self.epoch + 1) & EPOCH_MASK }
    }

    pub(super) fn pack(self) -> u64 {
        let (phase, payload) = match self.phase {
            Phase::Closed => (0, 0),
            Phase::Open { since_ms } => (1, since_ms & PAYLOAD_MAX),
            Phase::HalfOpen { in_flight, succeeded } => {
                (2, u64::from(in_flight) | u64::from(succeeded) << 16)
            }
        };
        phase | u64::from(self.epoch) << 2 | payload << 16
    }

    #[allow(clippy::cast_possible_truncation)] // each cast takes the 16 bits that `pack` put there
    pub(super) fn unpack(word: u64) -> Self {
        let payload = word >> 16;
        let phase = match word & 0b11 {
            0 => Phase::Closed,
            1 => Phase::Open { since_ms: payload },
            _ => Phase::HalfOpen { in_flight: payload as u16, succeeded: (payload >> 16) as u16 },
        };
        Self { phase, epoch: (word >> 2) as u16 & EPOCH_MASK }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "that half is asked for")]
fn low_half(word: u64) -> u32 {
    word as u32
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) const EPOCH_MASK: u16 = (1 << 14) - 1;
/// Largest payload of a phase word: 8,900 years in milliseconds. Half of it is the latest moment, so that the
/// sum of two moments still fits.
pub(super) const PAYLOAD_MAX: u64 = (1 << 48) - 1;
