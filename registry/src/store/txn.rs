//! Transactions: operations on keys, nodes, services and checks, which are made together or not at all.

use std::time::Instant;

use bytes::Bytes;

use crate::store::{
    Cas, CheckDefinition, CheckRecord, KvEntry, NodeDefinition, NodeRecord, Registration, ServiceDefinition,
    ServiceRecord, Store,
};

/// An operation on a key.
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

/// An operation on a node, a service or a check.
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
    /// The operation was refused before it reached the store; the client gets this text.
    Refused(String),
}

/// One result; an operation has any number of them.
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
    /// Whether the operation only reads.
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
    /// Runs all operations, in order, on a copy that replaces this store if no operation fails. All share one index.
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
            TxnOp::Node { verb, node, index } => self.row_operation(
                (*verb, *index),
                &format!("node {:?}", node.name),
                |store| store.node(&node.name).map(|row| (row.modify_index, Outcome::Node(row.clone()))),
                |store| store.remove_node(&node.name, now),
                |store| {
                    let registration = Registration { node: node.clone(), ..Registration::default() };
                    store.write_registration(registration, now)
                },
            ),
            TxnOp::Service { verb, node, service, index } => self.row_operation(
                (*verb, *index),
                &format!("service {:?} on node {node:?}", service.id),
                |store| {
                    let row = store.service_at(node, &service.id)?;
                    Some((row.modify_index, Outcome::Service(row.clone())))
                },
                |store| store.remove_service(node, &service.id, now),
                |store| {
                    let mut registration = store.at_present_node(node)?;
                    registration.service = Some(service.clone());
                    store.write_registration(registration, now)
                },
            ),
            TxnOp::Check { verb, node, check, index } => self.row_operation(
                (*verb, *index),
                &format!("check {:?} on node {node:?}", check.id),
                |store| {
                    let row = store.check_at(node, &check.id)?;
                    Some((row.modify_index, Outcome::Check(row.clone())))
                },
                |store| store.remove_check(node, &check.id, now),
                |store| {
                    let mut registration = store.at_present_node(node)?;
                    registration.checks.push((String::new(), check.clone()));
                    store.write_registration(registration, now)
                },
            ),
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
        if done.map_err(|error| error.to_string())? { Ok(()) } else { Err(otherwise) }
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

    /// One operation on a row of any table. `what` is the row in Consul's words, `index` the one that the client knows, and
    /// `register` writes the row.
    fn row_operation(
        &mut self,
        (verb, index): (TableVerb, u64),
        what: &str,
        find: impl Fn(&Self) -> Option<(u64, Outcome)>,
        remove: impl FnOnce(&mut Self) -> bool,
        register: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<Vec<Outcome>, String> {
        let unchanged = find(self).map_or(0, |(current, _)| current) == index;
        match verb {
            TableVerb::Cas if !unchanged => return Err(format!("failed to set {what}, index is stale")),
            TableVerb::DeleteCas if !unchanged => {
                return Err(format!("failed to delete {what}, index is stale"));
            }
            TableVerb::Delete | TableVerb::DeleteCas => {
                // An absent row is removed already.
                let _was_there = remove(self);
                return Ok(Vec::new());
            }
            TableVerb::Get => {}
            TableVerb::Set | TableVerb::Cas => register(self)?,
        }
        let (_, found) = find(self).ok_or_else(|| format!("{what} doesn't exist"))?;
        Ok(vec![found])
    }

    fn write_registration(&mut self, registration: Registration, now: Instant) -> Result<(), String> {
        self.catalog_register(registration, now).map_err(|error| error.to_string())
    }

    fn at_present_node(&self, name: &str) -> Result<Registration, String> {
        let node = self.node(name).ok_or_else(|| "Missing node registration".to_owned())?;
        Ok(Registration { node: node.definition.clone(), skip_node_update: true, ..Registration::default() })
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
