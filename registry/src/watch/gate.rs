//! Whether an answer of the registry is believed, and which index the next query carries. Pure.
//!
//! The principle: an answer may add, change and remove instances, but one answer alone may not remove the last ones. Consul
//! also answers `200 []` when the ACL token lost a right, as does a follower without data, or a proxy with a broken cache.
//!
//! 1. An index is taken only from successful answers. An index that is lower than ours means another history (a restarted
//!    agent, a restored snapshot): the next query starts at 0, because Consul never answers for an index that is too high.
//! 2. An empty answer at the index at which the instances were seen: the catalog cannot have changed, so the token lost a
//!    right. The instances stay until an answer brings instances again.
//! 3. An empty answer that Consul marks as filtered by ACLs: the instances stay.
//! 4. An answer whose entries all cannot be used: the instances stay.
//! 5. Any other empty answer is confirmed by one fresh read from the leader before it is believed.
//! 6. That read sees only what its token may see: the instances stay while other answers ([`crate::Sight`]) show the service,
//!    or show that the token may not see it.
//! 7. An empty first answer is not believed while the token may not see the service: the instances are unknown.

use std::sync::Arc;

use crate::watch::instance::Instance;
use crate::watch::rights::Sight;

/// An answer, reduced to what the decision needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// Usable instances, sorted by identity.
    pub(crate) instances: Vec<Instance>,
    /// The number of elements that could not be used.
    pub(crate) unusable: usize,
    pub(crate) index: Option<u64>,
    pub(crate) known_leader: bool,
    pub(crate) filtered_by_acls: bool,
    /// What other answers show about the service, if they were read.
    pub(crate) sight: Option<Sight>,
}

/// Why an empty answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Unconfirmed,
    SameIndex,
    FilteredByAcls,
    /// Other answers show the service, or show that the token may not see it.
    Hidden,
    Unusable,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextQuery {
    /// Query again with the gate's index.
    Query,
    /// The answer has no index, so the next query cannot block: read again after a while.
    Poll,
    /// Read once more, without blocking, from the leader.
    Confirm,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The new set, if it differs from the one before.
    pub(crate) publish: Option<Arc<[Instance]>>,
    pub(crate) held: Option<Held>,
    pub(crate) next: NextQuery,
    /// The index went backwards: the answer comes from another history.
    pub(crate) backwards: bool,
}

/// What is known about one service.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The index of the next query; 0 does not block.
    index: u64,
    /// The index of the latest answer; it is kept when `index` is set to 0 only for a resync.
    seen_index: u64,
    /// `None` until the first believable answer.
    instances: Option<Arc<[Instance]>>,
    /// An empty answer came at the index of a full one; empty answers prove nothing until instances come back.
    suspect: bool,
}

