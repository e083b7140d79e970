//! One table of the store: rows by key, in order. It remembers which rows changed since the journal last took the changes; the
//! journal needs nothing more.
//!
//! Reading is reading a `BTreeMap`. Every way to change a row marks it, with one exception.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

#[derive(Debug, Clone)]
pub(crate) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<K, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub(crate) fn insert(&mut self, key: K, row: V) -> Option<V> {
        self.changed.insert(key.clone());
        self.rows.insert(key, row)
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (key, row) = self.rows.remove_entry(key)?;
        self.changed.insert(key);
        Some(row)
    }

    /// A row that the caller changes.
    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.mark(key);
        self.rows.get_mut(key)
    }

    /// Marks a row as changed.
    pub(crate) fn mark<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if let Some((key, _)) = self.rows.get_key_value(key) {
            self.changed.insert(key.clone());
        }
    }

    /// A row in which the caller changes only what a restart may forget: timers, and outputs of probes.
    pub(crate) fn get_mut_quietly<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.rows.get_mut(key)
    }

    /// All rows, of which the caller changes only what a restart may forget.
    pub(crate) fn values_mut_quietly(&mut self) -> impl Iterator<Item = &mut V> {
        self.rows.values_mut()
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let changed = &mut self.changed;
        self.rows.retain(|key, row| {
            let kept = keep(key, row);
            if !kept {
                changed.insert(key.clone());
            }
            kept
        });
    }
}

/// A table as the journal sees it.
pub(crate) trait Rows {
    /// Writes the rows that changed, one line each: `[table, key, row]`, or `[table, key]` for a removed row.
    fn write_changed(&mut self, table: &str, lines: &mut Vec<u8>) -> serde_json::Result<()>;
    /// Reads what [`Rows::write_changed`] wrote; without a row, the row was removed.
    fn read_back(&mut self, key: &RawValue, row: Option<&RawValue>) -> serde_json::Result<()>;
    /// Forgets which rows changed.
    fn forget_changed(&mut self);
}

impl<K, V> Rows for Table<K, V>
where
    K: Ord + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn write_changed(&mut self, table: &str, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        for key in std::mem::take(&mut self.changed) {
            match self.rows.get(&key) {
                Some(row) => serde_json::to_writer(&mut *lines, &(table, &key, row))?,
                None => serde_json::to_writer(&mut *lines, &(table, &key))?,
            }
            lines.push(b'\n');
        }
        Ok(())
    }

    fn read_back(&mut self, key: &RawValue, row: Option<&RawValue>) -> serde_json::Result<()> {
        let key: K = serde_json::from_str(key.get())?;
        match row {
            Some(row) => self.rows.insert(key, serde_json::from_str(row.get())?),
            None => self.rows.remove(&key),
        };
        Ok(())
    }

    fn forget_changed(&mut self) {
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(table: &mut Table<String, u64>) -> String {
        let mut lines = Vec::new();
        table.write_changed("t", &mut lines).unwrap();
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn each_changed_row_is_written_once_and_a_removed_one_without_a_value() {
        let mut table = Table::default();
        table.insert("a".to_owned(), 1);
        table.insert("b".to_owned(), 2);
        *table.get_mut("a").unwrap() = 3;
        assert_eq!(written(&mut table), "[\"t\",\"a\",3]\n[\"t\",\"b\",2]\n");
        table.remove("a");
        table.remove("never there");
        assert_eq!(written(&mut table), "[\"t\",\"a\"]\n");
        table.retain(|_, _| false);
        assert_eq!(written(&mut table), "[\"t\",\"b\"]\n");
        assert_eq!(written(&mut table), "");
    }

    #[test]
    fn a_quiet_change_is_not_written() {
        let mut table = Table::default();
        table.insert("a".to_owned(), 1);
        table.forget_changed();
        *table.get_mut_quietly("a").unwrap() = 2;
        table.values_mut_quietly().for_each(|row| *row += 1);
        assert_eq!((written(&mut table).as_str(), table["a"]), ("", 3));
    }
}
