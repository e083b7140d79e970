//! What is the embedded registry's own: limits, the texts of current releases, start and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::{
    Compat, EmbeddedRegistry, HttpClient, HttpOptions, HttpResponse, QueryOptions, RegistryOptions,
    ServerLimits, ServiceRegistration, StartError,
};
use tokio::time::Instant;

use crate::support::{PATIENCE, client};

fn options() -> RegistryOptions {
    RegistryOptions { listen: ([127, 0, 0, 1], 0).into(), ..RegistryOptions::default() }
}

async fn call(registry: &EmbeddedRegistry, method: Method, path: &str, body: &'static str) -> HttpResponse {
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let url = format!("{}{path}", registry.url());
    client
        .send(method, &url, HeaderMap::new(), Bytes::from_static(body.as_bytes()), PATIENCE, 1 << 20)
        .await
        .unwrap()
}

async fn text(registry: &EmbeddedRegistry, method: Method, path: &str, body: &'static str) -> (u16, String) {
    let response = call(registry, method, path, body).await;
    (response.status.as_u16(), String::from_utf8_lossy(&response.body).into_owned())
}

#[tokio::test]
async fn current_releases_answer_404_for_what_they_do_not_know() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    for (path, body, begin) in [
        (
            "/v1/agent/service/deregister/x",
            "",
            "Unknown service ID \"x\". Ensure that the service ID is passed",
        ),
        ("/v1/agent/check/deregister/x", "", "Unknown check ID \"x\". Ensure that the check ID is passed"),
        ("/v1/agent/check/pass/x", "", "Unknown check ID \"x\""),
        ("/v1/agent/check/update/x", r#"{"Status":"passing"}"#, "Unknown check ID \"x\""),
        (
            "/v1/agent/service/maintenance/x?enable=true",
            "",
            "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name.",
        ),
        (
            "/v1/agent/check/register",
            r#"{"Name":"c","TTL":"9s","ServiceID":"x"}"#,
            "ServiceID \"x\" does not exist",
        ),
    ] {
        let (status, text) = text(&registry, Method::PUT, path, body).await;
        assert!(status == 404 && text.starts_with(begin), "{path}: {status} {text}");
    }
    let (status, unknown) = text(&registry, Method::GET, "/v1/agent/service/x", "").await;
    assert!(status == 404 && unknown.starts_with("Unknown service ID \"x\". Ensure"), "{status} {unknown}");
    let (status, text) = text(&registry, Method::GET, "/v1/nothing", "").await;
    assert_eq!((status, text.as_str()), (404, "Invalid URL path: not a recognized HTTP API endpoint\n"));
}

/// Names that would lead somewhere else if they were paths; 1.8 takes them.
#[tokio::test]
async fn current_releases_refuse_names_of_keys_that_lead_elsewhere() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    let old = RegistryOptions { compat: Compat::V1_8, ..options() };
    let old = EmbeddedRegistry::start(old).await.unwrap();
    for (key, refused) in [
        ("a%252e%252e/b", false),
        ("a/..%252fb", true),
        ("a/%252e%252E%252Fb", true),
        ("%20a", true),
        ("a%20", true),
        ("a%20b", false),
        ("a..b", false),
        ("%C3%A7*;:%25", false),
    ] {
        let path = format!("/v1/kv/{key}");
        for method in [Method::PUT, Method::GET, Method::DELETE] {
            let (status, said) = text(&registry, method.clone(), &path, "").await;
            let (expected, begin) = if refused { (500, "invalid key name") } else { (200, "") };
            assert!(status == expected && said.starts_with(begin), "{method} {key}: {status} {said}");
            assert_eq!(text(&old, method, &path, "").await.0, 200, "{key}");
        }
    }
}

