//! `millgate run`: serves until a signal ends it.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;

use super::{
    ConfigArg, LOG_LEVEL,
    consul_client::{VERIFIED_ANYWAY, is_verification_refused},
    diagnostics, fail, line, logging, say, say_report, service_manager, variable,
};
use crate::{
    admission::Scheme,
    gateway::{
        Gateway, Listening, RunOptions, StartError,
        handover::{HandoverError, Predecessor, SYNCED_MAX},
        inherited::Inherited,
    },
};

/// The start-up lines wait this long for the registry, so that they have the number of instances.
const PATIENCE: Duration = Duration::from_secs(2);

const SIGNALS: &str = "\
SIGTERM, SIGINT  stop accepting, finish what is in flight, exit 0; a second one: stop now, exit 1
SIGHUP           read the configuration again (also done when it changes), reopen log files
SIGUSR1          reopen log files
SIGUSR2          start the program anew, hand it the listening sockets, and stop when it is ready

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
        started = start(options) => started,
        () = signals.stop.received() => return ExitCode::SUCCESS,
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
    let status = status(&gateway);
    service_manager::ready(&status);
    let watchdog = tokio::spawn(service_manager::watchdog(gateway.pulse()));
    let successor = until_end(&gateway, &mut signals).await;
    watchdog.abort();
    let drained = async {
        if let Some(has) = successor {
            return gateway.give_way(has).await;
        }
        service_manager::stopping(gateway.drain_max());
        gateway.shutdown().await
    };
    tracing::info!("draining; a second signal stops at once");
    let upgrades = &mut signals.user2;
    let refused_upgrades = async {
        while upgrades.recv().await.is_some() {
            tracing::warn!("not upgraded: this process is stopping");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        cut = drained => {
            if cut > 0 {
                tracing::warn!(
                    connections = cut,
                    "drain.timeout was over; what was under way on these connections was ended"
                );
            }
            ExitCode::SUCCESS
        }
        () = signals.stop.received() => ExitCode::FAILURE,
        () = refused_upgrades => ExitCode::FAILURE,
    }
}

/// Starts a gateway, with the sockets of its predecessor or of the service manager if there are any.
async fn start(options: RunOptions) -> Result<Gateway, StartError> {
    let failed = |what| move |source| StartError::System { what, source };
    let handed_over = "the sockets of the running gateway cannot be taken over";
    let Some(predecessor) = Predecessor::of_this_process().map_err(failed(handed_over))? else {
        let inherited = Inherited::from_systemd().map_err(failed("the sockets of systemd cannot be used"))?;
        let mut gateway = Gateway::prepare(options, inherited).await?;
        gateway.open();
        return Ok(gateway);
    };
    let (predecessor, inherited) = blocking(move || {
        let inherited = predecessor.sockets()?;
        Ok((predecessor, inherited))
    })
    .await
    .map_err(failed(handed_over))?;
    let mut gateway = Gateway::prepare(options, inherited).await?;
    if tokio::time::timeout(SYNCED_MAX, gateway.ready()).await.is_err() {
        let what = "the registry or an issuer of keys has not answered, and nothing of it is on disk";
        return Err(StartError::System { what, source: io::ErrorKind::TimedOut.into() });
    }
    let taken = gateway.inherited();
    blocking(move || predecessor.replace(taken)).await.map_err(failed(handed_over))?;
    gateway.open();
    Ok(gateway)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Serves until a signal ends it. Returns the addresses that a new process serves from now on. `None`: there is none.
async fn until_end(gateway: &Gateway, signals: &mut Signals) -> Option<Arc<[SocketAddr]>> {
    loop {
        let signal = tokio::select! {
            _ = signals.hangup.recv() => Signaled::Hangup,
            _ = signals.user1.recv() => Signaled::User1,
            _ = signals.user2.recv() => Signaled::User2,
            () = signals.stop.received() => return None,
        };
        let handled = async {
            match signal {
                Signaled::Hangup => reload(gateway).await,
                Signaled::User1 => gateway.reopen_logs(),
                Signaled::User2 => return upgrade(gateway).await,
            }
            None
        };
        // A reload can wait for the registry, and an upgrade for the new process, but a signal to stop ends it at once.
        tokio::select! {
            successor = handled => {
                if successor.is_some() {
                    return successor;
                }
            }
            () = signals.stop.received() => return None,
        }
    }
}

/// Reads the configuration again. The log has the report of a wrong one already.
async fn reload(gateway: &Gateway) {
    service_manager::reloading();
    let result = gateway.reload().await;
    gateway.reopen_logs();
    let status = match result {
        Ok(()) => status(gateway),
        Err(_) => "serving; the last configuration was refused".to_owned(),
    };
    service_manager::ready(&status);
}

/// Starts the program anew. Returns the addresses that the new process serves. `None`: this one goes on.
async fn upgrade(gateway: &Gateway) -> Option<Arc<[SocketAddr]>> {
    if std::process::id() == 1 {
        tracing::error!(
            "not upgraded: the end of process 1 would end its container, and the new process with it"
        );
        return None;
    }
    tracing::info!("starting the new process");
    let upgraded = async {
        let ready = gateway.start_successor().await?;
        let pid = ready.pid();
        Ok::<_, HandoverError>((pid, ready.take_over()?))
    };
    match upgraded.await {
        Ok((pid, has)) => {
            tracing::info!(pid, "the new process serves");
            pid.into_iter().for_each(service_manager::succeeded_by);
            Some(has)
        }
        Err(error) => {
            tracing::error!(%error, "not upgraded; this process goes on");
            None
        }
    }
}

fn status(gateway: &Gateway) -> String {
    let (routes, services) = gateway.summary();
    format!("serving {routes} routes to {} services", services.len())
}

enum Signaled {
    Hangup,
    User1,
    User2,
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
    for listening in gateway.listeners() {
        let (scheme, name, url) =
            (listening.listener.scheme.as_str(), &*listening.listener.name, listening.url());
        // A name that only repeats the scheme says nothing.
        let name = if name == scheme { String::new() } else { format!("  {name}") };
        say(format_args!("{scheme:<9} {url}{name}"));
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
    let urls = |scheme| {
        gateway.listeners().iter().filter(move |one| one.listener.scheme == scheme).map(Listening::url)
    };
    let listeners =
        gateway.listeners().iter().map(|one| json!({ "name": *one.listener.name, "url": one.url() }));
    let services: serde_json::Map<String, Value> =
        services.into_iter().map(|(name, count)| (name, count.into())).collect();
    let fields = json!({
        "message": "serving",
        "config": gateway.config().to_string(),
        "http": urls(Scheme::Http).collect::<Vec<_>>(),
        "https": urls(Scheme::Https).next(),
        "listeners": listeners.collect::<Vec<_>>(),
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
    user2: Signal,
    stop: StopSignals,
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }
}

impl StopSignals {
    /// Waits for a signal to stop.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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
