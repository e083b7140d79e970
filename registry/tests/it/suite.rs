//! What client, watcher and lease promise, against either registry.

use std::time::Duration;

use millgate_registry::{CheckStatus, Lease, QueryOptions, ServiceRegistration, Status, WatchState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::backend::{Backend, on_both_registries};
use crate::support::{PATIENCE, Watched, client, ids, quick};

on_both_registries!(
    two_instances_are_seen_with_their_status,
    a_critical_instance_is_seen_within_a_second,
    quick_changes_one_after_another_are_each_seen_within_a_second,
    a_heartbeat_that_stops_turns_the_instance_critical,
    the_last_instance_is_gone_after_a_confirming_read,
    a_registry_that_is_gone_changes_nothing,
    a_registry_that_is_back_with_a_lower_index_is_followed,
    an_unrelated_change_does_not_wake_a_watch,
    a_lease_registers_again_what_the_registry_forgot,
    a_lease_waits_for_a_registry_that_is_not_there_yet,
    a_lease_without_ttl_is_registered_and_deregistered,
    an_http_check_is_made_and_its_result_is_seen,
    names_may_hold_anything,
    keys_and_values_are_kept,
    the_catalog_lists_services_and_tags,
);

const TTL: Duration = Duration::from_secs(30);

fn web(number: u16) -> ServiceRegistration {
    ServiceRegistration::http("web", format!("web-{number}"), "10.0.0.1", 8000 + number)
        .tags(["v1"])
        .meta([("zone", "a")])
        .weights(10, 2)
        .ttl(TTL)
}

/// Registers instances of `web` by number, all passing.
async fn register(url: &str, numbers: &[u16]) {
    let client = client(url);
    for number in numbers {
        let registration = web(*number);
        client.register(&registration).await.unwrap();
        client.check_pass(&registration.ttl_check_id()).await.unwrap();
    }
}

async fn two_instances_are_seen_with_their_status(backend: Backend) {
    let mut watched = Watched::start(&backend.url(), "web", quick());
    assert_eq!(watched.next().await, []);
    register(&backend.url(), &[2, 1]).await;
    let all_passing = |status| {
        move |list: &[_]| {
            list.len() == 2
                && list.iter().all(|instance: &millgate_registry::Instance| instance.status == status)
        }
    };
    let (instances, _) = watched.until("both pass", all_passing(Status::Passing)).await;
    assert_eq!(ids(&instances), ["web-1", "web-2"]);
    let first = &instances[0];
    assert_eq!((first.address.as_str(), first.port, first.weight), ("10.0.0.1", 8001, 10));
    assert_eq!((first.node.as_str(), first.tags.as_slice()), ("n1", &["v1".to_owned()][..]));
    assert_eq!(first.meta.get("zone").map(String::as_str), Some("a"));
    assert_eq!(watched.handle.stats().state, WatchState::Fresh);
}

async fn a_critical_instance_is_seen_within_a_second(backend: Backend) {
    register(&backend.url(), &[1, 2]).await;
    let mut watched = Watched::start(&backend.url(), "web", quick());
    assert_eq!(watched.next().await.len(), 2);
    let client = client(&backend.url());
    client.check_update(&web(2).ttl_check_id(), CheckStatus::Critical, "broken").await.unwrap();
    let (instances, took) = watched.until("critical", |list| list[1].status == Status::Critical).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(instances.iter().filter(|instance| instance.is_routable()).count(), 1);
}

async fn quick_changes_one_after_another_are_each_seen_within_a_second(backend: Backend) {
    register(&backend.url(), &[1]).await;
    let mut watched = Watched::start(&backend.url(), "web", quick());
    watched.next().await;
    let client = client(&backend.url());
    for round in 0..12 {
        let (status, seen) = match round % 2 {
            0 => (CheckStatus::Warning, Status::Warning),
            _ => (CheckStatus::Passing, Status::Passing),
        };
        client.check_update(&web(1).ttl_check_id(), status, "").await.unwrap();
        let (_, took) = watched.until("the change", |list| list[0].status == seen).await;
        assert!(took < Duration::from_secs(1), "round {round}: {took:?}");
    }
}

async fn a_heartbeat_that_stops_turns_the_instance_critical(backend: Backend) {
    let mut watched = Watched::start(&backend.url(), "web", quick());
    let registration = web(1).ttl(Duration::from_secs(1));
    let lease = Lease::register(client(&backend.url()), registration);
    watched.until("passing", |list| list.iter().any(|instance| instance.status == Status::Passing)).await;
    drop(lease);
    // A young Consul agent holds back a check that changes by itself for some seconds.
    watched.until("critical", |list| list.iter().any(|instance| instance.status == Status::Critical)).await;
}

async fn the_last_instance_is_gone_after_a_confirming_read(backend: Backend) {
    register(&backend.url(), &[1, 2]).await;
    let mut watched = Watched::start(&backend.url(), "web", quick());
    watched.next().await;
    let client = client(&backend.url());
    client.deregister("web-1").await.unwrap();
    watched.until("one left", |list| ids(list) == ["web-2"]).await;
    client.deregister("web-2").await.unwrap();
    let (_, took) = watched.until("none left", <[_]>::is_empty).await;
    assert!(took >= quick().confirm_after && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(watched.handle.stats().empty_held, 1);
}

async fn a_registry_that_is_gone_changes_nothing(mut backend: Backend) {
    register(&backend.url(), &[1, 2]).await;
    let mut watched = Watched::start(&backend.url(), "web", quick());
    watched.next().await;
    backend.kill().await;
    let stats = watched.until_stats("three errors", |stats| stats.errors >= 3).await;
    assert_eq!((stats.state, stats.index), (WatchState::Stale, 0));
    assert!(stats.last_error.unwrap().contains("connection refused"));
    watched.assert_no_update();
}

async fn a_registry_that_is_back_with_a_lower_index_is_followed(mut backend: Backend) {
    let client = client(&backend.url());
    for round in 0..50 {
        client.kv_put("push/the/index", format!("{round}")).await.unwrap();
    }
    register(&backend.url(), &[1, 2]).await;
    let mut watched = Watched::start(&backend.url(), "web", quick());
    watched.next().await;
    let high = watched.handle.stats().index;
    backend.kill().await;
    watched.until_stats("an error", |stats| stats.errors > 0).await;
    backend.restart().await;
    register(&backend.url(), &[1, 2, 3]).await;
    // All passing: a third one that is still critical would make its turning critical no news.
    let all = |list: &[millgate_registry::Instance]| {
        ids(list) == ["web-1", "web-2", "web-3"] && list.iter().all(millgate_registry::Instance::is_routable)
    };
    watched.until("the third", all).await;
    client.check_update(&web(3).ttl_check_id(), CheckStatus::Critical, "").await.unwrap();
    let critical = |list: &[millgate_registry::Instance]| {
        list.len() == 3 && list[2].status == Status::Critical && list[0].status == Status::Passing
    };
    watched.until("critical after the restart", critical).await;
    let stats = watched.until_stats("an index", |stats| stats.index > 0).await;
    assert!(stats.index < high, "{} is not below {high}", stats.index);
}

async fn an_unrelated_change_does_not_wake_a_watch(backend: Backend) {
    register(&backend.url(), &[1]).await;
    let mut watched = Watched::start(&backend.url(), "web", quick());
    watched.next().await;
    let client = client(&backend.url());
    let before = watched.handle.stats().queries;
    for round in 0..20 {
        let other = ServiceRegistration::http("other", format!("other-{round}"), "10.0.0.2", 1);
        client.register(&other).await.unwrap();
        client.check_pass(&web(1).ttl_check_id()).await.unwrap();
    }
    client.deregister("other-0").await.unwrap();
    client.check_update(&web(1).ttl_check_id(), CheckStatus::Warning, "").await.unwrap();
    watched.until("warning", |list| list[0].status == Status::Warning).await;
    let woken = watched.handle.stats().queries - before;
    assert!(woken <= 2, "woken {woken} times for one change");
}

async fn a_lease_registers_again_what_the_registry_forgot(mut backend: Backend) {
    let mut watched = Watched::start(&backend.url(), "web", quick());
    let passing = |list: &[millgate_registry::Instance]| list.len() == 1 && list[0].is_routable();
    let lease = Lease::register(client(&backend.url()), web(1).ttl(Duration::from_secs(1)));
    tokio::time::timeout(PATIENCE, lease.registered()).await.unwrap();
    watched.until("registered", passing).await;
    client(&backend.url()).deregister("web-1").await.unwrap();
    // Gone and back within a heartbeat: the watch need not have noticed.
    let begin = Instant::now();
    while client(&backend.url()).agent_services().await.unwrap().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "not registered again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    backend.restart().await;
    let begin = Instant::now();
    while client(&backend.url()).agent_services().await.unwrap().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "not registered with the restarted registry");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lease.deregister().await.unwrap();
    assert!(client(&backend.url()).agent_services().await.unwrap().is_empty());
}

async fn a_lease_waits_for_a_registry_that_is_not_there_yet(mut backend: Backend) {
    backend.kill().await;
    let lease = Lease::register(client(&backend.url()), web(1));
    let begin = Instant::now();
    while lease.last_error().is_none() {
        assert!(begin.elapsed() < PATIENCE, "no error from a registry that is not there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    backend.restart().await;
    tokio::time::timeout(PATIENCE, lease.registered()).await.unwrap();
    assert!(lease.last_error().is_none());
}

async fn a_lease_without_ttl_is_registered_and_deregistered(backend: Backend) {
    let registration = ServiceRegistration::http("web", "web-1", "10.0.0.1", 1);
    let lease = Lease::register(client(&backend.url()), registration);
    tokio::time::timeout(PATIENCE, lease.registered()).await.unwrap();
    assert_eq!(client(&backend.url()).agent_service("web-1").await.unwrap().port, 1);
    lease.deregister().await.unwrap();
    let error = client(&backend.url()).agent_service("web-1").await.unwrap_err();
    assert!(error.is_forgotten(), "{error}");
}

async fn an_http_check_is_made_and_its_result_is_seen(backend: Backend) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, served) = tokio::sync::watch::channel("200 OK");
    let answering = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 4096];
            // Whatever is asked, the status is the answer.
            let _read = socket.read(&mut head).await;
            let answer =
                format!("HTTP/1.1 {}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", *served.borrow());
            let _written = socket.write_all(answer.as_bytes()).await;
        }
    });
    let registration = ServiceRegistration::http("web", "web-1", "127.0.0.1", address.port())
        .http_check(format!("http://{address}/health"), Duration::from_secs(1));
    let mut watched = Watched::start(&backend.url(), "web", quick());
    client(&backend.url()).register(&registration).await.unwrap();
    watched.until("passing", |list| list.iter().any(|one| one.status == Status::Passing)).await;
    status.send("429 Too Many Requests").unwrap();
    watched.until("warning", |list| list.iter().any(|one| one.status == Status::Warning)).await;
    status.send("500 Internal Server Error").unwrap();
    watched.until("critical", |list| list.iter().any(|one| one.status == Status::Critical)).await;
    let answer = client(&backend.url()).health_service("web", &QueryOptions::default()).await.unwrap();
    let output = &answer.entries[0].checks.iter().find(|check| check.service_id == "web-1").unwrap().output;
    assert_eq!(*output, format!("HTTP GET http://{address}/health: 500 Internal Server Error Output: ok"));
    answering.abort();
}

