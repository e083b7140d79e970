//! `/v1/agent/metrics`: the registry's numbers, as JSON in the form of Consul's agent, or as Prometheus reads them
//! (`?format=prometheus`, which needs no configuration here).
//!
//! A number that later releases of Consul have too has Consul's name; `millgate.registry.…` are names of this registry.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::server::answer::{self, Response};
use crate::server::call::Call;
use crate::server::usage::{self, Bound};
use crate::server::{Shared, own};

pub(crate) fn metrics(call: &Call<'_>) -> Response {
    let samples = samples(call.shared);
    if call.params.get("format") == Some("prometheus") {
        let mut response = Response::new(Full::new(Bytes::from(prometheus(&samples))));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EXPOSITION));
        return response;
    }
    let of = |kind: Kind| samples.iter().filter(move |sample| sample.kind == kind);
    let gauge =
        |sample: &Sample| json!({"Name": sample.name, "Value": sample.value, "Labels": labels(sample)});
    let counter = |sample: &Sample| {
        let count = sample.value;
        json!({"Name": sample.name, "Count": count, "Rate": 0, "Sum": count, "Min": 1, "Max": 1, "Mean": 1,
            "Stddev": 0, "Labels": labels(sample)})
    };
    let body = json!({
        "Timestamp": own::time(std::time::SystemTime::now()),
        "Gauges": of(Kind::Gauge).map(gauge).collect::<Value>(),
        "Points": [],
        "Counters": of(Kind::Counter).map(counter).collect::<Value>(),
        "Samples": [],
    });
    answer::json(&body, call.pretty())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    /// Since the start.
    Counter,
}

struct Sample {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    label: Option<(&'static str, &'static str)>,
    value: u64,
}

type NumberOf = fn(&Bound) -> Option<u64>;

/// All samples; those with one name stand together.
fn samples(shared: &Shared) -> Vec<Sample> {
    let bounds = usage::bounds(shared);
    let mut samples = Vec::new();
    for (name, help, what) in CONSULS {
        let used = bounds.iter().find(|bound| bound.what == *what).and_then(|bound| bound.used);
        samples.push(Sample { name, help, kind: Kind::Gauge, label: None, value: number(used.unwrap_or(0)) });
    }
    let names = shared.store().service_names();
    let help = "Names of services.";
    let value = number(names);
    samples.push(Sample { name: "consul.state.services", help, kind: Kind::Gauge, label: None, value });
    let each: [(&str, &str, Kind, NumberOf); 3] = [
        ("millgate.registry.used", "What is held of each bounded thing.", Kind::Gauge, |bound| {
            bound.used.map(number)
        }),
        ("millgate.registry.limit", "How much of it there may be.", Kind::Gauge, |bound| {
            Some(number(bound.limit))
        }),
        ("millgate.registry.refused", "What was refused because of it.", Kind::Counter, |bound| {
            Some(bound.refused)
        }),
    ];
    for (name, help, kind, value) in each {
        let of = |bound: &Bound| {
            let label = Some(("what", bound.what));
            value(bound).map(|value| Sample { name, help, kind, label, value })
        };
        samples.extend(bounds.iter().filter_map(of));
    }
    let Some(journal) = &shared.journal else { return samples };
    let sizes = journal.sizes();
    let (bytes, folds) = ("millgate.registry.journal.bytes", "millgate.registry.journal.folds");
    let (bytes_help, folds_help) =
        ("Size of the files in the data directory.", "Logs folded into a snapshot.");
    for (name, help, kind, label, value) in [
        (bytes, bytes_help, Kind::Gauge, ("file", "log"), sizes.log_bytes),
        (bytes, bytes_help, Kind::Gauge, ("file", "snapshot"), sizes.snapshot_bytes),
        (folds, folds_help, Kind::Counter, ("result", "done"), sizes.folds),
        (folds, folds_help, Kind::Counter, ("result", "failed"), sizes.fold_failures),
    ] {
        samples.push(Sample { name, help, kind, label: Some(label), value });
    }
    samples
}

fn labels(sample: &Sample) -> Value {
    match sample.label {
        None => json!({}),
        Some((name, value)) => json!({name: value}),
    }
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn prometheus(samples: &[Sample]) -> String {
    let (mut text, mut before) = (String::new(), "");
    for Sample { name, help, kind, label, value } in samples {
        let (kind, suffix) = match kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        let exposed = format!("{}{suffix}", name.replace('.', "_"));
        // Writing to a string does not fail.
        if *name != before {
            let _infallible = writeln!(text, "# HELP {exposed} {help}\n# TYPE {exposed} {kind}");
            before = name;
        }
        let label = label.map(|(name, value)| format!("{{{name}=\"{value}\"}}")).unwrap_or_default();
        let _infallible = writeln!(text, "{exposed}{label} {value}");
    }
    text
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Consul's names, and what they count of [`usage::bounds`].
const CONSULS: &[(&str, &str, &str)] = &[
    ("consul.rpc.queries_blocking", "Queries that wait for a change.", usage::BLOCKED),
    ("consul.state.kv_entries", "Keys.", "keys"),
    ("consul.state.nodes", "Nodes.", "nodes"),
    ("consul.state.service_instances", "Instances of services.", "services"),
];
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
