//! Which change wakes which blocking query, on either registry: a client that waits for one thing must hear of it
//! at once, and must not hear of everything else.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::{HttpClient, HttpOptions, HttpResponse};
use tokio::time::Instant;

use crate::backend::{Backend, on_both_registries};
use crate::support::PATIENCE;

on_both_registries!(
    what_is_waited_for_wakes_and_nothing_else_does,
    a_service_that_is_watched_by_hash_is_answered_when_its_content_changes,
    an_event_wakes_who_waits_for_events,
    a_session_that_is_not_renewed_in_time_is_gone_after_twice_its_ttl,
);

/// What a query waits for, a change, and whether that wakes it.
const CASES: &[(&str, Change, bool)] = &[
    ("/v1/health/service/web", SLOWER_WEB, true),
    ("/v1/health/service/web", OTHER_SERVICE, false),
    ("/v1/health/service/web", SOME_KEY, false),
    ("/v1/catalog/service/web", OTHER_SERVICE, false),
    ("/v1/catalog/services", OTHER_SERVICE, true),
    ("/v1/catalog/services", SOME_KEY, false),
    ("/v1/health/state/any", SLOWER_WEB, true),
    ("/v1/health/state/any", SOME_KEY, false),
    ("/v1/catalog/nodes", OTHER_NODE, true),
    ("/v1/catalog/nodes", OTHER_SERVICE, false),
    ("/v1/kv/dir/a", ("PUT", "/v1/kv/dir/a", "{}"), true),
    ("/v1/kv/dir/a", ("PUT", "/v1/kv/dir/b", "{}"), false),
    ("/v1/kv/dir/?recurse", ("PUT", "/v1/kv/dir/c", "{}"), true),
    ("/v1/kv/dir/?recurse", ("DELETE", "/v1/kv/dir/gone", ""), true),
    ("/v1/kv/dir/?recurse", SOME_KEY, false),
    ("/v1/kv/dir/?recurse", ("DELETE", "/v1/kv/other/gone", ""), false),
    ("/v1/kv/dir/?keys", ("PUT", "/v1/kv/dir/d", "{}"), true),
    ("/v1/session/list", ("PUT", "/v1/session/create", r#"{"Name":"s{}"}"#), true),
    ("/v1/session/list", SOME_KEY, false),
];

/// Method, path, body; `{}` becomes a number that no earlier change had.
type Change = (&'static str, &'static str, &'static str);
const SOME_KEY: Change = ("PUT", "/v1/kv/other/{}", "{}");
const SLOWER_WEB: Change = (
    "PUT",
    "/v1/agent/service/register",
    r#"{"Name":"web","Port":{},"Check":{"CheckID":"c{}","TTL":"90s"}}"#,
);
const OTHER_SERVICE: Change = ("PUT", "/v1/agent/service/register", r#"{"Name":"other","Port":{}}"#);
const OTHER_NODE: Change = ("PUT", "/v1/catalog/register", r#"{"Node":"ext{}","Address":"10.0.0.1"}"#);

async fn what_is_waited_for_wakes_and_nothing_else_does(backend: Backend) {
    let url = backend.url();
    for (method, path, body) in [
        ("PUT", "/v1/agent/service/register", r#"{"Name":"web"}"#),
        ("PUT", "/v1/agent/service/register", r#"{"Name":"other"}"#),
        ("PUT", "/v1/kv/dir/a", "0"),
        ("PUT", "/v1/kv/dir/gone", "0"),
        ("PUT", "/v1/kv/other/gone", "0"),
    ] {
        send(&url, method, path, body).await;
    }
    // The catalog follows the agent by a moment.
    until(&url, "/v1/health/service/other", |body| body.contains("other")).await;
    for (number, (path, change, wakes)) in CASES.iter().enumerate() {
        let index = header(&send(&url, "GET", path, "").await, "x-consul-index");
        let joint = if path.contains('?') { '&' } else { '?' };
        let wait = if *wakes { "10s" } else { "250ms" };
        let query = format!("{path}{joint}index={index}&wait={wait}");
        let fill = |text: &str| text.replace("{}", &(100 + number).to_string());
        let (target, body) = (fill(change.1), fill(change.2));
        let begin = Instant::now();
        let (answer, _) = tokio::join!(send(&url, "GET", &query, ""), send(&url, change.0, &target, &body));
        let (new, took) = (header(&answer, "x-consul-index"), begin.elapsed());
        let woken = new != index;
        assert_eq!(woken, *wakes, "{path} and {change:?}: {index} -> {new} after {took:?}");
        assert!(!wakes || took < Duration::from_secs(9), "{path} and {change:?}: only after {took:?}");
    }
}

async fn a_service_that_is_watched_by_hash_is_answered_when_its_content_changes(backend: Backend) {
    let url = backend.url();
    let register = |body| send(&url, "PUT", "/v1/agent/service/register", body);
    register(r#"{"Name":"web","Port":1}"#).await;
    let hash = header(&send(&url, "GET", "/v1/agent/service/web", "").await, "x-consul-contenthash");
    let same = send(&url, "GET", &format!("/v1/agent/service/web?hash={hash}&wait=100ms"), "").await;
    assert_eq!(header(&same, "x-consul-contenthash"), hash);
    let query = format!("/v1/agent/service/web?hash={hash}&wait=10s");
    let begin = Instant::now();
    let (changed, _) = tokio::join!(send(&url, "GET", &query, ""), register(r#"{"Name":"web","Port":2}"#));
    assert_ne!(header(&changed, "x-consul-contenthash"), hash);
    assert!(begin.elapsed() < Duration::from_secs(9));
}

async fn an_event_wakes_who_waits_for_events(backend: Backend) {
    let url = backend.url();
    send(&url, "PUT", "/v1/event/fire/deploy", "1").await;
    until(&url, "/v1/event/list", |body| body.contains("deploy")).await;
    let index = header(&send(&url, "GET", "/v1/event/list?name=deploy", "").await, "x-consul-index");
    let query = format!("/v1/event/list?name=deploy&index={index}&wait=10s");
    let begin = Instant::now();
    let (woken, _) =
        tokio::join!(send(&url, "GET", &query, ""), send(&url, "PUT", "/v1/event/fire/deploy", "2"));
    assert_ne!(header(&woken, "x-consul-index"), index);
    assert!(begin.elapsed() < Duration::from_secs(9));
}

async fn a_session_that_is_not_renewed_in_time_is_gone_after_twice_its_ttl(backend: Backend) {
    let url = backend.url();
    let body = r#"{"TTL":"10s","LockDelay":"0s","Behavior":"delete"}"#;
    let created = send(&url, "PUT", "/v1/session/create", body).await;
    let text = String::from_utf8_lossy(&created.body).into_owned();
    let id = text.split('"').nth(3).unwrap();
    let begin = Instant::now();
    send(&url, "PUT", &format!("/v1/kv/lock?acquire={id}"), "mine").await;
    let held = send(&url, "GET", "/v1/kv/lock", "").await;
    let index = header(&held, "x-consul-index");
    let freed = send(&url, "GET", &format!("/v1/kv/lock?index={index}&wait=60s"), "").await;
    let took = begin.elapsed();
    assert_eq!(freed.status, 404, "the key goes with its session");
    assert!((Duration::from_secs(19)..Duration::from_secs(40)).contains(&took), "{took:?}");
}

async fn send(url: &str, method: &str, path: &str, body: &str) -> HttpResponse {
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let method: Method = method.parse().unwrap();
    let body = Bytes::from(body.to_owned());
    let deadline = PATIENCE * 4;
    let url = format!("{url}{path}");
    let answer = client.send(method, &url, HeaderMap::new(), body, deadline, 1 << 20).await.unwrap();
    assert!(answer.status.is_success() || answer.status == 404, "{path}: {answer:?}");
    answer
}

async fn until(url: &str, path: &str, wanted: impl Fn(&str) -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !wanted(&String::from_utf8_lossy(&send(url, "GET", path, "").await.body)) {
        assert!(Instant::now() < give_up, "{path}: never as wanted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn header(response: &HttpResponse, name: &str) -> String {
    let value = response.headers.get(name).unwrap_or_else(|| panic!("no {name} in {response:?}"));
    value.to_str().unwrap().to_owned()
}
