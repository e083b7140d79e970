//! The state of the embedded registry: nodes, services and checks, keys and values, sessions and events, with the indexes that
//! blocking queries wait for. Pure: it reads no clock and no file; `now` is an argument.
//!
//! One counter, the index, grows by one with every change. The tables and each service have indexes of their own, so that a
//! query wakes only for its own service, as with Consul 1.8.7: the index of a service moves with its instances and with the
//! *status* of its checks; a service without instances has the index at which a service last lost its last instance; a repeated
//! registration, and a heartbeat that does not change a status, move no index.
//!
//! One node is the registry's own. The changes of the agent's part of the API are in `agent`, those of the catalog's part in
//! `catalog`; both work on the same tables, so there are no copies to synchronise.

mod agent;
mod alias;
mod catalog;
mod events;
pub(crate) mod journal;
mod kv;
mod owners;
mod persist;
mod probe;
mod record;
mod sessions;
mod table;
mod txn;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) use alias::Alias;
pub(crate) use catalog::Registration;
pub(crate) use events::{Event, Events};
pub(crate) use kv::{Cas, Kv, KvEntry};
pub(crate) use probe::{ProbeDefinition, Target};
pub(crate) use record::{
    AddressDefinition, CheckDefinition, CheckKind, CheckRecord, NodeDefinition, NodeRecord,
    ServiceDefinition, ServiceRecord,
};
pub(crate) use sessions::{Behavior, NewSession, Session, Sessions};
pub(crate) use txn::{KvVerb, Outcome, TableVerb, TxnError, TxnOp};

use crate::store::owners::Name;
use crate::store::persist::Numbers;
use crate::store::table::Table;
use crate::types::CheckStatus;

/// Limits of the data that an [`EmbeddedRegistry`](crate::EmbeddedRegistry) stores. A write beyond a limit is refused.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// The number of nodes.
    pub nodes: usize,
    /// The number of instances of services.
    pub services: usize,
    /// The number of checks.
    pub checks: usize,
    /// The number of sessions.
    pub sessions: usize,
    /// The number of keys.
    pub kv_keys: usize,
    /// The bytes of all keys and values together.
    pub kv_bytes: usize,
}

/// Values for a development registry: each is far above a developer's needs, and far below what would exhaust the machine.
impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            nodes: 10_000,
            services: 10_000,
            checks: 20_000,
            sessions: 10_000,
            kv_keys: 65_536,
            kv_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Why a change was refused. A client gets this text unless the imitated release of Consul has another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0:?} is not there")]
    UnknownService(String),
    #[error("{0:?} is not there")]
    UnknownCheck(String),
    /// The check exists, but its status cannot be set.
    #[error("{0:?} is not there")]
    NotTtl(String),
    #[error("{0}")]
    Refused(String),
    #[error("the embedded registry holds at most {limit} {what}; use a Consul agent for more")]
    Full { what: &'static str, limit: usize },
}

/// The node and id of a service or a check. They are matched without regard to case, as in Consul.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key {
    node: String,
    id: String,
}

