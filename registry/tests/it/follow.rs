//! Following a key and the list of services, against either registry.

use std::time::Duration;

use bytes::Bytes;
use millgate_registry::{FollowOptions, ServiceRegistration, follow_catalog, follow_key};
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::fake::{Fake, Reply};
use crate::support::{PATIENCE, client};

macro_rules! on_both_registries {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Backend::embedded().await).await;
            })*
        }
        mod consul {
            $(#[tokio::test]
            async fn $name() {
                let Some(backend) = super::Backend::consul().await else { return };
                super::$name(backend).await;
            })*
        }
    };
}

on_both_registries!(
    a_key_is_followed_through_changes_deletion_and_a_restart,
    only_what_is_kept_of_the_list_of_services_is_news,
);

fn quick() -> FollowOptions {
    FollowOptions {
        backoff_base: Duration::from_millis(20),
        backoff_cap: Duration::from_millis(100),
        ..FollowOptions::default()
    }
}

async fn next<T>(updates: &mut mpsc::Receiver<T>) -> T {
    tokio::time::timeout(PATIENCE, updates.recv()).await.expect("no update").expect("it ended")
}

async fn a_key_is_followed_through_changes_deletion_and_a_restart(mut backend: Backend) {
    let writer = client(&backend.url());
    writer.kv_put("a/key", "one").await.unwrap();
    let (sender, mut updates) = mpsc::channel(8);
    let known = Some(Bytes::from_static(b"one"));
    let handle = follow_key(client(&backend.url()), "a/key".to_owned(), known, quick(), sender);
    // The known value is no news; a key beside it, and the same value again, are none either.
    writer.kv_put("a/key2", "x").await.unwrap();
    writer.kv_put("a/key", "one").await.unwrap();
    writer.kv_put("a/key", "two").await.unwrap();
    assert_eq!(next(&mut updates).await.as_deref(), Some(&b"two"[..]));
    writer.kv_delete("a/key").await.unwrap();
    assert_eq!(next(&mut updates).await, None);
    writer.kv_put("a/key", "").await.unwrap();
    assert_eq!(next(&mut updates).await.as_deref(), Some(&b""[..]), "an empty value is not a missing key");
    for round in 0..20 {
        // A high index, which the restart loses.
        writer.kv_put("push", format!("{round}")).await.unwrap();
    }
    backend.restart().await;
    assert_eq!(next(&mut updates).await, None, "it came back empty");
    client(&backend.url()).kv_put("a/key", "three").await.unwrap();
    assert_eq!(next(&mut updates).await.as_deref(), Some(&b"three"[..]));
    let stats = handle.stats();
    assert!(stats.errors > 0 && stats.last_success.is_some() && stats.last_error.is_none(), "{stats:?}");
}

async fn only_what_is_kept_of_the_list_of_services_is_news(backend: Backend) {
    let client = client(&backend.url());
    let register = async |id: &str, tags: &[&str]| {
        let service = ServiceRegistration::http("web", id, "10.0.0.1", 80).tags(tags.iter().copied());
        client.register(&service).await.unwrap();
    };
    let (sender, mut updates) = mpsc::channel(8);
    let keep = |catalog: millgate_registry::Catalog| catalog.services.get("web").cloned();
    let _handle = follow_catalog(client.clone(), quick(), keep, sender);
    assert_eq!(next(&mut updates).await, None);
    register("a", &["z", "b"]).await;
    assert_eq!(next(&mut updates).await.unwrap(), ["b", "z"]);
    // Another service is a change of the list, and not of what is kept.
    client.register(&ServiceRegistration::http("other", "o", "10.0.0.1", 80)).await.unwrap();
    register("b", &["b"]).await;
    register("c", &["c"]).await;
    assert_eq!(next(&mut updates).await.unwrap(), ["b", "c", "z"]);
    client.deregister("a").await.unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["b", "c"]);
}

#[tokio::test]
async fn an_answer_without_the_key_is_not_an_empty_key() {
    for body in ["[]", r#"[{"Key":"a","Value":"eA=="},{"Key":"b","Value":"eQ=="}]"#] {
        let fake = Fake::start(move |_, _| Reply::list(15, body)).await;
        let error = client(&fake.url).kv_get("a").await.unwrap_err();
        assert!(error.to_string().contains("keys instead of one"), "{error}");
    }
}
