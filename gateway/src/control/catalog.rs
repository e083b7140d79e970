//! Follows the list of services, for the routes that they declare ([`super::declared`]).

use std::collections::{BTreeMap, BTreeSet};

use millgate_registry::{Catalog, Client, FollowHandle, FollowOptions, follow_catalog};
use tokio::sync::mpsc;

use super::event::{CatalogNews, Event};
use crate::{auto_routes::merge::Declared, declaration::tags::TagForms};

/// Where news go, and of which registry they are.
pub struct Events {
    pub sender: mpsc::Sender<Event>,
    pub registry: u64,
}

/// Follows the list of services until dropped.
pub struct CatalogFollow {
    forms: TagForms,
    task: tokio::task::JoinHandle<()>,
}

impl CatalogFollow {
    pub fn start(client: Client, datacenter: Option<String>, forms: TagForms, events: Events) -> Self {
        Self { task: tokio::spawn(follow(client, datacenter, forms.clone(), events)), forms }
    }

    /// Does it keep the tags that these forms read?
    pub fn serves(&self, forms: &TagForms) -> bool {
        self.forms == *forms
    }
}

impl Drop for CatalogFollow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, datacenter: Option<String>, forms: TagForms, events: Events) {
    let keep = move |catalog: Catalog| (of_routes(catalog.services, &forms), catalog.filtered_by_acls);
    let (updates, mut received) = mpsc::channel(1);
    let _handle: FollowHandle = follow_catalog(client.clone(), FollowOptions::default(), keep, updates);
    // A token without `agent:read` does not tell; then origins have no datacenter.
    let mut own: Option<String> = datacenter;
    while let Some((services, filtered)) = received.recv().await {
        if own.is_none() {
            let agent = client.agent_self().await;
            own = agent.ok().map(|agent| agent.config.datacenter).filter(|name| !name.is_empty());
        }
        let news = CatalogNews { services, filtered, datacenter: own.clone() };
        if events.sender.send(Event::Catalog { news, registry: events.registry }).await.is_err() {
            return;
        }
    }
}

/// All services, with the tags that are about routes.
fn of_routes(services: BTreeMap<String, Vec<String>>, forms: &TagForms) -> Declared {
    let tags = |tags: Vec<String>| -> Vec<String> {
        // Sorted and once each.
        let is_kept = |tag: &String| forms.is_route(tag) || forms.points_to_metadata(tag);
        tags.into_iter().filter(is_kept).collect::<BTreeSet<_>>().into_iter().collect()
    };
    services.into_iter().map(|(name, list)| (name, tags(list))).collect()
}
