//! How long to wait before the next try: exponential, with full jitter, so that many gateways that lost the same agent do
//! not return at the same moment.

use std::time::Duration;

use rand::{Rng, RngExt};

/// A growing delay. `base * 2^n`, at most `cap`, of which a random part between nothing and all is taken.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap: cap.max(base), failures: 0 }
    }

    /// The delay after one more failure.
    pub(crate) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.random::<f64>())
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Enough to reach any cap; more would overflow the shift.
const DOUBLINGS_MAX: u32 = 20;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_delay_grows_to_the_cap_and_never_past_it() {
        let mut rng = StdRng::seed_from_u64(7);
        let (base, cap) = (Duration::from_millis(250), Duration::from_secs(15));
        let mut backoff = Backoff::new(base, cap);
        assert!(backoff.next(&mut rng) <= base);
        let longest = (0..200).map(|_| backoff.next(&mut rng)).max().unwrap();
        assert!(longest <= cap && longest > cap / 2, "{longest:?}");
        backoff.reset();
        assert!(backoff.next(&mut rng) <= base);
    }
}
