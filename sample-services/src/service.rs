//! One running service: database, router, listener, registration; and the way back.
//!
//! Start: open the database, listen, register. Stop: deregister first, so that no further requests come,
//! then report not ready, finish the requests in flight for at most [`DRAIN_TIMEOUT`], and close the database.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use axum::Router;
use millgate_registry::{Client, ClientConfig};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tracing::Instrument;

use crate::{
    database::{Database, DatabaseLocation},
    http::{Readiness, assemble},
    orders::{self, Catalog, ProductsLocation},
    products,
    registration::Registration,
    users::{self, TokenSigner},
};

/// How to run a service.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    pub service: Service,
    /// Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The host under which others reach this instance, if it differs from the address of the listener.
    pub advertise: Option<String>,
    pub database: DatabaseLocation,
    /// Without one, the service runs unregistered.
    pub registry: Option<ClientConfig>,
}

/// One of the three services, with its own settings.
#[derive(Debug, Clone)]
pub enum Service {
    /// Without a signer, every login fails.
    Users {
        signer: Option<TokenSigner>,
    },
    Products,
    /// `products_url` is used instead of the registry where it is given.
    Orders {
        products_url: Option<String>,
    },
}

impl Service {
    /// The name in the registry.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Users { .. } => "users",
            Self::Products => "products",
            Self::Orders { .. } => "orders",
        }
    }
}

/// A service that is being served by a task of this process.
#[derive(Debug)]
pub struct RunningService {
    name: &'static str,
    addr: SocketAddr,
    database: Database,
    readiness: Readiness,
    registration: Option<Registration>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl RunningService {
    pub async fn start(options: ServiceOptions) -> anyhow::Result<Self> {
        // Every line of the log names its service, because several may run in one process.
        let span = service_span(options.service.name());
        Self::start_in_span(options).instrument(span).await
    }

    async fn start_in_span(options: ServiceOptions) -> anyhow::Result<Self> {
        let name = options.service.name();
        if options.registry.is_some() && options.advertise.is_none() && options.listen.ip().is_unspecified() {
            bail!("{} is not an address that others can reach; name one with --advertise", options.listen);
        }
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("{name} cannot listen on {}", options.listen))?;
        let addr = listener.local_addr()?;
        let (router, database, readiness) = build(&options).await?;
        let (stop, stopped) = oneshot::channel();
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            // A sender that is dropped is a process that goes away: the same thing.
            let _ = stopped.await;
        });
        let server = tokio::spawn(server.into_future().in_current_span());
        let registration = match options.registry {
            Some(registry) => {
                Some(Registration::start(Client::new(registry)?, name, options.advertise, addr).await)
            }
            None => None,
        };
        tracing::info!(%addr, "serving");
        Ok(Self { name, addr, database, readiness, registration, stop, server })
    }

    /// The address on which the service listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Deregisters, finishes the requests in flight, and closes the database.
    pub async fn shutdown(self) {
        let span = service_span(self.name);
        self.shut_down_in_span().instrument(span).await;
    }

    async fn shut_down_in_span(self) {
        if let Some(registration) = self.registration {
            registration.end().await;
        }
        self.readiness.begin_drain();
        let _ = self.stop.send(());
        let abort = self.server.abort_handle();
        match tokio::time::timeout(DRAIN_TIMEOUT, self.server).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the listener failed"),
            Ok(Err(error)) => tracing::warn!(%error, "the server task failed"),
            Err(_) => {
                tracing::warn!("requests were still in flight after {DRAIN_TIMEOUT:?}; they are cut off");
                abort.abort();
            }
        }
        self.database.close().await;
    }
}

/// At the level of errors, so that no filter which lets a line through drops its service.
fn service_span(service: &'static str) -> tracing::Span {
    tracing::error_span!("service", service)
}

/// The application of a service, without a listener: what tests call in process.
pub async fn application(options: &ServiceOptions) -> anyhow::Result<Router> {
    build(options).await.map(|(router, ..)| router)
}

async fn build(options: &ServiceOptions) -> anyhow::Result<(Router, Database, Readiness)> {
    let schema = match options.service {
        Service::Users { .. } => &users::SCHEMA,
        Service::Products => &products::SCHEMA,
        Service::Orders { .. } => &orders::SCHEMA,
    };
    let database = Database::open(&options.database, schema)
        .await
        .with_context(|| format!("the database {:?} cannot be opened", options.database))?;
    let api = match &options.service {
        Service::Users { signer } => users::router(database.clone(), signer.clone()),
        Service::Products => products::router(database.clone()),
        Service::Orders { products_url } => {
            let products = match (products_url, &options.registry) {
                (Some(url), _) => ProductsLocation::Url(url.clone()),
                (None, Some(registry)) => ProductsLocation::registry(Client::new(registry.clone())?),
                (None, None) => {
                    bail!("orders must know where products is: give its URL or a registry")
                }
            };
            orders::router(database.clone(), Catalog::new(products)?)
        }
    };
    let readiness = Readiness::new(database.clone());
    Ok((assemble(api, options.service.name(), readiness.clone())?, database, readiness))
}

/// Longer than any request of these services takes; orchestrators commonly kill after 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
