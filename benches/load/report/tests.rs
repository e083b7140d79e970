//! Tables from invented turns.

use std::collections::BTreeMap;

use super::*;
use crate::{generator::Load, memory::Held, turns::Turn};

/// A thousand requests of 1 MiB each in a second.
fn turn(round: u32, cpu_us: f64) -> Turn {
    let load = Load {
        requests: 1000,
        bytes: 1000 << 20,
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
        peak_kib: 4096,
    }
}

fn results(turns: &[(&str, &[f64])]) -> Results {
    let turns = turns.iter().map(|(name, cpu_us)| {
        ((*name).to_owned(), (0..).zip(*cpu_us).map(|(round, us)| turn(round, *us)).collect())
    });
    let findings = Findings::Turns(turns.collect());
    Results {
        findings,
        check_seconds: BTreeMap::new(),
        cores_were_free: false,
        versions: BTreeMap::new(),
        builds: builds(&["millgate"], &["millgate"]),
        left_out: BTreeMap::new(),
    }
}

fn builds(names: &[&str], subjects: &[&str]) -> Builds {
    let of = |name: &&str| {
        let subjects = subjects
            .iter()
            .map(|subject| (Builds::subject(name, subject), ((*name).to_owned(), (*subject).to_owned())));
        subjects.collect::<Vec<_>>()
    };
    let subjects = names.iter().flat_map(of).collect();
    Builds { names: names.iter().map(|&name| name.to_owned()).collect(), subjects }
}

fn plain(at_most: &[(&str, f64)]) -> Scenario {
    let mut scenario = Scenario::read("plain").unwrap();
    scenario.at_most = at_most.iter().map(|(name, most)| ((*name).to_owned(), *most)).collect();
    scenario
}

#[test]
fn ratios_pair_the_turns_of_one_round() {
    // The machine was half as fast in the second round; the ratio does not notice.
    let results = results(&[("millgate", &[20_000.0, 40_000.0]), ("nginx", &[40_000.0, 80_000.0])]);
    let table = table(&plain(&[]), &results);
    assert!(
        table.contains("| 15.0 + 45.0 = **60.0** (40.0..80.0) | 6 % | 2.0 | **0.50** (0.50..0.50) |"),
        "{table}"
    );
}

#[test]
fn the_table_says_whether_a_target_is_met() {
    let scenario = plain(&[("nginx", 1.0), ("haproxy", 0.85), ("envoy", 0.5)]);
    let results = results(&[("millgate", &[19_000.0]), ("nginx", &[20_000.0]), ("haproxy", &[20_000.0])]);
    let table = table(&scenario, &results);
    assert!(table.contains("≤ 1.00 met") && table.contains("≤ 0.85 missed"), "{table}");
    assert!(!table.contains("0.50"), "nothing is said about who did not run: {table}");
}

#[test]
fn what_a_gib_costs_counts_bodies_in_both_directions() {
    let mut scenario = plain(&[]);
    scenario.measures = Measures::CpuPerGib;
    // 1000 answers of 1 MiB: 1000/1024 of a GiB for 1 s of CPU.
    let results = results(&[("millgate", &[1e6])]);
    assert!(table(&scenario, &results).contains("| 1000 | 256.0 + 768.0 = **1024.0**"));
    scenario.upload_bytes = 1 << 20;
    assert!(table(&scenario, &results).contains("| 2000 | 128.0 + 384.0 = **512.0**"));
}

#[test]
fn a_figure_above_that_of_another_subject_is_compared_alone() {
    let mut scenario = plain(&[("nginx", 1.2)]);
    scenario.above = Some("haproxy".to_owned());
    let results = results(&[("millgate", &[30_000.0]), ("haproxy", &[10_000.0]), ("nginx", &[20_000.0])]);
    let table = table(&scenario, &results);
    assert!(table.contains("| **1.00** (1.00..1.00) | ≤ 1.20 met |"), "{table}");
    assert!(table.contains("(Millgate − haproxy) ÷ it"), "{table}");
}

