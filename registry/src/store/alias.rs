//! Alias checks, which repeat the checks of a service or of a node: an alias has the worst status of them, with Consul's words,
//! and follows at once, as Consul's do for a service of the same agent.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::store::{CheckKind, CheckRecord, Key, Store};
use crate::types::CheckStatus;

/// The service or node whose checks are repeated. The checks of a service include those of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alias {
    /// The node; empty means the node of the check.
    pub(crate) node: String,
    /// The service's id; empty means the checks of the node alone.
    pub(crate) service_id: String,
}

impl Store {
    /// Brings every alias up to date; aliases of aliases as well.
    pub(crate) fn follow_aliases(&mut self, now: Instant) {
        for _ in 0..ALIAS_DEPTH_MAX {
            let mut changed = false;
            for (id, alias) in self.aliases() {
                let (status, output) = self.aliased(&id, &alias);
                let differs = |check: &CheckRecord| {
                    let unseen = status == CheckStatus::Critical && check.critical_since.is_none();
                    unseen || (check.status, &check.output) != (status, &output)
                };
                if self.checks.get(&Key::new(&self.own, &id)).is_some_and(differs) {
                    changed = true;
                    self.set_status(&id, status, output, now);
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn aliases(&self) -> Vec<(String, Alias)> {
        let alias = |check: &CheckRecord| match &check.definition.kind {
            CheckKind::Alias(alias) => Some((check.definition.id.clone(), alias.clone())),
            _ => None,
        };
        self.own_checks().filter_map(alias).collect()
    }

    fn aliased(&self, own_id: &str, alias: &Alias) -> (CheckStatus, String) {
        let node = if alias.node.is_empty() { &self.own } else { &alias.node };
        let own = node.to_lowercase() == self.own.to_lowercase();
        if !alias.service_id.is_empty() && self.service_at(node, &alias.service_id).is_none() {
            let text = format!("Service {} could not be found on node {}", alias.service_id, alias.node);
            return (CheckStatus::Critical, text);
        }
        let mut worst = CheckStatus::Passing;
        let mut output = "No checks found.".to_owned();
        // Each alias reads only its own few checks, because there may be thousands of aliases.
        let of_service = (!alias.service_id.is_empty()).then(|| self.checks_under(node, &alias.service_id));
        let mut checks: Vec<&CheckRecord> =
            self.checks_under(node, "").chain(of_service.into_iter().flatten()).collect();
        checks.sort_by_cached_key(|check| check.definition.id.to_lowercase());
        for check in checks {
            // The registry's own check belongs to the catalog, not to the agent.
            if own && check.definition.kind == CheckKind::Node {
                continue;
            }
            // An alias of the node is one of the node's checks. Consul's repeats itself and never recovers.
            if own && check.definition.id == own_id {
                continue;
            }
            if check.status == CheckStatus::Passing {
                if worst == CheckStatus::Passing {
                    "All checks passing.".clone_into(&mut output);
                }
                continue;
            }
            if worst != CheckStatus::Critical {
                worst = check.status;
                output = format!("Aliased check {:?} failing: {}", check.definition.name, check.output);
            }
        }
        (worst, output)
    }
}

/// Chains that are longer follow with the next change; circles end here.
const ALIAS_DEPTH_MAX: usize = 8;
