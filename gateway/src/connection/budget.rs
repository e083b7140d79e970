//! How much an HTTP/2 client may ask for that is no progress: control frames, and requests that it takes back.
//!
//! h2 answers or ignores such frames for as long as they come, which costs a core for a client that sends nothing
//! else. A connection has a budget of them for each second and more for each frame that is progress, and a stock of
//! resets. Past either it ends. Nothing here reads a clock: the worker's sweep says when a second is over.

use std::cell::Cell;

use super::{
    frames::{FrameHead, kind},
    state::Ended,
};

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct FrameBudget {
    /// Of this second: what control frames have used beyond what progress has earned.
    control: Cell<i32>,
    /// Half resets that were used of the stock.
    resets: Cell<i32>,
}

impl FrameBudget {
    /// A frame of the client; the reason to end the connection, if it was one too many.
    pub(super) fn arrived(&self, head: &FrameHead) -> Option<Ended> {
        match head.kind {
            kind::HEADERS => {
                self.earn(CONTROL_PER_REQUEST);
                self.resets.set((self.resets.get() - 1).max(0));
            }
            kind::DATA if head.content_bytes() > 0 => self.earn(CONTROL_PER_DATA),
            kind::RST_STREAM => {
                let used = self.resets.get() + 2;
                self.resets.set(used);
                if used > 2 * RESETS_MAX {
                    return Some(RESET_FLOOD);
                }
            }
            _ => {
                // A long one is more work.
                let weight = 1 + i32::try_from(head.bytes / CONTROL_BYTES).unwrap_or(i32::MAX / 2);
                let used = self.control.get().saturating_add(weight);
                self.control.set(used);
                if used > CONTROL_MAX {
                    return Some(CONTROL_FLOOD);
                }
            }
        }
        None
    }

    /// A frame of ours. What the client gets it may acknowledge: WINDOW_UPDATE for content, for the stream and the
    /// connection, and PING to measure the way.
    pub(super) fn sent(&self, head: &FrameHead) {
        if head.kind == kind::DATA && head.bytes >= DATA_BYTES_MIN {
            self.earn(CONTROL_PER_DATA_SENT);
        }
    }

    pub(super) fn second_passed(&self) {
        self.control.set(0);
        self.resets.set((self.resets.get() - 2 * RESETS_PER_SECOND).max(0));
    }

    /// What is earned and not used is gone with the second.
    fn earn(&self, frames: i32) {
        self.control.set(self.control.get().saturating_sub(frames).max(-CONTROL_SAVED_MAX));
    }
}

/// Reasons for the metric and the log.
pub(super) const CONTROL_FLOOD: Ended = "control_flood";
pub(super) const RESET_FLOOD: Ended = "reset_flood";

/// PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA without content and unknown frames that a client may
/// send in a second for nothing. Honest clients send a handful; this many take 0.1 % of a core.
const CONTROL_MAX: i32 = 1000;

/// A frame of this many bytes counts twice: a SETTINGS frame of 16 KiB has 2,730 settings.
const CONTROL_BYTES: u32 = 256;

/// More for each HEADERS: PRIORITY, WINDOW_UPDATE for the response, a frame that means nothing (RFC 8701).
const CONTROL_PER_REQUEST: i32 = 10;

/// More for each DATA frame from the client, and to it. The most eager clients answer each of ours with WINDOW_UPDATE for
/// stream and connection, and a PING that measures the bandwidth. (Envoy allows 10.)
const CONTROL_PER_DATA: i32 = 1;
const CONTROL_PER_DATA_SENT: i32 = 4;

/// A response that goes out in smaller pieces does so because its client opens the window byte by byte: that is no
/// progress.
const DATA_BYTES_MIN: u32 = 16;

/// A bound for the counter.
const CONTROL_SAVED_MAX: i32 = 1 << 24;

/// RST_STREAM from the client that it may send beyond half of its requests. A page that is left takes back all that is
/// open, up to `listen.max_streams`, twice within a second where the user is quick. Envoy's numbers are the same: half of
/// 500 requests.
const RESETS_MAX: i32 = 256;

