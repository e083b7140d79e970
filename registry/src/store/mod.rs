//! The state of the embedded registry: one node, its services and checks, with the indexes that blocking
//! queries wait for. Pure: no clock, no I/O; `now` is handed in.
//!
//! One counter, the index, grows by one with every change. Beside it stand the indexes of the tables and of
//! each service, so that a query wakes for its own service only, as with Consul 1.8.7:
//! a service's index moves with its instances and with the *status* of its checks; a service without instances
//! has the index of the latest extinction of any service; the same registration again, and a heartbeat that
//! changes no status, move nothing.

mod kv;
mod record;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(crate) use kv::{Cas, Kv, KvEntry};
pub(crate) use record::{
    CheckDefinition, CheckKind, CheckRecord, HttpProbe, ServiceDefinition, ServiceRecord, TaggedAddress,
};

use crate::types::CheckStatus;

/// How much the registry may hold.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    pub services: usize,
    pub checks: usize,
    pub kv_keys: usize,
    pub kv_bytes: usize,
}

/// A development registry; each is far above what a developer starts and far below what hurts.
impl Default for StoreLimits {
    fn default() -> Self {
        Self { services: 10_000, checks: 20_000, kv_keys: 65_536, kv_bytes: 64 * 1024 * 1024 }
    }
}