async fn names_may_hold_anything(backend: Backend) {
    let name = "my service/ü?x=1#y%41";
    let client = client(&backend.url());
    let registration = ServiceRegistration::http(name, format!("{name}-1"), "10.0.0.1", 1).ttl(TTL);
    client.register(&registration).await.unwrap();
    client.check_pass(&registration.ttl_check_id()).await.unwrap();
    let mut watched = Watched::start(&backend.url(), name, quick());
    watched.until("passing", |list| list.len() == 1 && list[0].status == Status::Passing).await;
    client.deregister(&registration.id).await.unwrap();
    watched.until("gone", <[_]>::is_empty).await;
}

async fn keys_and_values_are_kept(backend: Backend) {
    let client = client(&backend.url());
    assert_eq!(client.kv_get("a/b c").await.unwrap(), None);
    client.kv_put("a/b c", &b"\x00\xffvalue"[..]).await.unwrap();
    assert_eq!(client.kv_get("a/b c").await.unwrap().as_deref(), Some(&b"\x00\xffvalue"[..]));
    client.kv_put("a/empty", "").await.unwrap();
    assert_eq!(client.kv_get("a/empty").await.unwrap().as_deref(), Some(&b""[..]));
    client.kv_delete("a/b c").await.unwrap();
    assert_eq!(client.kv_get("a/b c").await.unwrap(), None);
    let large = vec![b'x'; 600 * 1024];
    let error = client.kv_put("large", large).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(413), "{error}");
}

async fn the_catalog_lists_services_and_tags(backend: Backend) {
    register(&backend.url(), &[1, 2]).await;
    let client = client(&backend.url());
    let services = client.catalog_services().await.unwrap();
    assert_eq!(services.get("web"), Some(&vec!["v1".to_owned()]));
    assert!(services.contains_key("consul"));
    assert!(client.status_leader().await.unwrap().is_some());
    let own = client.agent_self().await.unwrap().config;
    assert_eq!((own.datacenter.as_str(), own.node_name.as_str()), ("dc1", "n1"));
    // An instance that is not there counts as deregistered.
    client.deregister("never-was").await.unwrap();
}
