//! The key/value half of the store. Values are opaque bytes; keys are sorted, so that a prefix is a range.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::table::{Rows, Table};
use crate::store::{Store, StoreError};

/// The condition of a check-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cas {
    Always,
    /// Only if the key is absent.
    Absent,
    /// Only if the key is at this `ModifyIndex`.
    At(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KvEntry {
    #[serde(with = "base64_text")]
    pub(crate) value: Bytes,
    pub(crate) flags: u64,
    /// The session that has locked the key.
    pub(crate) session: Option<String>,
    /// How often the key was locked; a plain write resets it to 0.
    pub(crate) lock_index: u64,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Kv {
    entries: Table<String, KvEntry>,
    bytes: usize,
    /// Index of the latest write or deletion; 0 before the first.
    index: u64,
    /// The index of the deletion of each deleted key, so that a prefix wakes only for its own keys.
    tombstones: Table<String, u64>,
    /// The index of the latest tombstone that was dropped because there were too many; it counts for every prefix.
    deletion_index: u64,
    /// For each key that a session lost, the time until which it cannot be locked.
    delays: BTreeMap<String, Instant>,
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

    /// The index of a query for a prefix: of the latest write or deletion below it.
    pub(crate) fn prefix_index(&self, prefix: &str) -> u64 {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let gone = self.tombstones.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        let gone = gone.map(|(_, index)| *index).max().unwrap_or(0).max(self.deletion_index);
        match self.with_prefix(prefix).map(|(_, entry)| entry.modify_index).max() {
            Some(newest) => newest.max(gone),
            None => self.index.max(1),
        }
    }

    /// The tables for the journal: the keys, and the deleted keys.
    pub(super) fn rows(&mut self) -> [&mut dyn Rows; 2] {
        [&mut self.entries, &mut self.tombstones]
    }

    /// The index of the latest change, and that of the latest deletion without a tombstone.
    pub(super) fn indexes(&self) -> (u64, u64) {
        (self.index, self.deletion_index)
    }

    pub(super) fn set_indexes(&mut self, index: u64, deletion_index: u64) {
        (self.index, self.deletion_index) = (index, deletion_index);
    }

    /// Counts the bytes again, after all rows were read back.
    pub(super) fn count_bytes(&mut self) {
        self.bytes = self.entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
    }

    /// Whether the key's lock delay lasts.
    pub(crate) fn is_delayed(&self, key: &str, now: Instant) -> bool {
        self.delays.get(key).is_some_and(|until| *until > now)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn bytes_with(&self, key: &str, value_bytes: usize) -> usize {
        let before = self.get(key).map_or(0, |entry| key.len() + entry.value.len());
        self.bytes + key.len() + value_bytes - before
    }

    pub(crate) fn len_with(&self, key: &str) -> usize {
        self.entries.len() + usize::from(!self.entries.contains_key(key))
    }

    /// Writes a key. Returns whether the condition was met, and whether the key changed; the same value is not a change.
    pub(super) fn put(&mut self, key: &str, value: Bytes, flags: u64, cas: Cas, index: u64) -> (bool, bool) {
        let before = self.entries.get(key);
        if !holds(cas, before) {
            return (false, false);
        }
        let session = before.and_then(|before| before.session.clone());
        (true, self.write(key, value, flags, (session, 0), index))
    }

    /// Locks the key for a session. Returns whether the session has it now, and whether something changed.
    pub(super) fn lock(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        session: &str,
        index: u64,
    ) -> (bool, bool) {
        let before = self.entries.get(key);
        let holder = before.and_then(|before| before.session.as_deref());
        let times = before.map_or(0, |before| before.lock_index);
        let times = match holder {
            Some(holder) if holder == session => times,
            Some(_) => return (false, false),
            None => times + 1,
        };
        (true, self.write(key, value, flags, (Some(session.to_owned()), times), index))
    }

    /// Takes the key from the session; false if the session does not have it.
    pub(super) fn unlock(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        session: &str,
        index: u64,
    ) -> (bool, bool) {
        match self.entries.get(key) {
            Some(before) if before.session.as_deref() == Some(session) => {
                let times = before.lock_index;
                (true, self.write(key, value, flags, (None, times), index))
            }
            _ => (false, false),
        }
    }

    /// Releases or deletes every key of a session that ended. They cannot be locked before `until`.
    pub(super) fn end_session(&mut self, session: &str, delete: bool, until: Instant, index: u64) {
        let held = self.entries.iter().filter(|(_, entry)| entry.session.as_deref() == Some(session));
        let held: Vec<String> = held.map(|(key, _)| key.clone()).collect();
        for key in held {
            if self.delays.len() >= DELAYS_MAX {
                self.delays.clear();
            }
            self.delays.insert(key.clone(), until);
            if delete {
                self.remove(&key, index);
            } else if let Some(entry) = self.entries.get_mut(&key) {
                entry.session = None;
                entry.modify_index = index;
                self.index = index;
            }
        }
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
            self.remove(key, index);
        }
        (true, !doomed.is_empty())
    }

    fn write(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        (session, lock_index): (Option<String>, u64),
        index: u64,
    ) -> bool {
        let before = self.entries.get(key);
        let create_index = before.map_or(index, |before| before.create_index);
        let modify_index = before.map_or(index, |before| before.modify_index);
        let mut entry = KvEntry { value, flags, session, lock_index, create_index, modify_index };
        if before.is_some_and(|before| *before == entry) {
            return false;
        }
        entry.modify_index = index;
        self.bytes = self.bytes_with(key, entry.value.len());
        self.entries.insert(key.to_owned(), entry);
        self.tombstones.remove(key);
        self.index = index;
        true
    }

    fn remove(&mut self, key: &str, index: u64) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= key.len() + entry.value.len();
        self.index = index;
        if self.tombstones.len() >= TOMBSTONES_MAX {
            self.tombstones.retain(|_, _| false);
            self.deletion_index = index;
        }
        self.tombstones.insert(key.to_owned(), index);
    }
}

impl Store {
    /// Writes a key; `false` if the condition is not met.
    pub(crate) fn kv_put(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        cas: Cas,
    ) -> Result<bool, StoreError> {
        self.kv_room(key, value.len())?;
        let (done, changed) = self.kv.put(key, value, flags, cas, self.index + 1);
        self.index += u64::from(changed);
        Ok(done)
    }

    /// Locks a key for a session and writes it; `false` if another session has it, or its lock delay is not over.
    pub(crate) fn kv_lock(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        session: &str,
        now: Instant,
    ) -> Result<bool, StoreError> {
        self.kv_room(key, value.len())?;
        if self.sessions.get(session).is_none() {
            return Err(StoreError::Refused(format!("invalid session {session:?}")));
        }
        if self.kv.is_delayed(key, now) {
            return Ok(false);
        }
        let (done, changed) = self.kv.lock(key, value, flags, session, self.index + 1);
        self.index += u64::from(changed);
        Ok(done)
    }

    /// Releases a key and writes it; `false` if the session does not have it.
    pub(crate) fn kv_unlock(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        session: &str,
    ) -> Result<bool, StoreError> {
        self.kv_room(key, value.len())?;
        let (done, changed) = self.kv.unlock(key, value, flags, session, self.index + 1);
        self.index += u64::from(changed);
        Ok(done)
    }

    /// Deletes a key, or with `recurse` all keys that begin with it; `false` if the condition is not met.
    pub(crate) fn kv_delete(&mut self, key: &str, recurse: bool, cas: Cas) -> bool {
        let (done, changed) = self.kv.delete(key, recurse, cas, self.index + 1);
        self.index += u64::from(changed);
        done
    }

    fn kv_room(&self, key: &str, value_bytes: usize) -> Result<(), StoreError> {
        let bytes = self.kv.bytes_with(key, value_bytes);
        Self::within("bytes of keys and values", bytes, self.limits.kv_bytes)?;
        Self::within("keys", self.kv.len_with(key), self.limits.kv_keys)
    }
}

fn holds(cas: Cas, present: Option<&KvEntry>) -> bool {
    match cas {
        Cas::Always => true,
        Cas::Absent => present.is_none(),
        Cas::At(index) => present.is_some_and(|entry| entry.modify_index == index),
    }
}

/// Values in files: JSON has no bytes.
mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
    }
}