/// So many come back in a second: a field that asks again with each key pressed takes nearly every request back, a few
/// in a second and all day long.
const RESETS_PER_SECOND: i32 = 20;

#[cfg(test)]
mod tests {
    use super::super::frames::FrameScan;
    use super::*;

    /// The head of a frame; a payload without content where it is looked at.
    fn heads(kind: u8, bytes: u16) -> FrameHead {
        let mut found = None;
        let [high, low] = bytes.to_be_bytes();
        FrameScan::new().pass(&[0, high, low, kind, 0, 0, 0, 0, 1], |head| found = Some(*head));
        found.unwrap()
    }

    /// Frames of these kinds, in turn, until the connection ends; `None`: it did not.
    fn ends_after(budget: &FrameBudget, kinds: &[u8], frames: usize) -> Option<(usize, Ended)> {
        let turns = kinds.iter().cycle().take(frames).enumerate();
        turns.into_iter().find_map(|(at, &kind)| Some((at, budget.arrived(&heads(kind, 0))?)))
    }

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    #[test]
    fn control_frames_end_a_connection_past_their_budget_of_a_second() {
        for kind in [kind::DATA, 2, 4, PING, WINDOW_UPDATE, 9, 0xbe] {
            let budget = FrameBudget::default();
            assert_eq!(ends_after(&budget, &[kind], 1000), None);
            budget.second_passed();
            assert_eq!(ends_after(&budget, &[kind], 1001), Some((1000, CONTROL_FLOOD)));
        }
        let budget = FrameBudget::default();
        let large = (0..100).position(|_| budget.arrived(&heads(4, 16 * 1024)).is_some());
        assert_eq!(large, Some(15), "a frame of 16 KiB is 65");
    }

    #[test]
    fn a_client_that_acknowledges_what_it_gets_is_never_past_its_budget() {
        let budget = FrameBudget::default();
        for _ in 0..100_000 {
            budget.sent(&heads(kind::DATA, 20));
            assert_eq!(ends_after(&budget, &[WINDOW_UPDATE, WINDOW_UPDATE, PING], 3), None);
        }
        let budget = FrameBudget::default();
        assert_eq!(
            ends_after(&budget, &[kind::HEADERS, 2, WINDOW_UPDATE, WINDOW_UPDATE, 0xbe], 100_000),
            None
        );
    }

    #[test]
    fn a_client_that_opens_its_window_byte_by_byte_is() {
        let budget = FrameBudget::default();
        assert!((0..1001).any(|_| {
            budget.sent(&heads(kind::DATA, 1));
            ends_after(&budget, &[WINDOW_UPDATE], 1).is_some()
        }));
    }

    #[test]
    fn every_second_request_may_be_taken_back_and_a_page_that_is_left_all() {
        let budget = FrameBudget::default();
        assert_eq!(ends_after(&budget, &[kind::HEADERS, kind::HEADERS, kind::RST_STREAM], 100_000), None);
        let budget = FrameBudget::default();
        for _ in 0..2 {
            assert_eq!(ends_after(&budget, &[kind::HEADERS], 128), None);
            assert_eq!(ends_after(&budget, &[kind::RST_STREAM], 128), None);
        }
        // Twenty in a second, each taken back, for a day.
        let budget = FrameBudget::default();
        for _ in 0..86_400 {
            assert_eq!(ends_after(&budget, &[kind::HEADERS, kind::RST_STREAM], 40), None);
            budget.second_passed();
        }
    }

    #[test]
    fn a_rapid_reset_ends_its_connection_at_any_pace_that_costs_something() {
        for pairs_in_a_second in [60, 1450, 1_000_000] {
            let budget = FrameBudget::default();
            let seconds = (0..60).position(|_| {
                let ended = ends_after(&budget, &[kind::HEADERS, kind::RST_STREAM], 2 * pairs_in_a_second);
                budget.second_passed();
                ended.is_some()
            });
            let expected = if pairs_in_a_second > 1000 { 0 } else { 50 };
            assert!(seconds.is_some_and(|seconds| seconds <= expected), "{pairs_in_a_second}: {seconds:?}");
        }
    }
}
