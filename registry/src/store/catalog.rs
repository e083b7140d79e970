//! The changes of the catalog's half of the API: nodes, services and checks of any node, registered by programs that
//! manage them.

use std::time::Instant;

use crate::store::{
    CheckDefinition, CheckRecord, Key, NodeDefinition, NodeRecord, ServiceDefinition, Store, StoreError,
};

/// One call of `catalog/register`: a node, and optionally a service and checks at it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registration {
    pub(crate) node: NodeDefinition,
    /// An existing node stays as it is.
    pub(crate) skip_node_update: bool,
    pub(crate) service: Option<ServiceDefinition>,
    /// Each check with the name of its node; empty means the node of this call.
    pub(crate) checks: Vec<(String, CheckDefinition)>,
}

impl Store {
    /// Registers all parts of the call, or none.
    pub(crate) fn catalog_register(
        &mut self,
        registration: Registration,
        now: Instant,
    ) -> Result<(), StoreError> {
        self.refuse_registration(&registration)?;
        let index = self.index + 1;
        let name = registration.node.name.clone();
        let mut changed = false;
        if self.node(&name).is_none() || !registration.skip_node_update {
            changed |= self.put_node(registration.node, index, now);
        }
        // The spelling of the first registration stays, whatever the case of the letters now.
        let name = self.node(&name).map_or(name, |node| node.definition.name.clone());
        if let Some(service) = registration.service {
            changed |= self.put_service(&name, service, index);
        }
        for (_, check) in registration.checks {
            changed |= self.put_check(&name, check, index, now);
        }
        if changed {
            self.index = index;
            self.end_sessions_of_critical_checks(index, now);
        }
        Ok(())
    }

    /// Removes a node, except for the registry's own; returns whether it existed.
    pub(crate) fn remove_node(&mut self, name: &str, now: Instant) -> bool {
        if name.to_lowercase() == self.own.to_lowercase() || self.node(name).is_none() {
            return false;
        }
        self.index += 1;
        let index = self.index;
        self.drop_node(name, index, now);
        self.end_sessions_of_node(name, index, now);
        true
    }

    /// Removes a service with its checks; returns whether it existed.
    pub(crate) fn remove_service(&mut self, node: &str, id: &str, now: Instant) -> bool {
        if self.service_at(node, id).is_none() {
            return false;
        }
        self.index += 1;
        self.drop_service(node, id, self.index, now);
        true
    }

    /// Removes a check; returns whether it existed.
    pub(crate) fn remove_check(&mut self, node: &str, id: &str, now: Instant) -> bool {
        let Some(check) = self.take_check(node, id) else { return false };
        self.index += 1;
        self.checks_index = self.index;
        self.touch(node, &check.definition.service_id, self.index);
        self.end_sessions_of_check(node, id, self.index, now);
        true
    }

    fn refuse_registration(&self, registration: &Registration) -> Result<(), StoreError> {
        let node = &registration.node;
        let new = usize::from(self.node(&node.name).is_none());
        Self::within("nodes", self.nodes.len() + new, self.limits.nodes)?;
        let service_is_new = |service: &ServiceDefinition| self.service_at(&node.name, &service.id).is_none();
        let new = usize::from(registration.service.as_ref().is_some_and(service_is_new));
        Self::within("services", self.services.len() + new, self.limits.services)?;
        Self::within("checks", self.checks.len() + registration.checks.len(), self.limits.checks)?;
        let reserved = self
            .node(&node.name)
            .map(|present| &present.definition)
            .filter(|present| present.name == self.own && !node.id.is_empty() && present.id != node.id);
        if let Some(present) = reserved {
            return Err(StoreError::Refused(format!(
                "failed inserting node: Error while renaming Node ID: {:?}: Node name {} is reserved by node {} \
                 with name {} ({})",
                node.id, node.name, present.id, present.name, present.address
            )));
        }
        self.refuse_taking_own_id(node)?;
        for (at, check) in &registration.checks {
            if !at.is_empty() && *at != node.name {
                return Err(StoreError::Refused(format!(
                    "check node {at:?} does not match node {:?}",
                    node.name
                )));
            }
            let id = &check.service_id;
            let comes_too = registration.service.as_ref().is_some_and(|service| service.id == *id);
            if !id.is_empty() && !comes_too && self.service_at(&node.name, id).is_none() {
                return Err(StoreError::Refused(format!(
                    "failed inserting check: Missing service registration on node {:?}",
                    node.name
                )));
            }
        }
        Ok(())
    }

    /// Refuses the id of the registry's own node under another name. A renamed node loses everything at its old name, and every
    /// client can read this id; so the own node would be gone until the next start, with all services that registered themselves.
    fn refuse_taking_own_id(&self, node: &NodeDefinition) -> Result<(), StoreError> {
        let own = self.node(&self.own).map_or("", |own| own.definition.id.as_str());
        if own.is_empty() || node.id != own || node.name == self.own {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "failed inserting node: {own:?} is the id of the embedded registry's own node {:?}, which cannot be renamed; \
             use another id, or none",
            self.own
        )))
    }

    /// Writes a node. A known id with another name renames the node, which removes everything at the old name.
    pub(super) fn put_node(&mut self, definition: NodeDefinition, index: u64, now: Instant) -> bool {
        let key = definition.name.to_lowercase();
        let mut before = self.nodes.get(&key).cloned();
        if before.as_ref().is_some_and(|before| before.definition == definition) {
            return false;
        }
        let same_id = |node: &&NodeRecord| !definition.id.is_empty() && node.definition.id == definition.id;
        let renamed =
            self.nodes.values().find(same_id).filter(|node| node.definition.name != definition.name);
        if let Some(old) = renamed.cloned() {
            self.drop_node(&old.definition.name, index, now);
            before = Some(old);
        }
        let create_index = before.map_or(index, |before| before.create_index);
        self.nodes.insert(key, NodeRecord { definition, create_index, modify_index: index });
        self.nodes_index = index;
        true
    }

    fn drop_node(&mut self, name: &str, index: u64, now: Instant) {
        let services: Vec<String> =
            self.services_at(name).map(|service| service.definition.id.clone()).collect();
        for id in services {
            self.drop_service(name, &id, index, now);
        }
        self.drop_checks(name, "", |_| true, index, now);
        self.nodes.remove(&name.to_lowercase());
        self.nodes_index = index;
    }

    fn drop_service(&mut self, node: &str, id: &str, index: u64, now: Instant) {
        self.drop_checks(node, id, |_| true, index, now);
        let key = Key::new(node, id);
        if let Some(service) = self.services.remove(&key) {
            self.services_index = index;
            self.leave_name(&service.definition.name, &key, index);
        }
    }

    pub(super) fn drop_checks(
        &mut self,
        node: &str,
        service_id: &str,
        unwanted: impl Fn(&CheckRecord) -> bool,
        index: u64,
        now: Instant,
    ) -> bool {
        let of_service = self.checks_under(node, service_id);
        let doomed: Vec<String> =
            of_service.filter(|check| unwanted(check)).map(|check| check.definition.id.clone()).collect();
        for id in &doomed {
            self.take_check(node, id);
            self.end_sessions_of_check(node, id, index, now);
        }
        if !doomed.is_empty() {
            self.checks_index = index;
            self.touch(node, service_id, index);
        }
        !doomed.is_empty()
    }
}
