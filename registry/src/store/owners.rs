//! Which instances belong to the name of a service, which checks to a service or a node, and which index moves with them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::store::{CheckRecord, Key, Store};

/// The data of all instances of a service together; there is at least one instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) index: u64,
    /// The instances. A restart finds them again by the names in their rows.
    #[serde(skip)]
    pub(super) instances: BTreeSet<Key>,
}

impl Store {
    pub(super) fn join_name(&mut self, name: &str, key: &Key) {
        let lower = name.to_lowercase();
        if !self.names.contains_key(&lower) {
            self.names.insert(lower.clone(), Name::default());
        }
        if let Some(all) = self.names.get_mut_quietly(&lower) {
            all.instances.insert(key.clone());
        }
    }

    /// Removes an instance from its name. A service without instances does not exist, and all such services share one index.
    pub(super) fn leave_name(&mut self, name: &str, key: &Key, index: u64) {
        let lower = name.to_lowercase();
        let Some(all) = self.names.get_mut(&lower) else { return };
        all.instances.remove(key);
        all.index = index;
        if all.instances.is_empty() {
            self.names.remove(&lower);
            self.extinction_index = index;
        }
    }

    pub(super) fn checks_under<'a>(
        &'a self,
        node: &str,
        service_id: &str,
    ) -> impl Iterator<Item = &'a CheckRecord> + use<'a> {
        let owner = Key::new(node, service_id);
        self.checks_of.get(&owner).into_iter().flatten().filter_map(|key| self.checks.get(key))
    }

    /// Moves the index of the service that a check belongs to; a node's check moves those of all its services.
    pub(super) fn touch(&mut self, node: &str, service_id: &str, index: u64) {
        let names: Vec<String> = if service_id.is_empty() {
            self.services_at(node).map(|service| service.definition.name.clone()).collect()
        } else {
            self.service_at(node, service_id)
                .map(|service| service.definition.name.clone())
                .into_iter()
                .collect()
        };
        for name in names {
            self.touch_name(&name, index);
        }
    }

    pub(super) fn touch_name(&mut self, name: &str, index: u64) {
        if let Some(all) = self.names.get_mut(&name.to_lowercase()) {
            all.index = index;
        }
    }

    /// Records the owner of a check; a registration may move it to another service.
    pub(super) fn adopt_check(&mut self, node: &str, check: &Key, service_id: &str) {
        if let Some(before) = self.checks.get(check).map(|check| check.definition.service_id.clone())
            && before != service_id
        {
            self.disown_check(node, check, &before);
        }
        self.checks_of.entry(Key::new(node, service_id)).or_default().insert(check.clone());
    }

    pub(super) fn disown_check(&mut self, node: &str, check: &Key, service_id: &str) {
        let owner = Key::new(node, service_id);
        if let Some(checks) = self.checks_of.get_mut(&owner) {
            checks.remove(check);
            if checks.is_empty() {
                self.checks_of.remove(&owner);
            }
        }
    }

    pub(super) fn take_check(&mut self, node: &str, id: &str) -> Option<CheckRecord> {
        let key = Key::new(node, id);
        let check = self.checks.remove(&key)?;
        self.disown_check(node, &key, &check.definition.service_id);
        Some(check)
    }
}
