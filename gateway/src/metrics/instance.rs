//! What one worker has seen of one instance: attempts by status, failures by their word, and how long the head of a response
//! took.

use super::{Histogram, Spot};

/// In this order, so that what every attempt counts shares two cache lines.
#[derive(Debug, Clone, Default)]
#[repr(C)]
pub struct InstanceSample {
    /// By status; 0 = no answer. A handful, so a list beats a map.
    pub attempts: Vec<(u16, u64)>,
    pub duration: Histogram,
    /// By the word of the access log; only what the instance is to blame for.
    pub failures: Vec<(&'static str, u64)>,
}

impl InstanceSample {
    /// An attempt is over.
    pub fn record(&mut self, status: u16, took: Spot) {
        self.count(status, 1);
        self.duration.add(took);
    }

    /// An attempt without an end that a status or a duration would describe.
    pub fn count(&mut self, status: u16, n: u64) {
        add(&mut self.attempts, status, n);
    }

    pub fn fail(&mut self, reason: &'static str) {
        add(&mut self.failures, reason, 1);
    }

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
