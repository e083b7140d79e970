//! Starts and stops a gateway inside a process, for `millgate run`, the demo and the tests.

mod starting;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use millgate_registry::{HttpClient, HttpOptions, LastKnownGood, RegistryIdentity};
use tokio::sync::{mpsc, oneshot};

use self::starting::{DataPlane, bind, start_control, start_log, start_workers};
use crate::{
    access_log::LogSink,
    auth::jwt,
    clock, compile,
    config::{load::Loaded, settings::Settings, source::ConfigSource},
    control::{
        Controller,
        admin::Admin,
        declared::DeclaredRoutes,
        ending,
        event::{EVENTS_MAX, Event, hints},
        kept::{self, Kept},
        key_files,
        keys::{kept::KeptKeys, left_out::LeftOut},
        metrics::{Exporter, Sources},
        origin::{First, Origin},
        registry::client_config,
        status::Status,
    },
    file_account::{self, FileAccount},
    policy::rate_limit::KeyBudget,
    snapshot::Publisher,
    syntax::diagnostics::Report,
    worker_thread::listen::ListenError,
    world::{ProviderKeys, World, tls_clients::TlsClients},
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
    http: Vec<SocketAddr>,
    https: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    config: ConfigSource,
    warnings: Report,
    log: Option<LogSink>,
    threads: Vec<JoinHandle<()>>,
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
        let bound = bind(&settings)?;
        let publisher = Arc::new(Publisher::new(first));
        let status = first_status(&loaded, refused.as_ref());
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let mut threads = Vec::new();
        let log = start_log(&settings, &mut threads)?;
        let hints = hints(events.clone());
        let data = DataPlane { publisher: &publisher, log: log.as_ref(), hints, files: &files_open };
        let workers = start_workers(bound.listeners, &data, &mut threads)?;
        let sources = Sources {
            workers: workers.clone(),
            publisher: Arc::clone(&publisher),
            status: Arc::clone(&status),
            budget: Arc::clone(&budget),
            files: files_open,
            admin: Arc::default(),
        };
        let config = origin.source().clone();
        let served = Admin {
            config: config.to_string(),
            publisher: Arc::clone(&publisher),
            status: Arc::clone(&status),
            exporter: Exporter::new(sources)?,
        };
        let controller = Controller {
            started: settings.clone(),
            settings,
            file: loaded.settings,
            declared,
            fingerprint: origin.fingerprint(&files, &loaded.source.text),
            files,
            read_again: None,
            origin,
            world,
            publisher: Arc::clone(&publisher),
            workers,
            status: Arc::clone(&status),
            budget,
            http: HttpClient::new(&HttpOptions::default())
                .map_err(|e| StartError::Registry(e.to_string()))?,
            kept,
            kept_keys,
            left_out: LeftOut::default(),
            events: events.clone(),
        };
        let (admin, admin_listener) = bound.admin.unzip();
        threads.push(start_control(controller, received, served, admin_listener)?);
        let (http, https) = (bound.http, bound.https);
        Ok(Self { events, status, publisher, http, https, admin, config, warnings, log, threads })
    }

    /// The first cleartext address, with the port that was bound.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.first().copied()
    }

    /// All cleartext addresses, with the ports that were bound.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The address of the TLS listener, with the port that was bound.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https
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
        let (reply, answer) = oneshot::channel();
        let patience = self.status.drain().map_or(Duration::ZERO, |drain| ending::drain_patience(&drain));
        let drain = async {
            match self.events.send(Event::Drain { reply }).await {
                Ok(()) => answer.await.unwrap_or(0),
                Err(_) => 0,
            }
        };
        let cut = tokio::time::timeout(patience, drain).await.unwrap_or(0);
        let Self { log, threads, events, .. } = self;
        drop((log, events));
        ending::join(threads).await;
        cut
    }
}

/// The parts of a gateway that are made from its first configuration.
struct Made {
    /// The settings with the routes that services declared when the gateway ran last.
    settings: Settings,
    snapshot: crate::snapshot::Snapshot,
    world: World,
    declared: DeclaredRoutes,
    budget: Arc<KeyBudget>,
    /// The registry whose stored state is used. `store` contains that state.
    registry: Option<RegistryIdentity>,
    store: Option<LastKnownGood>,
}