#[tokio::test]
async fn current_releases_have_more_keys_and_headers() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    client(&registry.url()).register(&ServiceRegistration::http("web", "w1", "10.0.0.1", 80)).await.unwrap();
    let response = call(&registry, Method::GET, "/v1/health/service/web", "").await;
    assert_eq!(response.headers["x-consul-query-backend"], "blocking-query");
    let body = String::from_utf8_lossy(&response.body).into_owned();
    assert!(body.contains(r#""Connect":{},"PeerName":"","CreateIndex""#), "{body}");
    assert!(
        body.contains(r#""Type":"","Interval":"","Timeout":"","ExposedPort":0,"Definition":{}"#),
        "{body}"
    );
}

#[tokio::test]
async fn what_is_not_served_is_refused_and_not_pretended() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    for (method, path) in [
        (Method::PUT, "/v1/config"),
        (Method::POST, "/v1/query"),
        (Method::POST, "/v1/connect/intentions"),
        (Method::GET, "/v1/discovery-chain/web"),
        (Method::GET, "/v1/snapshot"),
        (Method::GET, "/v1/agent/host"),
    ] {
        let (status, text) = text(&registry, method, path, "{}").await;
        assert!(status == 500 && text.contains("the embedded registry"), "{path}: {status} {text}");
    }
    let (status, _) = text(&registry, Method::PUT, "/v1/agent/leave", "").await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn current_releases_filter_the_list_of_services_by_their_instances() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    for (id, meta) in [("web-1", "a"), ("api-1", "b")] {
        let registration = ServiceRegistration::http(&id[..3], id, "10.0.0.1", 80).meta([("zone", meta)]);
        client(&registry.url()).register(&registration).await.unwrap();
    }
    let (status, text) =
        text(&registry, Method::GET, "/v1/catalog/services?filter=ServiceMeta.zone%3D%3Da", "").await;
    assert_eq!((status, text.as_str()), (200, r#"{"web":[]}"#));
}

#[tokio::test]
async fn current_releases_call_the_clients_mistakes_bad_requests() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    for (method, path, body) in [
        (Method::GET, "/v1/health/service/web?filter=bogus", ""),
        (Method::GET, "/v1/agent/services?filter=Bogus==1", ""),
        (Method::PUT, "/v1/kv/a?cas=x", ""),
        (Method::PUT, "/v1/catalog/register", "{}"),
        (Method::PUT, "/v1/catalog/deregister", "{}"),
        (Method::GET, "/v1/agent/health/service/id/", ""),
    ] {
        let (status, text) = text(&registry, method, path, body).await;
        assert!(status == 400 && !text.is_empty(), "{path}: {status} {text}");
    }
}

#[tokio::test]
async fn more_services_than_the_limit_are_refused_with_its_number() {
    let mut limits = ServerLimits::default();
    // The registry's own service is one of them.
    limits.store.services = 2;
    let registry = EmbeddedRegistry::start(RegistryOptions { limits, ..options() }).await.unwrap();
    let client = client(&registry.url());
    client.register(&ServiceRegistration::http("web", "a", "", 1)).await.unwrap();
    let error = client.register(&ServiceRegistration::http("web", "b", "", 1)).await.unwrap_err().to_string();
    assert!(error.contains("at most 2 services"), "{error}");
}

#[tokio::test]
async fn more_blocking_queries_than_the_limit_are_refused() {
    let limits = ServerLimits { blocked_queries: 1, ..ServerLimits::default() };
    let registry = EmbeddedRegistry::start(RegistryOptions { limits, ..options() }).await.unwrap();
    let client = client(&registry.url());
    let wait = Some(Duration::from_secs(30));
    let options = QueryOptions { index: Some(1_000_000), wait, ..QueryOptions::default() };
    let (first, second) = (client.clone(), client.clone());
    let (first_options, second_options) = (options.clone(), options.clone());
    // Whichever comes second is refused; the other one is still pending.
    let refused = tokio::select! {
        answer = async { first.health_service("web", &first_options).await } => answer,
        answer = async { second.health_service("web", &second_options).await } => answer,
    };
    assert_eq!(refused.unwrap_err().status().map(|status| status.as_u16()), Some(429));
    // The pending one was dropped with the select: its place is free again.
    let begin = Instant::now();
    let short = QueryOptions { wait: Some(Duration::from_millis(10)), ..options };
    while client.health_service("web", &short).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "the place of a query that was given up is not free");
    }
}

