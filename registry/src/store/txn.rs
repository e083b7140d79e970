//! Transactions: operations on keys, nodes, services and checks, of which all happen or none.

use std::time::Instant;

use bytes::Bytes;

use crate::store::{
    Cas, CheckDefinition, CheckRecord, KvEntry, NodeDefinition, NodeRecord, Registration, ServiceDefinition,
    ServiceRecord, Store, StoreError,
};

/// What is done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvVerb {
    Set,
    Cas,
    Lock,
    Unlock,
    Get,
    GetTree,
    CheckSession,
    CheckIndex,
    CheckNotExists,
    Delete,
    DeleteCas,
    DeleteTree,
}

/// What is done to a node, a service or a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableVerb {
    Get,
    Set,
    Cas,
    Delete,
    DeleteCas,
}

#[derive(Debug, Clone)]
pub(crate) enum TxnOp {
    Kv {
        verb: KvVerb,
        key: String,
        value: Bytes,
        flags: u64,
        index: u64,
        session: String,
    },
    Node {
        verb: TableVerb,
        node: NodeDefinition,
        index: u64,
    },
    Service {
        verb: TableVerb,
        node: String,
        service: ServiceDefinition,
        index: u64,
    },
    Check {
        verb: TableVerb,
        node: String,
        check: CheckDefinition,
        index: u64,
    },
    /// Found wrong before the store was asked, in the words that the client gets.
    Refused(String),
}

/// One result; an operation has none, one or many.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Kv { key: String, entry: KvEntry, with_value: bool },
    Node(NodeRecord),
    Service(ServiceRecord),
    Check(CheckRecord),
}

/// Why an operation stopped the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TxnError {
    pub(crate) operation: usize,
    pub(crate) what: String,
}

impl TxnOp {
    /// True if it changes nothing.
    pub(crate) fn reads(&self) -> bool {
        use KvVerb::{CheckIndex, CheckNotExists, CheckSession, Get, GetTree};
        match self {
            Self::Kv { verb, .. } => {
                matches!(verb, Get | GetTree | CheckSession | CheckIndex | CheckNotExists)
            }
            Self::Node { verb, .. } | Self::Service { verb, .. } | Self::Check { verb, .. } => {
                *verb == TableVerb::Get
            }
            Self::Refused(_) => true,
        }
    }
}

impl Store {
    /// Runs all operations, in order, on a copy that replaces this store if none fails. All share one index.
    pub(crate) fn transact(
        &mut self,
        operations: &[TxnOp],
        now: Instant,
    ) -> Result<Vec<Outcome>, Vec<TxnError>> {
        if operations.iter().all(TxnOp::reads) {
            return self.run(operations, now);
        }
        let mut draft = self.clone();
        let outcomes = draft.run(operations, now)?;
        draft.index = self.index + 1;
        *self = draft;
        Ok(outcomes)
    }

    fn run(&mut self, operations: &[TxnOp], now: Instant) -> Result<Vec<Outcome>, Vec<TxnError>> {
        let index = self.index;
        let (mut outcomes, mut errors) = (Vec::new(), Vec::new());
        for (number, operation) in operations.iter().enumerate() {
            // Every operation of a transaction has the same index.
            self.index = index;
            match self.operate(operation, now) {
                Ok(mut results) => outcomes.append(&mut results),
                Err(what) => errors.push(TxnError { operation: number, what }),
            }
        }
        if errors.is_empty() { Ok(outcomes) } else { Err(errors) }
    }

    fn operate(&mut self, operation: &TxnOp, now: Instant) -> Result<Vec<Outcome>, String> {
        match operation {
            TxnOp::Kv { verb, key, value, flags, index, session } => {
                self.kv_check(*verb, key, *index, session)?;
                self.kv_change(*verb, key, value.clone(), *flags, *index, session, now)?;
                Ok(self.kv_outcomes(*verb, key))
            }
            TxnOp::Node { verb, node, index } => self.node_operation(*verb, node, *index, now),
            TxnOp::Service { verb, node, service, index } => {
                self.service_operation(*verb, node, service, *index, now)
            }
            TxnOp::Check { verb, node, check, index } => {
                self.check_operation(*verb, node, check, *index, now)
            }
            TxnOp::Refused(what) => Err(what.clone()),
        }
    }

