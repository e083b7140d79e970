//! A registry that answers nonsense: nothing that was known is lost, and everything is counted.

use std::time::Duration;

use millgate_registry::{
    Client, ClientConfig, LastKnownGood, Lease, QueryOptions, Seed, ServiceRegistration, WatchState,
    WatchTarget, watch,
};

use crate::fake::{Fake, Reply};
use crate::support::{Watched, client, ids, quick};

fn entry(id: &str, port: &str) -> String {
    format!(
        r#"{{"Node":{{"Node":"n1","Address":"10.0.0.9"}},"Service":{{"ID":"{id}","Service":"web","Port":{port}}},"Checks":[]}}"#
    )
}

fn two() -> String {
    format!("[{},{}]", entry("a", "80"), entry("b", "81"))
}

/// Two instances at index 15, then what `then` says, then silence. Returns once `then` was digested.
async fn after_two(then: Vec<Reply>) -> (Watched, Fake) {
    let count = then.len();
    let fake = Fake::start(move |number, _| match number {
        0 => Reply::list(15, two()),
        number => then.get(number - 1).cloned().unwrap_or(Reply::Silence),
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(ids(&watched.next().await), ["a", "b"]);
    watched.until_stats("every answer", |stats| stats.queries > count as u64).await;
    (watched, fake)
}

#[tokio::test]
async fn broken_json_is_an_error_and_loses_nothing() {
    for body in ["[{\"Node\"", "null", "{}", "<html>hello</html>", ""] {
        let (mut watched, _fake) = after_two(vec![Reply::list(16, body)]).await;
        let stats = watched.handle.stats();
        assert_eq!((stats.errors, stats.state), (1, WatchState::Stale), "{body}");
        watched.assert_no_update();
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_an_error_and_loses_nothing() {
    let cut = "HTTP/1.1 200 OK\r\nX-Consul-Index: 16\r\nContent-Length: 500\r\n\r\n[]".to_owned();
    let (mut watched, _fake) = after_two(vec![Reply::Raw(cut)]).await;
    assert_eq!(watched.handle.stats().errors, 1);
    watched.assert_no_update();
}

#[tokio::test]
async fn one_empty_answer_between_full_ones_is_never_seen() {
    let (mut watched, fake) = after_two(vec![Reply::list(16, "[]"), Reply::list(17, two())]).await;
    let stats = watched.handle.stats();
    assert_eq!((stats.empty_held, stats.errors), (1, 0));
    watched.assert_no_update();
    let requests = fake.requests();
    assert!(requests[1].contains("?stale&index=15&wait="), "{}", requests[1]);
    // The read that confirms neither blocks nor accepts a stale answer.
    assert!(requests[2].starts_with("GET /v1/health/service/web HTTP/1.1"), "{}", requests[2]);
}

#[tokio::test]
async fn an_empty_answer_that_is_confirmed_is_believed() {
    let (mut watched, _fake) = after_two(vec![Reply::list(16, "[]"), Reply::list(16, "[]")]).await;
    assert_eq!(watched.next().await, []);
}

#[tokio::test]
async fn an_empty_answer_at_the_same_index_is_never_believed() {
    let (mut watched, _fake) = after_two(vec![Reply::list(15, "[]"), Reply::list(15, "[]")]).await;
    assert_eq!(watched.handle.stats().empty_held, 2);
    watched.assert_no_update();
}

#[tokio::test]
async fn an_answer_that_acls_filtered_is_not_believed_to_be_empty() {
    let headers = "X-Consul-Index: 16\r\nX-Consul-Results-Filtered-By-ACLs: true\r\n".to_owned();
    let (mut watched, _fake) = after_two(vec![Reply::Ok(headers, "[]".to_owned())]).await;
    assert_eq!(watched.handle.stats().empty_held, 1);
    watched.assert_no_update();
}

#[tokio::test]
async fn ports_that_no_socket_has_are_left_out_and_the_rest_is_kept() {
    let bad = ["0", "-1", "99999", "\"80\"", "1e99"].map(|port| entry("bad", port)).join(",");
    let (mut watched, _fake) =
        after_two(vec![Reply::list(16, format!("[{bad},{}]", entry("c", "82")))]).await;
    assert_eq!(ids(&watched.next().await), ["c"]);
    assert_eq!(watched.handle.stats().skipped_instances, 5);
}

#[tokio::test]
async fn an_answer_with_unusable_entries_only_loses_nothing() {
    let (mut watched, _fake) = after_two(vec![Reply::list(16, format!("[{}]", entry("a", "0")))]).await;
    let stats = watched.handle.stats();
    assert_eq!((stats.empty_held, stats.skipped_instances), (1, 1));
    watched.assert_no_update();
}

#[tokio::test]
async fn null_lists_are_empty_lists() {
    let nulls = r#"[{"Node":{"Node":"n1","Address":"10.0.0.9","Meta":null},"Checks":null,"Service":
        {"ID":"c","Tags":null,"Meta":null,"Weights":null,"Address":null,"Port":80}}]"#;
    let (mut watched, _fake) = after_two(vec![Reply::list(16, nulls)]).await;
    let instances = watched.next().await;
    assert_eq!(ids(&instances), ["c"]);
    assert_eq!((instances[0].address.as_str(), instances[0].weight), ("10.0.0.9", 1));
}

#[tokio::test]
async fn the_index_of_an_error_is_ignored() {
    let headers = "X-Consul-Index: 1\r\n".to_owned();
    let refused = Reply::Status(500, headers, "No cluster leader".to_owned());
    let (mut watched, fake) = after_two(vec![refused, Reply::list(16, two())]).await;
    assert!(fake.requests()[2].contains("index=15&"), "{}", fake.requests()[2]);
    assert_eq!(watched.handle.stats().errors, 1);
    watched.assert_no_update();
}

#[tokio::test]
async fn a_broken_connection_starts_the_index_over() {
    let (_watched, fake) = after_two(vec![Reply::Raw(String::new()), Reply::list(16, two())]).await;
    assert!(!fake.requests()[2].contains("index="), "{}", fake.requests()[2]);
}

#[tokio::test]
async fn a_lower_index_is_followed_by_a_query_without_one() {
    let other = format!("[{},{}]", entry("a", "80"), entry("c", "82"));
    let (mut watched, fake) = after_two(vec![Reply::list(7, &*other), Reply::list(7, &*other)]).await;
    assert!(!fake.requests()[2].contains("index="), "{}", fake.requests()[2]);
    // What another history has forgotten stays for a while.
    assert_eq!(ids(&watched.next().await), ["a", "b", "c"]);
}

#[tokio::test]
async fn without_an_index_the_registry_is_polled() {
    let fake = Fake::start(|number, _| match number {
        0 => Reply::Ok(String::new(), two()),
        _ => Reply::Ok(String::new(), format!("[{}]", entry("c", "82"))),
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(ids(&watched.next().await), ["a", "b"]);
    assert_eq!(ids(&watched.next().await), ["c"]);
    assert!(!fake.requests()[1].contains("index="), "{}", fake.requests()[1]);
}

#[tokio::test]
async fn answers_without_news_do_not_make_a_hot_loop() {
    // A server that never blocks, whatever the index: as a cache or a broken proxy in between.
    let fake = Fake::start(|number, _| Reply::list(15 + number as u64, two())).await;
    let watched = Watched::start(&fake.url, "web", quick());
    let begin = tokio::time::Instant::now();
    watched.until_stats("six answers", |stats| stats.queries >= 6).await;
    // Two are free; from then on there are two a second.
    assert!(begin.elapsed() >= Duration::from_millis(1400), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_service_that_stays_empty_at_one_index_is_not_asked_for_as_often_as_one_whose_index_moves() {
    let fake = Fake::start(|_, _| Reply::list(15, "[]".to_owned())).await;
    let watched = Watched::start(&fake.url, "web", quick());
    let begin = tokio::time::Instant::now();
    watched.until_stats("five answers", |stats| stats.queries >= 5).await;
    assert!(begin.elapsed() >= Duration::from_millis(1400), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_meets_the_deadline() {
    let fake = Fake::start(|_, _| Reply::Silence).await;
    let watched = Watched::start(&fake.url, "web", quick());
    let stats = watched.handle.stats();
    assert_eq!(stats.state, WatchState::NeverSynced);
    let begin = tokio::time::Instant::now();
    while watched.handle.stats().errors == 0 {
        assert!(begin.elapsed() < Duration::from_mins(1), "no error");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(watched.handle.stats().last_error.unwrap().contains("no complete answer within 10s"));
}

#[tokio::test]
async fn dropping_a_watch_closes_its_pending_query() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let watched = Watched::start(&url, "web", quick());
    let (mut socket, _) = listener.accept().await.unwrap();
    drop(watched);
    let mut everything = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut everything);
    // The end of the stream, or a reset: both mean that nothing lingers. Sooner than the query's own deadline.
    let _closed =
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("the connection is still open");
}

#[tokio::test]
async fn a_refused_token_is_read_again_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "old\n").unwrap();
    let fake = Fake::start(|_, head| {
        if head.to_lowercase().contains("x-consul-token: new\r\n") {
            return Reply::list(15, two());
        }
        Reply::Status(403, "X-Consul-Index: 1\r\n".to_owned(), "ACL not found".to_owned())
    })
    .await;
    let config = ClientConfig { token_file: Some(token_file.clone()), ..ClientConfig::new(&fake.url) };
    let client = Client::new(config).unwrap();
    let error = client.health_service("web", &QueryOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("ACL not found") && error.contains("CONSUL_HTTP_TOKEN"), "{error}");
    assert!(!error.contains("old"), "{error}");
    std::fs::write(&token_file, "new\n").unwrap();
    assert_eq!(client.health_service("web", &QueryOptions::default()).await.unwrap().entries.len(), 2);
    assert!(fake.requests().iter().all(|head| !head.contains("token=")));
}

#[tokio::test]
async fn a_lease_stops_being_registered_only_when_told() {
    // The registry loses the check once: 500 with the text of Consul up to 1.11.
    let fake = Fake::start(|number, head| {
        let beat = head.starts_with("PUT /v1/agent/check/pass/");
        if beat && number == 2 {
            return Reply::Status(
                500,
                String::new(),
                "CheckID \"x\" does not have associated TTL".to_owned(),
            );
        }
        Reply::Ok(String::new(), String::new())
    })
    .await;
    let registration = ServiceRegistration::http("web", "w", "h", 1).ttl(Duration::from_millis(300));
    let lease = Lease::register(client(&fake.url), registration);
    let begin = tokio::time::Instant::now();
    while fake.requests().iter().filter(|head| head.contains("/service/register")).count() < 2 {
        assert!(begin.elapsed() < crate::support::PATIENCE, "not registered again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lease.deregister().await.unwrap();
    assert!(fake.requests().last().unwrap().starts_with("PUT /v1/agent/service/deregister/w "));
}

#[tokio::test]
async fn instances_from_an_earlier_run_are_kept_until_the_registry_answers() {
    let directory = tempfile::tempdir().unwrap();
    let last_known_good = LastKnownGood::open(directory.path()).unwrap();
    let target = WatchTarget::service("web");
    let (sender, mut updates) = tokio::sync::mpsc::channel(8);
    {
        let fake =
            Fake::start(|number, _| if number == 0 { Reply::list(15, two()) } else { Reply::Silence }).await;
        let _watch = watch::spawn(client(&fake.url), target.clone(), quick(), sender.clone());
        last_known_good.save(&updates.recv().await.unwrap()).unwrap();
    }
    let seed = last_known_good.load(&target).unwrap();
    assert_eq!(ids(&seed), ["a", "b"]);
    // After the restart: an error, one empty answer, then the truth, which is that nothing changed but one.
    let fake = Fake::start(|number, _| match number {
        0 => Reply::Status(500, String::new(), "No cluster leader".to_owned()),
        1 => Reply::list(20, "[]"),
        2 => Reply::list(21, two()),
        3 => Reply::list(22, format!("[{}]", entry("b", "81"))),
        _ => Reply::Silence,
    })
    .await;
    let seed = Seed { instances: seed.into(), of_this_registry: true, age: None };
    let watch = watch::spawn_seeded(client(&fake.url), target, quick(), Some(seed), sender);
    assert_eq!(watch.stats().state, WatchState::Stale);
    assert_eq!(ids(&updates.recv().await.unwrap().instances), ["b"]);
    assert_eq!(watch.stats().empty_held, 1);
}
