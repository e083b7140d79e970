//! Metric families in the data model of the exposition format, built one after the other.

use std::time::Duration;

use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::{Histogram, LATENCY_BOUNDS};

/// A counter as the exposition has it; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating point")]
pub(super) fn count(n: u64) -> f64 {
    n as f64
}

/// A family's name and help text, and how its value is read from a `T`.
pub(super) type Reading<T, N> = (&'static str, &'static str, fn(&T) -> N);

/// Families under construction.
#[derive(Default)]
pub(super) struct Families(Vec<MetricFamily>);

/// The family that was begun last.
pub(super) struct Family<'a>(&'a mut Families);

impl Families {
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.begin(name, help, MetricType::COUNTER)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.begin(name, help, MetricType::GAUGE)
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.begin(name, help, MetricType::HISTOGRAM)
    }

    /// All families with at least one sample.
    pub(super) fn into_non_empty(self) -> Vec<MetricFamily> {
        self.0.into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }

    fn begin(&mut self, name: &str, help: &str, kind: MetricType) -> Family<'_> {
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        self.0.push(family);
        Family(self)
    }
}

impl Family<'_> {
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let Some(family) = self.0.0.last_mut() else { return };
        let mut metric = Metric::from_label(label_pairs(labels));
        if family.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        family.mut_metric().push(metric);
    }

    pub(super) fn add_histogram(&mut self, labels: &[(&str, &str)], value: &Histogram) {
        self.add_histogram_of(labels, value, |_| true);
    }

    /// Adds a histogram with the buckets whose bound `is_shown`.
    pub(super) fn add_histogram_of(
        &mut self,
        labels: &[(&str, &str)],
        value: &Histogram,
        is_shown: impl Fn(f64) -> bool,
    ) {
        let Some(family) = self.0.0.last_mut() else { return };
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(LATENCY_BOUNDS.len());
        for (bound, n) in LATENCY_BOUNDS.iter().zip(value.counts) {
            cumulative += n;
            if !is_shown(*bound) {
                continue;
            }
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(value.total());
        histogram.set_sample_sum(Duration::from_nanos(value.sum_ns).as_secs_f64());
        let mut metric = Metric::from_label(label_pairs(labels));
        metric.set_histogram(histogram);
        family.mut_metric().push(metric);
    }
}

fn label_pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        })
        .collect()
}
