//! A removal that the registry's own trouble explains is doubted for a while. Pure.
//!
//! Consul removes half of a service in one answer when it can no longer reach the machines, not when the machines failed:
//! the network between its servers and the agents broke (`serfHealth` of several nodes turned critical), or the answer comes
//! from another history (an agent that was restarted empty, another agent, a restored snapshot) whose services have not
//! registered again yet. So when at least [`LOST_MIN`] instances and more than half of the routable ones are lost under
//! such circumstances, they stay routable for `hold`. Instances that return in that time are used as usual; the removal of
//! the others is then believed. The circuit breakers handle those that really failed.
//!
//! Another history is a sufficient reason for a service of any size: if the index proves it, all instances that it lacks are
//! kept; if it is only possible, at least the last instances are.
//!
//! Consul gives up one machine after another and answers each time: losses within [`WINDOW`] count together, and removals
//! that were believed in the meantime are undone.
//!
//! A removal under normal circumstances (services deregistered, checks of the services themselves failed) is believed at
//! once, whatever its size.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::watch::instance::{Instance, Key, Status, by_key, key};

/// What is known about an answer besides its instances.
#[derive(Debug, Clone, Default)]
pub(crate) struct Circumstances {
    /// Nodes that Consul can no longer reach since this answer.
    pub(crate) lost_nodes: BTreeSet<String>,
    /// The answer may come from another history than the answers before.
    pub(crate) other_history: bool,
    /// It does: its index is lower than an earlier one.
    pub(crate) index_fell: bool,
}

/// The instances that stay in use although the registry removed them.
#[derive(Debug)]
pub(crate) struct MassDrop {
    /// How long removals are doubted; zero turns this off.
    hold: Duration,
    held: BTreeMap<Key, Instance>,
    until: Option<Instant>,
    losing: Option<Losing>,
}

/// Consul loses one node after another.
#[derive(Debug)]
struct Losing {
    until: Instant,
    /// The instances in use when the losses began.
    before: Vec<Instance>,
    nodes: BTreeSet<String>,
}

impl MassDrop {
    pub(crate) fn new(hold: Duration) -> Self {
        Self { hold, held: BTreeMap::new(), until: None, losing: None }
    }

    /// `before` are the instances in use, `new` those that the registry lists now.
    pub(crate) fn take(
        &mut self,
        before: &[Instance],
        new: &[Instance],
        circumstances: &Circumstances,
        now: Instant,
    ) {
        self.expire(now);
        if self.hold.is_zero() {
            return;
        }
        let new = by_key(new);
        if self.until.is_none() {
            self.held = self.doubtful(before, &new, circumstances, now);
            if !self.held.is_empty() {
                self.until = Some(now + self.hold);
                self.losing = None;
            }
        } else {
            // The same network failure; the hold does not get longer.
            let too = before.iter().filter(|instance| circumstances.lost_nodes.contains(&instance.node));
            let too = too.filter(|instance| is_lost(instance, &new));
            self.held.extend(too.map(|instance| (key(instance), instance.clone())));
        }
        self.held.retain(|key, _| {
            // An instance that is routable again, or that a person put into maintenance, is used as the registry lists it.
            !new.get(key).is_some_and(|new| new.is_routable() || new.status == Status::Maintenance)
        });
        if self.held.is_empty() {
            self.until = None;
        }
    }

