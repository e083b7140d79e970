//! A route's split: which subset of the service gets the next request. Compiled from `RouteSettings::split`.
//!
//! There is one weighted draw per request, so the shares do not depend on other routes and workers. A subset in which no
//! endpoint can take a request (it has none, or every breaker is open) leaves its share to the others; a share of 0 stays 0.
//! A retry that finds no endpoint left goes to another subset.

use rand::{Rng, RngExt};

/// The shares of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The index and the share of each cluster. There is at least one.
    parts: Box<[(usize, u32)]>,
}

impl Split {
    /// `None`: there is no split.
    pub fn compile(parts: &[(usize, u32)]) -> Option<Self> {
        (!parts.is_empty()).then(|| Self { parts: parts.into() })
    }

    /// The index of the cluster for a request. `None`: no cluster with a share can take it.
    pub fn pick(&self, can_be_asked: impl Fn(usize) -> bool, rng: &mut impl Rng) -> Option<usize> {
        let first = self.draw(|_| true, rng)?;
        if can_be_asked(first) { Some(first) } else { self.draw(can_be_asked, rng) }
    }

    fn draw(&self, takes_part: impl Fn(usize) -> bool, rng: &mut impl Rng) -> Option<usize> {
        let parts = || self.parts.iter().filter(|(cluster, _)| takes_part(*cluster));
        let total: u64 = parts().map(|(_, share)| u64::from(*share)).sum();
        if total == 0 {
            return None;
        }
        let mut left = rng.random_range(0..total);
        parts()
            .find(|(_, share)| {
                let share = u64::from(*share);
                let is_here = left < share;
                left = left.saturating_sub(share);
                is_here
            })
            .map(|(cluster, _)| *cluster)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const PICKS: u32 = 20_000;

    /// The number of picks of the clusters 0, 1 and 2 among [`PICKS`].
    fn shares(parts: &[(usize, u32)], can_be_asked: impl Fn(usize) -> bool) -> [u32; 3] {
        let split = Split::compile(parts).unwrap();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = [0; 3];
        for _ in 0..PICKS {
            if let Some(cluster) = split.pick(&can_be_asked, &mut rng) {
                counts[cluster] += 1;
            }
        }
        counts
    }

    fn is_about(count: u32, share: f64) -> bool {
        // Within five standard deviations.
        let expected = share * f64::from(PICKS);
        (f64::from(count) - expected).abs() <= 5.0 * (expected * (1.0 - share)).sqrt()
    }

    #[test]
    fn each_part_gets_its_share() {
        let counts = shares(&[(0, 94), (1, 5), (2, 1)], |_| true);
        for (count, share) in counts.into_iter().zip([0.94, 0.05, 0.01]) {
            assert!(is_about(count, share), "{counts:?}");
        }
    }

    #[test]
    fn the_share_of_one_that_cannot_be_asked_goes_to_the_others_by_their_shares() {
        let counts = shares(&[(0, 60), (1, 30), (2, 10)], |cluster| cluster != 2);
        assert!(counts[2] == 0 && is_about(counts[0], 2.0 / 3.0), "{counts:?}");
    }

    #[test]
    fn a_share_of_zero_is_nothing_even_if_nobody_else_is_left() {
        assert_eq!(shares(&[(0, 100), (1, 0)], |_| true), [PICKS, 0, 0]);
        assert_eq!(shares(&[(0, 100), (1, 0)], |cluster| cluster == 1), [0; 3]);
    }
}
