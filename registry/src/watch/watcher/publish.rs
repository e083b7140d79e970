//! From the instances that the registry lists to the update: the instances in use, and those that are held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info};

use crate::watch::history::Change;
use crate::watch::instance::Instance;
use crate::watch::instance::Key;
use crate::watch::mass_drop::Circumstances;
use crate::watch::report::ServiceUpdate;
use crate::watch::watcher::{Watcher, logged};

impl Watcher {
    /// Uses an answer that is believed. `instances` is the new set, if it differs.
    pub(super) async fn take_over(
        &mut self,
        instances: Option<Arc<[Instance]>>,
        only_side_kinds: bool,
        checks: &BTreeMap<Key, String>,
        now: Instant,
    ) -> Option<()> {
        let is_other_kind = std::mem::replace(&mut self.only_side_kinds, only_side_kinds) != only_side_kinds;
        match instances {
            Some(instances) => self.changed(instances, checks, now).await?,
            None if is_other_kind => {
                let published = self.settle.published();
                self.publish(published, now).await?;
            }
            None => {}
        }
        self.circumstances = Circumstances::default();
        Some(())
    }

    /// Handles a new set of instances.
    async fn changed(
        &mut self,
        instances: Arc<[Instance]>,
        checks: &BTreeMap<Key, String>,
        now: Instant,
    ) -> Option<()> {
        let before = Arc::clone(self.settle.believed());
        self.report.history.record(&Change { before: &before, after: &instances, checks });
        let (held_up, kept) = self.held();
        let publish = self.settle.take(instances, &self.circumstances, now);
        self.report_held(&held_up, &kept);
        self.publish(publish, now).await
    }

    /// Releases instances that were held until now.
    pub(super) async fn release(&mut self) -> Option<()> {
        let now = Instant::now();
        let (held_up, kept) = self.held();
        let publish = self.settle.release(now);
        self.report_held(&held_up, &kept);
        self.publish(publish, now).await
    }

    async fn publish(&mut self, instances: Option<Arc<[Instance]>>, now: Instant) -> Option<()> {
        let Some(instances) = instances else { return Some(()) };
        let routable = routable(&instances);
        let (service, before) = (&self.target.service, std::mem::replace(&mut self.routable, routable));
        if routable == before {
            debug!(service, instances = instances.len(), routable, "instances changed");
        } else {
            info!(service, instances = instances.len(), routable, before, "routable instances changed");
        }
        self.report.record(|stats| stats.last_change = Some(now));
        let (target, only_side_kinds) = (self.target.clone(), self.only_side_kinds);
        let update = ServiceUpdate { target, instances, only_side_kinds, answered_at: now };
        self.report.updates.send(update).await.ok()
    }

    fn held(&self) -> (BTreeSet<Key>, BTreeSet<Key>) {
        (self.settle.held_up().clone(), self.settle.kept())
    }

    fn report_held(&self, held_up_before: &BTreeSet<Key>, kept_before: &BTreeSet<Key>) {
        let (held_up, kept) = self.held();
        self.report.record(|stats| {
            stats.held_up = held_up.len();
            stats.kept = kept.len();
        });
        logged::held_up(&self.target.service, held_up.difference(held_up_before));
        if kept_before.is_empty() {
            logged::kept(&self.target.service, kept.len());
        }
        let history = &self.report.history;
        history.record_held("held_up", held_up_before, &held_up, "it went down again and again");
        history.record_held(
            "kept",
            kept_before,
            &kept,
            "the registry may be wrong: it lost sight of machines, or its own memory",
        );
    }
}

pub(super) fn routable(instances: &[Instance]) -> usize {
    instances.iter().filter(|instance| instance.is_routable()).count()
}