impl Key {
    fn new(node: &str, id: &str) -> Self {
        Self { node: node.to_lowercase(), id: id.to_lowercase() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    limits: StoreLimits,
    /// The name of the registry's own node.
    own: String,
    index: u64,
    nodes: Table<String, NodeRecord>,
    services: Table<Key, ServiceRecord>,
    checks: Table<Key, CheckRecord>,
    pub(crate) kv: Kv,
    pub(crate) sessions: Sessions,
    pub(crate) events: Events,
    nodes_index: u64,
    services_index: u64,
    checks_index: u64,
    extinction_index: u64,
    /// The names of services, by lower-case name, because Consul matches names without regard to case.
    names: Table<String, Name>,
    /// The checks of each service; those of a node are under its name and an empty id.
    checks_of: BTreeMap<Key, BTreeSet<Key>>,
    /// The indexes above, as they were last written to the journal.
    numbers_written: Numbers,
}

impl Store {
    pub(crate) fn new(limits: StoreLimits, own: NodeDefinition) -> Self {
        let name = own.name.clone();
        let node = NodeRecord { definition: own, create_index: FIRST_INDEX, modify_index: FIRST_INDEX };
        let mut nodes = Table::default();
        nodes.insert(name.to_lowercase(), node);
        Self {
            limits,
            own: name,
            index: FIRST_INDEX,
            nodes,
            services: Table::default(),
            checks: Table::default(),
            kv: Kv::default(),
            sessions: Sessions::default(),
            events: Events::default(),
            nodes_index: FIRST_INDEX,
            services_index: FIRST_INDEX,
            checks_index: FIRST_INDEX,
            extinction_index: FIRST_INDEX,
            names: Table::default(),
            checks_of: BTreeMap::new(),
            numbers_written: Numbers::default(),
        }
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// A number that grows with every change that a query may wait for, events included.
    pub(crate) fn revision(&self) -> u64 {
        self.index + self.events.fired()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// The node with this name, without regard to case.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.get(&name.to_lowercase())
    }

    /// The services of all nodes, sorted by node and id.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.services.values()
    }

    /// The number of names of services.
    pub(crate) fn service_names(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn services_at<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a ServiceRecord> {
        let node = node.to_lowercase();
        let from = Key { node: node.clone(), id: String::new() };
        self.services.range(from..).take_while(move |(key, _)| key.node == node).map(|(_, service)| service)
    }

    pub(crate) fn service_at(&self, node: &str, id: &str) -> Option<&ServiceRecord> {
        self.services.get(&Key::new(node, id))
    }

    /// The services of the registry's own node.
    pub(crate) fn own_services(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.services_at(&self.own)
    }

    /// A service of the registry's own node. Unlike the catalog, agents distinguish case in ids.
    pub(crate) fn service(&self, id: &str) -> Option<&ServiceRecord> {
        self.service_at(&self.own, id).filter(|service| service.definition.id == id)
    }

    /// A check of the registry's own node; its id distinguishes case, too.
    pub(crate) fn own_check(&self, id: &str) -> Option<&CheckRecord> {
        self.check_at(&self.own, id).filter(|check| check.definition.id == id)
    }

    /// The instances of a service, by name without regard to case.
    pub(crate) fn instances<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a ServiceRecord> {
        let keys = self.names.get(&name.to_lowercase()).into_iter().flat_map(|name| &name.instances);
        keys.filter_map(|key| self.services.get(key))
    }

    /// The checks of all nodes, sorted by node and id.
    pub(crate) fn checks(&self) -> impl Iterator<Item = &CheckRecord> {
        self.checks.values()
    }

    pub(crate) fn checks_at<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a CheckRecord> {
        let node = node.to_lowercase();
        let from = Key { node: node.clone(), id: String::new() };
        self.checks.range(from..).take_while(move |(key, _)| key.node == node).map(|(_, check)| check)
    }

    pub(crate) fn check_at(&self, node: &str, id: &str) -> Option<&CheckRecord> {
        self.checks.get(&Key::new(node, id))
    }

    /// The checks of the registry's own node.
    pub(crate) fn own_checks(&self) -> impl Iterator<Item = &CheckRecord> {
        self.checks_at(&self.own)
    }

    /// The checks that decide about an instance: the node's, then its own, each sorted by id.
    pub(crate) fn checks_of<'a>(&'a self, service: &ServiceRecord) -> impl Iterator<Item = &'a CheckRecord> {
        let of_node = self.checks_under(&service.node, "");
        of_node.chain(self.checks_under(&service.node, &service.definition.id))
    }

    /// The service that a check belongs to.
    pub(crate) fn owner(&self, check: &CheckRecord) -> Option<&ServiceRecord> {
        match check.definition.service_id.as_str() {
            "" => None,
            id => self.service_at(&check.node, id),
        }
    }

    /// The index of queries about one service.
    pub(crate) fn service_index(&self, name: &str) -> u64 {
        self.names.get(&name.to_lowercase()).map_or(self.extinction_index, |name| name.index)
    }

    pub(crate) fn nodes_index(&self) -> u64 {
        self.nodes_index
    }

    pub(crate) fn services_index(&self) -> u64 {
        self.services_index
    }

    pub(crate) fn checks_index(&self) -> u64 {
        self.checks_index
    }

    /// An index that moves with every change of a node, service or check.
    pub(crate) fn tables_index(&self) -> u64 {
        self.nodes_index.max(self.services_index).max(self.checks_index)
    }

    fn within(what: &'static str, count: usize, limit: usize) -> Result<(), StoreError> {
        if count > limit { Err(StoreError::Full { what, limit }) } else { Ok(()) }
    }

    fn put_service(&mut self, node: &str, definition: ServiceDefinition, index: u64) -> bool {
        let key = Key::new(node, &definition.id);
        let before = self.services.get(&key);
        if before.is_some_and(|before| before.definition == definition) {
            return false;
        }
        let create_index = before.map_or(index, |before| before.create_index);
        let name = definition.name.to_lowercase();
        let renamed =
            before.map(|before| before.definition.name.to_lowercase()).filter(|before| *before != name);
        if let Some(before) = renamed {
            self.leave_name(&before, &key, index);
        }
        self.join_name(&name, &key);
        let record = ServiceRecord { node: node.to_owned(), definition, create_index, modify_index: index };
        self.services.insert(key, record);
        self.services_index = index;
        self.touch_name(&name, index);
        true
    }

    fn put_check(&mut self, node: &str, definition: CheckDefinition, index: u64, now: Instant) -> bool {
        let expires_at = match definition.kind {
            CheckKind::Ttl(ttl) => Some(now + ttl),
            _ => None,
        };
        let key = Key::new(node, &definition.id);
        let reported = matches!(definition.kind, CheckKind::External { .. });
        let initial = definition.initial_status.unwrap_or(CheckStatus::Critical);
        let service_id = definition.service_id.clone();
        self.adopt_check(node, &key, &service_id);
        if let Some(before) = self.checks.get_mut_quietly(&key) {
            before.expires_at = expires_at;
            before.critical_since = None;
            let same_result =
                !reported || (before.status, &before.output) == (initial, &definition.initial_output);
            if before.definition == definition && same_result {
                return false;
            }
            if reported {
                before.status = initial;
                before.output.clone_from(&definition.initial_output);
            }
            node.clone_into(&mut before.node);
            before.definition = definition;
            before.modify_index = index;
            self.checks.mark(&key);
        } else {
            let record = CheckRecord {
                node: node.to_owned(),
                status: initial,
                output: definition.initial_output.clone(),
                expires_at,
                critical_since: None,
                create_index: index,
                modify_index: index,
                definition,
            };
            self.checks.insert(key, record);
        }
        self.checks_index = index;
        self.touch(node, &service_id, index);
        true
    }
}

/// Consul's catalog is never at 0, and clients treat 0 and 1 as "no index".
const FIRST_INDEX: u64 = 10;
/// The beginning of Consul's output for a TTL check without a heartbeat.
pub(crate) const TTL_EXPIRED: &str = "TTL expired";
/// Consul's minimum; a shorter time of a check is raised to it.
const DEREGISTER_AFTER_MIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