#[tokio::test]
async fn more_blocking_queries_of_one_client_than_its_limit_are_refused() {
    let limits = ServerLimits { blocked_queries_per_client: 0, ..ServerLimits::default() };
    let registry = EmbeddedRegistry::start(RegistryOptions { limits, ..options() }).await.unwrap();
    let (status, text) =
        text(&registry, Method::GET, "/v1/health/service/web?index=1000000&wait=1m", "").await;
    assert_eq!(status, 429);
    assert!(text.starts_with("Your IP is issuing too many concurrent connections"), "{text}");
    assert!(text.ends_with("more than 0 blocking queries at a time from 127.0.0.1"), "{text}");
    // Who does not wait is answered.
    assert_eq!(call(&registry, Method::GET, "/v1/health/service/web?index=0", "").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused() {
    let limits = ServerLimits { body_bytes: 10, ..ServerLimits::default() };
    let registry = EmbeddedRegistry::start(RegistryOptions { limits, ..options() }).await.unwrap();
    assert_eq!(text(&registry, Method::PUT, "/v1/kv/a", "0123456789").await, (200, "true".to_owned()));
    let (status, text) = text(&registry, Method::PUT, "/v1/kv/a", "0123456789a").await;
    assert!(
        status == 413 && text.starts_with("Request body(11 bytes) too large, max size: 10 bytes."),
        "{text}"
    );
}

#[tokio::test]
async fn shutdown_ends_a_pending_query_and_frees_the_port() {
    let listen = ([127, 0, 0, 1], millgate_registry::testing::restartable_port()).into();
    let registry = EmbeddedRegistry::start(RegistryOptions { listen, ..options() }).await.unwrap();
    let (address, client) = (registry.addr(), client(&registry.url()));
    let wait = Some(Duration::from_mins(1));
    let pending = tokio::spawn(async move {
        let options = QueryOptions { index: Some(1_000_000), wait, ..QueryOptions::default() };
        client.health_service("web", &options).await
    });
    // The query is accepted once a second one, sent later, is answered.
    crate::support::client(&registry.url()).status_leader().await.unwrap();
    tokio::time::timeout(PATIENCE, registry.shutdown()).await.expect("shutdown hangs");
    let error = tokio::time::timeout(PATIENCE, pending).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_transport(), "{error}");
    let again = millgate_registry::testing::on_freed_port(|| {
        EmbeddedRegistry::start(RegistryOptions { listen: address, ..options() })
    });
    assert_eq!(again.await.addr(), address);
}

/// What other tests do meanwhile: a program that is being started holds a copy of each socket until its `exec`.
#[tokio::test]
async fn a_registry_is_back_on_its_port_while_other_threads_start_programs() {
    let busy = Arc::new(AtomicBool::new(true));
    let others: Vec<_> = (0..4).map(|_| start_programs(Arc::clone(&busy))).collect();
    let listen = ([127, 0, 0, 1], millgate_registry::testing::restartable_port()).into();
    for _ in 0..50 {
        let registry = millgate_registry::testing::on_freed_port(|| {
            EmbeddedRegistry::start(RegistryOptions { listen, ..options() })
        });
        registry.await.shutdown().await;
    }
    busy.store(false, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }
}

fn start_programs(busy: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while busy.load(Ordering::Relaxed) {
            std::process::Command::new("true").status().unwrap();
        }
    })
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    let error =
        EmbeddedRegistry::start(RegistryOptions { listen: registry.addr(), ..options() }).await.unwrap_err();
    assert!(matches!(&error, StartError::Bind { address, .. } if *address == registry.addr()), "{error}");
}

#[tokio::test]
async fn a_key_can_be_waited_for_before_it_exists() {
    let registry =
        EmbeddedRegistry::start(RegistryOptions { compat: Compat::V1_8, ..options() }).await.unwrap();
    let missing = call(&registry, Method::GET, "/v1/kv/flag", "").await;
    assert_eq!(missing.status.as_u16(), 404);
    let index = missing.headers["x-consul-index"].to_str().unwrap().to_owned();
    let path = format!("/v1/kv/flag?index={index}&wait=30s");
    let waiting = call(&registry, Method::GET, &path, "");
    let writer = client(&registry.url());
    let (woken, put) = tokio::join!(waiting, writer.kv_put("flag", "on"));
    put.unwrap();
    assert_eq!(woken.status.as_u16(), 200);
}

