//! The budget of an HTTP/2 client for frames that are not progress: control frames, and requests that it resets.
//!
//! h2 answers or ignores such frames for as long as they come, which costs a core for a client that sends nothing
//! else. A connection has a budget of them for each second and more for each frame that is progress, and a stock of
//! resets. Past either it ends. Nothing here reads a clock: the worker's sweep reports the end of a second.

use std::cell::Cell;

use super::{
    Ended,
    frames::{FrameHead, kind},
};
use crate::listen::Http2Settings;

/// The budget of one connection.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    /// Control frames that are allowed in a second.
    control_max: Cell<i32>,
    /// Half resets that are in the stock.
    resets_max: Cell<i32>,
    /// Fields that one header block may have.
    fields_max: Cell<u32>,
    /// Control frames of this second, minus those that progress has earned.
    control: Cell<i32>,
    /// Half resets of the stock that have been used.
    resets: Cell<i32>,
    /// Fields of header blocks with too many of them; each second gives `fields_max` of them back.
    oversized: Cell<u32>,
}

impl FrameBudget {
    /// A budget without limits. [`FrameBudget::limit`] sets them.
    pub(crate) fn new() -> Self {
        Self {
            control_max: Cell::new(i32::MAX),
            resets_max: Cell::new(i32::MAX),
            fields_max: Cell::new(u32::MAX),
            oversized: Cell::default(),
            control: Cell::default(),
            resets: Cell::default(),
        }
    }

    /// Sets the limits of an HTTP/2 connection. Frames that came with its preface count.
    pub(crate) fn limit(&self, settings: Http2Settings, fields_max: usize) {
        let number = |max: Option<u32>| max.and_then(|max| i32::try_from(max).ok()).unwrap_or(i32::MAX);
        self.control_max.set(number(settings.frames_per_second));
        self.resets_max.set(number(settings.resets).saturating_mul(2));
        self.fields_max.set(u32::try_from(fields_max).unwrap_or(u32::MAX));
    }

    /// Counts a frame of the client. Returns the reason to end the connection if the budget is used up.
    pub(crate) fn arrived(&self, head: &FrameHead) -> Option<Ended> {
        match head.kind {
            kind::HEADERS => {
                self.earn(CONTROL_PER_REQUEST);
                self.resets.set((self.resets.get() - 1).max(0));
            }
            kind::DATA if head.content_bytes() > 0 => self.earn(CONTROL_PER_DATA),
            kind::RST_STREAM => {
                let used = self.resets.get().saturating_add(2);
                self.resets.set(used);
                if used > self.resets_max.get() {
                    return Some(RESET_FLOOD);
                }
            }
            _ => {
                // A long frame is more work.
                let weight = 1 + i32::try_from(head.bytes / CONTROL_BYTES).unwrap_or(i32::MAX / 2);
                let used = self.control.get().saturating_add(weight);
                self.control.set(used);
                if used > self.control_max.get() {
                    return Some(CONTROL_FLOOD);
                }
            }
        }
        None
    }

    /// Counts a header block with this number of fields, which is not decoded yet. Returns as [`FrameBudget::arrived`].
    pub(crate) fn block_arrived(&self, fields: u32) -> Option<Ended> {
        if fields <= self.fields_max.get() {
            return None;
        }
        let before = self.oversized.get();
        let used = before.saturating_add(fields);
        self.oversized.set(used);
        // A single block gets its 431, however large it is.
        (before > 0 && used > self.oversized_max()).then_some(HEADER_FLOOD)
    }

    /// Counts a frame of the gateway. The client may acknowledge what it gets: by WINDOW_UPDATE for content, for the
    /// stream and the connection, and by PING to measure the bandwidth.
    pub(crate) fn sent(&self, head: &FrameHead) {
        if head.kind == kind::DATA && head.bytes >= DATA_BYTES_MIN {
            self.earn(CONTROL_PER_DATA_SENT);
        }
    }

    /// Begins another second: control frames start anew, and resets and fields come back in part.
    pub(crate) fn second_passed(&self) {
        self.control.set(0);
        let back = self.resets_max.get() / RESETS_BACK_IN_SECONDS;
        self.resets.set((self.resets.get() - back.max(2)).max(0));
        self.oversized.set(self.oversized.get().saturating_sub(self.fields_max.get()));
    }

    fn oversized_max(&self) -> u32 {
        self.fields_max.get().saturating_mul(OVERSIZED_BLOCKS)
    }

