//! The key/value half of the store. Values are opaque bytes; keys are sorted, so that a prefix is a range.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// The condition of a check-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cas {
    Always,
    /// Only if the key is absent.
    Absent,
    /// Only if the key is at this `ModifyIndex`.
    At(u64),
}

#[derive(Debug, Clone)]
pub(crate) struct KvEntry {
    pub(crate) value: Bytes,
    pub(crate) flags: u64,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Kv {
    entries: BTreeMap<String, KvEntry>,
    bytes: usize,
    /// Index of the latest write or deletion; 0 before the first.
    index: u64,
    deletion_index: u64,
}

impl Kv {
    pub(crate) fn get(&self, key: &str) -> Option<&KvEntry> {
        self.entries.get(key)
    }

    pub(crate) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&String, &KvEntry)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let prefix = prefix.to_owned();
        self.entries.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// The index of a query for one key: its own, or while it is absent that of the whole table.
    pub(crate) fn key_index(&self, key: &str) -> u64 {
        self.get(key).map_or(self.index, |entry| entry.modify_index).max(1)
    }

    /// The index of a query for a prefix. A deletion anywhere counts: which prefix it had is not kept.
    pub(crate) fn prefix_index(&self, prefix: &str) -> u64 {
        match self.with_prefix(prefix).map(|(_, entry)| entry.modify_index).max() {
            Some(newest) => newest.max(self.deletion_index),
            None => self.index.max(1),
        }
    }

    pub(crate) fn bytes_with(&self, key: &str, value_bytes: usize) -> usize {
        let before = self.get(key).map_or(0, |entry| key.len() + entry.value.len());
        self.bytes + key.len() + value_bytes - before
    }

    pub(crate) fn len_with(&self, key: &str) -> usize {
        self.entries.len() + usize::from(!self.entries.contains_key(key))
    }

    /// Returns whether the condition held, and whether anything changed: the same value again changes nothing.
    pub(super) fn put(&mut self, key: &str, value: Bytes, flags: u64, cas: Cas, index: u64) -> (bool, bool) {
        let before = self.entries.get(key);
        if !holds(cas, before) {
            return (false, false);
        }
        if before.is_some_and(|before| before.value == value && before.flags == flags) {
            return (true, false);
        }
        let create_index = before.map_or(index, |before| before.create_index);
        self.bytes = self.bytes_with(key, value.len());
        self.entries.insert(key.to_owned(), KvEntry { value, flags, create_index, modify_index: index });
        self.index = index;
        (true, true)
    }

    pub(super) fn delete(&mut self, key: &str, recurse: bool, cas: Cas, index: u64) -> (bool, bool) {
        let doomed: Vec<String> = if recurse {
            self.with_prefix(key).map(|(key, _)| key.clone()).collect()
        } else {
            let present = self.entries.get(key);
            match (cas, present) {
                // An absent key is deleted already, whatever the condition.
                (_, None) => return (true, false),
                (Cas::Absent, Some(_)) => return (false, false),
                (cas, present) if !holds(cas, present) => return (false, false),
                _ => vec![key.to_owned()],
            }
        };
        for key in &doomed {
            if let Some(entry) = self.entries.remove(key) {
                self.bytes -= key.len() + entry.value.len();
            }
        }
        if !doomed.is_empty() {
            self.index = index;
            self.deletion_index = index;
        }
        (true, !doomed.is_empty())
    }
}

fn holds(cas: Cas, present: Option<&KvEntry>) -> bool {
    match cas {
        Cas::Always => true,
        Cas::Absent => present.is_none(),
        Cas::At(index) => present.is_some_and(|entry| entry.modify_index == index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &mut Kv, key: &str, value: &'static str, cas: Cas, index: u64) -> (bool, bool) {
        kv.put(key, Bytes::from_static(value.as_bytes()), 0, cas, index)
    }

    #[test]
    fn the_same_value_again_changes_nothing() {
        let mut kv = Kv::default();
        assert_eq!(put(&mut kv, "a", "1", Cas::Always, 11), (true, true));
        assert_eq!(put(&mut kv, "a", "1", Cas::Always, 12), (true, false));
        assert_eq!(kv.key_index("a"), 11);
    }

    #[test]
    fn check_and_set_writes_only_at_the_given_index() {
        let mut kv = Kv::default();
        assert_eq!(put(&mut kv, "a", "1", Cas::At(5), 11), (false, false));
        assert_eq!(put(&mut kv, "a", "1", Cas::Absent, 11), (true, true));
        assert_eq!(put(&mut kv, "a", "2", Cas::Absent, 12), (false, false));
        assert_eq!(put(&mut kv, "a", "2", Cas::At(11), 12), (true, true));
        assert_eq!(kv.delete("a", false, Cas::Absent, 13), (false, false));
        assert_eq!(kv.delete("a", false, Cas::At(12), 13), (true, true));
    }

    #[test]
    fn a_prefix_sees_its_own_writes_and_any_deletion() {
        let mut kv = Kv::default();
        put(&mut kv, "a/1", "x", Cas::Always, 11);
        put(&mut kv, "b/1", "x", Cas::Always, 12);
        assert_eq!((kv.prefix_index("a/"), kv.key_index("missing")), (11, 12));
        kv.delete("a/", true, Cas::Always, 13);
        assert_eq!(kv.prefix_index("a/"), 13);
        assert_eq!((kv.with_prefix("a/").count(), kv.bytes), (0, 4));
    }
}