/// Beyond it, a deletion anywhere wakes every prefix once more than necessary.
const TOMBSTONES_MAX: usize = 4096;
/// Beyond it, a key may be locked a little too early.
const DELAYS_MAX: usize = 4096;

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
    fn a_prefix_sees_its_own_writes_and_deletions_only() {
        let mut kv = Kv::default();
        put(&mut kv, "a/1", "x", Cas::Always, 11);
        put(&mut kv, "b/1", "x", Cas::Always, 12);
        assert_eq!((kv.prefix_index("a/"), kv.key_index("missing")), (11, 12));
        put(&mut kv, "a/2", "x", Cas::Always, 13);
        kv.delete("a/1", false, Cas::Always, 14);
        assert_eq!((kv.prefix_index("a/"), kv.prefix_index("b/")), (14, 12));
        kv.delete("a/", true, Cas::Always, 15);
        assert_eq!((kv.with_prefix("a/").count(), kv.bytes), (0, 4));
    }

    #[test]
    fn a_locked_key_is_held_by_one_session_until_it_lets_go() {
        let mut kv = Kv::default();
        let value = || Bytes::from_static(b"x");
        assert_eq!(kv.lock("a", value(), 0, "s1", 11), (true, true));
        assert_eq!(kv.lock("a", value(), 0, "s1", 12), (true, false));
        assert_eq!(kv.lock("a", value(), 0, "s2", 12), (false, false));
        assert_eq!(kv.unlock("a", value(), 0, "s2", 12), (false, false));
        assert_eq!(kv.unlock("a", value(), 0, "s1", 12), (true, true));
        assert_eq!(kv.lock("a", value(), 0, "s2", 13), (true, true));
        assert_eq!(kv.get("a").map(|entry| entry.lock_index), Some(2));
        let now = Instant::now();
        let until = now + std::time::Duration::from_secs(15);
        kv.end_session("s2", false, until, 14);
        assert_eq!(kv.get("a").and_then(|entry| entry.session.clone()), None);
        assert!(kv.is_delayed("a", now) && !kv.is_delayed("a", until));
    }
}