    /// Adds control frames for a frame that is progress. Frames that are earned and not used are lost at the end of the
    /// second.
    fn earn(&self, frames: i32) {
        self.control.set(self.control.get().saturating_sub(frames).max(-CONTROL_SAVED_MAX));
    }
}

/// The client sent too many control frames. This and the two below are reasons in the metric and the log.
pub(crate) const CONTROL_FLOOD: Ended = "control_flood";
/// The client reset too many requests.
pub(crate) const RESET_FLOOD: Ended = "reset_flood";
/// The client sent too many header blocks with too many fields.
pub(crate) const HEADER_FLOOD: Ended = "header_flood";

/// Header sections that are refused for the number of their fields may together have this many times the fields of one
/// that is allowed. A section just past the limit gets its 431 ten times, so that a page with too many cookies loads after
/// a new connection. A section can have 2,900 fields, which cost h2 200 KiB and a quarter of a millisecond, and as many
/// sections as `listen.max_streams` are decoded before the first is refused. So the second one of that size ends its
/// connection undecoded.
const OVERSIZED_BLOCKS: u32 = 10;

/// A frame of this many bytes counts twice: a SETTINGS frame of 16 KiB has 2,730 settings.
const CONTROL_BYTES: u32 = 256;

/// Control frames that each HEADERS frame earns: PRIORITY, WINDOW_UPDATE for the response, a frame of a reserved type (RFC
/// 8701).
const CONTROL_PER_REQUEST: i32 = 10;

/// Control frames that each DATA frame from the client earns.
const CONTROL_PER_DATA: i32 = 1;
/// Control frames that each DATA frame to the client earns. The most eager clients answer each of them with WINDOW_UPDATE
/// for stream and connection, and with a PING that measures the bandwidth. (Envoy allows 10.)
const CONTROL_PER_DATA_SENT: i32 = 4;

/// Smallest DATA frame to the client, in bytes, that counts as progress. Smaller ones go out only if the client opens its
/// window byte by byte.
const DATA_BYTES_MIN: u32 = 16;

/// Bound of the counter.
const CONTROL_SAVED_MAX: i32 = 1 << 24;

/// The stock of resets is back in this time, twenty in each second of 256: an input that requests again with each key pressed
/// takes nearly every request back, a few in a second and all day long.
const RESETS_BACK_IN_SECONDS: i32 = 12;

#[cfg(test)]
mod tests {
    use super::super::frames::{Found, FrameScan};
    use super::*;

    /// The head of a frame, with an empty payload where the payload is read.
    fn heads(kind: u8, bytes: u16) -> FrameHead {
        let mut found = None;
        let [high, low] = bytes.to_be_bytes();
        FrameScan::new().pass(&[0, high, low, kind, 0, 0, 0, 0, 1], |part| {
            if let Found::Frame(head) = part {
                found = Some(*head);
            }
        });
        found.unwrap()
    }

    /// Frames of these kinds, in turn, until the connection ends. `None`: it did not end.
    fn ends_after(budget: &FrameBudget, kinds: &[u8], frames: usize) -> Option<(usize, Ended)> {
        let turns = kinds.iter().cycle().take(frames).enumerate();
        turns.into_iter().find_map(|(at, &kind)| Some((at, budget.arrived(&heads(kind, 0))?)))
    }

    fn limited(frames_per_second: Option<u32>, resets: Option<u32>) -> FrameBudget {
        let budget = FrameBudget::new();
        budget.limit(Http2Settings { frames_per_second, resets }, 360);
        budget
    }

    /// The budget by default.
    fn by_default() -> FrameBudget {
        limited(Some(1000), Some(256))
    }

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    #[test]
    fn control_frames_end_a_connection_past_their_budget_of_a_second() {
        for kind in [kind::DATA, 2, 4, PING, WINDOW_UPDATE, 9, 0xbe] {
            let budget = by_default();
            assert_eq!(ends_after(&budget, &[kind], 1000), None);
            budget.second_passed();
            assert_eq!(ends_after(&budget, &[kind], 1001), Some((1000, CONTROL_FLOOD)));
        }
        let budget = by_default();
        let large = (0..100).position(|_| budget.arrived(&heads(4, 16 * 1024)).is_some());
        assert_eq!(large, Some(15), "a frame of 16 KiB is 65");
    }

