//! Attempts, failures and durations of each instance, so that one which fails behind retries stands out.
//!
//! Only instances in use have series, and only in services of at most [`INSTANCE_SERIES_MAX`]. Their histograms have six buckets
//! instead of seventeen.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::INSTANCE_SERIES_MAX;
use crate::{
    control::exposition::{Families, count},
    metrics::{InstanceSample, WorkerSample},
    snapshot::Snapshot,
};

/// Bounds of these histograms, a part of those of all durations.
const BOUNDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

pub(super) fn families(out: &mut Families, snapshot: &Snapshot, samples: &[WorkerSample]) {
    let seen = merged(samples);
    let mut clusters: Vec<_> = snapshot.clusters.iter().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let small = clusters.into_iter().filter(|cluster| cluster.endpoints.len() <= INSTANCE_SERIES_MAX);
    let shown = small.flat_map(|cluster| {
        let name = &*cluster.name;
        cluster.endpoints.iter().map(move |endpoint| (name, endpoint.key().as_str()))
    });
    let shown: Vec<_> = shown.filter_map(|key| Some((key, seen.get(&key)?))).collect();
    let mut family = out.counter(
        "millgate_endpoint_requests_total",
        "Attempts by service, instance and status; `none` stands for no response",
    );
    for ((service, instance), sample) in &shown {
        for (code, n) in &sample.attempts {
            let code = if *code == 0 { "none".to_owned() } else { code.to_string() };
            family.add(&[("service", service), ("instance", instance), ("code", &code)], count(*n));
        }
    }
    let mut family =
        out.counter("millgate_endpoint_failures_total", "Attempts that failed because of the instance");
    for ((service, instance), sample) in &shown {
        for (reason, n) in &sample.failures {
            family.add(&[("service", service), ("instance", instance), ("reason", reason)], count(*n));
        }
    }
    let mut family = out.histogram(
        "millgate_endpoint_duration_seconds",
        "Time of an attempt at an instance from sending to the response head",
    );
    for ((service, instance), sample) in &shown {
        let labels = [("service", *service), ("instance", *instance)];
        family.add_histogram_of(&labels, &sample.duration, |bound| BOUNDS.contains(&bound));
    }
}

/// One instance in `/api/v1/services`, whatever the size of its service: attempts, failures by reason, and the bounds below which
/// half and 99 % of the attempts lie.
pub(in crate::control) fn json(sample: &InstanceSample) -> Value {
    let attempts: u64 = sample.attempts.iter().map(|(_, n)| n).sum();
    let failures: Map<String, Value> =
        sample.failures.iter().map(|(reason, n)| ((*reason).to_owned(), (*n).into())).collect();
    let within = |share| sample.duration.quantile(share).map(|bound| bound.as_secs_f64());
    json!({"attempts": attempts, "failures": failures, "p50_seconds": within(0.5), "p99_seconds": within(0.99)})
}

/// The samples of all workers, by service and instance.
pub(in crate::control) fn merged(samples: &[WorkerSample]) -> HashMap<(&str, &str), InstanceSample> {
    let mut merged: HashMap<(&str, &str), InstanceSample> = HashMap::new();
    for ((service, instance), sample) in samples.iter().flat_map(|worker| &worker.instances) {
        merged.entry((service, instance)).or_default().merge(sample);
    }
    merged
}
