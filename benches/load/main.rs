//! `load`: the cost of a request, a client or a start in Millgate, compared with other proxies that do the same work on
//! the same machine.
//!
//! One call starts a backend and the proxies, with each proxy alone on one core, and the load and the backend on the
//! other. It sends load to the proxies in turn, in several rounds, and reports for each what that cost in CPU time or
//! memory of the proxy's own processes, as the kernel accounts it. Absolute numbers belong to the machine and the hour;
//! the claim is the ratio of two proxies in the same round. See `docs/PERFORMANCE.md`.

#![expect(clippy::cast_precision_loss, reason = "what is counted in one run stays far below 2^52")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::program::{Build, Executable};

mod backend;
mod certificate;
mod client;
mod columns;
mod cores;
mod cost;
mod generator;
mod h2load;
mod handshakes;
mod hold;
mod launch;
#[path = "../machine.rs"]
mod machine;
mod memory;
mod open_loop;
mod paced;
mod places;
mod program;
mod proxy;
mod relay;
mod report;
mod run;
mod scenario;
mod stage;
mod statistics;
mod tokens;
mod train;
mod turns;
mod verification;
mod websocket;
mod wrk;

#[derive(Debug, Parser)]
#[command(about = "Compares what requests, clients and starts cost in Millgate and in other proxies")]
struct Load {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Proxies beside Millgate: nginx, haproxy, envoy, relay; `millgate` runs the first build a second time, and their
    /// ratio is the noise of this run [default: all that the scenario knows]
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
    /// Core of the load and the backend
    #[arg(long, default_value_t = 1)]
    load_core: u32,
    /// A build of Millgate. Several (`--bin old=PATH --bin new=PATH`) are compared in the same rounds
    #[arg(long = "bin", value_name = "NAME=PATH", default_value = "millgate=target/dist/millgate")]
    builds: Vec<Build>,
    /// The command that runs nginx, as `.ci/debian` prints it [default: nginx on the PATH]
    #[arg(long, value_name = "COMMAND")]
    nginx: Option<Executable>,
    /// The command that runs HAProxy, as `.ci/debian` prints it [default: haproxy on the PATH]
    #[arg(long, value_name = "COMMAND")]
    haproxy: Option<Executable>,
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

impl Options {
    /// Millgate alone. A second one, which is never started, keeps all other programs out.
    fn of_one(millgate: &Path, proxy_core: u32, load_core: u32) -> Self {
        Self {
            peers: vec!["millgate".to_owned()],
            scenario: Vec::new(),
            rounds: 1,
            seconds: 1,
            proxy_core,
            load_core,
            builds: vec![Build { name: "millgate".to_owned(), path: millgate.to_owned() }],
            nginx: None,
            haproxy: None,
            results: PathBuf::new(),
            no_results: true,
            keep: false,
        }
    }
}

/// `train`, and parts that `load` starts as processes of their own, so that they can be pinned and accounted.
#[derive(Debug, Subcommand)]
enum Part {
    /// Answers every request; prints its addresses, one a line
    #[command(hide = true)]
    Backend(backend::Backend),
    /// Copies bytes between client and backend without reading them
    #[command(hide = true)]
    Relay(relay::Relay),
    /// Closed loop: a connection with a full TLS handshake for each request
    #[command(hide = true)]
    Handshakes(handshakes::Handshakes),
    /// Closed loop: messages of WebSocket
    #[command(hide = true)]
    Messages(websocket::Messages),
    /// Open loop: requests at a constant rate
    #[command(hide = true)]
    Paced(paced::Paced),
    /// Clients that stay
    #[command(hide = true)]
    Hold(hold::Hold),
    /// Lets our own clients at a Millgate that is built to write a profile (deploy/build-dist)
    Train(train::Train),
    /// Checks signatures of tokens and nothing else
    #[command(hide = true)]
    Verification(verification::Verification),
}

fn main() -> ExitCode {
    let Load { part, options } = Load::parse();
    let result = match part {
        Some(Part::Backend(backend)) => backend.serve(),
        Some(Part::Relay(relay)) => relay.serve(),
        Some(Part::Handshakes(handshakes)) => handshakes.run(),
        Some(Part::Messages(messages)) => messages.run(),
        Some(Part::Paced(paced)) => paced.run(),
        Some(Part::Hold(hold)) => hold.run(),
        Some(Part::Train(train)) => train.run(),
        Some(Part::Verification(verification)) => verification.run(),
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
    let mut all = Vec::new();
    for name in &options.scenario {
        let scenario = scenario::Scenario::read(name)?;
        let results =
            run::run(&scenario, options, machine.cores).with_context(|| format!("scenario {name}"))?;
        print!("{}", report::table(&scenario, &results));
        if !options.no_results {
            let path = report::write(&scenario, &results, &machine, options)?;
            println!("written to {}", path.display());
        }
        all.push((scenario, results));
    }
    if all.len() > 1 {
        print!("{}", report::summary(&all));
    }
    Ok(())
}
