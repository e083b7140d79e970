//! `budgets`: counts the instructions of what `benches/micro` measures and holds each count against its budget.
//!
//!     cargo run -p benches --bin budgets              checks; fails if a count is more than 5 % above its budget
//!     cargo run -p benches --bin budgets -- --write   writes the budgets anew, from one run
//!
//! Counting is gungraun's and valgrind's (`instructions.rs`). The counts of one machine repeat to a fraction of a percent;
//! another compiler, or a processor for which a library takes another branch, moves them. The file says what made it.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Parser)]
#[command(about = "Holds instruction counts against their budgets")]
struct Budgets {
    /// Write what was counted as the new budgets, instead of checking
    #[arg(long)]
    write: bool,
}

/// `budgets.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    made_with: MadeWith,
    instructions_of_100_calls: Counts,
}

/// What counts depend on beside the code.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MadeWith {
    rustc: String,
    valgrind: String,
    cpu: String,
}

type Counts = BTreeMap<String, u64>;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Budgets::parse();
    let made_with = MadeWith::here()?;
    let counts = count()?;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("micro/budgets.json");
    if arguments.write {
        let file = File { made_with, instructions_of_100_calls: counts };
        fs::write(&path, serde_json::to_string_pretty(&file)? + "\n")?;
        println!("{} budgets written to {}", file.instructions_of_100_calls.len(), path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = serde_json::from_str(&text).with_context(|| format!("cannot use {}", path.display()))?;
    let (lines, failed) = compare(&file.instructions_of_100_calls, &counts);
    for line in &lines {
        println!("{line}");
    }
    if file.made_with != made_with {
        println!("note: budgets were made with {:?}, these counts with {made_with:?}", file.made_with);
    }
    if failed {
        println!(
            "error: find out why; if it has to be so, say why in the commit and renew the budgets: {RENEW}"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each name, and whether the check failed.
fn compare(budgets: &Counts, counts: &Counts) -> (Vec<String>, bool) {
    let mut failed = false;
    let mut lines = vec![format!("{:<20} {:>12} {:>12}  instructions of 100 calls", "", "budget", "counted")];
    let mut names: Vec<&String> = budgets.keys().chain(counts.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (budget, counted) = (budgets.get(name), counts.get(name));
        let verdict = match (budget, counted) {
            (Some(&budget), Some(&counted)) if counted * 100 > budget * (100 + TOLERANCE_PERCENT) => {
                failed = true;
                format!("error: {} above its budget", percent(counted - budget, budget))
            }
            (Some(&budget), Some(&counted)) if counted * 100 < budget * (100 - TOLERANCE_PERCENT) => {
                format!(
                    "note: {} below its budget, which can be lowered: {RENEW}",
                    percent(budget - counted, budget)
                )
            }
            (Some(_), Some(_)) => String::from("ok"),
            (None, _) | (_, None) => {
                failed = true;
                String::from(if budget.is_none() { "error: has no budget" } else { "error: was not counted" })
            }
        };
        let shown = |count: Option<&u64>| count.map_or_else(|| String::from("-"), u64::to_string);
        lines.push(format!("{name:<20} {:>12} {:>12}  {verdict}", shown(budget), shown(counted)));
    }
    (lines, failed)
}

fn percent(part: u64, whole: u64) -> String {
    let tenths = part.saturating_mul(1000) / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Runs the benches; gungraun writes one JSON document for each.
fn count() -> anyhow::Result<Counts> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "bench",
            "--locked",
            "--package",
            "micro",
            "--bench",
            "instructions",
            "--",
            "--output-format=json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(run.status.success(), "the benches did not run ({}); {NEEDED}", run.status);
    let mut counts = Counts::new();
    for summary in serde_json::Deserializer::from_slice(&run.stdout).into_iter::<Value>() {
        let summary = summary.context("gungraun's output is not JSON")?;
        let (name, count) =
            read(&summary).with_context(|| format!("gungraun's summary is strange: {summary}"))?;
        counts.insert(name, count);
    }
    if counts.is_empty() {
        bail!("nothing was counted; {NEEDED}");
    }
    Ok(counts)
}

/// Name and instructions (event `Ir`) of one summary.
fn read(summary: &Value) -> Option<(String, u64)> {
    let name = summary.get("id")?.as_str()?;
    let profile = summary.get("profiles")?.as_array()?.first()?;
    let count = profile.pointer("/data/total/metrics/Ir/values/new")?.as_u64()?;
    Some((name.to_owned(), count))
}

impl MadeWith {
    fn here() -> anyhow::Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            rustc: version_of("rustc")?,
            valgrind: version_of("valgrind").context(NEEDED)?,
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
        })
    }
}

fn version_of(program: &str) -> anyhow::Result<String> {
    let run = Command::new(program).arg("--version").output();
    let output = run.with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Noise, and changes that are not worth a word.
const TOLERANCE_PERCENT: u64 = 5;
const RENEW: &str = "cargo run -p benches --bin budgets -- --write";
const NEEDED: &str = "valgrind and gungraun-runner must be on the PATH (docs/PERFORMANCE.md)";

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(budget: u64, counted: u64) -> (String, bool) {
        let counts = |count| Counts::from([("a".to_owned(), count)]);
        let (lines, failed) = compare(&counts(budget), &counts(counted));
        (lines[1].split("  ").last().unwrap().to_owned(), failed)
    }

    #[test]
    fn a_count_may_be_five_percent_above_its_budget_and_not_more() {
        assert_eq!(verdict(1000, 1050), ("ok".to_owned(), false));
        assert_eq!(verdict(1000, 1051), ("error: 5.1 % above its budget".to_owned(), true));
    }

    #[test]
    fn a_count_far_below_its_budget_is_a_note_and_no_failure() {
        assert_eq!(verdict(1000, 950), ("ok".to_owned(), false));
        let (line, failed) = verdict(1000, 949);
        assert!(line.starts_with("note: 5.1 % below its budget") && line.contains("--write"), "{line}");
        assert!(!failed);
    }

    #[test]
    fn what_has_no_budget_or_no_count_fails() {
        let one = Counts::from([("a".to_owned(), 1)]);
        for (budgets, counts) in [(&one, &Counts::new()), (&Counts::new(), &one)] {
            assert!(compare(budgets, counts).1);
        }
    }
}
