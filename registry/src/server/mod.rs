//! The embedded registry: the part of Consul's HTTP API that development, demos and tests need, on one port.
//!
//! It is for development only: one server, without replication and TLS. Production needs a real Consul. The table in `paths`
//! lists what is served; any other path is answered 404, and an option that would change the meaning of an answer is refused
//! and not ignored.
//!
//! Everything is bounded (see [`ServerLimits`]). A request is answered under one lock over [`Store`], which is never held
//! across an await.
//!
//! With a data directory, every answer, reads included, waits until the changes made so far are durable. So an index that a
//! client has seen never returns with other content.

mod acl;
mod agent;
mod agent_health;
mod answer;
mod call;
mod catalog;
mod catalog_write;
mod check_kind;
mod decode;
mod definition;
mod dispatch;
mod event;
mod filter;
mod go;
mod gzip;
mod health;
mod kv;
mod limits;
mod maintenance;
mod metrics;
mod operator;
mod own;
mod paths;
mod probe;
mod query;
mod read;
mod session;
mod shape;
mod txn;
mod ui;
mod usage;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::http::{Hosts, SideCounts, SideLimits, serve_aside};
pub use crate::server::acl::{MasterToken, NoToken};
use crate::server::answer::Refusal;
pub use crate::server::limits::ServerLimits;
use crate::server::limits::{Peer, Waiting};
use crate::server::probe::Room;
use crate::server::shape::Identity;
use crate::server::usage::Usage;
use crate::store::journal::{Directory, Journal, JournalError, NotAdmitted, Row};
use crate::store::{CheckDefinition, CheckKind, ServiceDefinition, Store};
use crate::types::CheckStatus;

/// The release of Consul whose texts and status codes the embedded registry uses, where releases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compat {
    /// The current release.
    #[default]
    Current,
    /// Release 1.8.7, with which the tests compare.
    V1_8,
}

/// Settings of an [`EmbeddedRegistry`].
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// The address to listen on; port 0 means any free port.
    pub listen: SocketAddr,
    /// The release of Consul that is imitated.
    pub compat: Compat,
    /// The name of the datacenter.
    pub datacenter: String,
    /// The name of the registry's own node.
    pub node_name: String,
    /// The directory for the state; `None` keeps it in memory only.
    pub data: Option<PathBuf>,
    /// The token that may do everything. A client without it sees and changes nothing; with `None` there are no ACLs.
    pub token: Option<MasterToken>,
    /// Names that requests may use in `Host`, in addition to addresses and `localhost`. If it is empty, a listener on loopback
    /// accepts no other name, and any other listener accepts all names.
    pub hosts: Vec<String>,
    /// Limits of connections, queries, bodies and stored data.
    pub limits: ServerLimits,
}

/// Reads the body of `agent/service/register`; the error is the text that the caller gets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_registration(body: &[u8]) -> Result<(), String> {
    let read = definition::service(body, Compat::Current, &ServerLimits::default());
    read.map(drop).map_err(|refusal| refusal.text)
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8500)),
            compat: Compat::default(),
            datacenter: "dc1".to_owned(),
            node_name: "millgate".to_owned(),
            data: None,
            token: None,
            hosts: Vec::new(),
            limits: ServerLimits::default(),
        }
    }
}

/// Why an [`EmbeddedRegistry`] did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("the registry cannot listen on {address}: {source}; is a Consul agent running there already?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("the registry's data: {0}")]
    Data(#[from] JournalError),
}

/// A running registry that speaks Consul's HTTP API, for development and tests.
///
/// Dropping it stops it as a crash would; [`EmbeddedRegistry::shutdown`] also waits until the port and the data directory are
/// free again. Without a data directory the next start begins empty, with a low index.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    accept: JoinHandle<()>,
    checks: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl EmbeddedRegistry {
    /// Starts on the current tokio runtime.
    pub async fn start(options: RegistryOptions) -> Result<Self, StartError> {
        let bind = |source| StartError::Bind { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let shared = Arc::new(Shared::new(&options, addr)?);
        let (stop, stopped) = watch::channel(false);
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared), stopped));
        let checks = tokio::spawn(probe::run(Arc::clone(&shared)));
        Ok(Self { addr, stop, accept, checks, shared })
    }

    /// The address on which the registry listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL for the address of a client.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes every connection, pending blocking queries included, and frees the port and the data directory.
    pub async fn shutdown(mut self) {
        self.checks.abort();
        let _aborted = (&mut self.checks).await;
        // This fails only if the task has ended already.
        let _ended = self.stop.send(true);
        let _joined = (&mut self.accept).await;
        // Tasks of probes may end a moment later; the directory is free now.
        if let Some(journal) = &self.shared.journal {
            journal.close();
        }
    }
}

impl Drop for EmbeddedRegistry {
    fn drop(&mut self) {
        self.accept.abort();
        self.checks.abort();
    }
}

/// The state that handlers and timers share.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    /// The time of the start, in words.
    started: String,
    master: Option<MasterToken>,
    limits: ServerLimits,
    state: Mutex<Store>,
    journal: Option<Journal>,
    /// The store's revision after the latest change.
    revision: watch::Sender<u64>,
    /// A timer may have moved.
    timers: Notify,
    blocked: Semaphore,
    waiting: Waiting,
    connections: Arc<SideCounts>,
    hosts: Hosts,
    probes: Room,
    usage: Usage,
}

