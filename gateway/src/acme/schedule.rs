//! When a certificate is renewed, and when an order that failed is tried again. Pure: times are wall time since the Unix epoch.
//!
//! - A certificate is renewed after two thirds of its life, whatever its length, earlier by at most a thirtieth of it. That part comes
//!   from the certificate's bytes: all gateways and every restart compute the same, and certificates of one day do not all come at once.
//! - A failure doubles or quadruples the pause. A refusal pauses 2, 8, 32, 128 minutes and then six hours: at most four attempts in any
//!   hour, where Let's Encrypt refuses the sixth that fails. What the authority says itself (`Retry-After`) is the least, up to a week.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::failure::FailureKind;
use crate::certificate::issued::Issued;

/// The failures of a certificate since its last success, as the storage has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PastFailures {
    pub(super) failures: u32,
    /// Wall time in seconds since 1970.
    pub(super) at: u64,
    pub(super) next: u64,
    pub(super) kind: FailureKind,
    pub(super) error: String,
}

/// The time at which a certificate is renewed.
pub(super) fn renewal(issued: &Issued) -> Duration {
    let life = issued.not_after.saturating_sub(issued.not_before);
    let mut hasher = DefaultHasher::new();
    issued.key.cert.first().hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % u64::from(PARTS)).unwrap_or(0);
    (issued.not_before + life * 2 / 3).saturating_sub(life / EARLIER * part / PARTS)
}

/// The pause after `failures` failures in a row, the last one of this kind. `random` is from 0 to 1.
pub(super) fn pause(
    failures: u32,
    kind: FailureKind,
    retry_after: Option<Duration>,
    random: f64,
) -> Duration {
    let doublings = failures.saturating_sub(1);
    let (first, factor, most) = match kind {
        FailureKind::Unreachable | FailureKind::Storage => (UNREACHABLE, 2_u32, Duration::from_hours(1)),
        FailureKind::Refused | FailureKind::Unusable => (REFUSED, 4, Duration::from_hours(6)),
        FailureKind::RateLimited => (Duration::from_hours(1), 2, Duration::from_hours(24)),
    };
    let own =
        factor.checked_pow(doublings).and_then(|times| first.checked_mul(times)).unwrap_or(most).min(most);
    let said = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    own.max(said).mul_f64(1.0 + JITTER * random.clamp(0.0, 1.0))
}

const PARTS: u32 = 1 << 16;
/// A certificate of 90 days is renewed on the 58th to 60th day.
const EARLIER: u32 = 30;
const UNREACHABLE: Duration = Duration::from_secs(30);
const REFUSED: Duration = Duration::from_mins(2);
const JITTER: f64 = 0.25;
/// Limits per week are the longest that authorities have.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(7 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_an_authority_refuses_stay_below_its_limit_of_five_in_an_hour() {
        let mut at = Duration::ZERO;
        let mut attempts = vec![at];
        for failures in 1..12 {
            at += pause(failures, FailureKind::Refused, None, 0.0);
            attempts.push(at);
        }
        for first in &attempts {
            let hour = attempts.iter().filter(|at| *at >= first && **at < *first + Duration::from_hours(1));
            assert!(hour.count() <= 4, "{attempts:?}");
        }
        assert_eq!(pause(40, FailureKind::Refused, None, 0.0), Duration::from_hours(6));
        assert_eq!(pause(1, FailureKind::Refused, None, 1.0), Duration::from_secs(150));
    }

    #[test]
    fn the_authoritys_own_word_is_the_least_and_has_an_end() {
        let said = |seconds| pause(1, FailureKind::RateLimited, Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(said(5), Duration::from_hours(1));
        assert_eq!(said(9000), Duration::from_mins(150));
        assert_eq!(said(u64::MAX), Duration::from_hours(7 * 24));
    }
}