#[tokio::test]
async fn whatever_is_sent_is_answered() {
    let registry = EmbeddedRegistry::start(options()).await.unwrap();
    let deep = "[".repeat(50_000);
    let bodies = [
        "",
        "null",
        "[]",
        "[[{}]]",
        "\"x\"",
        "{\"a\":{",
        "[{\"KV\":[]}]",
        "{\"Check\":{\"Checks\":[7]}}",
        &deep,
    ];
    let queries = [
        "",
        "?index=1&wait=1ns",
        "?filter=%28%28a%20in%20%22",
        "?cas=&flags=&keys&recurse&raw&near=&tag=&node-meta=",
    ];
    let paths = include_str!("same_answers/methods.http").lines();
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    for path in paths.filter_map(|line| line.strip_prefix("PATCH ")) {
        for (number, body) in bodies.iter().enumerate() {
            let url = format!("{}{path}{}", registry.url(), queries[number % queries.len()]);
            for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE] {
                let body = Bytes::from((*body).to_owned());
                let answer = http.send(method.clone(), &url, HeaderMap::new(), body, PATIENCE, 1 << 20).await;
                let answer = answer.unwrap_or_else(|error| panic!("{method} {url}: {error}"));
                assert!(answer.status != 500 || !answer.body.is_empty(), "{method} {url}: {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_kept_is_small_whichever_way_it_comes() {
    let registry = EmbeddedRegistry::start(RegistryOptions {
        limits: ServerLimits { definition_bytes: 200, ..ServerLimits::default() },
        ..options()
    })
    .await
    .unwrap();
    let long = "x".repeat(300);
    for (path, body) in [
        ("/v1/session/create", format!(r#"{{"Name":"{long}"}}"#)),
        ("/v1/txn", format!(r#"[{{"Node":{{"Verb":"set","Node":{{"Node":"n","Address":"{long}"}}}}}}]"#)),
        (
            "/v1/txn",
            format!(
                r#"[{{"Service":{{"Verb":"set","Node":"millgate","Service":{{"Service":"s","Address":"{long}"}}}}}}]"#
            ),
        ),
        (
            "/v1/txn",
            format!(
                r#"[{{"Check":{{"Verb":"set","Check":{{"Node":"millgate","Name":"c","Output":"{long}"}}}}}}]"#
            ),
        ),
    ] {
        let (status, text) = text(&registry, Method::PUT, path, body.leak()).await;
        assert!(status == 413 && text.contains("max size: 200 bytes"), "{path}: {status} {text}");
    }
    let key = format!(r#"[{{"KV":{{"Verb":"set","Key":"k","Value":"{}"}}}}]"#, "eHh4".repeat(100));
    let (status, text) = text(&registry, Method::PUT, "/v1/txn", key.leak()).await;
    assert_eq!(status, 200, "a key's value has its own limit: {text}");
}

#[tokio::test]
async fn every_limit_is_shown_with_what_it_refused() {
    let mut limits = ServerLimits { body_bytes: 4096, ..ServerLimits::default() };
    // The registry's own service is one of them.
    limits.store.services = 2;
    let data = tempfile::tempdir().unwrap();
    let registry =
        EmbeddedRegistry::start(RegistryOptions { limits, data: Some(data.path().to_owned()), ..options() })
            .await
            .unwrap();
    for (path, body, status) in [
        ("/v1/agent/service/register", r#"{"Name":"one"}"#, 200),
        ("/v1/agent/service/register", r#"{"Name":"two"}"#, 500),
        ("/v1/agent/service/register", r#"{"Name":"three"}"#, 500),
        ("/v1/kv/key", "value", 200),
    ] {
        assert_eq!(text(&registry, Method::PUT, path, body).await.0, status, "{path} {body}");
    }
    let large: &'static str = Box::leak("x".repeat(4097).into_boxed_str());
    assert_eq!(text(&registry, Method::PUT, "/v1/kv/large", large).await.0, 413);

    let response = call(&registry, Method::GET, "/v1/agent/metrics?format=prometheus", "").await;
    assert_eq!(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let exposed = String::from_utf8_lossy(&response.body).into_owned();
    for line in [
        "# TYPE millgate_registry_refused_total counter",
        "consul_state_service_instances 2",
        "consul_state_kv_entries 1",
        r#"millgate_registry_used{what="services"} 2"#,
        r#"millgate_registry_limit{what="services"} 2"#,
        r#"millgate_registry_refused_total{what="services"} 2"#,
        r#"millgate_registry_refused_total{what="bytes of a body"} 1"#,
        r#"millgate_registry_refused_total{what="nodes"} 0"#,
        r#"millgate_registry_used{what="bytes of keys and values"} 8"#,
        r#"millgate_registry_used{what="connections"} 1"#,
        r#"millgate_registry_journal_folds_total{result="failed"} 0"#,
    ] {
        assert!(exposed.lines().any(|exposed| exposed == line), "{line} is not in\n{exposed}");
    }
    let (status, json) = text(&registry, Method::GET, "/v1/agent/metrics", "").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let refused = json["Counters"].as_array().unwrap().iter().find(|counter| {
        counter["Name"] == "millgate.registry.refused" && counter["Labels"]["what"] == "services"
    });
    assert_eq!((status, &refused.unwrap()["Count"]), (200, &serde_json::json!(2)));
}