impl Gate {
    /// `seed`: instances from an earlier run.
    pub(crate) fn new(seed: Option<Arc<[Instance]>>) -> Self {
        Self { instances: seed, ..Self::default() }
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Makes the next query a full read, which does not block and makes up for a missed wake-up.
    pub(crate) fn resync(&mut self) {
        self.index = 0;
    }

    /// Forgets the index, because the connection failed or the token was refused: the next answer may have another history.
    pub(crate) fn forget_index(&mut self) {
        self.index = 0;
        self.seen_index = 0;
    }

    /// `confirming`: the answer is the fresh read that [`NextQuery::Confirm`] requested.
    pub(crate) fn judge(&mut self, answer: Evidence, confirming: bool) -> Verdict {
        let held = self.doubt(&answer, confirming);
        let reset = self.advance(answer.index);
        let publish = if held.is_none() { self.accept(answer.instances) } else { None };
        if held == Some(Held::SameIndex) {
            self.suspect = true;
        }
        let next = match (held, answer.index) {
            (Some(Held::Unconfirmed | Held::Hidden), _) => NextQuery::Confirm,
            (_, None) => NextQuery::Poll,
            _ => NextQuery::Query,
        };
        if reset {
            self.index = 0;
        }
        Verdict { publish, held, next, backwards: reset }
    }

    fn doubt(&self, answer: &Evidence, confirming: bool) -> Option<Held> {
        if !answer.instances.is_empty() {
            return None;
        }
        let Some(known) = &self.instances else {
            // No instance can be lost yet, but a token without rights, or a follower without data, must not make the service
            // look empty at the start.
            return match answer.sight {
                Some(Sight::NodesHidden | Sight::ServiceHidden) => Some(Held::Hidden),
                _ if answer.filtered_by_acls => Some(Held::FilteredByAcls),
                _ => (!answer.known_leader).then_some(Held::Unconfirmed),
            };
        };
        if known.is_empty() {
            return None;
        }
        if answer.unusable > 0 {
            return Some(Held::Unusable);
        }
        if answer.filtered_by_acls {
            return Some(Held::FilteredByAcls);
        }
        match answer.sight {
            Some(Sight::NodesHidden | Sight::ServiceHidden) => return Some(Held::Hidden),
            Some(Sight::Shown) => return Some(Held::Unconfirmed),
            Some(Sight::Clear) | None => {}
        }
        let same_index = !confirming && self.seen_index != 0 && answer.index == Some(self.seen_index);
        if same_index || self.suspect {
            return Some(Held::SameIndex);
        }
        (!confirming || !answer.known_leader).then_some(Held::Unconfirmed)
    }

    /// Takes over the answer's index; true if it went backwards.
    fn advance(&mut self, index: Option<u64>) -> bool {
        let new = index.unwrap_or(0);
        let backwards = new < self.index;
        self.index = new;
        self.seen_index = new;
        backwards
    }

    fn accept(&mut self, instances: Vec<Instance>) -> Option<Arc<[Instance]>> {
        self.suspect = false;
        if self.instances.as_deref() == Some(instances.as_slice()) {
            return None;
        }
        let instances: Arc<[Instance]> = instances.into();
        self.instances = Some(Arc::clone(&instances));
        Some(instances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;
    use crate::watch::instance::Status;

    fn answer(index: u64, ids: &[&str]) -> Evidence {
        Evidence {
            instances: ids.iter().map(|id| instance(id, Status::Passing)).collect(),
            index: Some(index),
            known_leader: true,
            ..Evidence::default()
        }
    }

    /// A gate that believes in two instances at index 15.
    fn synced() -> Gate {
        let mut gate = Gate::new(None);
        assert!(gate.judge(answer(15, &["a", "b"]), false).publish.is_some());
        gate
    }

    fn published(verdict: &Verdict) -> Option<usize> {
        verdict.publish.as_ref().map(|instances| instances.len())
    }

    #[test]
    fn the_first_answer_is_published_even_if_it_is_empty() {
        let verdict = Gate::new(None).judge(answer(10, &[]), false);
        assert_eq!((published(&verdict), verdict.next), (Some(0), NextQuery::Query));
    }

    #[test]
    fn the_first_empty_answer_of_a_server_without_leader_is_confirmed_first() {
        let mut gate = Gate::new(None);
        let verdict = gate.judge(Evidence { known_leader: false, ..answer(10, &[]) }, false);
        assert_eq!((published(&verdict), verdict.next), (None, NextQuery::Confirm));
    }

    #[test]
    fn the_first_empty_answer_to_a_token_that_may_not_see_the_service_is_none() {
        for hidden in [
            Evidence { sight: Some(Sight::ServiceHidden), ..answer(10, &[]) },
            Evidence { sight: Some(Sight::NodesHidden), ..answer(10, &[]) },
            Evidence { filtered_by_acls: true, ..answer(10, &[]) },
        ] {
            let mut gate = Gate::new(None);
            for confirming in [false, true] {
                let verdict = gate.judge(hidden.clone(), confirming);
                assert_eq!(published(&verdict), None, "{hidden:?}");
                assert!(verdict.held.is_some(), "{hidden:?}");
            }
            assert_eq!(published(&gate.judge(answer(11, &["a"]), false)), Some(1));
            // What was known to be empty stays known.
            let mut gate = Gate::new(Some(Arc::from([])));
            assert_eq!(gate.judge(hidden, false).held, None);
        }
    }

    #[test]
    fn the_same_content_is_not_published_twice() {
        let mut gate = synced();
        assert_eq!(published(&gate.judge(answer(16, &["a", "b"]), false)), None);
        assert_eq!(gate.index(), 16);
    }

    #[test]
    fn a_status_change_and_a_partial_removal_are_believed_at_once() {
        let mut gate = synced();
        assert_eq!(published(&gate.judge(answer(16, &["a"]), false)), Some(1));
        let mut critical = answer(17, &[]);
        critical.instances = vec![instance("a", Status::Critical)];
        assert_eq!(published(&gate.judge(critical, false)), Some(1));
    }

    #[test]
    fn an_empty_answer_is_believed_after_the_confirming_read() {
        let mut gate = synced();
        let first = gate.judge(answer(20, &[]), false);
        assert_eq!(
            (published(&first), first.held, first.next),
            (None, Some(Held::Unconfirmed), NextQuery::Confirm)
        );
        let second = gate.judge(answer(20, &[]), true);
        assert_eq!((published(&second), second.held), (Some(0), None));
    }

    #[test]
    fn a_confirming_read_that_finds_instances_keeps_them_without_news() {
        let mut gate = synced();
        gate.judge(answer(20, &[]), false);
        let verdict = gate.judge(answer(20, &["a", "b"]), true);
        assert_eq!((verdict.publish, verdict.held), (None, None));
    }

    #[test]
    fn a_confirming_read_without_leader_confirms_nothing() {
        let mut gate = synced();
        gate.judge(answer(20, &[]), false);
        let verdict = gate.judge(Evidence { known_leader: false, ..answer(20, &[]) }, true);
        assert_eq!((published(&verdict), verdict.next), (None, NextQuery::Confirm));
    }

    #[test]
    fn an_empty_answer_at_the_same_index_is_an_acl_artefact_and_stays_one() {
        let mut gate = synced();
        assert_eq!(gate.judge(answer(15, &[]), false).held, Some(Held::SameIndex));
        // A status change of the hidden service moves the index; the list is still hidden.
        assert_eq!(gate.judge(answer(21, &[]), false).held, Some(Held::SameIndex));
        // The right came back: same instances, no news; from here on emptiness can be believed again.
        assert_eq!(gate.judge(answer(21, &["a", "b"]), false).publish, None);
        assert_eq!(gate.judge(answer(22, &[]), false).held, Some(Held::Unconfirmed));
    }

    #[test]
    fn a_resync_does_not_forget_at_which_index_the_instances_were_seen() {
        let mut gate = synced();
        gate.resync();
        assert_eq!(gate.index(), 0);
        assert_eq!(gate.judge(answer(15, &[]), false).held, Some(Held::SameIndex));
    }

    #[test]
    fn an_answer_that_acls_filtered_is_never_believed_to_be_empty() {
        let mut gate = synced();
        let filtered = Evidence { filtered_by_acls: true, ..answer(20, &[]) };
        assert_eq!(gate.judge(filtered.clone(), false).held, Some(Held::FilteredByAcls));
        assert_eq!(gate.judge(filtered, true).held, Some(Held::FilteredByAcls));
    }

    #[test]
    fn what_other_answers_show_is_not_believed_to_be_gone_until_they_no_longer_do() {
        let with = |sight| Evidence { sight: Some(sight), ..answer(20, &[]) };
        for sight in [Sight::NodesHidden, Sight::ServiceHidden] {
            let mut gate = synced();
            gate.judge(answer(20, &[]), false);
            for _ in 0..3 {
                let verdict = gate.judge(with(sight), true);
                assert_eq!((verdict.held, verdict.next), (Some(Held::Hidden), NextQuery::Confirm));
            }
            assert_eq!(published(&gate.judge(with(Sight::Clear), true)), Some(0));
        }
        let mut gate = synced();
        let verdict = gate.judge(with(Sight::Shown), true);
        assert_eq!((verdict.held, verdict.next), (Some(Held::Unconfirmed), NextQuery::Confirm));
    }

    #[test]
    fn unusable_entries_alone_do_not_remove_the_usable_ones_from_before() {
        let mut gate = synced();
        let verdict = gate.judge(Evidence { unusable: 2, ..answer(20, &[]) }, false);
        assert_eq!((verdict.held, verdict.next), (Some(Held::Unusable), NextQuery::Query));
    }

    #[test]
    fn a_lower_index_is_applied_and_starts_the_index_over() {
        let mut gate = synced();
        assert_eq!(published(&gate.judge(answer(9, &["a"]), false)), Some(1));
        assert_eq!(gate.index(), 0);
        gate.judge(answer(9, &["a"]), false);
        assert_eq!(gate.index(), 9);
    }

    #[test]
    fn without_an_index_the_service_is_polled() {
        let mut gate = synced();
        let verdict = gate.judge(Evidence { index: None, ..answer(0, &["a"]) }, false);
        assert_eq!((published(&verdict), verdict.next, gate.index()), (Some(1), NextQuery::Poll, 0));
    }

    #[test]
    fn after_a_transport_failure_the_same_number_is_no_evidence() {
        let mut gate = synced();
        gate.forget_index();
        assert_eq!(gate.judge(answer(15, &[]), false).held, Some(Held::Unconfirmed));
    }

    #[test]
    fn instances_from_disk_are_not_dropped_by_one_empty_answer() {
        let mut gate = Gate::new(Some(vec![instance("a", Status::Passing)].into()));
        assert_eq!(gate.judge(answer(10, &[]), false).held, Some(Held::Unconfirmed));
        assert_eq!(published(&gate.judge(answer(10, &[]), true)), Some(0));
    }
}
