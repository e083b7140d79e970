//! Starts and stops a gateway inside a process, for `millgate run`, the demo and the tests.

pub(crate) mod first;
pub mod handover;
pub mod inherited;
mod pulse;
mod starting;
mod successor;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use millgate_registry::{HttpClient, HttpOptions};
use tokio::sync::{mpsc, oneshot};

use self::{
    first::{Made, open_account, tidy_state},
    inherited::Inherited,
    starting::{
        AdminDoor, DataPlane, OpenAddress, admin_views, bind, start_control, start_log, start_workers,
    },
};
pub use self::{pulse::Pulse, starting::Listening, successor::ReadySuccessor};
use crate::{
    access_log::LogSink,
    admission::Scheme,
    auth::jwt,
    clock,
    config::{load::Loaded, source::ConfigSource},
    control::{
        Controller, ending,
        event::{DrainBy, EVENTS_MAX, Event, hints},
        kept::Kept,
        keys::{kept::KeptKeys, left_out::LeftOut},
        origin::{First, Origin},
        status::Status,
    },
    listen::Listener,
    snapshot::Publisher,
    syntax::diagnostics::Report,
    worker::Command,
    worker_thread::listen::ListenError,
};

/// The options with which a gateway is started.
#[derive(Debug, Clone)]
pub struct RunOptions {
    pub config: ConfigSource,
    /// Folder for last known instances, declared routes and keys, with a folder for each registry; `None`: in memory
    /// only.
    pub state_dir: Option<PathBuf>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { config: ConfigSource::File(PathBuf::from("routes.yaml")), state_dir: None }
    }
}

/// Why a gateway did not start. `Display` writes a full report for its operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(Box<Report>),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "systemd has opened a socket at {0}, and no listener of the configuration has this address: write it there, or take it out of \
         the socket unit"
    )]
    SocketNotTaken(SocketAddr),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the registry client cannot be set up: {0}")]
    Registry(String),
}

/// A running gateway. Dropping it without [`Gateway::shutdown`] does not stop it: its threads end with the process.
pub struct Gateway {
    events: mpsc::Sender<Event>,
    status: Arc<Status>,
    publisher: Arc<Publisher>,
    clients: Vec<Listening>,
    admin: Option<SocketAddr>,
    config: ConfigSource,
    warnings: Report,
    log: Option<LogSink>,
    threads: Vec<JoinHandle<()>>,
    workers: Vec<mpsc::Sender<Command>>,
    addresses: Vec<OpenAddress>,
    /// The admin listener's socket, for a successor.
    admin_socket: Option<TcpListener>,
    /// What is accepted from when the gateway opens.
    closed: Option<Closed>,
}

/// Sockets from which nothing is accepted yet.
struct Closed {
    listeners: Vec<Vec<(TcpListener, Listener)>>,
    admin: oneshot::Sender<()>,
}

/// The status of a gateway that starts. `refused` is the report of a newer configuration than the one in use.
fn first_status(loaded: &Loaded, refused: Option<&Report>) -> Arc<Status> {
    let status = Status::new();
    // The caller prints the report when the sockets are open.
    let _ = status.record_warnings(&loaded.warnings);
    if let Some(report) = refused {
        status.record_refused(report);
    }
    Arc::new(status)
}

impl Gateway {
    /// Loads the configuration, binds, starts workers and control plane, and returns once connections are accepted.
    /// If the configuration is a key, this waits while Consul is unreachable, unless the last accepted one is on disk.
    ///
    /// # Errors
    /// The configuration is not valid, an address cannot be bound, or the system refuses a thread or a file.
    pub async fn start(options: RunOptions) -> Result<Self, StartError> {
        let mut gateway = Self::prepare(options, Inherited::default()).await?;
        gateway.open();
        Ok(gateway)
    }

