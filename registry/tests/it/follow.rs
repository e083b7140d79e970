//! Following a key and the list of services, against either registry.

use std::time::Duration;

use bytes::Bytes;
use millgate_registry::{
    Client, ClientConfig, FollowOptions, ServiceRegistration, WatchOptions, WatchState, WatchTarget,
    follow_catalog, follow_key, watch,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::fake::{Fake, Reply};
use crate::support::{PATIENCE, client};

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

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

#[tokio::test]
async fn a_denied_query_is_made_again_as_soon_as_the_token_changes() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "old\n").unwrap();
    let fake = Fake::start(|_, head| {
        if !head.to_lowercase().contains("x-consul-token: new\r\n") {
            return Reply::Status(403, String::new(), "ACL not found".to_owned());
        }
        if head.contains("index=") {
            return Reply::Silence;
        }
        match head {
            head if head.contains("/v1/catalog/") => Reply::list(15, "{}"),
            head if head.contains("/v1/kv/") => {
                Reply::Status(404, "X-Consul-Index: 15\r\n".to_owned(), String::new())
            }
            _ => Reply::list(15, "[]"),
        }
    })
    .await;
    let config = ClientConfig { token_file: Some(token_file.clone()), ..ClientConfig::new(&fake.url) };
    let client = Client::new(config).unwrap();
    // So many that short pauses by chance, of the five seconds and more that the first ones may last, do not explain it.
    let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    let (updates, _updates) = mpsc::channel(64);
    let watches: Vec<_> = names
        .iter()
        .map(|name| {
            watch::spawn(client.clone(), WatchTarget::service(name), WatchOptions::default(), updates.clone())
        })
        .collect();
    let (values, _values) = mpsc::channel(64);
    let mut followed: Vec<_> = names
        .iter()
        .map(|name| {
            let known = Some(Bytes::from_static(b"x"));
            follow_key(client.clone(), name.clone(), known, FollowOptions::default(), values.clone())
        })
        .collect();
    let (lists, _lists) = mpsc::channel(8);
    followed.push(follow_catalog(client.clone(), FollowOptions::default(), |catalog| catalog.index, lists));
    until("all were denied", || {
        watches.iter().all(|watch| watch.stats().errors > 0)
            && followed.iter().all(|one| one.stats().errors > 0)
    })
    .await;
    std::fs::write(&token_file, "new\n").unwrap();
    let begin = Instant::now();
    until("all were answered", || {
        watches.iter().all(|watch| watch.stats().state == WatchState::Fresh)
            && followed.iter().all(|one| one.stats().last_success.is_some())
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}
