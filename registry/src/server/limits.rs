//! Limits of the embedded registry, in total and per client, and the counters for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::server::answer::Refusal;
use crate::server::usage;
use crate::store::StoreLimits;
use crate::store::journal::JournalLimits;

/// Limits of an [`EmbeddedRegistry`](crate::EmbeddedRegistry).
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Open connections. At the limit the one that is idle for longest is closed for a new one.
    pub connections: usize,
    /// Blocking queries that wait at once; further ones are answered 429.
    pub blocked_queries: usize,
    /// Blocking queries that wait at once for one client address; further ones are answered 429.
    pub blocked_queries_per_client: usize,
    /// Size of any body in bytes; a larger one is answered 413.
    pub body_bytes: usize,
    /// Size of a registration, a session, or a node, service or check of a transaction, in bytes; a larger one is answered 413.
    pub definition_bytes: usize,
    /// Size of a value in bytes; a larger one is answered 413.
    pub kv_value_bytes: usize,
    /// Checks that one registration of a service may have.
    pub checks_per_service: usize,
    /// Limits of the stored data.
    pub store: StoreLimits,
    /// Limits of the files on disk.
    pub journal: JournalLimits,
}

/// Far above what a developer's machine runs, far below what would exhaust it.
impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            blocked_queries: 4096,
            // Consul takes 200 connections from one address. Here, everything may run on one machine.
            blocked_queries_per_client: 1024,
            body_bytes: 1024 * 1024,
            // The largest that Consul's own limits admit (64 pairs of metadata) is about 45 KiB. With the number of
            // services it bounds the memory.
            definition_bytes: 64 * 1024,
            // Consul's own limit.
            kv_value_bytes: 512 * 1024,
            checks_per_service: 64,
            store: StoreLimits::default(),
            journal: JournalLimits::default(),
        }
    }
}

impl ServerLimits {
    /// The largest body that a request for this path may have.
    pub(crate) fn body_bytes_for(&self, path: &str) -> usize {
        let own = match path {
            "/v1/agent/service/register"
            | "/v1/agent/check/register"
            | "/v1/catalog/register"
            | "/v1/session/create" => self.definition_bytes,
            path if path.starts_with("/v1/kv/") => self.kv_value_bytes,
            _ => self.body_bytes,
        };
        own.min(self.body_bytes)
    }
}

/// The address that a request comes from, in its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The blocking queries of each client address. An address without any takes no memory.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// The place of one query, until it is dropped.
#[derive(Debug)]
pub(crate) struct WaitingPlace {
    waiting: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl Waiting {
    pub(crate) fn admit(&self, client: IpAddr, limit: usize) -> Result<WaitingPlace, Refusal> {
        let mut counts = lock(&self.0);
        let count = counts.entry(client).or_default();
        if *count >= limit {
            // Consul's words, and which limit it is.
            let text = format!(
                "Your IP is issuing too many concurrent connections, please rate limit your calls\nmore than {limit} \
                 blocking queries at a time from {client}"
            );
            return Err(Refusal::too_many(usage::BLOCKED_PER_CLIENT, text));
        }
        *count += 1;
        Ok(WaitingPlace { waiting: Arc::clone(&self.0), client })
    }

    /// The number of queries of the client with the most.
    pub(crate) fn most(&self) -> usize {
        lock(&self.0).values().copied().max().unwrap_or(0)
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.waiting);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

fn lock(counts: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_places_and_gets_them_back() {
        let waiting = Waiting::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = waiting.admit(one, 2).unwrap();
        let second = waiting.admit(one, 2).unwrap();
        let refused = waiting.admit(one, 2).unwrap_err();
        assert!(
            refused.text.ends_with("more than 2 blocking queries at a time from 10.0.0.1"),
            "{}",
            refused.text
        );
        waiting.admit(other, 2).unwrap();
        drop(first);
        let third = waiting.admit(one, 2).unwrap();
        drop((second, third));
        assert!(waiting.0.lock().unwrap().is_empty(), "nobody waits, so nothing is kept");
    }

    #[test]
    fn each_kind_of_body_has_its_limit() {
        let limits = ServerLimits::default();
        for (path, bytes) in [
            ("/v1/agent/service/register", 64 * 1024),
            ("/v1/agent/check/register", 64 * 1024),
            ("/v1/kv/a/b", 512 * 1024),
            ("/v1/session/create", 64 * 1024),
            ("/v1/txn", 1024 * 1024),
        ] {
            assert_eq!(limits.body_bytes_for(path), bytes, "{path}");
        }
        let small = ServerLimits { body_bytes: 10, ..limits };
        assert_eq!(small.body_bytes_for("/v1/kv/a"), 10);
    }
}