    /// The same, with sockets that this process has not bound itself, and up to the first connection, which waits in
    /// the kernel's queue until [`Gateway::open`].
    ///
    /// # Errors
    /// As [`Gateway::start`]; or systemd has opened a socket that no listener takes.
    pub async fn prepare(options: RunOptions, inherited: Inherited) -> Result<Self, StartError> {
        jwt::install_crypto_provider();
        let kept_keys = KeptKeys::new(options.state_dir.as_deref());
        let state_dir = options.state_dir.as_deref();
        let make = |loaded: &Loaded| Made::of(loaded, state_dir, &kept_keys);
        let first = Origin::first(options.config, state_dir, make).await;
        let First { origin, loaded, made, refused } =
            first.map_err(|report| StartError::Config(Box::new(report)))?;
        let Made { settings, snapshot: first, world, declared, budget, registry, store } = made;
        let kept = Kept::new(options.state_dir, registry);
        tidy_state(&kept, store.as_ref(), &settings);
        kept_keys.forget_unusable(SystemTime::UNIX_EPOCH + clock::unix_now());
        let files = origin.watched_files(&loaded.secrets_and_files);
        let warnings = loaded.report();
        let files_open = open_account(&settings);
        let bound = bind(&settings, inherited)?;
        let shared = (Arc::new(Publisher::new(first)), first_status(&loaded, refused.as_ref()));
        let (publisher, status) = &shared;
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let mut threads = Vec::new();
        let log = start_log(&settings, &mut threads)?;
        let hints = hints(events.clone());
        let data = DataPlane { publisher, log: log.as_ref(), hints, files: &files_open };
        let workers = start_workers(settings.workers, &data, &mut threads)?;
        let config = origin.source().clone();
        let served =
            admin_views(&shared, &bound.clients, (&workers, &budget, files_open), config.to_string())?;
        let (admin, AdminDoor { listener, opens, ends, socket }) = AdminDoor::of(bound.admin);
        let commands = workers.clone();
        let controller = Controller {
            admin_ends: Some(ends),
            started: settings.clone(),
            settings,
            file: loaded.settings,
            declared,
            fingerprint: origin.fingerprint(&files, &loaded.source.text),
            files,
            read_again: None,
            origin,
            world,
            publisher: Arc::clone(publisher),
            workers,
            status: Arc::clone(status),
            budget,
            http: HttpClient::new(&HttpOptions::default())
                .map_err(|e| StartError::Registry(e.to_string()))?,
            kept,
            kept_keys,
            left_out: LeftOut::default(),
            events: events.clone(),
        };
        threads.push(start_control(controller, received, served, listener)?);
        let (publisher, status) = shared;
        Ok(Self {
            events,
            status,
            publisher,
            clients: bound.clients,
            admin,
            config,
            warnings,
            log,
            threads,
            workers: commands,
            addresses: bound.addresses,
            admin_socket: socket,
            closed: Some(Closed { listeners: bound.listeners, admin: opens }),
        })
    }

    /// Begins to accept connections.
    pub fn open(&mut self) {
        let Some(Closed { listeners, admin }) = self.closed.take() else { return };
        for (worker, listeners) in self.workers.iter().zip(listeners) {
            // Its queue is empty: it is the first command.
            let _ = worker.try_send(Command::Accept(listeners));
        }
        let _ = admin.send(());
    }

    /// All addresses for clients: the cleartext ones in the order of the file, then those for TLS.
    pub fn listeners(&self) -> &[Listening] {
        &self.clients
    }

    /// The first cleartext address, with the port that was bound.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.first(Scheme::Http)
    }

    /// The first address for TLS, with the port that was bound.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.first(Scheme::Https)
    }

    fn first(&self, scheme: Scheme) -> Option<SocketAddr> {
        self.clients
            .iter()
            .find(|listening| listening.listener.scheme == scheme)
            .map(|listening| listening.address)
    }

    /// The address of the admin listener, with the port that was bound.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Warnings about the configuration with which the gateway was started; may be empty.
    pub fn warnings(&self) -> &Report {
        &self.warnings
    }

    /// The source of the configuration.
    pub fn config(&self) -> &ConfigSource {
        &self.config
    }

    /// Waits until the registry and the resolver have responded for every service that a route names, and there are
    /// keys of every provider or the wait for them has been long enough.
    pub async fn ready(&self) {
        self.status.synced().await;
    }

    /// The number of routes, and the services with the numbers of their routable endpoints.
    pub fn summary(&self) -> (usize, Vec<(String, usize)>) {
        let snapshot = self.publisher.load();
        let services = snapshot.clusters.iter().map(|c| (c.name.to_string(), c.endpoints.len()));
        (snapshot.table.routes.len(), services.collect())
    }

    /// Reads the configuration again, and applies all of it or nothing.
    ///
    /// # Errors
    /// The configuration is refused: the text is its report, and the running configuration stays.
    pub async fn reload(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the gateway is stopping".to_owned();
        self.events.send(Event::Reload { asked: clock::now(), reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Opens the access-log file again, after rotation.
    pub fn reopen_logs(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Stops accepting, finishes requests in flight within `drain.timeout`, and ends all threads. Returns the number
    /// of connections whose requests were cut off. Also returns when a thread, a pipe or a disk hangs.
    pub async fn shutdown(self) -> usize {
        let kept = self.addresses.iter().filter(|open| open.is_lent).map(|open| open.bound).collect();
        self.drain(DrainBy::Stop { kept }).await
    }

    /// Lets the successor serve, finishes requests in flight as [`Gateway::shutdown`] does, and ends all threads.
    pub async fn give_way(self, has: Arc<[SocketAddr]>) -> usize {
        self.drain(DrainBy::Successor { has }).await
    }

    /// The longest time that [`Gateway::shutdown`] may take.
    pub fn drain_max(&self) -> Duration {
        self.status.drain().map_or(Duration::ZERO, |drain| ending::drain_patience(&drain))
    }

    /// What shows whether all threads go on.
    pub fn pulse(&self) -> Pulse {
        Pulse { events: self.events.clone(), workers: self.workers.clone() }
    }

    async fn drain(self, by: DrainBy) -> usize {
        let (reply, answer) = oneshot::channel();
        let patience = self.drain_max();
        let drain = async {
            match self.events.send(Event::Drain { by, reply }).await {
                Ok(()) => answer.await.unwrap_or(0),
                Err(_) => 0,
            }
        };
        let cut = tokio::time::timeout(patience, drain).await.unwrap_or(0);
        let Self { log, threads, events, workers, .. } = self;
        drop((log, events, workers));
        ending::join(threads).await;
        cut
    }
}
