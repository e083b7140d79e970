//! The response time of an endpoint: a moving average that rises at once and falls slowly (peak EWMA). Unit: seconds.
//!
//! A response that is slower than the average replaces it; a faster one moves it by `1 - e^(-Δt/τ)`, where Δt is the time
//! since the last response and τ is [`DECAY`]. Without responses the average decays towards zero, so that an endpoint that
//! was slow is tried again. A failure counts only if it is slower than the average, because an endpoint that fails quickly
//! is not fast. Source: `load::PeakEwma` of tower and linkerd2-proxy, both after Twitter's Finagle.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The average of one endpoint, shared by all workers.
#[derive(Debug)]
pub struct ResponseTime {
    began: Instant,
    /// The milliseconds from `began` to the last response, and the average in seconds as an `f32`.
    word: AtomicU64,
}

impl ResponseTime {
    /// Before the first response the average is [`UNKNOWN`], so that a new endpoint gets some requests, but not all.
    pub fn new(now: Instant) -> Self {
        Self { began: now, word: AtomicU64::new(pack(0, UNKNOWN.as_secs_f32())) }
    }

    /// Records how long an attempt took. `has_failed`: it counts only if it was slower than the average.
    pub fn record(&self, took: Duration, has_failed: bool, now: Instant) {
        let (took, at) = (took.as_secs_f32(), self.millis(now));
        let learned = |word| {
            let (last, average) = unpack(word);
            let new = if took > average {
                took
            } else if has_failed {
                return None;
            } else {
                let kept = decay(at.wrapping_sub(last));
                average * kept + took * (1.0 - kept)
            };
            Some(pack(at, new))
        };
        // Nothing else depends on the word, so no memory order is needed.
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, learned);
    }

    /// The average at `now`, in seconds. It is never zero, so that requests in flight always matter.
    pub fn seconds(&self, now: Instant) -> f32 {
        let (last, average) = unpack(self.word.load(Ordering::Relaxed));
        (average * decay(self.millis(now).wrapping_sub(last))).max(SHORTEST.as_secs_f32())
    }

    /// Wraps after 49 days; differences stay correct.
    fn millis(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.began).as_millis();
        u32::try_from(millis & u128::from(u32::MAX)).unwrap_or_default()
    }
}

/// The factor of an average that is left after so many milliseconds.
fn decay(millis: u32) -> f32 {
    (-Duration::from_millis(millis.into()).as_secs_f32() / DECAY.as_secs_f32()).exp()
}

fn pack(at: u32, average: f32) -> u64 {
    u64::from(at) << 32 | u64::from(average.to_bits())
}

fn unpack(word: u64) -> (u32, f32) {
    // Each half fits, so the fallback is never taken.
    let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or_default();
    (half(word >> 32), f32::from_bits(half(word)))
}

/// linkerd's default: a slow response is half forgotten after seven seconds.
const DECAY: Duration = Duration::from_secs(10);
/// linkerd's default for an endpoint without a response.
const UNKNOWN: Duration = Duration::from_millis(30);
const SHORTEST: Duration = Duration::from_micros(100);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn close(seconds: f32, expected: f32) -> bool {
        (seconds - expected).abs() < 0.01 * expected
    }

    #[test]
    fn a_slow_response_counts_at_once_and_is_forgotten_slowly() {
        let now = Instant::now();
        let time = ResponseTime::new(now);
        assert!(close(time.seconds(now), 0.03));
        time.record(2 * SECOND, false, now);
        assert!(close(time.seconds(now), 2.0));
        // After the decay time e^-1 of it is left, with and without quick responses.
        assert!(close(time.seconds(now + DECAY), 2.0 / std::f32::consts::E));
        time.record(Duration::from_millis(1), false, now + DECAY);
        assert!(close(time.seconds(now + DECAY), 2.0 / std::f32::consts::E + 0.000_63));
        assert!(close(time.seconds(now + 100 * DECAY), SHORTEST.as_secs_f32()));
    }

    #[test]
    fn a_quick_failure_makes_no_endpoint_quick_and_a_slow_one_makes_it_slow() {
        let now = Instant::now();
        let time = ResponseTime::new(now);
        time.record(SECOND, false, now);
        time.record(Duration::ZERO, true, now + DECAY);
        assert!(close(time.seconds(now + DECAY), 1.0 / std::f32::consts::E), "as without it");
        time.record(3 * SECOND, true, now + DECAY);
        assert!(close(time.seconds(now + DECAY), 3.0));
    }

    #[test]
    fn differences_stay_right_when_the_milliseconds_start_anew() {
        let began = Instant::now();
        let time = ResponseTime::new(began);
        let before = began + Duration::from_millis(u64::from(u32::MAX));
        time.record(SECOND, false, before);
        assert!(close(time.seconds(before + DECAY), 1.0 / std::f32::consts::E));
    }
}
