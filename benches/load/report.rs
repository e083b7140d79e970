//! What a run found: a table for people, and a file with every turn.

use std::{fmt::Write as _, fs, path::PathBuf, time::SystemTime};

use serde::Serialize;

use crate::{
    Options,
    machine::Machine,
    run::{Results, Turn},
    scenario::Scenario,
    statistics::Spread,
};

/// Medians and spreads of one subject.
#[derive(Debug, Serialize)]
struct Summary {
    requests_per_s: Spread,
    p50_us: Spread,
    p99_us: Spread,
    p999_us: Spread,
    user_us_per_request: Spread,
    system_us_per_request: Spread,
    cpu_us_per_request: Spread,
    /// Share of its core that the proxy was on: below 0.9 or so, the load generator was the limit.
    busy: Spread,
    /// Share of the turn that it was ready to run and something else had its core.
    waited: Spread,
    memory_mib: Spread,
    /// Millgate's CPU per request over this subject's, round by round. Below 1, Millgate costs less.
    millgate_over_this: Option<Spread>,
    socket_errors: u64,
}

impl Summary {
    /// `None` for a subject without turns.
    fn of(turns: &[Turn], millgate: &[Turn]) -> Option<Self> {
        let spread = |value: &dyn Fn(&Turn) -> f64| Spread::of(turns.iter().map(value));
        let per_request = |us: f64, turn: &Turn| us / turn.load.requests as f64;
        let ratios = millgate
            .iter()
            .zip(turns)
            .map(|(millgate, turn)| millgate.cpu_us_per_request() / turn.cpu_us_per_request());
        Some(Self {
            requests_per_s: spread(&|turn| turn.load.requests_per_s())?,
            p50_us: spread(&|turn| turn.load.p50_us)?,
            p99_us: spread(&|turn| turn.load.p99_us)?,
            p999_us: spread(&|turn| turn.load.p999_us)?,
            user_us_per_request: spread(&|turn| per_request(turn.user_us, turn))?,
            system_us_per_request: spread(&|turn| per_request(turn.system_us, turn))?,
            cpu_us_per_request: spread(&Turn::cpu_us_per_request)?,
            busy: spread(&|turn| (turn.user_us + turn.system_us) / turn.load.duration_us)?,
            waited: spread(&|turn| turn.waited_us / turn.load.duration_us)?,
            memory_mib: spread(&|turn| turn.memory_kib as f64 / 1024.0)?,
            millgate_over_this: Spread::of(ratios),
            socket_errors: turns.iter().map(|turn| turn.load.socket_errors).sum(),
        })
    }
}

/// (name, summary), Millgate first.
fn summaries(results: &Results) -> Vec<(&str, Summary)> {
    let millgate = results.turns.get("millgate").map_or(&[][..], Vec::as_slice);
    let mut all: Vec<_> = results
        .turns
        .iter()
        .filter_map(|(name, turns)| Some((name.as_str(), Summary::of(turns, millgate)?)))
        .collect();
    all.sort_by_key(|(name, _)| !name.starts_with("millgate"));
    all
}

