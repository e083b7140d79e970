//! The printed and the stored results of a run.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::{Options, machine::Machine};

/// Quantiles of sorted values.
pub(crate) struct Distribution {
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    values: Vec<Duration>,
}

impl Distribution {
    pub(crate) fn of(mut values: Vec<Duration>) -> Self {
        values.sort_unstable();
        // The smallest value that this share of the values, or more, does not exceed.
        let at = |share: usize| {
            values.get((values.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
        };
        let (p50, p90, p99, max) = (at(50), at(90), at(99), at(100));
        Self { p50, p90, p99, max, values }
    }
}

pub(crate) struct Report {
    name: &'static str,
    results: Option<PathBuf>,
    document: Map<String, Value>,
    first: Option<[Duration; 4]>,
}

impl Report {
    pub(crate) fn new(name: &'static str, options: &Options) -> Self {
        let machine = Machine::look();
        println!("{machine}\n## {name}");
        let registry = options.registry.name();
        println!("registry: {registry}");
        let mut document = Map::new();
        document.insert("machine".into(), json!(machine));
        document.insert("registry".into(), json!(registry));
        Self { name, results: (!options.no_results).then(|| options.results.clone()), document, first: None }
    }

    pub(crate) fn distribution(&mut self, what: &str, of: &Distribution) {
        let Distribution { p50, p90, p99, max, values } = of;
        println!(
            "{what}: {} times; p50 {:.1} ms, p90 {:.1}, p99 {:.1}, max {:.1}",
            values.len(),
            milliseconds(*p50),
            milliseconds(*p90),
            milliseconds(*p99),
            milliseconds(*max)
        );
        let all: Vec<f64> = values.iter().copied().map(milliseconds).collect();
        let value = json!({"p50_ms": milliseconds(*p50), "p90_ms": milliseconds(*p90), "p99_ms": milliseconds(*p99),
            "max_ms": milliseconds(*max), "all_ms": all});
        self.document.insert(what.to_owned(), value);
        self.first.get_or_insert([*p50, *p90, *p99, *max]);
    }

    pub(crate) fn number(&mut self, what: &str, value: f64) {
        println!("{what}: {value:.2}");
        self.document.insert(what.to_owned(), json!(value));
    }

    /// Compares the first distribution with a goal.
    pub(crate) fn goal(&mut self, what: &str, holds: impl Fn(&Distribution) -> bool) {
        let [p50, p90, p99, max] = self.first.unwrap_or_default();
        let verdict =
            if holds(&Distribution { p50, p90, p99, max, values: Vec::new() }) { "met" } else { "missed" };
        println!("{what}: {verdict}");
        self.document.insert("goal".into(), json!({"what": what, "verdict": verdict}));
    }

    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Some(folder) = &self.results else { return Ok(()) };
        let date = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let date = date.split('T').next().unwrap_or_default();
        let commit = self.document["machine"]["commit"].as_str().unwrap_or("unknown");
        let path = folder.join(format!("{date}-{commit}-{}.json", self.name));
        let text = serde_json::to_string(&self.document)?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("written to {}", path.display());
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
