//! The sliding window of a breaker: outcomes and failures in [`SLOTS`] slots, without a lock and without clearing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of the last [`SLOTS`] ticks.
#[derive(Debug, Default)]
pub(super) struct Window([Slot; SLOTS]);

/// Outcomes of a window, and the failures among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: u32,
    pub(super) failures: u32,
}

impl Window {
    /// Counts an outcome at `tick`.
    pub(super) fn record(&self, epoch: u16, tick: u64, failed: bool) {
        self.slot(tick).record(Tag::new(epoch, tick), failed);
    }

    /// Turns an outcome that was counted as a success into a failure.
    pub(super) fn turn_to_failure(&self, epoch: u16, tick: u64) {
        self.slot(tick).turn_to_failure(Tag::new(epoch, tick));
    }

    /// Counts of the last [`SLOTS`] ticks, up to this one.
    pub(super) fn counts(&self, epoch: u16, tick: u64) -> Counts {
        let oldest = tick.saturating_sub(SLOTS as u64 - 1);
        let slots = (oldest..=tick).filter_map(|tick| self.slot(tick).counts(Tag::new(epoch, tick)));
        slots.fold(Counts::default(), |sum, slot| Counts {
            total: sum.total + slot.total,
            failures: sum.failures + slot.failures,
        })
    }

    fn slot(&self, tick: u64) -> &Slot {
        // The remainder is below SLOTS, on every platform.
        &self.0[usize::try_from(tick % SLOTS as u64).unwrap_or(0)]
    }
}

/// One slot of the window: bits 0–19 failures, 20–39 outcomes, 40–63 their tag. A slot with another tag than the
/// current one counts as empty, so slots are never cleared: neither as time goes on nor when the breaker closes.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

impl Slot {
    fn record(&self, tag: Tag, failed: bool) {
        let failed = u64::from(failed);
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

    /// Turns a success of this slot into a failure. If the slot has no success, the success was counted in an
    /// earlier slot, and the failure becomes one more outcome of this one.
    fn turn_to_failure(&self, tag: Tag) {
        let mut seen = self.0.load(Ordering::Relaxed);
        while Self::read(seen, tag).is_some_and(|slot| slot.failures < slot.total) {
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now_seen) => seen = now_seen,
            }
        }
        self.record(tag, true);
    }

    /// The slot's counts. `None`: the slot has another tag.
    fn counts(&self, tag: Tag) -> Option<Counts> {
        Self::read(self.0.load(Ordering::Acquire), tag)
    }

    #[allow(clippy::cast_possible_truncation)] // 20 bits each
    fn read(seen: u64, tag: Tag) -> Option<Counts> {
        (seen >> TAG_SHIFT == tag.0).then_some(Counts {
            total: (seen >> COUNT_BITS & COUNT_MAX) as u32,
            failures: (seen & COUNT_MAX) as u32,
        })
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

/// Slots of the sliding window: it forgets in steps of a tenth.
pub(super) const SLOTS: usize = 10;
/// Outcomes that one slot can count.
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const COUNT_BITS: u32 = 20;
const TAG_SHIFT: u32 = 2 * COUNT_BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_slot_stops_counting_and_does_not_overflow() {
        let slot = Slot(AtomicU64::new(7 << TAG_SHIFT | COUNT_MAX << COUNT_BITS | COUNT_MAX));
        slot.record(Tag(7), true);
        slot.turn_to_failure(Tag(7));
        assert_eq!(slot.counts(Tag(7)), Some(Counts { total: 0xF_FFFF, failures: 0xF_FFFF }));
    }

    #[test]
    fn a_success_that_turns_into_a_failure_is_one_outcome_and_in_a_later_slot_another() {
        let window = Window::default();
        window.record(0, 1, false);
        window.turn_to_failure(0, 1);
        assert_eq!(window.counts(0, 1), Counts { total: 1, failures: 1 });
        window.turn_to_failure(0, 2);
        assert_eq!(window.counts(0, 2), Counts { total: 2, failures: 2 });
    }
}
