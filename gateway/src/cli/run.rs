//! `millgate run`: serves until a signal ends it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;

use super::{
    ConfigArg, LOG_LEVEL,
    consul_client::{VERIFIED_ANYWAY, is_verification_refused},
    diagnostics, fail, line, logging, say, say_report, variable,
};
use crate::gateway::{Gateway, RunOptions, StartError};

/// The start-up lines wait this long for the registry, so that they have the number of instances.
const PATIENCE: Duration = Duration::from_secs(2);

const SIGNALS: &str = "\
SIGTERM, SIGINT  stop accepting, finish what is in flight, exit 0; a second one: stop now, exit 1
SIGHUP           read the configuration again (also done when it changes), reopen log files
SIGUSR1          reopen log files

The access log goes to standard output unless the configuration names a file; everything else
goes to standard error. RUST_LOG sets the level (default info), MILLGATE_LOG_FORMAT=json the form.";

#[derive(Debug, Args)]
#[command(after_help = SIGNALS)]
pub struct Run {
    #[command(flatten)]
    config: ConfigArg,
    /// Where last known instances are kept, so that a start works while the registry is away
    /// [default: $MILLGATE_STATE_DIR, $STATE_DIRECTORY, $XDG_STATE_HOME/millgate, ~/.local/state/millgate]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Run {
    pub fn execute(&self) -> ExitCode {
        let _said = logging::start(LOG_LEVEL);
        if is_verification_refused() {
            tracing::warn!("{VERIFIED_ANYWAY}");
        }
        let config = match self.config.source() {
            Ok(config) => config,
            Err(reason) => return fail(reason),
        };
        let options = RunOptions { config, state_dir: self.state_dir.clone().or_else(default_state_dir) };
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let code = runtime.block_on(serve(options));
                // After a second signal, unfinished tasks are dropped.
                runtime.shutdown_background();
                code
            }
            Err(error) => fail(error),
        }
    }
}

async fn serve(options: RunOptions) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(format!("signals cannot be handled: {error}")),
    };
    // A start may wait for Consul, but a signal to stop ends it at once.
    let started = tokio::select! {
        started = Gateway::start(options) => started,
        _ = signals.terminate.recv() => return ExitCode::SUCCESS,
        _ = signals.interrupt.recv() => return ExitCode::SUCCESS,
    };
    let gateway = match started {
        Ok(gateway) => gateway,
        // A report has a layout of its own.
        Err(StartError::Config(report)) => {
            say_report(&report);
            return ExitCode::FAILURE;
        }
        Err(error) => return fail(error),
    };
    let _ = tokio::time::timeout(PATIENCE, gateway.ready()).await;
    announce(&gateway);
    loop {
        tokio::select! {
            // A reload can wait for the registry, but a signal to stop ends it at once. The log has the report of a wrong
            // configuration already.
            _ = signals.hangup.recv() => tokio::select! {
                _ = gateway.reload() => gateway.reopen_logs(),
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
            },
            _ = signals.user1.recv() => gateway.reopen_logs(),
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    tracing::info!("draining; a second signal stops at once");
    tokio::select! {
        cut = gateway.shutdown() => {
            if cut > 0 {
                tracing::warn!(
                    connections = cut,
                    "drain.timeout was over; what was under way on these connections was ended"
                );
            }
            ExitCode::SUCCESS
        }
        _ = signals.terminate.recv() => ExitCode::FAILURE,
        _ = signals.interrupt.recv() => ExitCode::FAILURE,
    }
}

/// Prints the start-up lines to standard error; standard output belongs to the access log.
fn announce(gateway: &Gateway) {
    let (routes, services) = gateway.summary();
    if line::is_json() {
        announce_as_event(gateway, routes, services);
    } else {
        announce_as_text(gateway, routes, &services);
    }
    if gateway.warnings().warnings() > 0 {
        say_report(gateway.warnings());
    }
}

fn announce_as_text(gateway: &Gateway, routes: usize, services: &[(String, usize)]) {
    say(format_args!("config    {}", gateway.config()));
    for address in gateway.http_addrs() {
        say(format_args!("http      http://{address}"));
    }
    if let Some(address) = gateway.https_addr() {
        say(format_args!("https     https://{address}"));
    }
    say(format_args!("routes    {routes}"));
    let services: Vec<String> = services.iter().map(|(name, count)| with_instances(name, *count)).collect();
    say(format_args!("services  {}", services.join(", ")));
    match gateway.admin_addr() {
        Some(address) => say(format_args!("admin     http://{address}")),
        None => say("admin     off"),
    }
}

/// The start-up lines as one event; `services` has the number of instances of each.
fn announce_as_event(gateway: &Gateway, routes: usize, services: Vec<(String, usize)>) {
    let http: Vec<String> = gateway.http_addrs().iter().map(|address| format!("http://{address}")).collect();
    let services: serde_json::Map<String, Value> =
        services.into_iter().map(|(name, count)| (name, count.into())).collect();
    let fields = json!({
        "message": "serving",
        "config": gateway.config().to_string(),
        "http": http,
        "https": gateway.https_addr().map(|address| format!("https://{address}")),
        "routes": routes,
        "services": services,
        "admin": gateway.admin_addr().map(|address| format!("http://{address}")),
    });
    diagnostics::write(&line::event(Level::INFO, &fields));
}

fn with_instances(service: &str, count: usize) -> String {
    match count {
        0 => format!("{service} (no instance yet)"),
        1 => format!("{service} (1 instance)"),
        _ => format!("{service} ({count} instances)"),
    }
}

struct Signals {
    hangup: Signal,
    user1: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// The first of: the variable, systemd's directory, the XDG base directory for state.
fn default_state_dir() -> Option<PathBuf> {
    if let Some(dir) = variable("MILLGATE_STATE_DIR").or_else(|| variable("STATE_DIRECTORY")) {
        return Some(PathBuf::from(dir));
    }
    let base = variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(base.join("millgate"))
}
