//! Keys in Consul under one prefix. Reads and writes go to the leader of the agent's datacenter, so gateways of one datacenter share
//! certificates, and those of two have each their own.
//!
//! The lock is a session with a TTL. It is renewed three times within that; a gateway that dies is replaced after the TTL, for which
//! Consul may take twice as long, and the lock's delay. A holder that cannot renew in time gives its order up.

use std::time::{Duration, Instant};

use millgate_registry::{Client, Consistency, QueryOptions};
use tokio::{sync::watch, task::JoinHandle};

use super::{Items, LOCK, VALUE_BYTES_MAX};
use crate::clock;

/// The keys under one prefix.
pub(in crate::acme) struct ConsulStore {
    client: Client,
    /// With a slash at its end.
    prefix: String,
    /// The index of the last read.
    index: Option<u64>,
}

/// A session that holds the lock. Dropping it ends the session.
pub(in crate::acme) struct ConsulLock {
    client: Client,
    session: String,
    renewal: JoinHandle<()>,
    lost: watch::Receiver<bool>,
}

impl ConsulStore {
    pub(in crate::acme) fn new(client: Client, prefix: &str) -> Self {
        Self { client, prefix: format!("{prefix}/"), index: None }
    }

    pub(super) async fn read(&mut self) -> Result<Items, String> {
        self.index = None;
        self.list().await
    }

    pub(super) async fn changed(&mut self) -> Result<Items, String> {
        let before = self.index;
        // Without an index the answer comes at once.
        tokio::time::sleep(if before.is_some() { PAUSE } else { PAUSE_WITHOUT_INDEX }).await;
        loop {
            let items = self.list().await?;
            if self.index != before || before.is_none() {
                return Ok(items);
            }
        }
    }

    async fn list(&mut self) -> Result<Items, String> {
        let options = QueryOptions {
            index: self.index,
            wait: Some(WAIT),
            consistency: Consistency::Leader,
            ..QueryOptions::default()
        };
        let listed = self.client.kv_list(&self.prefix, &options).await.map_err(|error| {
            // Another server may answer next, whose indexes are others.
            self.index = None;
            error.to_string()
        })?;
        // An index that goes back is one of another server (Consul's advice for blocking queries).
        self.index = listed.index.filter(|index| self.index.is_none_or(|before| *index >= before));
        let named = listed.values.into_iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(&self.prefix)?.to_owned();
            (name != LOCK && value.len() <= VALUE_BYTES_MAX).then_some((name, value))
        });
        Ok(named.collect())
    }

    pub(super) async fn put(&self, name: &str, value: Vec<u8>) -> Result<(), String> {
        self.client.kv_put(&format!("{}{name}", self.prefix), value).await.map_err(|error| error.to_string())
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), String> {
        self.client.kv_delete(&format!("{}{name}", self.prefix)).await.map_err(|error| error.to_string())
    }

    pub(super) async fn lock(&self) -> Result<Option<ConsulLock>, String> {
        let client = self.client.clone();
        let session = client.session_create("millgate acme", TTL, LOCK_DELAY).await;
        let session = session.map_err(|error| error.to_string())?;
        let begun = clock::now();
        let (loses, is_lost) = watch::channel(false);
        let renewal = tokio::spawn(renew(client.clone(), session.clone(), begun, loses));
        let lock = ConsulLock { client: client.clone(), session: session.clone(), renewal, lost: is_lost };
        let key = format!("{}{LOCK}", self.prefix);
        let holder = format!("pid {}", std::process::id());
        match client.kv_acquire(&key, &session, holder).await {
            Ok(true) => Ok(Some(lock)),
            Ok(false) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn renew(client: Client, session: String, mut renewed: Instant, loses: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(TTL / 3).await;
        let asked = clock::now();
        let left = (renewed + TTL).saturating_duration_since(asked);
        let answer = tokio::time::timeout(left, client.session_renew(&session)).await;
        match answer {
            Ok(Ok(())) => renewed = asked,
            // A session that Consul does not know has ended; any other failure may pass within the TTL.
            Ok(Err(error)) if error.status().is_none_or(|status| status.as_u16() != 404) => {}
            _ => break,
        }
    }
    let _ = loses.send(true);
}

impl ConsulLock {
    pub(super) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // The sender lives as long as the renewal, which says so before it ends.
        let _ = lost.wait_for(|lost| *lost).await;
    }
}

impl Drop for ConsulLock {
    fn drop(&mut self) {
        self.renewal.abort();
        let (client, session) = (self.client.clone(), std::mem::take(&mut self.session));
        // Without a runtime the process ends, and so does the session after its TTL.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = client.session_destroy(&session).await;
            });
        }
    }
}

/// As other blocking queries of a gateway.
const WAIT: Duration = Duration::from_secs(50);
/// For a prefix that somebody writes to all the time.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_WITHOUT_INDEX: Duration = Duration::from_secs(1);
/// Consul accepts 10 s and more. A lost packet costs no order, and a dead gateway half a minute.
const TTL: Duration = Duration::from_secs(15);
/// A holder that was paused notices within this time that it is one no more; orders that overlap are harmless, and count.
const LOCK_DELAY: Duration = Duration::from_secs(5);