#[test]
fn requests_per_second_are_judged_only_where_nobody_shared_a_core() {
    let mut scenario = plain(&[]);
    scenario.at_least_rate = BTreeMap::from([("nginx".to_owned(), 1.8)]);
    let mut results = results(&[("millgate", &[1.0]), ("nginx", &[1.0])]);
    assert!(table(&scenario, &results).contains("(1.00): ≥ 1.80 cannot be judged"));
    results.cores_were_free = true;
    assert!(table(&scenario, &results).contains("(1.00): ≥ 1.80 missed"));
}

#[test]
fn memory_is_judged_by_what_a_client_still_takes_after_a_rest() {
    let mut scenario = Scenario::read("idle").unwrap();
    scenario.at_most_itself = Some(6.0);
    let held = |rested_kib| Held {
        round: 0,
        clients: 1000,
        before_kib: 10_000,
        at_once_kib: 30_000,
        rested_kib,
        peak_kib: 30_000,
        sockets_kib: Some(9000),
    };
    let mut results = results(&[]);
    results.findings = Findings::Held(BTreeMap::from([("millgate".to_owned(), vec![held(15_000)])]));
    let text = table(&scenario, &results);
    assert!(text.contains("| 20.0 | **5.0** (5.0..5.0) | 9.0 |") && text.contains("≤ 6.00 met"), "{text}");
    results.findings = Findings::Held(BTreeMap::from([("millgate".to_owned(), vec![held(17_000)])]));
    assert!(table(&scenario, &results).contains("≤ 6.00 missed"));
}

#[test]
fn the_time_of_check_is_judged_beside_the_table() {
    let mut scenario = plain(&[]);
    scenario.check_seconds_at_most = Some(1.0);
    let mut results = results(&[("millgate", &[1.0])]);
    results.check_seconds = BTreeMap::from([("millgate".to_owned(), 0.25)]);
    assert!(table(&scenario, &results).contains("took 0.25 s of CPU: ≤ 1.00 met"));
}

#[test]
fn each_build_has_a_column_of_ratios_and_its_own_variants() {
    let mut scenario = Scenario::read("everything").unwrap();
    scenario.at_most = BTreeMap::from([("nginx".to_owned(), 0.9), ("millgate-plain".to_owned(), 1.25)]);
    let mut results = results(&[
        ("new", &[16_000.0]),
        ("new-plain", &[10_000.0]),
        ("nginx", &[20_000.0]),
        ("old", &[20_000.0]),
        ("old-plain", &[20_000.0]),
    ]);
    results.builds = builds(&["old", "new"], &["millgate", "millgate-plain"]);
    let text = table(&scenario, &results);
    assert!(text.contains("| old ÷ it (min..max) | new ÷ it (min..max) | target |"), "{text}");
    let ends = |name: &str, end: &str| {
        let row = text.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        assert!(row.ends_with(end), "{row}");
    };
    ends("nginx", "| **1.00** (1.00..1.00) | **0.80** (0.80..0.80) | ≤ 0.90: old missed, new met |");
    ends("old", "| – | **0.80** (0.80..0.80) | – |");
    ends("new-plain", "| – | **1.60** (1.60..1.60) | ≤ 1.25 missed |");
    let all = summary(&[(scenario, results)]);
    let line = "| everything | new | nginx | **0.80** (0.80..0.80) | ≤ 0.90 met | 4.0 + 12.0 µs/request | 5.0 + 15.0 µs/request |";
    assert!(all.contains(line), "{all}");
    assert!(!all.contains("| old-plain | **0.80**"), "{all}");
}

#[test]
fn user_time_has_a_target_of_its_own() {
    let mut scenario = plain(&[]);
    scenario.user_us_at_most = Some(4.0);
    let of = |us: &[f64]| table(&scenario, &results(&[("millgate", us)]));
    assert!(of(&[16_000.0]).contains("user time of millgate: 4.0 µs/request: ≤ 4.00 met"));
    assert!(of(&[17_000.0]).contains("≤ 4.00 missed"));
}

#[test]
fn the_versions_of_builds_and_peers_stand_above_the_table() {
    let mut results = results(&[("millgate", &[1.0])]);
    let versions =
        [("millgate", "millgate 0.2.0"), ("nginx", "nginx/1.30.6"), ("nginx-buffers", "nginx/1.30.6")];
    results.versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned())).into();
    let text = table(&plain(&[]), &results);
    assert!(text.contains("Versions: millgate: millgate 0.2.0; nginx: nginx/1.30.6\n"), "{text}");
}
