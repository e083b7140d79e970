//! Whether an answer continues the history that the answers before it told.

use crate::types::Consistency;
use crate::watcher::{Purpose, Watcher};

impl Watcher {
    /// An index that falls belongs to another history. Only answers of one server can be compared: what the leader says is
    /// ahead of the others.
    pub(super) fn compare_index(&mut self, index: Option<u64>, purpose: Purpose) {
        let is_of_the_leader = self.options.consistency != Consistency::Stale;
        if purpose != Purpose::Follow && !is_of_the_leader {
            return;
        }
        if self.leader_until.is_some() && !is_of_the_leader {
            self.highest_index = 0;
            return;
        }
        let Some(index) = index else { return };
        self.circumstances.index_fell |= index < self.highest_index;
        self.highest_index = index;
    }
}
