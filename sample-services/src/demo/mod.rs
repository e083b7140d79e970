//! A registry, three services on SQLite (products twice), and the gateway in front of them, in one process and without any
//! installed server.
//!
//! It is made of the same parts as a real deployment and talks to them the same way: services register over
//! HTTP, the gateway reads a `routes.yaml` file, and [`Demo::start`] returns only when each service has answered
//! through the gateway. Secrets are made at every start and written with mode 0600.

mod catalog;
pub mod client;
mod first_visit;
mod routes;
mod secrets;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use millgate::{ConfigSource, Gateway, RunOptions};
use millgate_registry::{ClientConfig, EmbeddedRegistry, RegistryOptions};
use tempfile::TempDir;
use tokio::task::JoinSet;

use self::{
    first_visit::FirstVisit,
    routes::{AUDIENCE, ISSUER, RoutesFile},
    secrets::Secrets,
};
use crate::{
    cli::listen_addr,
    database::DatabaseLocation,
    service::{RunningService, Service, ServiceOptions},
    users::{TokenKey, TokenSigner},
};

/// The addresses and the data folder of a demo. Port 0 takes any free one.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub registry: RegistryChoice,
    /// The data folder; `None` is a temporary folder that is removed at the end.
    pub data: Option<PathBuf>,
}

/// The demo's own registry, or a running Consul, which is used with the token and the certificates of Consul's own
/// environment variables, as the gateway does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryChoice {
    Embedded(SocketAddr),
    Existing(String),
}

impl std::str::FromStr for RegistryChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Existing(text.trim_end_matches('/').to_owned()));
        }
        let or_url = |error| format!("{error}; or the URL of a Consul, such as http://127.0.0.1:8500");
        Ok(Self::Embedded(listen_addr(text).map_err(or_url)?))
    }
}

/// A running demo.
pub struct Demo {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub registry_url: String,
    /// A token that `POST /login` gave to a customer.
    pub customer_token: String,
    /// A token of a member of staff, who may write the catalogue.
    pub staff_token: String,
    /// A product to order.
    pub product_id: String,
    /// The authority that signed the gateway's certificate, for `curl --cacert`.
    pub ca_pem: String,
    pub ca_file: PathBuf,
    pub routes_file: PathBuf,
    /// Differences from the flags, for people.
    pub notes: Vec<String>,
    parts: Parts,
    _temporary: Option<TempDir>,
}

/// The parts to stop, in the order of their start.
#[derive(Default)]
struct Parts {
    registry: Option<EmbeddedRegistry>,
    services: Vec<RunningService>,
    gateway: Option<Gateway>,
}

impl Demo {
    /// Starts everything and returns when every part answers. If one does not, the others are stopped again.
    pub async fn start(options: DemoOptions) -> anyhow::Result<Self> {
        Self::start_until(options, std::future::pending()).await?.context("the start of the demo was stopped")
    }

    /// As [`Demo::start`], at most until `stop`: then what has started is stopped again, and there is no demo.
    pub async fn start_until(
        options: DemoOptions,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<Self>> {
        check_ports(&options)?;
        let (folder, temporary) = open_folder(options.data.as_deref())?;
        let mut parts = Parts::default();
        let started = tokio::select! {
            started = start_parts(&mut parts, &options, &folder) => started.map(Some),
            () = stop => Ok(None),
        };
        match started {
            Ok(Some(started)) => Ok(Some(started.into_demo(parts, temporary))),
            Ok(None) => {
                parts.give_up().await;
                Ok(None)
            }
            Err(error) => {
                parts.stop().await;
                Err(error)
            }
        }
    }

    /// Drains the gateway, then stops the services, each of which deregisters first, then the registry.
    pub async fn shutdown(self) {
        self.parts.stop().await;
    }
}

impl Parts {
    /// Stops the started parts, all at once: no request is in flight, and all waits for a silent registry run in parallel.
    async fn give_up(self) {
        drop(self.gateway);
        let services: JoinSet<()> = self.services.into_iter().map(RunningService::shutdown).collect();
        services.join_all().await;
        if let Some(registry) = self.registry {
            registry.shutdown().await;
        }
    }

