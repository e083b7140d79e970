//! Waiting for something with a deadline.

use std::time::Duration;

use millgate_registry::{
    Client, ClientConfig, Instance, ServiceUpdate, WatchHandle, WatchOptions, WatchStats, WatchTarget, watch,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longer than anything takes on a busy machine; a test that meets it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn client(url: &str) -> Client {
    Client::new(ClientConfig::new(url)).unwrap()
}

/// Options with short pauses, so that tests of errors are quick.
pub(crate) fn quick() -> WatchOptions {
    WatchOptions {
        confirm_after: Duration::from_millis(150),
        backoff_base: Duration::from_millis(20),
        backoff_cap: Duration::from_millis(100),
        ..WatchOptions::default()
    }
}

/// A watch with the receiving end of its updates.
pub(crate) struct Watched {
    pub(crate) handle: WatchHandle,
    updates: mpsc::Receiver<ServiceUpdate>,
}

impl Watched {
    pub(crate) fn start(url: &str, service: &str, options: WatchOptions) -> Self {
        let (sender, updates) = mpsc::channel(64);
        let handle = watch::spawn(client(url), WatchTarget::service(service), options, sender);
        Self { handle, updates }
    }

    /// The next update.
    pub(crate) async fn next(&mut self) -> Vec<Instance> {
        let update = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
        update.expect("no update").expect("the watch ended").instances.to_vec()
    }

    /// The first update that is as wanted, and how long it took.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&[Instance]) -> bool,
    ) -> (Vec<Instance>, Duration) {
        let begin = Instant::now();
        let mut latest = Vec::new();
        while begin.elapsed() < PATIENCE {
            match tokio::time::timeout(PATIENCE, self.updates.recv()).await {
                Ok(Some(update)) if wanted(&update.instances) => {
                    return (update.instances.to_vec(), begin.elapsed());
                }
                Ok(Some(update)) => latest = update.instances.to_vec(),
                Ok(None) | Err(_) => break,
            }
        }
        panic!("never seen: {what}; latest {latest:?}; {:?}", self.handle.stats())
    }

    pub(crate) async fn until_stats(&self, what: &str, wanted: impl Fn(&WatchStats) -> bool) -> WatchStats {
        let begin = Instant::now();
        loop {
            let stats = self.handle.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(begin.elapsed() < PATIENCE, "never seen: {what}; latest {stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn assert_no_update(&mut self) {
        if let Ok(update) = self.updates.try_recv() {
            panic!("an update that should not be: {:?}", update.instances);
        }
    }
}

pub(crate) fn ids(instances: &[Instance]) -> Vec<&str> {
    instances.iter().map(|instance| instance.id.as_str()).collect()
}
