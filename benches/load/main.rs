//! `load`: what a request costs in Millgate, beside other proxies doing the same work on the same machine.
//!
//! One call starts a backend and the proxies, each proxy alone on one core, wrk and the backend on the other; lets
//! wrk at the proxies in turn, several rounds; and says for each what a request cost in CPU time of the proxy's own
//! processes, as the kernel accounts it. Absolute numbers belong to the machine and the hour. The claim is the
//! ratio of two proxies in the same round. See `docs/PERFORMANCE.md`.

#![expect(clippy::cast_precision_loss, reason = "what is counted in one run stays far below 2^52")]

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

mod backend;
mod cost;
mod machine;
mod proxy;
mod relay;
mod report;
mod run;
mod scenario;
mod statistics;
mod tokens;
mod wrk;

#[derive(Debug, Parser)]
#[command(about = "Compares the CPU cost of a request in Millgate and in other proxies")]
struct Load {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Proxies beside Millgate: nginx, haproxy, envoy, relay; `millgate` is a second Millgate, whose ratio to the
    /// first is the noise of this run [default: all that the scenario knows]
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Names in `benches/load/scenarios`
    #[arg(long, value_delimiter = ',', default_value = "plain")]
    scenario: Vec<String>,
    /// Turns that each proxy gets
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of one turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Core of the proxies
    #[arg(long, default_value_t = 0)]
    proxy_core: u32,
    /// Core of wrk and the backend
    #[arg(long, default_value_t = 1)]
    load_core: u32,
    /// The program under test
    #[arg(long, default_value = "target/release/millgate")]
    millgate: PathBuf,
    /// A second build of it as one more peer, `baseline`: before and after a change in one run
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Where results are kept
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// Print only
    #[arg(long)]
    no_results: bool,
    /// Keep the proxies' configurations and logs, and say where they are
    #[arg(long)]
    keep: bool,
}

/// Parts that `load` starts as processes of their own, so that they can be pinned and accounted.
#[derive(Debug, Subcommand)]
enum Part {
    /// Answers every request; prints its addresses, one a line
    #[command(hide = true)]
    Backend(backend::Backend),
    /// Copies bytes between client and backend without reading them
    #[command(hide = true)]
    Relay(relay::Relay),
}

fn main() -> ExitCode {
    let Load { part, options } = Load::parse();
    let result = match part {
        Some(Part::Backend(backend)) => backend.serve(),
        Some(Part::Relay(relay)) => relay.serve(),
        None => compare(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> anyhow::Result<()> {
    let machine = machine::Machine::look();
    println!("{machine}");
    for name in &options.scenario {
        let scenario = scenario::Scenario::read(name)?;
        let results = run::run(&scenario, options).with_context(|| format!("scenario {name}"))?;
        print!("{}", report::table(&scenario, &results));
        if !options.no_results {
            let path = report::write(&scenario, &results, &machine, options)?;
            println!("written to {}", path.display());
        }
    }
    Ok(())
}
