//! `discovery`: the time from a service's registration until requests reach it.
//!
//! `lag` registers an instance and sends requests to an idle gateway until the instance answers, many times. `scale` does
//! the same among 10,000 instances of 500 services while 100 changes per second go on. The gateway is a separate process
//! with one worker; the time starts when the registration is sent. See `docs/PERFORMANCE.md`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

mod backend;
mod catalog;
mod cores;
mod fixed;
mod gateway;
mod lag;
#[path = "../machine.rs"]
mod machine;
mod report;
mod scale;
mod source;

#[derive(Debug, Parser)]
#[command(about = "Measures the way from a registration to the first request that uses it")]
struct Discovery {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum What {
    /// From the registration of one instance to the first proxied request
    Lag(lag::Lag),
    /// The same among many instances that change
    Scale(scale::Scale),
    #[command(hide = true, name = fixed::NAME)]
    Fixed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Whose catalog: a Consul agent (`$CONSUL_BIN`, or `consul` on PATH) in cleartext or over HTTPS, or the embedded
    /// registry
    #[arg(long, global = true, value_enum, default_value_t = Kind::Consul)]
    registry: Kind,
    /// The program under test
    #[arg(long, global = true, default_value = "target/release/millgate")]
    millgate: PathBuf,
    /// Where results are kept
    #[arg(long, global = true, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// Print only
    #[arg(long, global = true)]
    no_results: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Consul,
    ConsulHttps,
    Embedded,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Consul => "a Consul agent",
            Self::ConsulHttps => "a Consul agent over HTTPS",
            Self::Embedded => "the embedded registry",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Discovery { what, options } = Discovery::parse();
    let result = match what {
        What::Lag(lag) => lag.run(&options).await,
        What::Scale(scale) => scale.run(&options).await,
        What::Fixed => fixed::serve().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
