//! An honest client beside each attack: no request of it fails, its answers take no longer than twice what they take
//! without the attack, the attackers are gone in time, and the gateway's memory does not grow.
//!
//! The gateway is a process of its own, with one worker and the limit of open files that the machine gives, and with 1024.
//! The suite runs each attack for a moment. `benches/attacks` runs the same against a release build for as long as latencies
//! need to be distinguished: over cleartext and TLS, frames in one segment, in two, and byte by byte; gateway and attackers on
//! different cores, and attackers in the CPU time that the honest client leaves of theirs.

mod honest;
mod kinds;
mod protocols;
mod rig;

use std::{fmt, sync::Arc, thread, time::Duration};

use honest::Seen;
use kinds::{Attacked, Kind, attack};
use rig::{Rig, step_back};
use tokio::{
    sync::{Mutex, oneshot, watch},
    task::LocalSet,
};

use crate::support::frames::Cut;

/// How thoroughly.
struct Plan {
    /// One turn of the honest client, alone and beside an attack.
    turn: Duration,
    rounds: usize,
    /// The slowdown in this many milliseconds is not a finding, whatever the ratio. `None`: the noise of this run (see
    /// [`noise_ms`]).
    floor_ms: Option<f64>,
    /// An attacker may be late by this.
    late: Duration,
    /// Core of the gateway, of two that everything has.
    core: Option<String>,
    kinds: Vec<Kind>,
    is_whole: bool,
}

impl Plan {
    /// A turn is too short for a p99 of its own. Beside other tests of a debug build a p99 of half a second is seen without
    /// any attack; what this shows is that nothing stands still, and nothing fails.
    fn of_the_suite(files: Option<u32>) -> Self {
        let is_wanted = |kind: &Kind| match kind {
            Kind::ByteWindow | Kind::SlowBody => false,
            Kind::Silent | Kind::Returning => files.is_some(),
            _ => files.is_none() || matches!(kind, Kind::RapidReset | Kind::Ping | Kind::Admin),
        };
        Self {
            turn: Duration::from_millis(150),
            rounds: 1,
            floor_ms: Some(1000.0),
            late: Duration::from_secs(4),
            core: None,
            kinds: Kind::ALL.into_iter().filter(is_wanted).collect(),
            is_whole: false,
        }
    }

    /// The settings of `benches/attacks`.
    fn of_the_bench() -> Option<Self> {
        let said = |name: &str| std::env::var(format!("MILLGATE_ATTACKS_{name}")).ok();
        let names = said("KINDS").unwrap_or_default();
        let is_named =
            |kind: &Kind| names.is_empty() || names.split(',').any(|name| kind.name().contains(name));
        Some(Self {
            turn: Duration::from_millis(said("TURN_MS")?.parse().unwrap()),
            rounds: said("ROUNDS").map_or(5, |rounds| rounds.parse().unwrap()),
            floor_ms: None,
            late: Duration::from_millis(100),
            core: said("CORE"),
            kinds: Kind::ALL.into_iter().filter(is_named).collect(),
            is_whole: true,
        })
    }

    /// Listeners and cuts of an attack.
    fn ways(&self, kind: Kind) -> Vec<(bool, Cut)> {
        let cuts = if kind.is_http2() { &Cut::ALL[..] } else { &[Cut::Whole] };
        let listeners = if kind.is_cleartext() { &[false][..] } else { &[false, true] };
        let all: Vec<_> = listeners.iter().flat_map(|tls| cuts.iter().map(|cut| (*tls, *cut))).collect();
        // The suite takes another one with each kind.
        if self.is_whole { all } else { vec![all[kind as usize % all.len()]] }
    }

    /// An attack that collects connections takes its time until it has them all.
    fn turn(&self, kind: Kind) -> Duration {
        self.turn.max(kind.gathers_for() + Duration::from_millis(100))
    }
}

#[tokio::test]
async fn an_honest_client_is_served_beside_each_attack() {
    run(None).await;
}

#[tokio::test]
async fn an_honest_client_is_served_beside_each_attack_with_1024_files() {
    run(Some(1024)).await;
}

/// One after the other: each would be the other's noise.
static TURN: Mutex<()> = Mutex::const_new(());

async fn run(files: Option<u32>) {
    let plan = Plan::of_the_bench().unwrap_or_else(|| Plan::of_the_suite(files));
    let _turn = TURN.lock().await;
    millgate::file_account::raise_limit();
    let rig = Rig::start(files, plan.core.as_deref()).await;
    let limit = files.map_or("the machine's".to_owned(), |files| files.to_string());
    println!("open files: {limit}");
    println!(
        "{:20} {:9} {:6} {:>6} {:>6} {:>14} {:>14} {:>6} {:>14} {:>6} {:>4}",
        "attack", "over", "cut", "lives", "gone s", "p50 ms", "p99 ms", "ratio", "new ms", "failed", "MiB"
    );
    let (mut all, mut wrong, mut p99s) = (Row::default(), Vec::new(), Vec::new());
    for &kind in &plan.kinds {
        for (over_tls, cut) in plan.ways(kind) {
            let row = Row::measure(&plan, &rig, kind, over_tls, cut).await;
            let over = if over_tls { "TLS" } else { "cleartext" };
            let name = format!("{:20} {over:9} {:6}", kind.name(), format!("{cut:?}").to_lowercase());
            println!("{name} {row}");
            let whys = row.wrong(&plan, kind, cut);
            wrong.extend(whys.into_iter().map(|why| format!("{name}: {why}")));
            p99s.push((name, row.medians()));
            // The library reads all heads that are there in one go, which takes a debug build long.
            if plan.is_whole || kind != Kind::HeaderBomb {
                all.add(row);
            }
        }
    }
    println!("{:37} {all}", "all");
    let floor = plan.floor_ms.unwrap_or_else(|| noise_ms(&all));
    println!("p99 may be {floor:.2} ms longer, or twice as long");
    let (alone, beside) = (all.alone.quantile_ms(990), all.beside.quantile_ms(990));
    if !plan.is_whole {
        p99s = vec![("over all attacks".to_owned(), (alone, beside, beside / alone))];
    }
    for (name, (alone, beside, _)) in p99s {
        if beside > (2.0 * alone).max(alone + floor) {
            wrong.push(format!("{name}: p99 {alone:.2} ms alone, {beside:.2} ms beside it"));
        }
    }
    assert!(wrong.is_empty(), "with {limit} files:\n{}", wrong.join("\n"));
}

