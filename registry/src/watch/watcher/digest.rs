//! An answer of the registry, reduced to what decisions need.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::HealthAnswer;
use crate::types::{Check, ServiceEntry, shown};
use crate::watch::gate::Evidence;
use crate::watch::instance::{Instance, Key, is_side_kind, key};

/// An answer with all that decisions need.
pub(super) struct Digest {
    /// The answer with its usable instances, sorted.
    pub(super) answer: Evidence,
    /// One sentence for each element that cannot be used as an instance.
    pub(super) skipped: Vec<String>,
    /// The answer is not empty, and each element is a proxy or gateway of the mesh.
    pub(super) only_side_kinds: bool,
    /// Nodes whose own agent Consul cannot reach.
    pub(super) lost_nodes: BTreeSet<String>,
    /// The worst check of each instance that has a check which does not pass.
    pub(super) checks: BTreeMap<Key, String>,
}

pub(super) fn digest(answer: HealthAnswer) -> Digest {
    let is_side = |entry: &ServiceEntry| is_side_kind(&entry.service.kind);
    let only_side_kinds =
        answer.skipped.is_empty() && !answer.entries.is_empty() && answer.entries.iter().all(is_side);
    let mut skipped = answer.skipped;
    let mut instances = Vec::with_capacity(answer.entries.len());
    let (mut lost_nodes, mut checks) = (BTreeSet::new(), BTreeMap::new());
    for entry in answer.entries {
        if entry.checks.iter().any(|check| check.check_id == "serfHealth" && check.status == "critical") {
            lost_nodes.insert(entry.node.node.clone());
        }
        let worst = worst_check(&entry);
        match Instance::from_entry(entry) {
            Ok(instance) => {
                checks.extend(worst.map(|worst| (key(&instance), worst)));
                instances.push(instance);
            }
            Err(reason) => skipped.push(reason),
        }
    }
    // The order of Consul's list is not stable.
    instances.sort_unstable_by(|a, b| a.identity().cmp(&b.identity()));
    let answer = Evidence {
        instances,
        unusable: skipped.len(),
        index: answer.index,
        known_leader: answer.known_leader,
        filtered_by_acls: answer.filtered_by_acls,
        sight: None,
    };
    Digest { answer, skipped, only_side_kinds, lost_nodes, checks }
}

fn worst_check(entry: &ServiceEntry) -> Option<String> {
    let rank = |check: &&Check| match check.status.as_str() {
        "passing" => 0,
        "warning" => 1,
        _ => 2,
    };
    let worst = entry.checks.iter().max_by_key(rank).filter(|check| rank(check) > 0)?;
    Some(shown(&format!("check `{}` is {}", worst.check_id, worst.status)))
}