    fn doubtful(
        &mut self,
        before: &[Instance],
        new: &BTreeMap<Key, &Instance>,
        circumstances: &Circumstances,
        now: Instant,
    ) -> BTreeMap<Key, Instance> {
        if !circumstances.lost_nodes.is_empty() {
            let begin = || Losing { until: now + WINDOW, before: before.to_vec(), nodes: BTreeSet::new() };
            let losing = self.losing.get_or_insert_with(begin);
            losing.nodes.extend(circumstances.lost_nodes.iter().cloned());
        }
        let in_use = by_key(before);
        let (before, nodes) = match &self.losing {
            Some(losing) => (losing.before.as_slice(), losing.nodes.clone()),
            None => (before, BTreeSet::new()),
        };
        let routable = before.iter().filter(|instance| instance.is_routable()).count();
        let lost: Vec<&Instance> = before.iter().filter(|instance| is_lost(instance, new)).collect();
        let is_mass = lost.len() >= LOST_MIN && lost.len() * 2 > routable;
        let several_nodes = is_mass && nodes.len() >= NODES_MIN;
        let none_is_left = !new.values().any(|instance| instance.is_routable());
        let is_possible = circumstances.other_history && (is_mass || none_is_left);
        let forgotten = |key: &Key| in_use.contains_key(key) && !new.contains_key(key);
        let is_doubtful = |instance: &&&Instance| {
            (several_nodes && nodes.contains(&instance.node))
                || (is_possible && forgotten(&key(instance)))
                // In another history the checks have not run yet, so a critical instance counts as missing.
                || (circumstances.index_fell && in_use.contains_key(&key(instance)))
        };
        let held = lost.iter().filter(is_doubtful);
        held.map(|instance| (key(instance), (*instance).clone())).collect()
    }

    /// Replaces instances of the registry by those that are held. The list stays sorted.
    pub(crate) fn apply(&mut self, instances: &mut Vec<Instance>, now: Instant) {
        self.expire(now);
        if self.until.is_none() {
            return;
        }
        instances.retain(|instance| !self.held.contains_key(&key(instance)));
        instances.extend(self.held.values().cloned());
        instances.sort_unstable_by(|a, b| a.identity().cmp(&b.identity()));
    }

    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.held.contains_key(key)
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    fn expire(&mut self, now: Instant) {
        self.losing.take_if(|losing| losing.until <= now);
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.held.clear();
        }
    }
}

/// It was routable, and no longer is. An instance that a person put into maintenance is not lost.
fn is_lost(instance: &Instance, new: &BTreeMap<Key, &Instance>) -> bool {
    let stays = |new: &&Instance| new.is_routable() || new.status == Status::Maintenance;
    instance.is_routable() && !new.get(&key(instance)).is_some_and(stays)
}

