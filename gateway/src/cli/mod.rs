//! The command line: one file per verb.
//!
//! Exit codes: 0 done, 1 failed (a wrong configuration, a server that is not reachable), 2 wrong usage (clap's). Results go to
//! standard output, messages to standard error. It is not a failure if the reader of either is gone.

pub mod check;
pub mod consul;
pub mod consul_client;
mod diagnostics;
pub mod health;
pub mod key;
mod line;
pub mod logging;
pub mod registry;
pub mod routes;
pub mod run;
mod service_manager;
pub mod services;
pub mod token;

use std::{ffi::OsString, fmt::Display, io::Write as _, path::PathBuf, process::ExitCode};

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tracing::Level;

use crate::{
    config::{
        load::{self, Loaded},
        source::ConfigSource,
    },
    control::{environment, origin},
    syntax::diagnostics::Report,
};

/// API gateway for services that register in Consul.
#[derive(Debug, Parser)]
#[command(
    name = "millgate",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed (a wrong configuration, something not reachable), 2 wrong usage.\n\
                  `millgate check` before `millgate run` tells whether a configuration is good."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve requests as the configuration says
    Run(run::Run),
    /// Report every error and warning of a configuration
    Check(check::Check),
    /// Print the compiled routes in match order
    Routes(routes::Routes),
    /// Make development tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Make API keys
    #[command(subcommand)]
    Key(key::Key),
    /// Run the embedded registry alone: Consul's HTTP API for development
    Registry(registry::Registry),
    /// Show, watch and change what is registered in Consul
    #[command(subcommand)]
    Services(services::Services),
    /// Look at what is registered in Consul
    #[command(subcommand)]
    Consul(consul::Consul),
    /// Ask a running gateway whether it is ready (for container health checks)
    Health(health::Health),
    /// Print the version
    Version,
}

/// Which configuration file.
#[derive(Debug, clap::Args)]
pub struct ConfigArg {
    /// Configuration file, or consul://KEY for a key in Consul's KV [default: $MILLGATE_CONFIG, else the
    /// first that exists of ./routes.yaml, $XDG_CONFIG_HOME/millgate/routes.yaml, /etc/millgate/routes.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<OsString>,
}

impl ConfigArg {
    /// The source of the configuration. The error says where one was looked for.
    fn source(&self) -> Result<ConfigSource, String> {
        // A named file is used even if it does not exist: another file would not be the one that was meant.
        if let Some(named) = self.config.clone().or_else(|| variable("MILLGATE_CONFIG")) {
            return ConfigSource::parse(&named);
        }
        let home = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
        let mut candidates = vec![PathBuf::from("routes.yaml")];
        candidates.extend(home.map(|home| home.join("millgate/routes.yaml")));
        candidates.push(PathBuf::from("/etc/millgate/routes.yaml"));
        candidates.iter().find(|path| path.exists()).cloned().map(ConfigSource::File).ok_or_else(|| {
            let looked: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            format!("no configuration found; looked for {}; name one with --config FILE", looked.join(", "))
        })
    }
}

/// Reads a configuration once, from a file or from Consul.
fn load(source: &ConfigSource) -> Result<Loaded, Report> {
    match source {
        ConfigSource::File(path) => load::load(path, &environment),
        ConfigSource::Key(key) => source.parse_bytes(&origin::read_key(source, key)?, &environment),
    }
}

/// Parses the arguments and runs their verb.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| with_option_of_file(error).exit());
    match cli.verb {
        Verb::Run(verb) => verb.execute(),
        Verb::Check(verb) => verb.execute(),
        Verb::Routes(verb) => verb.execute(),
        Verb::Token(verb) => verb.execute(),
        Verb::Key(verb) => verb.execute(),
        Verb::Registry(verb) => verb.execute(),
        Verb::Services(verb) => verb.execute(),
        Verb::Consul(verb) => verb.execute(),
        Verb::Health(verb) => verb.execute(),
        Verb::Version => print(format_args!("millgate {}", env!("CARGO_PKG_VERSION")), ExitCode::SUCCESS),
    }
}

/// Adds a tip for a file without its option, which other programs accept: `millgate check routes.yaml`.
fn with_option_of_file(mut error: clap::Error) -> clap::Error {
    let has_file =
        std::env::args().nth(1).is_some_and(|verb| ["run", "check", "routes"].contains(&verb.as_str()));
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(named)) if has_file && !named.starts_with('-') => named.clone(),
        _ => return error,
    };
    if error.kind() == ErrorKind::UnknownArgument {
        let tip = format!("name the configuration file with `-c {named}`");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Prints a result with a line end, and returns `code`. `println!` panics when the reader is gone (`| head -1`). That is not a
/// failure, but a full disk is.
fn print(result: impl Display, code: ExitCode) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{result}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(format_args!("standard output: {error}"))
        }
        _ => code,
    }
}

/// Parses an argument `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))
}

/// Writes one line, or one event in JSON, to standard error. If that fails, there is no other place for it.
fn say(text: impl Display) {
    diagnostics::write(&line::line(Level::INFO, text));
}

/// Prints an error and returns exit code 1.
fn fail(message: impl Display) -> ExitCode {
    let mark = if line::is_json() { "" } else { "error: " };
    logging::fail(format_args!("{mark}{message}"))
}

/// Prints findings, with colours on a terminal.
fn say_report(report: &Report) {
    let level = if report.errors() > 0 { Level::ERROR } else { Level::WARN };
    diagnostics::write(&line::line(level, report.render(is_coloured() && !line::is_json())));
}

/// Whether standard error is a terminal and `NO_COLOR` is unset (<https://no-color.org>).
fn is_coloured() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && variable("NO_COLOR").is_none()
}

/// An environment variable. An empty one counts as unset, because wrappers leave variables out in this way.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Waits for SIGTERM or SIGINT.
async fn until_terminated() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

const LOG_LEVEL: &str = "info";