    async fn stop(self) {
        if let Some(gateway) = self.gateway {
            gateway.shutdown().await;
        }
        for service in self.services.into_iter().rev() {
            service.shutdown().await;
        }
        if let Some(registry) = self.registry {
            registry.shutdown().await;
        }
    }
}

/// The results of [`start_parts`].
struct Started {
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    registry_url: String,
    secrets: Secrets,
    routes_file: PathBuf,
    notes: Vec<String>,
    visit: FirstVisit,
}

impl Started {
    fn into_demo(self, parts: Parts, temporary: Option<TempDir>) -> Demo {
        Demo {
            http: self.http,
            https: self.https,
            admin: self.admin,
            registry_url: self.registry_url,
            customer_token: self.visit.customer_token,
            staff_token: self.visit.staff_token,
            product_id: self.visit.product_id,
            ca_pem: self.secrets.ca_pem,
            ca_file: self.secrets.ca_file,
            routes_file: self.routes_file,
            notes: self.notes,
            parts,
            _temporary: temporary,
        }
    }
}

/// The folder to keep things in, and the guard that removes it again if it is a temporary one.
fn open_folder(data: Option<&Path>) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if let Some(folder) = data {
        let cannot = || format!("--data {}: cannot be created", folder.display());
        std::fs::create_dir_all(folder).with_context(cannot)?;
        return Ok((folder.canonicalize()?, None));
    }
    let temporary = tempfile::Builder::new().prefix("millgate-demo-").tempdir()?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

async fn start_parts(parts: &mut Parts, options: &DemoOptions, folder: &Path) -> anyhow::Result<Started> {
    let secrets = Secrets::make(folder)?;
    let registry = start_registry(parts, &options.registry).await?;
    start_services(parts, folder, &registry, &secrets).await?;
    let registry_url = registry.address.clone();

    let routes = RoutesFile::settle(folder, options, &registry_url)?;
    let config = ConfigSource::File(routes.path.clone());
    let run = RunOptions { config, ..RunOptions::default() };
    let gateway = Gateway::start(run).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let gateway = parts.gateway.insert(gateway);
    if tokio::time::timeout(READY_TIMEOUT, every_instance_is_found(gateway)).await.is_err() {
        bail!("the gateway did not find every instance in the registry within {READY_TIMEOUT:?}");
    }
    let missing = |listener: &str| format!("the gateway has no {listener} listener");
    let http = gateway.http_addr().with_context(|| missing("http"))?;
    let https = gateway.https_addr().with_context(|| missing("https"))?;
    let admin = gateway.admin_addr().with_context(|| missing("admin"))?;
    let notes = if routes.edited { notes_on_edited(options, http, https, admin) } else { Vec::new() };

    let visit = FirstVisit::make(http, &secrets).await?;
    visit.check_every_part(https, admin, registry, &secrets.ca_pem).await?;
    Ok(Started { http, https, admin, registry_url, secrets, routes_file: routes.path, notes, visit })
}

/// The file decides where the gateway listens; a flag with another address must not be ignored silently.
fn notes_on_edited(
    options: &DemoOptions,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
) -> Vec<String> {
    let mut notes = vec!["routes.yaml was edited; it is kept as it is".to_owned()];
    let flags = [
        ("--http", options.http, http),
        ("--https", options.https, https),
        ("--admin", options.admin, admin),
    ];
    for (flag, wanted, used) in flags {
        if wanted.port() != 0 && wanted != used {
            notes.push(format!("routes.yaml listens on {used}; {flag} {wanted} has no effect"));
        }
    }
    notes
}

/// A new instance takes requests once the registry's first health check of it has passed.
async fn every_instance_is_found(gateway: &Gateway) {
    gateway.ready().await;
    loop {
        let (_, services) = gateway.summary();
        let found: usize = services.iter().map(|(_, instances)| instances).sum();
        if found >= INSTANCES && services.iter().all(|(_, instances)| *instances > 0) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

async fn start_registry(parts: &mut Parts, choice: &RegistryChoice) -> anyhow::Result<ClientConfig> {
    match choice {
        RegistryChoice::Existing(url) => {
            Ok(ClientConfig { address: url.clone(), ..ClientConfig::from_env() })
        }
        RegistryChoice::Embedded(listen) => {
            let options = RegistryOptions { listen: *listen, ..Default::default() };
            let registry = parts.registry.insert(EmbeddedRegistry::start(options).await?);
            Ok(ClientConfig::new(registry.url()))
        }
    }
}

/// One after the other: the two instances of products share a database file, and the first one makes its tables.
async fn start_services(
    parts: &mut Parts,
    folder: &Path,
    registry: &ClientConfig,
    secrets: &Secrets,
) -> anyhow::Result<()> {
    let signer = TokenSigner {
        key: TokenKey::from_secret(&std::fs::read(&secrets.token_key_file)?)?,
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        ttl: TOKEN_TTL,
    };
    for service in [
        Service::Users { signer: Some(signer) },
        Service::Products,
        Service::Products,
        Service::Orders { products_url: None },
    ] {
        let options = ServiceOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            database: DatabaseLocation::File(folder.join(format!("{}.db", service.name()))),
            registry: Some(registry.clone()),
            service,
        };
        parts.services.push(RunningService::start(options).await?);
    }
    Ok(())
}

/// Tries every port before anything is started. The gateway listens with `SO_REUSEPORT`, so a second demo on the
/// same port would not fail by itself: it would take half of the first one's connections.
fn check_ports(options: &DemoOptions) -> anyhow::Result<()> {
    let registry = match options.registry {
        RegistryChoice::Embedded(addr) => Some(("--registry", addr)),
        RegistryChoice::Existing(_) => None,
    };
    let gateway = [("--http", options.http), ("--https", options.https), ("--admin", options.admin)];
    // All are held until the end, so that two flags with the same address are found too.
    let mut held = Vec::new();
    for (flag, addr) in gateway.into_iter().chain(registry) {
        match TcpListener::bind(addr) {
            Ok(listener) => held.push(listener),
            Err(error) if flag == "--registry" => bail!(
                "cannot listen on {addr}: {error}; use the Consul that is there with {flag} http://{addr}, or choose \
                 another address with {flag} ADDR"
            ),
            Err(error) => bail!("cannot listen on {addr}: {error}; choose another address with {flag} ADDR"),
        }
    }
    Ok(())
}

const TOKEN_TTL: Duration = Duration::from_hours(1);
/// Users, products twice, orders.
const INSTANCES: usize = 4;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Registration and the first health check take well under a second; a busy machine gets much more.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
