//! What is done with answers that can be believed and still are not the whole truth.

use std::time::Duration;

use millgate_registry::{Seed, WatchOptions, WatchState, WatchTarget, watch};

use crate::fake::{Fake, Reply};
use crate::support::{Watched, ids, quick};

fn entry(id: &str, status: &str) -> String {
    format!(
        r#"{{"Node":{{"Node":"n-{id}","Address":"10.0.0.9"}},"Service":{{"ID":"{id}","Service":"web","Port":80}},
            "Checks":[{{"CheckID":"service:{id}","Status":"{status}"}}]}}"#
    )
}

fn list(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(id, status)| entry(id, status)).collect();
    format!("[{}]", entries.join(","))
}

fn stale(index: u64, milliseconds: u64, body: String) -> Reply {
    Reply::Ok(format!("X-Consul-Index: {index}\r\nX-Consul-LastContact: {milliseconds}\r\n"), body)
}

#[tokio::test]
async fn an_answer_that_is_too_stale_is_checked_with_the_leader() {
    let fake = Fake::start(|number, _| match number {
        0 => Reply::list(10, list(&[("first", "passing")])),
        1 => stale(15, 60_000, list(&[("old", "passing")])),
        2 => Reply::list(20, list(&[("new", "passing")])),
        _ => Reply::Silence,
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(ids(&watched.next().await), ["first"]);
    assert_eq!(ids(&watched.next().await), ["new"]);
    assert_eq!(watched.handle.stats().too_stale, 1);
    watched.until_stats("a fourth query", |_| fake.requests().len() > 3).await;
    let requests = fake.requests();
    assert!(requests[1].contains("stale"), "{}", requests[1]);
    assert!(!requests[2].contains("stale") && !requests[2].contains("index="), "{}", requests[2]);
    // The leader can be read, so it is followed for a while.
    assert!(!requests[3].contains("stale") && requests[3].contains("index=20"), "{}", requests[3]);
}

#[tokio::test]
async fn an_answer_that_is_too_stale_is_used_when_the_leader_cannot_be_read() {
    let fake = Fake::start(|number, _| match number {
        0 => Reply::list(10, list(&[("first", "passing")])),
        1 => stale(15, 60_000, list(&[("old", "passing")])),
        2 => Reply::Status(500, String::new(), "No cluster leader".to_owned()),
        3 => stale(16, 70_000, list(&[("older", "passing")])),
        _ => Reply::Silence,
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(ids(&watched.next().await), ["first"]);
    assert_eq!(ids(&watched.next().await), ["old"]);
    // The leader is not asked again at every answer.
    assert_eq!(ids(&watched.next().await), ["older"]);
    assert_eq!(watched.handle.stats().too_stale, 2);
}

#[tokio::test]
async fn a_stale_answer_is_better_than_none_for_the_beginning() {
    let fake = Fake::start(|number, _| match number {
        0 => stale(15, 60_000, list(&[("old", "passing")])),
        1 => Reply::list(20, list(&[("new", "passing")])),
        _ => Reply::Silence,
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(ids(&watched.next().await), ["old"]);
    assert_eq!(ids(&watched.next().await), ["new"]);
}

#[tokio::test]
async fn another_query_backend_starts_the_index_over() {
    let backend = |index: u64, name: &str| {
        let headers = format!("X-Consul-Index: {index}\r\nX-Consul-Query-Backend: {name}\r\n");
        Reply::Ok(headers, list(&[("a", "passing")]))
    };
    let fake = Fake::start(move |number, _| match number {
        0 => backend(900, "streaming"),
        1 => backend(901, "blocking-query"),
        _ => Reply::Silence,
    })
    .await;
    let watched = Watched::start(&fake.url, "web", quick());
    watched.until_stats("a third query", |_| fake.requests().len() > 2).await;
    assert!(fake.requests()[1].contains("index=900"), "{}", fake.requests()[1]);
    assert!(!fake.requests()[2].contains("index="), "{}", fake.requests()[2]);
}

#[tokio::test]
async fn an_instance_that_flaps_is_held_up_and_its_history_says_why() {
    let fake = Fake::start(|number, _| {
        let b = if number % 2 == 0 { "passing" } else { "critical" };
        if number > 8 {
            Reply::Silence
        } else {
            Reply::list(15 + number as u64, list(&[("a", "passing"), ("b", b)]))
        }
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    let stats = watched.until_stats("it is held up", |stats| stats.held_up == 1).await;
    assert_eq!(stats.state, WatchState::Fresh);
    let (held, _) = watched.until("b is not routable", |list| !list[1].is_routable()).await;
    assert!(held[0].is_routable());
    let history = watched.handle.history().of("n-b", "b");
    let told: Vec<&str> = history.iter().map(|transition| transition.state).collect();
    assert_eq!(told.iter().filter(|state| **state == "critical").count(), 4);
    assert_eq!(*told.last().unwrap(), "held_up");
    assert_eq!(history[1].cause, "check `service:b` is critical");
}

#[tokio::test]
async fn without_damping_it_is_let_in_each_time() {
    let fake = Fake::start(|number, _| {
        let b = if number % 2 == 0 { "passing" } else { "critical" };
        if number > 8 {
            Reply::Silence
        } else {
            Reply::list(15 + number as u64, list(&[("a", "passing"), ("b", b)]))
        }
    })
    .await;
    let options = millgate_registry::WatchOptions { flap_damping: false, ..quick() };
    let mut watched = Watched::start(&fake.url, "web", options);
    for number in 0..9 {
        assert_eq!(watched.next().await[1].is_routable(), number % 2 == 0, "answer {number}");
    }
}

#[tokio::test]
async fn a_registry_that_lost_its_memory_does_not_take_the_instances_away_at_once() {
    let all = ["a", "b", "c", "d", "e"].map(|id| (id, "passing"));
    let fake = Fake::start(move |number, _| match number {
        0 => Reply::list(900, list(&all)),
        // The connection breaks; what answers next has nothing, and then a little.
        1 => Reply::Raw(String::new()),
        2 | 3 => Reply::list(3, "[]"),
        4 => Reply::list(4, list(&all[..1])),
        _ => Reply::Silence,
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(watched.next().await.len(), 5);
    watched.until_stats("the last answer", |stats| stats.index == 4 && stats.kept == 4).await;
    watched.assert_no_update();
    let told = watched.handle.history().of("n-e", "e");
    assert_eq!(told.last().unwrap().state, "kept");
}

/// Two instances at index 900, then the connection breaks, and what answers next says this.
async fn after_a_break(
    then: impl Fn(usize) -> Reply + Send + Sync + 'static,
    doubt: Duration,
) -> (Watched, Fake) {
    let fake = Fake::start(move |number, _| match number {
        0 => Reply::list(900, list(&[("a", "passing"), ("b", "passing")])),
        1 => Reply::Raw(String::new()),
        number => then(number - 2),
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", WatchOptions { doubt, ..quick() });
    assert_eq!(watched.next().await.len(), 2);
    (watched, fake)
}

#[tokio::test]
async fn a_small_service_is_doubted_for_its_time_and_then_believed_to_be_gone() {
    let empty = |number| if number < 2 { Reply::list(3, "[]") } else { Reply::Silence };
    let doubt = Duration::from_millis(700);
    let begin = tokio::time::Instant::now();
    let (mut watched, _fake) = after_a_break(empty, doubt).await;
    watched.until_stats("both are kept", |stats| stats.kept == 2).await;
    watched.until("none is left", <[_]>::is_empty).await;
    assert!(begin.elapsed() > doubt, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn one_of_two_that_another_history_forgot_is_doubted_and_one_that_was_deregistered_is_not() {
    for (index, kept) in [(3, 1), (901, 0)] {
        let one = move |number| match number {
            0 => Reply::list(index, list(&[("a", "passing")])),
            _ => Reply::Silence,
        };
        let (mut watched, fake) = after_a_break(one, Duration::from_mins(1)).await;
        watched.until_stats("the answer", |_| fake.requests().len() > 3).await;
        assert_eq!(watched.handle.stats().kept, kept, "index {index}");
        if kept == 0 {
            assert_eq!(watched.next().await.len(), 1);
        } else {
            watched.assert_no_update();
        }
    }
}

#[tokio::test]
async fn a_service_of_proxies_is_said_to_be_one_also_when_it_has_no_instance_from_before() {
    let proxy = r#"[{"Node":{"Node":"n1","Address":"10.0.0.9"},"Service":{"Kind":"connect-proxy","ID":"p","Port":80},"Checks":[]}]"#;
    let fake = Fake::start(move |number, _| match number {
        0 => Reply::list(10, proxy),
        1 => Reply::list(11, list(&[("a", "passing")])),
        _ => Reply::Silence,
    })
    .await;
    let (sender, mut updates) = tokio::sync::mpsc::channel(8);
    let seed = Seed { instances: [].into(), of_this_registry: true, age: None };
    let target = WatchTarget::service("web");
    let _watch = watch::spawn_seeded(crate::support::client(&fake.url), target, quick(), Some(seed), sender);
    for (side, instances) in [(true, 0), (false, 1)] {
        let update = tokio::time::timeout(crate::support::PATIENCE, updates.recv()).await.unwrap().unwrap();
        assert_eq!((update.only_side_kinds, update.instances.len()), (side, instances));
    }
}

#[tokio::test]
async fn machines_that_consul_lost_sight_of_are_not_taken_away_at_once() {
    let seen = |critical: bool| {
        let status = if critical { "critical" } else { "passing" };
        let entries: Vec<String> = (0..5)
            .map(|n| {
                format!(
                    r#"{{"Node":{{"Node":"n{n}","Address":"10.0.0.9"}},"Service":{{"ID":"i{n}","Port":80}},
                        "Checks":[{{"CheckID":"serfHealth","Status":"{}"}}]}}"#,
                    if n < 4 { status } else { "passing" }
                )
            })
            .collect();
        format!("[{}]", entries.join(","))
    };
    let fake = Fake::start(move |number, _| match number {
        0 => Reply::list(15, seen(false)),
        1 => Reply::list(16, seen(true)),
        _ => Reply::Silence,
    })
    .await;
    let mut watched = Watched::start(&fake.url, "web", quick());
    assert_eq!(watched.next().await.len(), 5);
    watched.until_stats("they are kept", |stats| stats.kept == 4).await;
    watched.assert_no_update();
}
