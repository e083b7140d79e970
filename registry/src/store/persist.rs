//! The store and its journal: which tables are journaled, and how a restart reads them.
//!
//! A new table survives a restart if it is a [`Table`] whose rows are `Serialize` and `Deserialize` (fields that a restart
//! may forget are `#[serde(skip)]`) and is named in [`Store::tables`]. Every change of its rows is then journaled. A number
//! beside the tables goes into [`Numbers`]; what is derived from rows or has a timer is set up in [`Store::resume`].
//!
//! Names of tables and of fields are a format that files on disk have. A new field needs `#[serde(default)]`.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::journal::Row;
use crate::store::table::Rows;
use crate::store::{CheckKind, Key, NodeDefinition, Store, TTL_EXPIRED};
use crate::types::CheckStatus;

/// The numbers that stand beside the tables, written as one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Numbers {
    index: u64,
    nodes_index: u64,
    services_index: u64,
    checks_index: u64,
    extinction_index: u64,
    kv_index: u64,
    kv_deletion_index: u64,
    sessions_index: u64,
}

impl Store {
    /// Every table that a restart keeps.
    fn tables(&mut self) -> [(&'static str, &mut dyn Rows); 7] {
        let [kv, kv_gone] = self.kv.rows();
        [
            ("nodes", &mut self.nodes),
            ("services", &mut self.services),
            ("checks", &mut self.checks),
            ("names", &mut self.names),
            ("kv", kv),
            ("kv_gone", kv_gone),
            ("sessions", self.sessions.rows()),
        ]
    }

    fn numbers(&self) -> Numbers {
        let (kv_index, kv_deletion_index) = self.kv.indexes();
        Numbers {
            index: self.index,
            nodes_index: self.nodes_index,
            services_index: self.services_index,
            checks_index: self.checks_index,
            extinction_index: self.extinction_index,
            kv_index,
            kv_deletion_index,
            sessions_index: self.sessions.index,
        }
    }

    fn set_numbers(&mut self, numbers: Numbers) {
        self.index = numbers.index;
        self.nodes_index = numbers.nodes_index;
        self.sessions.index = numbers.sessions_index;
        self.services_index = numbers.services_index;
        self.checks_index = numbers.checks_index;
        self.extinction_index = numbers.extinction_index;
        self.kv.set_indexes(numbers.kv_index, numbers.kv_deletion_index);
    }

    /// Appends the rows that changed since the last call to `lines`, one row per line.
    pub(crate) fn write_changes(&mut self, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        for (name, table) in self.tables() {
            table.write_changed(name, lines)?;
        }
        let numbers = self.numbers();
        if numbers != self.numbers_written {
            self.numbers_written = numbers;
            serde_json::to_writer(&mut *lines, &(NUMBERS, "", numbers))?;
            lines.push(b'\n');
        }
        Ok(())
    }

    /// Forgets the changes, in a store without a journal.
    pub(crate) fn forget_changes(&mut self) {
        for (_, table) in self.tables() {
            table.forget_changed();
        }
    }

    /// Reads a row that [`Store::write_changes`] wrote.
    pub(crate) fn read_back(&mut self, row: Row<'_>) -> Result<(), String> {
        let Row { table, key, value } = row;
        if table == NUMBERS {
            let numbers = serde_json::from_str(value.map_or("{}", RawValue::get));
            let numbers = numbers.map_err(|error| format!("{NUMBERS}: {error}"))?;
            self.set_numbers(numbers);
            self.numbers_written = numbers;
            return Ok(());
        }
        let mut tables = self.tables().into_iter();
        let Some((_, rows)) = tables.find(|(name, _)| *name == table) else {
            return Err(format!("table {table:?} is not known to this release"));
        };
        rows.read_back(key, value).map_err(|error| format!("table {table:?}, key {key}: {error}"))
    }

    /// Finds the instances of each name, and the checks of each service, from their rows.
    fn find_owners(&mut self) {
        let services: Vec<(Key, String)> = self
            .services
            .iter()
            .map(|(key, service)| (key.clone(), service.definition.name.clone()))
            .collect();
        for (key, name) in services {
            self.join_name(&name, &key);
        }
        let checks: Vec<(Key, String, String)> = self
            .checks
            .iter()
            .map(|(key, check)| (key.clone(), check.node.clone(), check.definition.service_id.clone()))
            .collect();
        for (key, node, service_id) in checks {
            self.adopt_check(&node, &key, &service_id);
        }
    }

    /// Starts all timers, after all rows were read back. Each TTL begins again, and checks keep their status; the time of a
    /// critical check begins now, so that its service has its time to recover before it is removed.
    /// `own` is the registry's own node, which may have another address now.
    pub(crate) fn resume(&mut self, own: NodeDefinition, now: Instant) {
        self.find_owners();
        let index = self.index + 1;
        if self.put_node(own, index, now) {
            self.index = index;
        }
        self.sessions.resume(now);
        for check in self.checks.values_mut_quietly() {
            check.critical_since = (check.status == CheckStatus::Critical).then_some(now);
            check.expires_at = match check.definition.kind {
                // An expired check does not wait for a heartbeat.
                CheckKind::Ttl(_)
                    if check.status == CheckStatus::Critical && check.output.starts_with(TTL_EXPIRED) =>
                {
                    None
                }
                CheckKind::Ttl(ttl) => Some(now + ttl),
                _ => None,
            };
        }
        self.kv.count_bytes();
    }
}

/// No table has this name.
const NUMBERS: &str = "numbers";

#[cfg(test)]
mod tests;
