//! Whether an answer continues the history of the answers before it.

use crate::client::Consistency;
use crate::watch::watcher::{Purpose, Watcher};

impl Watcher {
    /// An index that falls belongs to another history. Only answers of one server can be compared, because the leader is ahead of
    /// the other servers.
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