    fn kv_check(&self, verb: KvVerb, key: &str, index: u64, session: &str) -> Result<(), String> {
        let entry = self.kv.get(key);
        let missing = || format!("key {key:?} doesn't exist");
        let unchecked = |what: &str| format!("failed to check {what}, {}", missing());
        match verb {
            KvVerb::Get => entry.map(|_| ()).ok_or_else(missing),
            KvVerb::CheckNotExists if entry.is_some() => Err(format!("key {key:?} exists")),
            KvVerb::CheckSession => {
                let current =
                    entry.ok_or_else(|| unchecked("session"))?.session.as_deref().unwrap_or_default();
                if current == session {
                    return Ok(());
                }
                Err(format!(
                    "failed session check for key {key:?}, current session {current:?} != {session:?}"
                ))
            }
            KvVerb::CheckIndex => {
                let current = entry.ok_or_else(|| unchecked("index"))?.modify_index;
                if current == index {
                    return Ok(());
                }
                Err(format!("failed index check for key {key:?}, current modify index {current} != {index}"))
            }
            _ => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one operation")]
    fn kv_change(
        &mut self,
        verb: KvVerb,
        key: &str,
        value: Bytes,
        flags: u64,
        index: u64,
        session: &str,
        now: Instant,
    ) -> Result<(), String> {
        let at = if index == 0 { Cas::Absent } else { Cas::At(index) };
        let (done, otherwise) = match verb {
            KvVerb::Set => (self.kv_put(key, value, flags, Cas::Always), String::new()),
            KvVerb::Cas => {
                (self.kv_put(key, value, flags, at), format!("failed to set key {key:?}, index is stale"))
            }
            KvVerb::Lock if self.kv.is_delayed(key, now) => {
                return Err(format!("failed to lock key {key:?} due to lock delay"));
            }
            KvVerb::Lock => (
                self.kv_lock(key, value, flags, session, now),
                format!("failed to lock key {key:?}, lock is already held"),
            ),
            KvVerb::Unlock => (
                self.kv_unlock(key, value, flags, session),
                format!("failed to unlock key {key:?}, lock isn't held, or is held by another session"),
            ),
            KvVerb::Delete => (Ok(self.kv_delete(key, false, Cas::Always)), String::new()),
            KvVerb::DeleteTree => (Ok(self.kv_delete(key, true, Cas::Always)), String::new()),
            KvVerb::DeleteCas => {
                (Ok(self.kv_delete(key, false, at)), format!("failed to delete key {key:?}, index is stale"))
            }
            _ => return Ok(()),
        };
        if done.map_err(words)? { Ok(()) } else { Err(otherwise) }
    }

    fn kv_outcomes(&self, verb: KvVerb, key: &str) -> Vec<Outcome> {
        let outcome = |key: &str, entry: &KvEntry, with_value| Outcome::Kv {
            key: key.to_owned(),
            entry: entry.clone(),
            with_value,
        };
        match verb {
            KvVerb::GetTree => {
                self.kv.with_prefix(key).map(|(key, entry)| outcome(key, entry, true)).collect()
            }
            KvVerb::Delete | KvVerb::DeleteCas | KvVerb::DeleteTree | KvVerb::CheckNotExists => Vec::new(),
            _ => self.kv.get(key).map(|entry| outcome(key, entry, verb == KvVerb::Get)).into_iter().collect(),
        }
    }

    fn node_operation(
        &mut self,
        verb: TableVerb,
        node: &NodeDefinition,
        index: u64,
        now: Instant,
    ) -> Result<Vec<Outcome>, String> {
        let name = &node.name;
        let current = self.node(name).map(|node| node.modify_index);
        stale(verb, current, index, &format!("node {name:?}"))?;
        match verb {
            TableVerb::Delete | TableVerb::DeleteCas => {
                self.remove_node(name, now);
                return Ok(Vec::new());
            }
            TableVerb::Get => {}
            TableVerb::Set | TableVerb::Cas => {
                let registration = Registration { node: node.clone(), ..Registration::default() };
                self.catalog_register(registration, now).map_err(words)?;
            }
        }
        let found = self.node(name).ok_or_else(|| format!("node {name:?} doesn't exist"))?;
        Ok(vec![Outcome::Node(found.clone())])
    }

    fn service_operation(
        &mut self,
        verb: TableVerb,
        node: &str,
        service: &ServiceDefinition,
        index: u64,
        now: Instant,
    ) -> Result<Vec<Outcome>, String> {
        let id = &service.id;
        let current = self.service_at(node, id).map(|service| service.modify_index);
        stale(verb, current, index, &format!("service {id:?} on node {node:?}"))?;
        match verb {
            TableVerb::Delete | TableVerb::DeleteCas => {
                self.remove_service(node, id, now);
                return Ok(Vec::new());
            }
            TableVerb::Get => {}
            TableVerb::Set | TableVerb::Cas => {
                let mut registration = self.at_present_node(node)?;
                registration.service = Some(service.clone());
                self.catalog_register(registration, now).map_err(words)?;
            }
        }
        let missing = || format!("service {id:?} on node {node:?} doesn't exist");
        Ok(vec![Outcome::Service(self.service_at(node, id).ok_or_else(missing)?.clone())])
    }

    fn check_operation(
        &mut self,
        verb: TableVerb,
        node: &str,
        check: &CheckDefinition,
        index: u64,
        now: Instant,
    ) -> Result<Vec<Outcome>, String> {
        let id = &check.id;
        let current = self.check_at(node, id).map(|check| check.modify_index);
        stale(verb, current, index, &format!("check {id:?} on node {node:?}"))?;
        match verb {
            TableVerb::Delete | TableVerb::DeleteCas => {
                self.remove_check(node, id, now);
                return Ok(Vec::new());
            }
            TableVerb::Get => {}
            TableVerb::Set | TableVerb::Cas => {
                let mut registration = self.at_present_node(node)?;
                registration.checks.push((String::new(), check.clone()));
                self.catalog_register(registration, now).map_err(words)?;
            }
        }
        let missing = || format!("check {id:?} on node {node:?} doesn't exist");
        Ok(vec![Outcome::Check(self.check_at(node, id).ok_or_else(missing)?.clone())])
    }

    fn at_present_node(&self, name: &str) -> Result<Registration, String> {
        let node = self.node(name).ok_or_else(|| "Missing node registration".to_owned())?;
        Ok(Registration { node: node.definition.clone(), skip_node_update: true, ..Registration::default() })
    }
}

/// The condition of a check-and-set on a table.
fn stale(verb: TableVerb, current: Option<u64>, index: u64, what: &str) -> Result<(), String> {
    let holds = current.unwrap_or(0) == index;
    match verb {
        TableVerb::Cas if !holds => Err(format!("failed to set {what}, index is stale")),
        TableVerb::DeleteCas if !holds => Err(format!("failed to delete {what}, index is stale")),
        _ => Ok(()),
    }
}

fn words(error: StoreError) -> String {
    match error {
        StoreError::Refused(text) => text,
        StoreError::Full { what, limit } => {
            format!("the embedded registry holds at most {limit} {what}; use a Consul agent for more")
        }
        StoreError::UnknownService(id) | StoreError::UnknownCheck(id) | StoreError::NotTtl(id) => {
            format!("{id:?} is not there")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreLimits;

    fn set(key: &str, verb: KvVerb, index: u64) -> TxnOp {
        let value = Bytes::from_static(b"x");
        TxnOp::Kv { verb, key: key.to_owned(), value, flags: 0, index, session: String::new() }
    }

    #[test]
    fn all_of_a_transaction_happens_at_one_index_or_none_of_it() {
        let own = NodeDefinition { name: "n1".to_owned(), ..NodeDefinition::default() };
        let mut store = Store::new(StoreLimits::default(), own);
        let now = Instant::now();
        let index = store.index();
        let refused = store.transact(&[set("a", KvVerb::Set, 0), set("b", KvVerb::Cas, 7)], now).unwrap_err();
        let what = "failed to set key \"b\", index is stale".to_owned();
        assert_eq!(refused, [TxnError { operation: 1, what }]);
        assert_eq!((store.index(), store.kv.get("a")), (index, None));
        store.transact(&[set("a", KvVerb::Set, 0), set("b", KvVerb::Set, 0)], now).unwrap();
        assert_eq!(store.index(), index + 1);
        let indexes = ["a", "b"].map(|key| store.kv.get(key).unwrap().modify_index);
        assert_eq!(indexes, [index + 1, index + 1]);
    }
}
