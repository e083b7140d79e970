//! Follows the list of services for declared routes ([`super::declared`]).

use std::collections::{BTreeMap, BTreeSet};

use millgate_registry::{Catalog, Client, FollowHandle, FollowOptions, follow_catalog};
use tokio::sync::mpsc;

use super::event::{CatalogNews, Event};
use crate::{auto_routes::merge::Declared, declaration::tags::TagForms};

/// The receiver of the events, and the registry that they are from.
pub struct Events {
    pub sender: mpsc::Sender<Event>,
    pub registry: u64,
}

/// Follows the list of services until it is dropped.
pub struct CatalogFollow {
    forms: TagForms,
    task: tokio::task::JoinHandle<()>,
}

impl CatalogFollow {
    pub fn start(client: Client, datacenter: Option<String>, forms: TagForms, events: Events) -> Self {
        Self { task: tokio::spawn(follow(client, datacenter, forms.clone(), events)), forms }
    }

    /// Whether it keeps the tags that these forms read.
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
    // A token without `agent:read` cannot read the datacenter; then origins have none.
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

/// All services, with their tags about routes.
fn of_routes(services: BTreeMap<String, Vec<String>>, forms: &TagForms) -> Declared {
    let tags = |tags: Vec<String>| -> Vec<String> {
        // Sorted, and without duplicates.
        let is_kept = |tag: &String| forms.is_route(tag) || forms.points_to_metadata(tag);
        tags.into_iter().filter(is_kept).collect::<BTreeSet<_>>().into_iter().collect()
    };
    services.into_iter().map(|(name, list)| (name, tags(list))).collect()
}