impl Made {
    /// Makes the parts from a configuration and the stored state of its registry and its issuers.
    fn of(loaded: &Loaded, state_dir: Option<&Path>, kept_keys: &KeptKeys) -> Result<Self, Report> {
        let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, clock::now()));
        let registry = registry_of(&loaded.settings);
        let folder = state_dir.zip(registry.as_ref()).map(|(dir, registry)| kept::folder(dir, registry));
        let store = folder.as_deref().and_then(kept::open);
        let mut declared = DeclaredRoutes::remembered(folder.as_deref());
        let known = Known { instances: store.as_ref(), keys: kept_keys };
        let (settings, snapshot, world) = first_snapshot(loaded, &mut declared, &known, &budget)?;
        Ok(Self { settings, snapshot, world, declared, budget, registry, store })
    }
}

/// Removes stored state that configurations have not named for a long time.
fn tidy_state(kept: &Kept, store: Option<&LastKnownGood>, settings: &Settings) {
    let now = SystemTime::UNIX_EPOCH + clock::unix_now();
    if let Some(store) = store {
        store.forget_unnamed(settings.services.iter().flat_map(|service| service.source.targets()), now);
        kept.forget_unused(now);
    }
}

/// The registry that the settings name, if they need one.
fn registry_of(settings: &Settings) -> Option<RegistryIdentity> {
    RegistryIdentity::of(&client_config(settings.consul.as_ref()?)).ok()
}

/// State that an earlier process has stored.
pub(crate) struct Known<'a> {
    pub(crate) instances: Option<&'a LastKnownGood>,
    pub(crate) keys: &'a KeptKeys,
}

/// Makes the first settings, snapshot and world, before a socket is bound.
///
/// # Errors
/// The configuration cannot be compiled, or a file that it names cannot be used.
pub(crate) fn first_snapshot(
    loaded: &Loaded,
    declared: &mut DeclaredRoutes,
    known: &Known<'_>,
    budget: &Arc<KeyBudget>,
) -> Result<(Settings, crate::snapshot::Snapshot, World), Report> {
    let refuse = |diagnostics| loaded.refuse(diagnostics);
    let mut table = compile::table(&loaded.settings, None, budget).map_err(refuse)?;
    let keys = key_files::read_keys(&loaded.settings).map_err(refuse)?;
    let (settings, _) = declared.merge(&loaded.settings, |_| true, clock::now());
    if declared.accepted() > 0 {
        table = compile::table(&settings, None, budget).map_err(refuse)?;
    }
    let tls = compile::tls(&settings).map_err(|diagnostic| refuse(vec![diagnostic]))?;
    let tls_clients = TlsClients::default().prepare(&loaded.settings).map_err(refuse)?;
    let mut world = World::default();
    world.tls = tls;
    world.tls_clients = tls_clients;
    world.tls_clients.complete(&settings);
    world.open_desks(&settings, &HashMap::new());
    for (provider, keys) in keys {
        world.learn_keys(provider, keys);
    }
    recall_keys(&mut world, &settings, known.keys);
    if let Some(store) = known.instances {
        for target in settings.services.iter().flat_map(|service| service.source.targets()) {
            if let Some((instances, saved_at)) = store.load_dated(target) {
                let now = SystemTime::UNIX_EPOCH + clock::unix_now();
                let age = saved_at.and_then(|at| now.duration_since(at).ok());
                world.ages.extend(age.map(|age| (target.clone(), age)));
                world.instances.insert(target.clone(), instances.into());
            }
        }
    }
    for moved in world.choose_datacenters(&settings, clock::now()) {
        moved.log();
    }
    let snapshot = compile::snapshot(&settings, Arc::new(table), &world, None);
    Ok((settings, snapshot, world))
}

/// Takes over the keys that an earlier process has fetched, which are used until they are fetched again.
fn recall_keys(world: &mut World, settings: &Settings, kept: &KeptKeys) {
    for auth in &settings.auth {
        let Some(desk) = world.desk_of(auth).map(Arc::clone) else { continue };
        let Some((keys, fetched)) = kept.load(auth, clock::unix_now()) else { continue };
        desk.record(|report| {
            report.fetched = Some(fetched);
            report.is_kept = true;
        });
        let keys = ProviderKeys { source: auth.keys.clone(), keys: Arc::new(keys) };
        world.learn_keys(Arc::from(auth.name.as_str()), keys);
    }
}

/// Opens the account of files, within the limit that the system sets for this process.
fn open_account(settings: &Settings) -> Arc<FileAccount> {
    let limit = file_account::raise_limit();
    let budget = compile::file_budget(limit, settings);
    for (key, wanted, given) in [
        ("limits.files", settings.files_max, budget.limit),
        ("listen.max_connections", settings.listen.max_connections, budget.clients),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted > given) {
            tracing::warn!(key, wanted, given, limit, "the limit of open files does not allow as many");
        }
    }
    FileAccount::new(budget, settings.workers)
}