/// Why a change was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreError {
    UnknownService(String),
    UnknownCheck(String),
    /// The check exists, but nobody may set its status.
    NotTtl(String),
    Full {
        what: &'static str,
        limit: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Store {
    limits: StoreLimits,
    index: u64,
    services: BTreeMap<String, ServiceRecord>,
    checks: BTreeMap<String, CheckRecord>,
    pub(crate) kv: Kv,
    services_index: u64,
    checks_index: u64,
    extinction_index: u64,
    /// By lower-case name: Consul matches names without regard to case.
    service_indexes: BTreeMap<String, u64>,
}

impl Store {
    /// The index of queries about nodes: there is one, and it never changes.
    pub(crate) const NODES_INDEX: u64 = FIRST_INDEX;

    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            index: FIRST_INDEX,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            kv: Kv::default(),
            services_index: FIRST_INDEX,
            checks_index: FIRST_INDEX,
            extinction_index: FIRST_INDEX,
            service_indexes: BTreeMap::new(),
        }
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Adds a service or replaces the one with the same id, together with its checks. A check that is there
    /// already keeps its status and starts its TTL again. `replace_checks`: the service's other checks go.
    pub(crate) fn register_service(
        &mut self,
        definition: ServiceDefinition,
        checks: Vec<CheckDefinition>,
        replace_checks: bool,
        now: Instant,
    ) -> Result<(), StoreError> {
        let new = usize::from(!self.services.contains_key(&definition.id));
        Self::within("services", self.services.len() + new, self.limits.services)?;
        let new = checks.iter().filter(|check| !self.checks.contains_key(&check.id)).count();
        Self::within("checks", self.checks.len() + new, self.limits.checks)?;
        let id = definition.id.clone();
        let index = self.index + 1;
        let mut changed = self.put_service(definition, index);
        if replace_checks {
            let unwanted = |check: &CheckRecord| !checks.iter().any(|keep| keep.id == check.definition.id);
            changed |= self.drop_checks(&id, unwanted, index);
        }
        for check in checks {
            changed |= self.put_check(check, index, now);
        }
        if changed {
            self.index = index;
            self.touch(&id, index);
        }
        Ok(())
    }

    /// True if the service was there.
    pub(crate) fn deregister_service(&mut self, id: &str) -> bool {
        let Some(service) = self.services.remove(id) else { return false };
        self.index += 1;
        self.services_index = self.index;
        self.drop_checks(id, |_| true, self.index);
        self.touch_name(&service.definition.name, self.index);
        true
    }

    /// Adds a check, or replaces the one with the same id.
    pub(crate) fn register_check(&mut self, check: CheckDefinition, now: Instant) -> Result<(), StoreError> {
        if !check.service_id.is_empty() && !self.services.contains_key(&check.service_id) {
            return Err(StoreError::UnknownService(check.service_id));
        }
        let new = usize::from(!self.checks.contains_key(&check.id));
        Self::within("checks", self.checks.len() + new, self.limits.checks)?;
        let service_id = check.service_id.clone();
        let index = self.index + 1;
        if self.put_check(check, index, now) {
            self.index = index;
            self.touch(&service_id, index);
        }
        Ok(())
    }

    /// True if the check was there.
    pub(crate) fn deregister_check(&mut self, id: &str) -> bool {
        let Some(check) = self.checks.remove(id) else { return false };
        self.index += 1;
        self.checks_index = self.index;
        self.touch(&check.definition.service_id, self.index);
        true
    }

    /// A heartbeat: sets the status of a TTL check and starts its TTL again.
    pub(crate) fn heartbeat(
        &mut self,
        id: &str,
        status: CheckStatus,
        output: String,
        now: Instant,
    ) -> Result<(), StoreError> {
        let check = self.checks.get_mut(id).ok_or_else(|| StoreError::UnknownCheck(id.to_owned()))?;
        let CheckKind::Ttl(ttl) = check.definition.kind else {
            return Err(StoreError::NotTtl(id.to_owned()));
        };
        check.expires_at = Some(now + ttl);
        self.set_status(id, status, output, now);
        Ok(())
    }

    /// The result of a probe. Ignored if the check is gone by now.
    pub(crate) fn set_status(&mut self, id: &str, status: CheckStatus, output: String, now: Instant) {
        let Some(check) = self.checks.get_mut(id) else { return };
        // A new output alone wakes nobody: a heartbeat every second would wake everybody every second.
        check.output = output;
        check.critical_since = match status {
            CheckStatus::Critical => check.critical_since.or(Some(now)),
            _ => None,
        };
        if check.status == status {
            return;
        }
        self.index += 1;
        check.status = status;
        check.modify_index = self.index;
        self.checks_index = self.index;
        let service_id = check.definition.service_id.clone();
        self.touch(&service_id, self.index);
    }

    /// Turns every TTL check critical whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        let due = |check: &&mut CheckRecord| check.expires_at.is_some_and(|expires_at| expires_at <= now);
        let mut expired = Vec::new();
        for check in self.checks.values_mut().filter(due) {
            check.expires_at = None;
            let output = match check.output.as_str() {
                "" => "TTL expired".to_owned(),
                before => format!("TTL expired (last output before timeout follows): {before}"),
            };
            expired.push((check.definition.id.clone(), output));
        }
        for (id, output) in expired {
            self.set_status(&id, CheckStatus::Critical, output, now);
        }
    }

    /// When [`Store::expire`] has something to do next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.checks.values().filter_map(|check| check.expires_at).min()
    }

    /// Removes the services of which a check was critical for as long as it allows; returns their ids.
    pub(crate) fn reap(&mut self, now: Instant) -> Vec<String> {
        let overdue = |check: &&CheckRecord| {
            let (Some(since), Some(after)) = (check.critical_since, check.definition.deregister_after) else {
                return false;
            };
            now.saturating_duration_since(since) >= after.max(DEREGISTER_AFTER_MIN)
        };
        let mut ids: Vec<String> =
            self.checks.values().filter(overdue).map(|check| check.definition.service_id.clone()).collect();
        ids.dedup();
        ids.retain(|id| self.deregister_service(id));
        ids
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.services.values()
    }

    pub(crate) fn service(&self, id: &str) -> Option<&ServiceRecord> {
        self.services.get(id)
    }

    /// The instances of a service, by name without regard to case.
    pub(crate) fn instances(&self, name: &str) -> impl Iterator<Item = &ServiceRecord> {
        let name = name.to_lowercase();
        self.services.values().filter(move |service| service.definition.name.to_lowercase() == name)
    }

    pub(crate) fn checks(&self) -> impl Iterator<Item = &CheckRecord> {
        self.checks.values()
    }

    /// The checks that decide about an instance: the node's, then its own, each sorted by id.
    pub(crate) fn checks_of(&self, service_id: &str) -> impl Iterator<Item = &CheckRecord> {
        let service_id = service_id.to_owned();
        let of_node = self.checks.values().filter(|check| check.definition.service_id.is_empty());
        of_node.chain(self.checks.values().filter(move |check| check.definition.service_id == service_id))
    }

    /// The index of queries about one service.
    pub(crate) fn service_index(&self, name: &str) -> u64 {
        self.service_indexes.get(&name.to_lowercase()).copied().unwrap_or(self.extinction_index)
    }

    pub(crate) fn services_index(&self) -> u64 {
        self.services_index
    }

    pub(crate) fn checks_index(&self) -> u64 {
        self.checks_index
    }

    /// Writes a key; `false` if the condition does not hold.
    pub(crate) fn kv_put(
        &mut self,
        key: &str,
        value: bytes::Bytes,
        flags: u64,
        cas: Cas,
    ) -> Result<bool, StoreError> {
        let bytes = self.kv.bytes_with(key, value.len());
        Self::within("bytes of keys and values", bytes, self.limits.kv_bytes)?;
        Self::within("keys", self.kv.len_with(key), self.limits.kv_keys)?;
        let (done, changed) = self.kv.put(key, value, flags, cas, self.index + 1);
        self.index += u64::from(changed);
        Ok(done)
    }

    /// Deletes a key, or with `recurse` all keys that begin with it; `false` if the condition does not hold.
    pub(crate) fn kv_delete(&mut self, key: &str, recurse: bool, cas: Cas) -> bool {
        let (done, changed) = self.kv.delete(key, recurse, cas, self.index + 1);
        self.index += u64::from(changed);
        done
    }

    fn within(what: &'static str, count: usize, limit: usize) -> Result<(), StoreError> {
        if count > limit { Err(StoreError::Full { what, limit }) } else { Ok(()) }
    }

    fn put_service(&mut self, definition: ServiceDefinition, index: u64) -> bool {
        let before = self.services.get(&definition.id);
        if before.is_some_and(|before| before.definition == definition) {
            return false;
        }
        let create_index = before.map_or(index, |before| before.create_index);
        let renamed = before
            .map(|before| before.definition.name.clone())
            .filter(|name| name.to_lowercase() != definition.name.to_lowercase());
        let record = ServiceRecord { definition, create_index, modify_index: index };
        self.services.insert(record.definition.id.clone(), record);
        self.services_index = index;
        if let Some(name) = renamed {
            self.touch_name(&name, index);
        }
        true
    }

    fn put_check(&mut self, definition: CheckDefinition, index: u64, now: Instant) -> bool {
        let expires_at = match definition.kind {
            CheckKind::Ttl(ttl) => Some(now + ttl),
            CheckKind::Http(_) | CheckKind::Node => None,
        };
        let id = definition.id.clone();
        if let Some(before) = self.checks.get_mut(&id) {
            before.expires_at = expires_at;
            if before.definition == definition {
                return false;
            }
            before.definition = definition;
            before.modify_index = index;
        } else {
            let status = definition.initial_status.unwrap_or(CheckStatus::Critical);
            let record = CheckRecord {
                status,
                output: definition.initial_output.clone(),
                expires_at,
                critical_since: (status == CheckStatus::Critical).then_some(now),
                create_index: index,
                modify_index: index,
                definition,
            };
            self.checks.insert(id, record);
        }
        self.checks_index = index;
        true
    }

    fn drop_checks(&mut self, service_id: &str, unwanted: impl Fn(&CheckRecord) -> bool, index: u64) -> bool {
        let before = self.checks.len();
        self.checks.retain(|_, check| check.definition.service_id != service_id || !unwanted(check));
        let dropped = self.checks.len() < before;
        if dropped {
            self.checks_index = index;
        }
        dropped
    }

    /// Moves the index of the service that a check belongs to; a node check moves those of all services.
    fn touch(&mut self, service_id: &str, index: u64) {
        if service_id.is_empty() {
            for service_index in self.service_indexes.values_mut() {
                *service_index = index;
            }
        } else if let Some(name) =
            self.services.get(service_id).map(|service| service.definition.name.clone())
        {
            self.touch_name(&name, index);
        }
    }

    fn touch_name(&mut self, name: &str, index: u64) {
        let lower = name.to_lowercase();
        if self.instances(&lower).next().is_some() {
            self.service_indexes.insert(lower, index);
        } else if self.service_indexes.remove(&lower).is_some() {
            self.extinction_index = index;
        }
    }
}

/// Consul's catalog is never at 0, and clients treat 0 and 1 as "no index".
const FIRST_INDEX: u64 = 10;
/// Consul's minimum, whatever a check asks for.
const DEREGISTER_AFTER_MIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
