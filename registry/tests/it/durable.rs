//! A registry with a data directory: what a restart keeps, and what is told to clients.

use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::{
    EmbeddedRegistry, HttpClient, HttpOptions, JournalLimits, RegistryOptions, ServerLimits, StartError,
};

use crate::support::PATIENCE;

fn options(data: &Path) -> RegistryOptions {
    RegistryOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        data: Some(data.to_owned()),
        ..RegistryOptions::default()
    }
}

async fn start(data: &Path) -> EmbeddedRegistry {
    EmbeddedRegistry::start(options(data)).await.unwrap()
}

/// Status, index and body.
async fn call(registry: &EmbeddedRegistry, method: Method, path: &str, body: &str) -> (u16, u64, String) {
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let url = format!("{}{path}", registry.url());
    let body = Bytes::copy_from_slice(body.as_bytes());
    let response = client.send(method, &url, HeaderMap::new(), body, PATIENCE, 1 << 20).await.unwrap();
    let index =
        response.headers.get("x-consul-index").map_or(0, |index| index.to_str().unwrap().parse().unwrap());
    (response.status.as_u16(), index, String::from_utf8_lossy(&response.body).into_owned())
}

async fn put(registry: &EmbeddedRegistry, path: &str, body: &str) {
    let (status, _, text) = call(registry, Method::PUT, path, body).await;
    assert_eq!(status, 200, "PUT {path}: {text}");
}

/// What clients read. Bodies hold indexes and the node's id, so equal bodies mean that these are equal too.
const READS: &[&str] = &[
    "/v1/health/service/web",
    "/v1/health/service/unknown",
    "/v1/health/state/any",
    "/v1/catalog/services",
    "/v1/catalog/service/web",
    "/v1/catalog/nodes",
    "/v1/agent/services",
    "/v1/agent/checks",
    "/v1/kv/?recurse",
    "/v1/kv/a/1?raw",
    "/v1/kv/missing",
    "/v1/catalog/node/elsewhere",
    "/v1/health/service/remote",
    "/v1/session/list",
    "/v1/kv/locked",
];

async fn read_all(registry: &EmbeddedRegistry) -> Vec<(&'static str, (u16, u64, String))> {
    let mut answers = Vec::new();
    for path in READS {
        answers.push((*path, call(registry, Method::GET, path, "").await));
    }
    answers
}

#[tokio::test]
async fn after_a_restart_every_answer_and_every_index_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let registry = start(directory.path()).await;
    let web = r#"{"ID":"w1","Name":"web","Tags":["a"],"Address":"10.0.0.1","Port":80,"Meta":{"k":"v"},
        "Weights":{"Passing":3,"Warning":1},"Checks":[{"TTL":"1m"},{"TTL":"1m","Status":"warning"}]}"#;
    put(&registry, "/v1/agent/service/register", web).await;
    put(&registry, "/v1/agent/service/register", r#"{"ID":"gone","Name":"gone"}"#).await;
    put(&registry, "/v1/agent/check/pass/service:w1:1?note=fine", "").await;
    put(&registry, "/v1/agent/check/register", r#"{"Name":"disk","TTL":"1h","Status":"passing"}"#).await;
    put(&registry, "/v1/agent/service/deregister/gone", "").await;
    put(&registry, "/v1/kv/a/1?flags=7", "\u{0}binary\u{ff}").await;
    put(&registry, "/v1/kv/a/2", "").await;
    put(&registry, "/v1/kv/b", "x").await;
    let remote = r#"{"Node":"elsewhere","Address":"10.0.0.9","NodeMeta":{"a":"b"},"Service":{"Service":"remote"},
        "Check":{"CheckID":"c","Name":"c","Status":"passing","ServiceID":"remote",
        "Definition":{"HTTP":"http://x/","Interval":"10s"}}}"#;
    put(&registry, "/v1/catalog/register", remote).await;
    let (_, _, created) =
        call(&registry, Method::PUT, "/v1/session/create", r#"{"Name":"s","TTL":"1h"}"#).await;
    let session: serde_json::Value = serde_json::from_str(&created).unwrap();
    put(&registry, &format!("/v1/kv/locked?acquire={}", session["ID"].as_str().unwrap()), "mine").await;
    put(&registry, "/v1/txn", r#"[{"KV":{"Verb":"set","Key":"a/3","Value":"eA=="}}]"#).await;
    call(&registry, Method::DELETE, "/v1/kv/b", "").await;
    let before = read_all(&registry).await;
    registry.shutdown().await;

    let registry = start(directory.path()).await;
    assert_eq!(read_all(&registry).await, before);
    // And the next change is later than all of them.
    let latest = before.iter().map(|(_, (_, index, _))| *index).max().unwrap();
    put(&registry, "/v1/kv/new", "x").await;
    assert!(call(&registry, Method::GET, "/v1/kv/new", "").await.1 > latest);
}

#[tokio::test]
async fn two_registries_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let registry = start(directory.path()).await;
    let error = EmbeddedRegistry::start(options(directory.path())).await.unwrap_err();
    assert!(matches!(error, StartError::Data(_)), "{error}");
    assert!(error.to_string().contains("give each registry a directory of its own"), "{error}");
    registry.shutdown().await;
    start(directory.path()).await;
}

/// Services come and go; nothing of them stays behind, neither in the store nor on disk.
#[tokio::test]
async fn services_that_come_and_go_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let journal = JournalLimits { log_bytes: 64 * 1024, ..JournalLimits::default() };
    let limits = ServerLimits { journal, ..ServerLimits::default() };
    let registry =
        EmbeddedRegistry::start(RegistryOptions { limits, ..options(directory.path()) }).await.unwrap();
    for round in 0..300 {
        let service = format!(r#"{{"ID":"s{round}","Name":"n{round}","Checks":[{{"TTL":"1m"}}]}}"#);
        put(&registry, "/v1/agent/service/register", &service).await;
        put(&registry, &format!("/v1/agent/service/deregister/s{round}"), "").await;
    }
    assert_eq!(call(&registry, Method::GET, "/v1/agent/services", "").await.2, "{}");
    assert_eq!(call(&registry, Method::GET, "/v1/agent/checks", "").await.2, "{}");
    registry.shutdown().await;
    let files = std::fs::read_dir(directory.path()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    // Two logs may be there while one is folded; 600 changes are about 250 kB.
    assert!(bytes < 3 * 64 * 1024, "{bytes} bytes");
}
