//! What `/api/v1/routes` and metrics show of declared routes: which were refused, why, and the instances that declare them.

use std::collections::{BTreeMap, BTreeSet};

use millgate_registry::{Client, QueryOptions};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{DeclaredRoutes, instances};
use crate::{
    auto_routes::merge::Refused, config::settings::AutoRoutesSettings, control::event::Event,
    declaration::Reason, world::World,
};

/// What `/api/v1/routes` shows of declared routes.
#[derive(Debug, Clone, Default)]
pub struct DeclaredReport {
    pub accepted: usize,
    /// Services whose routes wait until their instances are known.
    pub waiting: Vec<String>,
    /// Refused declarations, up to the number that is listed; `refused` counts all.
    pub rejected: Vec<RejectedView>,
    pub refused: Refused,
}

impl DeclaredReport {
    /// The number of refused declarations for each reason.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, usize)> {
        Reason::ALL
            .into_iter()
            .map(|reason| (reason.as_str(), self.refused.get(&reason).copied().unwrap_or_default()))
    }
}

/// A declaration that is not in the table.
#[derive(Debug, Clone, Serialize)]
pub struct RejectedView {
    pub service: String,
    pub tag: String,
    pub reason: &'static str,
    pub detail: String,
    /// Ids of the instances with the tag, as far as they are known; at most [`INSTANCES_LISTED_MAX`].
    pub instances: Vec<String>,
}

impl DeclaredRoutes {
    /// The report as of now.
    pub fn report(&self, auto: &AutoRoutesSettings, world: &World) -> DeclaredReport {
        let mut with_tags: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
        for rejected in &self.rejected {
            with_tags.entry(&rejected.service).or_default().insert(&rejected.tag, BTreeSet::new());
        }
        for (service, with_tag) in &mut with_tags {
            let mut add = |id, text: &str| {
                if let Some(ids) = with_tag.get_mut(text)
                    && ids.len() < INSTANCES_LISTED_MAX
                {
                    ids.insert(id);
                }
            };
            // Each tag of each instance once: there may be thousands of both.
            for instance in instances(auto, world, service) {
                for tag in &instance.tags {
                    add(&instance.id, tag);
                }
                auto.forms.in_metadata(&instance.meta).for_each(|text| add(&instance.id, &text));
            }
            for (id, tags) in self.seen.get(*service).into_iter().flatten() {
                for tag in tags {
                    add(id, tag);
                }
            }
        }
        let rejected = self.rejected.iter().map(|rejected| {
            let with_tag = with_tags.get(&*rejected.service);
            let ids = with_tag.and_then(|tags| tags.get(&*rejected.tag)).into_iter().flatten();
            RejectedView {
                service: rejected.service.clone(),
                tag: rejected.tag.clone(),
                reason: rejected.why.reason.as_str(),
                detail: rejected.why.detail.clone(),
                instances: ids.map(|id| (*id).to_owned()).collect(),
            }
        });
        let rejected: Vec<RejectedView> = rejected.collect();
        let waiting = self.warming.names().map(str::to_owned).collect();
        DeclaredReport { accepted: self.accepted.len(), waiting, rejected, refused: self.refused.clone() }
    }

    /// Services with a refused declaration whose instances were not queried yet: at most [`LOOKS_MAX`] at a time. From now on
    /// they count as queried.
    pub fn unseen(&mut self, auto: &AutoRoutesSettings, world: &World) -> Vec<String> {
        let refused: BTreeSet<&String> = self.rejected.iter().map(|rejected| &rejected.service).collect();
        let is_unseen = |service: &&String| {
            !self.seen.contains_key(*service) && instances(auto, world, service).next().is_none()
        };
        let unseen: Vec<String> = refused.into_iter().filter(is_unseen).take(LOOKS_MAX).cloned().collect();
        self.seen.extend(unseen.iter().map(|service| (service.clone(), Vec::new())));
        unseen
    }

    /// Takes over the tags of a service's instances.
    pub fn see(&mut self, service: String, instances: Vec<(String, Vec<String>)>) {
        if self.services.contains_key(&service) {
            self.seen.insert(service, instances);
        }
    }
}

/// Queries once which instances of `services` have which tags.
pub async fn look_at(client: Client, services: Vec<String>, events: mpsc::Sender<Event>) {
    for service in services {
        let answer = client.health_service(&service, &QueryOptions::default()).await;
        // The watch of the list reports what is wrong with the registry; this report has no ids then.
        let entries = answer.map(|answer| answer.entries).unwrap_or_default();
        let instances = entries.into_iter().map(|entry| (entry.service.id, entry.service.tags)).collect();
        if events.send(Event::Seen { service, instances }).await.is_err() {
            return;
        }
    }
}

/// Services that are queried after one change, for the report.
const LOOKS_MAX: usize = 20;
/// Listed instances of one refused tag: enough to find the deployment.
const INSTANCES_LISTED_MAX: usize = 20;
