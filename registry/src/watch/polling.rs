//! Follows the list of services for the watches that poll (see [`Crowd`](crate::client::Crowd)), and wakes those whose
//! service changed in it. One blocking query serves all of them.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::client::{Catalog, Client, Member, Services};
use crate::watch::catalog::follow_catalog;
use crate::watch::follow::FollowOptions;

/// Adds a watch of `service` to those of this client that poll.
pub(crate) fn join(client: &Client, service: &str) -> Member {
    client.crowd().join(service, || tokio::spawn(follow(client.clone())))
}

async fn follow(client: Client) {
    let options = FollowOptions { pause_min: PAUSE, ..FollowOptions::default() };
    let (sender, mut lists) = mpsc::channel(1);
    let _following = follow_catalog(client.clone(), options, in_lower_case, sender);
    let mut known: Option<Services> = None;
    while let Some(services) = lists.recv().await {
        if let Some(known) = &known {
            client.crowd().wake(known, &services);
        }
        known = Some(services);
    }
}

fn in_lower_case(catalog: Catalog) -> Services {
    catalog.services.into_iter().map(|(name, tags)| (name.to_lowercase(), tags)).collect()
}

/// In a busy datacenter the list changes all the time.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_lower_case_as_the_catalog_does() {
        let catalog = Catalog { services: [("WEB".to_owned(), Vec::new())].into(), ..Catalog::default() };
        assert_eq!(in_lower_case(catalog).into_keys().collect::<Vec<_>>(), ["web"]);
    }
}
