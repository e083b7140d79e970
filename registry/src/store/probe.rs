//! A check that the registry makes itself, at an interval: its target, and the number of equal results after which its status
//! changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::CheckStatus;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeDefinition {
    pub(crate) target: Target,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) tls_skip_verify: bool,
    /// The number of passing or warning results in a row that change the status; with 0 and 1 the first one does.
    pub(crate) success_before_passing: u32,
    /// The number of critical results in a row that change the status.
    pub(crate) failures_before_critical: u32,
    /// The last bytes of an answer that are kept.
    pub(crate) output_bytes_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    Http {
        url: String,
        method: String,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// Only connects, to `host:port`.
    Tcp {
        address: String,
    },
    /// Calls gRPC's health service at `host:port` or `host:port/service`.
    Grpc {
        target: String,
        tls: bool,
    },
}

/// The results of a probe that have not changed its status yet. Both counts begin full, so that any first result
/// counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streak {
    successes: u32,
    failures: u32,
}

impl ProbeDefinition {
    pub(crate) fn streak(&self) -> Streak {
        Streak { successes: self.success_before_passing, failures: self.failures_before_critical }
    }
}

impl Streak {
    /// Records a result; returns whether it counts.
    pub(crate) fn record(&mut self, probe: &ProbeDefinition, status: CheckStatus) -> bool {
        if status == CheckStatus::Critical {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            self.failures >= probe.failures_before_critical
        } else {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            self.successes >= probe.success_before_passing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckStatus::{Critical, Passing, Warning};

    #[test]
    fn the_first_result_counts_and_then_it_takes_as_many_in_a_row_as_asked_for() {
        let probe = ProbeDefinition {
            target: Target::Tcp { address: String::new() },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            tls_skip_verify: false,
            success_before_passing: 2,
            failures_before_critical: 3,
            output_bytes_max: 0,
        };
        let mut streak = probe.streak();
        for (result, believed) in [
            (Passing, true),
            (Critical, false),
            (Critical, false),
            (Passing, false),
            (Critical, false),
            (Critical, false),
            (Critical, true),
            (Critical, true),
            (Passing, false),
            (Warning, true),
        ] {
            assert_eq!(streak.record(&probe, result), believed, "{result:?}");
        }
        assert!(probe.streak().record(&probe, Critical), "the first result counts");
        let once = ProbeDefinition { success_before_passing: 0, failures_before_critical: 0, ..probe };
        let mut streak = once.streak();
        assert!(
            streak.record(&once, Passing) && streak.record(&once, Critical) && streak.record(&once, Passing)
        );
    }
}