impl Shared {
    fn new(options: &RegistryOptions, addr: SocketAddr) -> Result<Self, StartError> {
        let address = match addr.ip() {
            // A node needs an address that can be called.
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let opened = options.data.as_ref().map(|directory| Directory::open(directory)).transpose()?;
        let node_id = || uuid::Uuid::new_v4().to_string();
        let identity = Identity {
            node_id: match &opened {
                Some(directory) => directory.keep("node-id", node_id)?,
                None => node_id(),
            },
            node_name: options.node_name.clone(),
            datacenter: options.datacenter.clone(),
            address,
            compat: options.compat,
            acls: options.token.is_some(),
        };
        let mut store = Store::new(options.limits.store, identity.own_node());
        let journal = match opened {
            None => None,
            Some(directory) => {
                let mut take = |row: Row<'_>| store.read_back(row);
                let journal = Journal::open(directory, options.limits.journal, &mut take)?;
                store.resume(identity.own_node(), Instant::now());
                Some(journal)
            }
        };
        register_itself(&mut store, &identity);
        let revision = watch::Sender::new(store.revision());
        let shared = Self {
            identity,
            master: options.token.clone(),
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            limits: options.limits,
            state: Mutex::new(store),
            journal,
            revision,
            timers: Notify::new(),
            blocked: Semaphore::new(options.limits.blocked_queries),
            waiting: Waiting::default(),
            connections: Arc::default(),
            hosts: Hosts::new(addr.ip(), &options.hosts),
            probes: Room::default(),
            usage: Usage::default(),
        };
        shared.record(&mut shared.store());
        Ok(shared)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A handler that panicked leaves at worst one half of a change, which a development registry can live with.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the store and wakes the queries and timers that wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let result = self.apply(change);
        self.timers.notify_one();
        result
    }

    /// [`Shared::change`] for the timers, which their own changes need not wake.
    fn apply<T>(&self, change: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let mut store = self.store();
        let before = store.revision();
        let result = change(&mut store, tokio::time::Instant::now().into_std());
        let after = store.revision();
        self.record(&mut store);
        drop(store);
        if after != before {
            self.revision.send_replace(after);
        }
        result
    }

    /// Hands the changed rows to the journal. It is called under the lock, so that rows stay in the order of the changes.
    fn record(&self, store: &mut Store) {
        let Some(journal) = &self.journal else { return store.forget_changes() };
        let mut rows = Vec::new();
        match store.write_changes(&mut rows) {
            Ok(()) => journal.append(&rows),
            Err(error) => error!("a change cannot be written: {error}"),
        }
    }

    /// Refuses a write that could not be kept, before it is made.
    fn admit_change(&self) -> Result<(), Refusal> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.admit().map_err(|refused| match refused {
            NotAdmitted::Failed(reason) => Refusal::internal(reason),
            NotAdmitted::Busy(reason) => Refusal::internal(reason).at(usage::PENDING),
        })
    }

    /// Returns when the present state of the store is on disk.
    async fn settle(&self) -> Result<(), Refusal> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.settle().await.map_err(Refusal::internal)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

/// A Consul server is a service of its own catalog, and its node has a check. Tools expect both.
fn register_itself(store: &mut Store, identity: &Identity) {
    let now = Instant::now();
    let service = ServiceDefinition {
        id: agent::CONSUL.to_owned(),
        name: agent::CONSUL.to_owned(),
        port: i64::from(shape::SERVER_PORT),
        meta: identity.own_service_meta(),
        weight_passing: 1,
        weight_warning: 1,
        ..ServiceDefinition::default()
    };
    let check = CheckDefinition {
        initial_status: Some(CheckStatus::Passing),
        initial_output: "Agent alive and reachable".to_owned(),
        ..CheckDefinition::new(agent::SERF_HEALTH, "Serf Health Status", CheckKind::Node)
    };
    let registered = store
        .register_check(check, now)
        .and_then(|()| store.register_service(service, Vec::new(), false, now));
    if let Err(error) = registered {
        warn!("the registry does not list itself: {error:?}");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let (limits, counts) = (side_limits(&shared), Arc::clone(&shared.connections));
    let serving = serve_aside(
        (listener, std::future::pending()),
        move || limits,
        counts,
        move |peer, request| {
            let shared = Arc::clone(&shared);
            answer(shared, peer, request)
        },
    );
    tokio::select! {
        never = serving => match never {},
        // An error means that the sender is gone, which is a stop as well.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

fn side_limits(shared: &Shared) -> SideLimits {
    SideLimits {
        connections: shared.limits.connections,
        head: HEADER_TIMEOUT,
        idle: IDLE_TIMEOUT,
        header_bytes: HEADER_BYTES_MAX,
        title_case: true,
    }
}

async fn answer(shared: Arc<Shared>, peer: SocketAddr, mut request: Request<Incoming>) -> answer::Response {
    if !shared.hosts.admit(request.uri(), request.headers()) {
        shared.connections.misdirected.fetch_add(1, Ordering::Relaxed);
        let text = "this registry answers to its address and to localhost; `--host NAME` names another\n";
        return answer::text(StatusCode::MISDIRECTED_REQUEST, text.to_owned());
    }
    request.extensions_mut().insert(Peer(peer.ip()));
    dispatch::answer(shared, request).await
}

/// The default of the gateway's public listener.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Consul's clients keep connections for this time.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const HEADER_BYTES_MAX: usize = 64 * 1024;