/// How far two turns are apart that should be alike: the client alone, its p99 in nine of ten turns.
fn noise_ms(all: &Row) -> f64 {
    let mut alone: Vec<f64> = all.rounds.iter().map(|round| round.0).collect();
    alone.sort_by(f64::total_cmp);
    alone.get(alone.len() * 9 / 10).copied().unwrap_or(f64::NAN)
}

/// One attack in one way.
#[derive(Default)]
struct Row {
    alone: Seen,
    beside: Seen,
    /// p99 alone and beside, of each round.
    rounds: Vec<(f64, f64)>,
    attacked: Attacked,
    grown_kib: u64,
}

impl Row {
    async fn measure(plan: &Plan, rig: &Rig, kind: Kind, over_tls: bool, cut: Cut) -> Self {
        let mut row = Self::default();
        for _ in 0..plan.rounds {
            let alone = honest::turn(&rig.target, plan.turn).await;
            let before = rig.memory_kib();
            rig.forget_peak();
            let (over, is_over) = watch::channel(false);
            let (said, attacked) = oneshot::channel();
            let (target, steps_back) = (Arc::clone(&rig.target), plan.core.is_some());
            thread::spawn(move || {
                if steps_back {
                    step_back();
                }
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let attack = attack(kind, target, over_tls, cut, is_over);
                let _ = said.send(LocalSet::new().block_on(&runtime, attack));
            });
            let beside = honest::turn(&rig.target, plan.turn(kind)).await;
            over.send_replace(true);
            row.attacked.add(&attacked.await.expect("attackers do not panic"));
            // Requests that end with the attack do not count in the next turn.
            rig.rests().await;
            row.grown_kib = row.grown_kib.max(rig.peak_kib().saturating_sub(before));
            row.rounds.push((alone.quantile_ms(990), beside.quantile_ms(990)));
            row.alone.add(alone);
            row.beside.add(beside);
        }
        row
    }

    /// The median of the rounds: p99 alone, p99 beside, and their ratio.
    fn medians(&self) -> (f64, f64, f64) {
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut sorted: Vec<f64> = self.rounds.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
        };
        (median(|round| round.0), median(|round| round.1), median(|round| round.1 / round.0))
    }

    fn wrong(&self, plan: &Plan, kind: Kind, cut: Cut) -> Vec<String> {
        let mut wrong: Vec<String> = Vec::new();
        let failed: Vec<_> = self.alone.failed.iter().chain(&self.beside.failed).collect();
        if let Some(first) = failed.first() {
            wrong.push(format!(
                "{} of {} failed: {first}",
                failed.len(),
                self.alone.len() + self.beside.len()
            ));
        }
        let longest = self.attacked.longest;
        // So long it takes until an attacker that writes byte by byte is past a budget.
        let late = plan.late + if cut == Cut::Bytes { Duration::from_secs(1) } else { Duration::ZERO };
        if kind.bound().is_some_and(|bound| longest > bound + late) {
            wrong.push(format!("an attacker stayed for {longest:?}"));
        }
        if self.grown_kib >= MEMORY_KIB {
            wrong.push(format!("the gateway grew by {} KiB", self.grown_kib));
        }
        let (alone, beside) = (self.alone.new_ms, self.beside.new_ms);
        if beside > (2.0 * alone).max(alone + NEW_MS) {
            wrong.push(format!("a new connection took {beside:.2} ms, {alone:.2} ms alone"));
        }
        wrong
    }

    fn add(&mut self, other: Self) {
        self.alone.add(other.alone);
        self.beside.add(other.beside);
        self.rounds.extend(other.rounds);
        self.attacked.add(&other.attacked);
        self.grown_kib = self.grown_kib.max(other.grown_kib);
    }
}

const MEMORY_KIB: u64 = 64 * 1024;
/// A new client waits for a place for as long as a silent one may keep it (`OPENING_MIN`, 3 s), where places are short.
const NEW_MS: f64 = 4000.0;

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |alone: f64, beside: f64| format!("{alone:.2} {beside:.2}");
        let p50 = pair(self.alone.quantile_ms(500), self.beside.quantile_ms(500));
        let (alone, beside, ratio) = self.medians();
        let failed = self.alone.failed.len() + self.beside.failed.len();
        write!(
            f,
            "{:6} {:6.2} {p50:>14} {:>14} {ratio:6.2} {:>14} {failed:6} {:4}",
            self.attacked.lives,
            self.attacked.longest.as_secs_f64(),
            pair(alone, beside),
            pair(self.alone.new_ms, self.beside.new_ms),
            self.grown_kib / 1024
        )
    }
}
