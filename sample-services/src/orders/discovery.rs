//! The address of the products service: a fixed one, or those of the registry.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millgate_registry::{
    Client, Instance, WatchHandle, WatchOptions, WatchTarget, watch::spawn as spawn_watch,
};
use tokio::sync::{mpsc, watch};

/// A fixed address, or the healthy instances in the registry, each in its turn. Cloning shares the watch.
#[derive(Debug, Clone)]
pub enum ProductsLocation {
    /// `http://host:port`, without a path.
    Url(String),
    Registry(Arc<Watched>),
}

/// The instances of products as the registry last reported them. While the registry is unreachable, the last known ones
/// are used.
#[derive(Debug)]
pub struct Watched {
    /// `None` until the registry has answered for the first time.
    instances: watch::Receiver<Option<Arc<[Instance]>>>,
    turn: AtomicUsize,
    _watch: WatchHandle,
}

/// Why no instance can get a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoInstance {
    #[error("the registry has not answered yet")]
    Unknown,
    #[error("the registry has no healthy instance of products")]
    NoneHealthy,
}

impl ProductsLocation {
    /// Begins to follow products in the registry. Must be called within a tokio runtime.
    pub fn registry(client: Client) -> Self {
        let (sender, mut updates) = mpsc::channel(UPDATES_QUEUED_MAX);
        let target = WatchTarget::service("products");
        let handle = spawn_watch(client, target, WatchOptions::default(), sender);
        let (latest, instances) = watch::channel(None);
        // It ends with the watch, whose handle lives in `Watched`.
        tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                latest.send_replace(Some(update.instances));
            }
        });
        Self::Registry(Arc::new(Watched { instances, turn: AtomicUsize::new(0), _watch: handle }))
    }

    /// The base URL of one instance.
    pub(super) async fn pick(&self) -> Result<String, NoInstance> {
        match self {
            Self::Url(url) => Ok(url.trim_end_matches('/').to_owned()),
            Self::Registry(watched) => watched.pick().await,
        }
    }
}

impl Watched {
    async fn pick(&self) -> Result<String, NoInstance> {
        let mut instances = self.instances.clone();
        let first_answer = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, instances.wait_for(Option::is_some));
        let known = first_answer.await.ok().and_then(Result::ok).ok_or(NoInstance::Unknown)?.clone();
        let healthy: Vec<_> =
            known.iter().flat_map(|all| all.iter()).filter(|one| one.is_routable()).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // `checked_rem` is `None` exactly when no instance is healthy.
        let one = turn.checked_rem(healthy.len()).and_then(|turn| healthy.get(turn));
        one.map(|instance| base_url(instance)).ok_or(NoInstance::NoneHealthy)
    }
}

fn base_url(instance: &Instance) -> String {
    match instance.address.parse() {
        Ok(IpAddr::V6(address)) => format!("http://[{address}]:{}", instance.port),
        _ => format!("http://{}:{}", instance.address, instance.port),
    }
}

/// Right after the start the registry may be a moment behind; a client waits, but not for long.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Updates are taken out at once; only the latest matters.
const UPDATES_QUEUED_MAX: usize = 4;