    #[test]
    fn a_client_that_acknowledges_what_it_gets_is_never_past_its_budget() {
        let budget = by_default();
        for _ in 0..100_000 {
            budget.sent(&heads(kind::DATA, 20));
            assert_eq!(ends_after(&budget, &[WINDOW_UPDATE, WINDOW_UPDATE, PING], 3), None);
        }
        let budget = by_default();
        assert_eq!(
            ends_after(&budget, &[kind::HEADERS, 2, WINDOW_UPDATE, WINDOW_UPDATE, 0xbe], 100_000),
            None
        );
    }

    #[test]
    fn a_client_that_opens_its_window_byte_by_byte_is() {
        let budget = by_default();
        assert!((0..1001).any(|_| {
            budget.sent(&heads(kind::DATA, 1));
            ends_after(&budget, &[WINDOW_UPDATE], 1).is_some()
        }));
    }

    #[test]
    fn every_second_request_may_be_taken_back_and_a_page_that_is_left_all() {
        let budget = by_default();
        assert_eq!(ends_after(&budget, &[kind::HEADERS, kind::HEADERS, kind::RST_STREAM], 100_000), None);
        let budget = by_default();
        for _ in 0..2 {
            assert_eq!(ends_after(&budget, &[kind::HEADERS], 128), None);
            assert_eq!(ends_after(&budget, &[kind::RST_STREAM], 128), None);
        }
        // Twenty requests in a second, each of them reset, for a day.
        let budget = by_default();
        for _ in 0..86_400 {
            assert_eq!(ends_after(&budget, &[kind::HEADERS, kind::RST_STREAM], 40), None);
            budget.second_passed();
        }
    }

    #[test]
    fn a_rapid_reset_ends_its_connection_at_any_pace_that_costs_something() {
        for pairs_in_a_second in [60, 1450, 1_000_000] {
            let budget = by_default();
            let seconds = (0..60).position(|_| {
                let ended = ends_after(&budget, &[kind::HEADERS, kind::RST_STREAM], 2 * pairs_in_a_second);
                budget.second_passed();
                ended.is_some()
            });
            let expected = if pairs_in_a_second > 1000 { 0 } else { 50 };
            assert!(seconds.is_some_and(|seconds| seconds <= expected), "{pairs_in_a_second}: {seconds:?}");
        }
    }

    #[test]
    fn other_numbers_are_the_operators() {
        for frames in [50, 5000] {
            let budget = limited(Some(frames), None);
            let allowed = usize::try_from(frames).unwrap();
            assert_eq!(ends_after(&budget, &[PING], allowed + 1), Some((allowed, CONTROL_FLOOD)));
        }
        for resets in [10, 5000] {
            let budget = limited(None, Some(resets));
            let allowed = usize::try_from(resets).unwrap();
            assert_eq!(ends_after(&budget, &[kind::RST_STREAM], allowed + 1), Some((allowed, RESET_FLOOD)));
            // The stock is back after twelve seconds.
            (0..12).for_each(|_| budget.second_passed());
            assert!(ends_after(&budget, &[kind::RST_STREAM], allowed / 2).is_none(), "{resets}");
        }
        let budget = limited(None, None);
        assert_eq!(ends_after(&budget, &[PING, kind::RST_STREAM], 1_000_000), None);
        let budget = limited(Some(100_000_000), Some(100_000_000));
        assert_eq!(ends_after(&budget, &[PING, kind::RST_STREAM], 1_000_000), None);
    }

    #[test]
    fn frames_that_came_with_the_preface_count() {
        let budget = FrameBudget::new();
        assert_eq!(ends_after(&budget, &[PING], 60), None);
        budget.limit(Http2Settings { frames_per_second: Some(50), resets: None }, 360);
        assert_eq!(ends_after(&budget, &[PING], 1), Some((0, CONTROL_FLOOD)));
    }

    #[test]
    fn header_blocks_just_past_the_limit_end_a_connection_when_there_are_many() {
        let budget = by_default();
        assert!((0..100_000).all(|_| budget.block_arrived(360).is_none()));
        assert!((0..9).all(|_| budget.block_arrived(361).is_none()));
        budget.second_passed();
        assert_eq!(budget.block_arrived(361), None, "one comes back in a second");
        assert_eq!(budget.block_arrived(361), Some(HEADER_FLOOD));
    }

    #[test]
    fn the_second_large_header_block_ends_a_connection() {
        for fields in [2000, 2900, u32::MAX] {
            let budget = by_default();
            let seen: Vec<_> = (0..2).map(|_| budget.block_arrived(fields)).collect();
            assert_eq!(seen, [None, Some(HEADER_FLOOD)], "{fields}");
        }
    }
}
