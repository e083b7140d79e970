//! How an instance registers itself in Consul, and leaves.
//!
//! Consul checks `/readyz` every [`CHECK_EVERY`], and removes the instance after a minute
//! of failures, so that a killed process does not stay in the catalogue. A service also starts while the registry is
//! unreachable: it logs one line, and the lease goes on trying.

use std::{net::SocketAddr, time::Duration};

use millgate_registry::{Client, Lease, ServiceRegistration};

/// A registration that lasts until [`Registration::end`].
#[derive(Debug)]
pub(crate) struct Registration {
    lease: Lease,
}

impl Registration {
    /// Registers `name` at `host:port`. Returns when the registry has answered, or after [`PATIENCE`]: then the
    /// service runs unregistered for now.
    pub(crate) async fn start(client: Client, name: &str, host: Option<String>, addr: SocketAddr) -> Self {
        let host = host.unwrap_or_else(|| addr.ip().to_string());
        let id = format!("{name}-{host}-{}", addr.port());
        let authority = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let registration = ServiceRegistration::http(name, id, host, addr.port())
            .tags(["sample", concat!("v", env!("CARGO_PKG_VERSION"))])
            .meta([("openapi", "/openapi.json")])
            .weights(WEIGHT_PASSING, WEIGHT_WARNING)
            .http_check(format!("http://{authority}:{}/readyz", addr.port()), CHECK_EVERY)
            .deregister_after(FORGET_AFTER);
        let lease = Lease::register(client, registration);
        // The lease itself logs once why it is not registered.
        let _late = tokio::time::timeout(PATIENCE, lease.registered()).await;
        Self { lease }
    }

    /// Removes the instance from the registry, so that it gets no further requests.
    pub(crate) async fn end(self) {
        match tokio::time::timeout(PATIENCE, self.lease.deregister()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "not deregistered"),
            Err(_) => tracing::warn!("not deregistered: the registry did not answer within {PATIENCE:?}"),
        }
    }
}

/// A new instance takes requests after its first check, so this is soon; and one request a second is no load.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Consul's shortest.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// Equal shares; a tenth for an instance with a warning.
const WEIGHT_PASSING: u32 = 10;
const WEIGHT_WARNING: u32 = 1;
/// How long starting and stopping wait for the registry.
const PATIENCE: Duration = Duration::from_secs(2);
