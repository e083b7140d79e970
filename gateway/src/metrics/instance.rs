//! One worker's counters of one instance: attempts by status, failures by reason, and the time until the response head.

use super::{Histogram, Spot};

/// One worker's counters of one instance. The order of the fields keeps what every attempt counts in two cache lines.
#[derive(Debug, Clone, Default)]
#[repr(C)]
pub struct InstanceSample {
    /// Numbers of attempts by status; 0 stands for no response. There are a few statuses, so a list beats a map.
    pub attempts: Vec<(u16, u64)>,
    /// Time from the beginning of an attempt to the response head.
    pub duration: Histogram,
    /// Numbers of failures of which the instance is the cause, by the reason of the access log.
    pub failures: Vec<(&'static str, u64)>,
}

impl InstanceSample {
    /// Counts an attempt that has ended.
    pub fn record(&mut self, status: u16, took: Spot) {
        self.count(status, 1);
        self.duration.add(took);
    }

    /// Counts `n` attempts without a duration.
    pub fn count(&mut self, status: u16, n: u64) {
        add(&mut self.attempts, status, n);
    }

    /// Counts a failure of which the instance is the cause.
    pub fn fail(&mut self, reason: &'static str) {
        add(&mut self.failures, reason, 1);
    }

    /// Adds the counters of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (status, n) in &other.attempts {
            add(&mut self.attempts, *status, *n);
        }
        for (reason, n) in &other.failures {
            add(&mut self.failures, *reason, *n);
        }
        self.duration.merge(&other.duration);
    }
}

fn add<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K, n: u64) {
    match counts.iter_mut().find(|(known, _)| *known == key) {
        Some((_, count)) => *count += n,
        None => counts.push((key, n)),
    }
}