/// A Markdown table.
pub(crate) fn table(scenario: &Scenario, results: &Results) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n", scenario.name, scenario.does.trim());
    text += "| proxy | requests/s | p50 ms | p99 ms | user + system = µs/request (min..max) | busy | MiB | \
             Millgate ÷ it (min..max) | target |\n|---|---|---|---|---|---|---|---|---|\n";
    let mut notes = String::new();
    for (name, summary) in summaries(results) {
        let Summary { requests_per_s, p50_us, p99_us, cpu_us_per_request: cpu, busy, memory_mib, .. } =
            summary;
        let ratio = summary.millgate_over_this.filter(|_| name != "millgate");
        let target = scenario.at_most.get(name).map(|most| {
            let met = ratio.is_some_and(|ratio| ratio.median <= *most);
            format!("≤ {most:.2} {}", if met { "met" } else { "missed" })
        });
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.2} | {:.2} | {:.1} + {:.1} = **{:.1}** ({:.1}..{:.1}) | {:.0} % | {:.1} | {} | {} |",
            requests_per_s.median,
            p50_us.median / 1e3,
            p99_us.median / 1e3,
            summary.user_us_per_request.median,
            summary.system_us_per_request.median,
            cpu.median,
            cpu.min,
            cpu.max,
            busy.median * 100.0,
            memory_mib.median,
            ratio.map_or("–".to_owned(), |r| format!("**{:.2}** ({:.2}..{:.2})", r.median, r.min, r.max)),
            target.unwrap_or_else(|| "–".to_owned()),
        );
        if summary.waited.max > WAITED_MAX {
            let percent = summary.waited.max * 100.0;
            let _ = writeln!(
                notes,
                "{name} waited {percent:.0} % of a turn for its core: something else ran there."
            );
        }
        if summary.socket_errors > 0 {
            let _ =
                writeln!(text, "| ↳ {} socket errors: not to be trusted |||||||||", summary.socket_errors);
        }
    }
    if !notes.is_empty() {
        text += "\n";
        text += &notes;
    }
    text
}

/// A proxy that shares its core has colder caches; from here on the table says so.
const WAITED_MAX: f64 = 0.1;

/// The whole run, raw numbers included. `DATE-COMMIT-SCENARIO.json`.
pub(crate) fn write(
    scenario: &Scenario,
    results: &Results,
    machine: &Machine,
    options: &Options,
) -> anyhow::Result<PathBuf> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let date = now.split('T').next().unwrap_or(&now);
    let summaries: serde_json::Map<String, serde_json::Value> = summaries(results)
        .into_iter()
        .map(|(name, summary)| Ok((name.to_owned(), serde_json::to_value(summary)?)))
        .collect::<serde_json::Result<_>>()?;
    let document = serde_json::json!({
        "date": now,
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "scenario": scenario,
        "versions": results.versions,
        "left_out": results.left_out,
        "summary": summaries,
        "turns": results.turns,
    });
    fs::create_dir_all(&options.results)?;
    let path = options.results.join(format!("{date}-{}-{}.json", machine.commit, scenario.name));
    fs::write(&path, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wrk::Load;

    fn turn(round: u32, cpu_us: f64) -> Turn {
        let load = Load {
            requests: 1000,
            duration_us: 1e6,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            socket_errors: 0,
            status_errors: 0,
        };
        Turn {
            round,
            load,
            user_us: cpu_us / 4.0,
            system_us: cpu_us * 0.75,
            waited_us: 0.0,
            memory_kib: 2048,
        }
    }

    #[test]
    fn ratios_pair_the_turns_of_one_round() {
        // The machine was half as fast in the second round; the ratio does not notice.
        let millgate = [turn(0, 20_000.0), turn(1, 40_000.0)];
        let summary = Summary::of(&[turn(0, 40_000.0), turn(1, 80_000.0)], &millgate).unwrap();
        assert_eq!(summary.millgate_over_this, Some(Spread { median: 0.5, min: 0.5, max: 0.5 }));
        assert_eq!(summary.cpu_us_per_request, Spread { median: 60.0, min: 40.0, max: 80.0 });
    }

    #[test]
    fn the_table_says_whether_a_target_is_met() {
        let mut scenario = Scenario::read("plain").unwrap();
        scenario.at_most = BTreeMap::from([("nginx".into(), 1.0), ("haproxy".into(), 0.85)]);
        let turns = BTreeMap::from([
            ("millgate".to_owned(), vec![turn(0, 19_000.0)]),
            ("nginx".to_owned(), vec![turn(0, 20_000.0)]),
            ("haproxy".to_owned(), vec![turn(0, 20_000.0)]),
        ]);
        let results = Results { turns, versions: BTreeMap::new(), left_out: BTreeMap::new() };
        let table = table(&scenario, &results);
        assert!(table.contains("| nginx | 1000 | 0.00 | 0.00 | 5.0 + 15.0 = **20.0**"), "{table}");
        assert!(table.contains("≤ 1.00 met") && table.contains("≤ 0.85 missed"), "{table}");
    }
}
