//! How soon a watch sees a service that appears.

use std::time::Duration;

use millgate_registry::{Client, ServiceRegistration};
use tokio::time::Instant;

use crate::{
    backend::{Backend, on_both_registries},
    support::{PATIENCE, Watched, client, ids, quick},
};

on_both_registries!(a_service_that_appears_while_others_disappear_is_seen_within_half_a_second);

/// An agent gives its services to the catalog in its own time.
async fn catalog_lists(client: &Client, service: &str, listed: bool) {
    let begin = Instant::now();
    while client.catalog_services().await.unwrap().contains_key(service) != listed {
        assert!(begin.elapsed() < PATIENCE, "{service} is listed: never {listed}");
    }
}

/// Consul wakes the queries of services without instances whenever one more has none; of all of them whose names have
/// no beginning in common with a service that exists.
async fn a_service_that_appears_while_others_disappear_is_seen_within_half_a_second(backend: Backend) {
    let client = client(&backend.url());
    for service in ["a", "b", "d", "e", "f"] {
        let mut watched = Watched::start(&backend.url(), service, quick());
        assert_eq!(watched.next().await, []);
        while watched.handle.stats().wakeups < 6 {
            client.register(&ServiceRegistration::http("gone", "gone", "10.0.0.1", 80)).await.unwrap();
            catalog_lists(&client, "gone", true).await;
            client.deregister("gone").await.unwrap();
            catalog_lists(&client, "gone", false).await;
        }
        let begin = Instant::now();
        client.register(&ServiceRegistration::http(service, service, "10.0.0.1", 80)).await.unwrap();
        assert_eq!(ids(&watched.next().await), [service]);
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    }
}
