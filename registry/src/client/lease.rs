//! Keeps a service registered: registers it, sends heartbeats, registers it again when the agent forgot it, and keeps
//! trying while the agent is away.
//!
//! Heartbeats are sent at a third of the TTL, so that two may be lost before the check turns critical. Without a TTL the
//! lease checks every ten seconds that the agent still knows the service: a restarted development agent has forgotten it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::client::{Backoff, Client, ClientError, ServiceRegistration};

/// A registration that is kept alive: it sends heartbeats and registers the service again when the agent forgot it.
///
/// Dropping the lease stops the heartbeats, and the check turns critical after its TTL; [`Lease::deregister`] removes the service
/// at once.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    service_id: String,
    task: JoinHandle<()>,
    registered: watch::Receiver<Result<bool, ClientError>>,
}

impl Lease {
    /// Starts to register the service, on the current tokio runtime. It never fails: while Consul is away, the lease keeps
    /// trying. See [`Lease::registered`].
    pub fn register(client: Client, registration: ServiceRegistration) -> Self {
        let service_id = registration.id.clone();
        let (report, registered) = watch::channel(Ok(false));
        let keeper = Keeper { client: client.clone(), registration, report };
        Self { client, service_id, task: tokio::spawn(keeper.run()), registered }
    }

    /// Returns once the service is registered and its first heartbeat was accepted.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        // The sender lives in the task, which ends only with this lease.
        let _ended = registered.wait_for(|state| matches!(state, Ok(true))).await;
    }

    /// The error of the latest attempt, while the service is not registered.
    pub fn last_error(&self) -> Option<ClientError> {
        self.registered.borrow().as_ref().err().cloned()
    }

    /// Stops the heartbeats and removes the service from the registry.
    pub async fn deregister(mut self) -> Result<(), ClientError> {
        self.task.abort();
        // A heartbeat that is under way may find that the service is gone and register it again, so it must end first.
        let _cancelled = (&mut self.task).await;
        self.client.deregister(&self.service_id).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    client: Client,
    registration: ServiceRegistration,
    report: watch::Sender<Result<bool, ClientError>>,
}

impl Keeper {
    async fn run(self) {
        let period = self.registration.ttl.map_or(VERIFY_EVERY, |ttl| (ttl / 3).max(HEARTBEAT_MIN));
        let mut backoff = Backoff::new(BACKOFF_BASE, period.min(BACKOFF_CAP));
        let mut known = false;
        loop {
            let result = if known { self.heartbeat().await } else { self.register().await };
            let pause = match result {
                Ok(()) => {
                    known = true;
                    backoff.reset();
                    period
                }
                Err(error) if known && error.is_forgotten() => {
                    info!(
                        service = self.registration.id,
                        "the registry forgot the service; registering it again"
                    );
                    known = false;
                    Duration::ZERO
                }
                Err(error) => {
                    self.complain(error);
                    backoff.next(&mut rand::rng())
                }
            };
            if known {
                self.report.send_if_modified(|state| {
                    let changed = pause == period && !matches!(state, Ok(true));
                    if changed {
                        *state = Ok(true);
                    }
                    changed
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn register(&self) -> Result<(), ClientError> {
        self.client.register(&self.registration).await?;
        debug!(service = self.registration.id, "registered");
        if self.registration.ttl.is_some() { self.heartbeat().await } else { Ok(()) }
    }

    async fn heartbeat(&self) -> Result<(), ClientError> {
        match self.registration.ttl {
            Some(_) => self.client.check_pass(&self.registration.ttl_check_id()).await,
            None => self.client.agent_service(&self.registration.id).await.map(drop),
        }
    }

    /// Logs and reports an error once, and not at every try.
    fn complain(&self, error: ClientError) {
        let text = error.to_string();
        self.report.send_if_modified(|state| {
            let news = !matches!(state, Err(before) if before.to_string() == text);
            if news {
                warn!(service = self.registration.id, "not registered: {text}");
                *state = Err(error);
            }
            news
        });
    }
}

const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// With long TTLs, an agent that is back is still noticed soon.
const BACKOFF_CAP: Duration = Duration::from_secs(5);
const VERIFY_EVERY: Duration = Duration::from_secs(10);
/// A TTL of less than a third of a second would flood the agent.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
