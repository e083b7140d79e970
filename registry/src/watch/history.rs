//! The recent changes of each instance, which explain why it gets no requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::watch::instance::{Instance, Key, Status, by_key};

/// One change of one instance (see [`History`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When the watch learned of it, as the time since the Unix epoch.
    pub at: Duration,
    /// The state since then: a status of Consul's, `absent`, `held_up` (it flaps), `kept` (a mass removal is doubted) or `released`.
    pub state: &'static str,
    /// The cause, as far as the registry shows it.
    pub cause: String,
}

/// The latest transitions of each instance of a service, at most twenty per instance.
#[derive(Debug, Default)]
pub struct History {
    instances: Mutex<BTreeMap<Key, VecDeque<Transition>>>,
}

/// The change between two answers.
pub(crate) struct Change<'a> {
    pub(crate) before: &'a [Instance],
    pub(crate) after: &'a [Instance],
    /// For each instance the check that decides its status.
    pub(crate) checks: &'a BTreeMap<Key, String>,
}

impl History {
    /// The transitions of the instance with this node and id, oldest first.
    pub fn of(&self, node: &str, id: &str) -> Vec<Transition> {
        let instances = self.lock();
        instances.get(&(node.to_owned(), id.to_owned())).into_iter().flatten().cloned().collect()
    }

    /// All instances with transitions, as node, id and transitions (oldest first).
    pub fn all(&self) -> Vec<(String, String, Vec<Transition>)> {
        let one = |((node, id), list): (&Key, &VecDeque<Transition>)| {
            (node.clone(), id.clone(), list.iter().cloned().collect())
        };
        self.lock().iter().map(one).collect()
    }

    /// Records the change from one answer to the next.
    pub(crate) fn record(&self, change: &Change<'_>) {
        let (before, after) = (by_key(change.before), by_key(change.after));
        for (key, new) in &after {
            let old = before.get(key).map(|old| old.status);
            if old != Some(new.status) {
                let check = change.checks.get(key).cloned();
                let cause = check.unwrap_or_else(|| {
                    if old.is_none() { "registered".to_owned() } else { "all checks pass".to_owned() }
                });
                self.push(key, word(new.status), cause);
            }
        }
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            self.push(key, "absent", "no longer in the registry's answer".to_owned());
        }
    }

    /// Records which instances are newly held up (`held_up`) or kept (`kept`), and which no longer are.
    pub(crate) fn record_held(
        &self,
        state: &'static str,
        before: &BTreeSet<Key>,
        after: &BTreeSet<Key>,
        why: &str,
    ) {
        for key in after.difference(before) {
            self.push(key, state, why.to_owned());
        }
        for key in before.difference(after) {
            self.push(key, "released", format!("no longer {state}"));
        }
    }

    fn push(&self, key: &Key, state: &'static str, cause: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut instances = self.lock();
        if instances.len() >= INSTANCES_MAX && !instances.contains_key(key) {
            // The instance without a change for the longest time is the least interesting.
            let quiet = instances.iter().min_by_key(|(_, list)| list.back().map(|last| last.at));
            if let Some(quiet) = quiet.map(|(key, _)| key.clone()) {
                instances.remove(&quiet);
            }
        }
        let list = instances.entry(key.clone()).or_default();
        if list.len() >= TRANSITIONS_MAX {
            list.pop_front();
        }
        list.push_back(Transition { at, state, cause });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, VecDeque<Transition>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Passing => "passing",
        Status::Warning => "warning",
        Status::Critical => "critical",
        Status::Maintenance => "maintenance",
    }
}

/// Enough to see a flap; the log has the rest.
const TRANSITIONS_MAX: usize = 20;
/// Instances of one service, including those that are gone; at 20 transitions each about 5 MB.
const INSTANCES_MAX: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;

    fn record(history: &History, before: &[Instance], after: &[Instance]) {
        history.record(&Change { before, after, checks: &BTreeMap::new() });
    }

    #[test]
    fn the_last_twenty_transitions_are_kept_with_their_cause() {
        let history = History::default();
        let (up, down) = ([instance("a", Status::Passing)], [instance("a", Status::Critical)]);
        record(&history, &[], &up);
        for _ in 0..30 {
            record(&history, &up, &down);
            record(&history, &down, &up);
        }
        record(&history, &up, &[]);
        let transitions = history.of("n1", "a");
        assert_eq!(transitions.len(), TRANSITIONS_MAX);
        let gone = transitions.last().unwrap();
        assert_eq!((gone.state, gone.cause.as_str()), ("absent", "no longer in the registry's answer"));
        assert_eq!(transitions[TRANSITIONS_MAX - 2].cause, "all checks pass");
    }

    #[test]
    fn instances_that_come_and_go_do_not_grow_it_without_end() {
        let history = History::default();
        for n in 0..INSTANCES_MAX + 10 {
            record(&history, &[], &[instance(&format!("i{n}"), Status::Passing)]);
        }
        assert_eq!(history.all().len(), INSTANCES_MAX);
    }
}