/// Fewer instances may run on one machine.
const LOST_MIN: usize = 4;
const NODES_MIN: usize = 2;
/// Gossip suspects each machine for some seconds before Consul gives it up.
const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;
    use crate::watch::options::DOUBT as HOLD;

    /// Instances 0 to n-1, each on a node of its own, of which the first `critical` are critical.
    fn fleet(n: usize, critical: usize) -> Vec<Instance> {
        (0..n)
            .map(|i| {
                let status = if i < critical { Status::Critical } else { Status::Passing };
                Instance { node: format!("n{i}"), ..instance(&format!("i{i}"), status) }
            })
            .collect()
    }

    fn lost(nodes: usize) -> Circumstances {
        let lost_nodes = (0..nodes).map(|i| format!("n{i}")).collect();
        Circumstances { lost_nodes, ..Circumstances::default() }
    }

    fn other_history() -> Circumstances {
        Circumstances { other_history: true, ..Circumstances::default() }
    }

    /// How many are routable after the answer.
    fn routable(drop: &mut MassDrop, new: &[Instance], now: Instant) -> usize {
        let mut list = new.to_vec();
        drop.apply(&mut list, now);
        list.iter().filter(|instance| instance.is_routable()).count()
    }

    #[test]
    fn machines_that_consul_lost_sight_of_stay_for_thirty_seconds() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        drop.take(&fleet(6, 0), &fleet(6, 4), &lost(4), now);
        assert_eq!(routable(&mut drop, &fleet(6, 4), now), 6);
        assert_eq!(routable(&mut drop, &fleet(6, 4), now + HOLD - Duration::from_millis(1)), 6);
        assert_eq!(routable(&mut drop, &fleet(6, 4), now + HOLD), 2);
    }

    #[test]
    fn instances_whose_own_checks_failed_are_believed_whatever_their_number() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        drop.take(&fleet(6, 0), &fleet(6, 6), &lost(0), now);
        assert_eq!(routable(&mut drop, &fleet(6, 6), now), 0);
        // One node is one machine, not a network.
        drop.take(&fleet(6, 0), &fleet(6, 6), &lost(1), now);
        assert_eq!(routable(&mut drop, &fleet(6, 6), now), 0);
    }

    /// The answers in which one node after another is lost, this long apart; how many are routable after each.
    fn one_by_one(n: usize, lost: usize, apart: Duration) -> Vec<usize> {
        let (mut now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        let mut published = fleet(n, 0);
        let answers = (1..=lost).map(|gone| {
            now += apart;
            let lost_nodes = [format!("n{}", gone - 1)].into();
            let circumstances = Circumstances { lost_nodes, ..Circumstances::default() };
            drop.take(&published, &fleet(n, gone), &circumstances, now);
            published = fleet(n, gone);
            drop.apply(&mut published, now);
            published.iter().filter(|instance| instance.is_routable()).count()
        });
        answers.collect()
    }

    #[test]
    fn machines_that_are_lost_one_after_another_count_together_and_come_back() {
        assert_eq!(one_by_one(6, 5, Duration::from_secs(1)), [5, 4, 3, 6, 6]);
        assert_eq!(one_by_one(6, 5, WINDOW), [5, 4, 3, 2, 1], "a machine a while is no network");
    }

    #[test]
    fn half_or_less_and_few_are_believed_at_once() {
        for (n, gone) in [(8, 4), (3, 3), (5, 2)] {
            let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
            drop.take(&fleet(n, 0), &fleet(n, gone), &lost(gone), now);
            assert_eq!(routable(&mut drop, &fleet(n, gone), now), n - gone, "{gone} of {n}");
        }
    }

    #[test]
    fn a_registry_with_another_history_gets_time_to_fill() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        drop.take(&fleet(5, 0), &[], &other_history(), now);
        assert_eq!(routable(&mut drop, &[], now), 5);
        // Two registered again; they are theirs, the other three are still kept.
        let back = &fleet(5, 0)[..2];
        drop.take(&fleet(5, 0), back, &Circumstances::default(), now);
        assert_eq!(routable(&mut drop, back, now), 5);
        assert_eq!(drop.held.len(), 3);
        assert_eq!(routable(&mut drop, back, now + HOLD), 2);
    }

    #[test]
    fn another_history_is_doubted_for_services_of_any_size_and_then_believed() {
        let fell = Circumstances { index_fell: true, ..other_history() };
        for (before, left, circumstances, in_doubt) in [
            (1, 0, &other_history(), 1),
            (3, 0, &other_history(), 3),
            // It may be the same one, and one of three was deregistered.
            (3, 2, &other_history(), 2),
            (1, 0, &fell, 1),
            (3, 2, &fell, 3),
            (1, 0, &Circumstances::default(), 0),
        ] {
            let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
            let (before, after) = (fleet(before, 0), &fleet(before, 0)[..left]);
            drop.take(&before, after, circumstances, now);
            assert_eq!(routable(&mut drop, after, now + HOLD - Duration::from_millis(1)), in_doubt);
            assert_eq!(routable(&mut drop, after, now + HOLD), left, "{} → {left}", before.len());
        }
    }

    #[test]
    fn a_check_that_has_not_run_yet_in_another_history_takes_nothing_away() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        let fell = Circumstances { index_fell: true, ..other_history() };
        drop.take(&fleet(1, 0), &fleet(1, 1), &fell, now);
        assert_eq!(routable(&mut drop, &fleet(1, 1), now), 1);
        drop.take(&fleet(1, 0), &fleet(1, 0), &Circumstances::default(), now);
        assert_eq!((drop.until(), drop.held.len()), (None, 0), "it has run");
    }

    #[test]
    fn where_doubt_is_switched_off_every_answer_counts() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(Duration::ZERO));
        drop.take(&fleet(5, 0), &[], &other_history(), now);
        assert_eq!(routable(&mut drop, &[], now), 0);
    }

    #[test]
    fn deregistration_is_believed_at_once() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        drop.take(&fleet(5, 0), &[], &Circumstances::default(), now);
        assert_eq!(routable(&mut drop, &[], now), 0);
    }

    #[test]
    fn the_hold_ends_when_all_are_back() {
        let (now, mut drop) = (Instant::now(), MassDrop::new(HOLD));
        drop.take(&fleet(5, 0), &[], &other_history(), now);
        drop.take(&fleet(5, 0), &fleet(5, 0), &Circumstances::default(), now);
        assert_eq!((drop.until(), drop.held.len()), (None, 0));
    }
}
