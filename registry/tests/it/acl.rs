//! With a token and without, beside a Consul with ACLs and the default to deny.

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::testing::{ConsulServer, MASTER_TOKEN as MASTER};
use millgate_registry::{Compat, EmbeddedRegistry, HttpClient, HttpOptions, MasterToken, RegistryOptions};

use crate::support::PATIENCE;

async fn embedded(compat: Compat) -> EmbeddedRegistry {
    let options = RegistryOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        node_name: "n1".to_owned(),
        token: Some(MasterToken::new(MASTER).unwrap()),
        compat,
        ..RegistryOptions::default()
    };
    EmbeddedRegistry::start(options).await.unwrap()
}

/// Status, the headers that tell about the answer, and the body.
async fn call(url: &str, token: Option<&str>, method: &str, path: &str, body: &'static str) -> String {
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert("x-consul-token", token.parse().unwrap());
    }
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let url = format!("{url}{path}");
    let response = client
        .send(method, &url, headers, Bytes::from_static(body.as_bytes()), PATIENCE, 1 << 20)
        .await
        .unwrap();
    // `-dev` indents.
    let text = String::from_utf8_lossy(&response.body);
    let text =
        serde_json::from_str(&text).map_or(text.to_string(), |value: serde_json::Value| value.to_string());
    let header = |name: &str| response.headers.get(name).map_or("-", |value| value.to_str().unwrap());
    format!(
        "{} [{}; index {}] {}",
        response.status.as_u16(),
        header("content-type"),
        if response.headers.contains_key("x-consul-index") { "N" } else { "-" },
        text.trim_end()
    )
}

const PREPARED: &[(&str, &str, &str)] = &[
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"ID":"w1","Name":"web","Port":80,"Check":{"TTL":"1h","Status":"passing"}}"#,
    ),
    ("PUT", "/v1/agent/check/register", r#"{"ID":"disk","Name":"disk","TTL":"1h"}"#),
    ("PUT", "/v1/kv/a/b", "x"),
];

/// Nothing of this changes anything: who asks may not.
const CALLS: &[(&str, &str, &str)] = &[
    ("GET", "/v1/agent/services", ""),
    ("GET", "/v1/agent/service/w1", ""),
    ("GET", "/v1/agent/service/nope", ""),
    ("GET", "/v1/agent/checks", ""),
    ("GET", "/v1/agent/self", ""),
    ("GET", "/v1/agent/members", ""),
    ("GET", "/v1/catalog/datacenters", ""),
    ("GET", "/v1/catalog/nodes", ""),
    ("GET", "/v1/catalog/services", ""),
    ("GET", "/v1/catalog/service/web", ""),
    ("GET", "/v1/catalog/service/nope", ""),
    ("GET", "/v1/health/service/web", ""),
    ("GET", "/v1/health/service/web?passing", ""),
    ("GET", "/v1/health/service/", ""),
    ("GET", "/v1/health/service/web?index=-1", ""),
    ("GET", "/v1/health/checks/web", ""),
    ("GET", "/v1/health/node/n1", ""),
    ("GET", "/v1/health/state/any", ""),
    ("GET", "/v1/kv/a/b", ""),
    ("GET", "/v1/kv/a/b?raw", ""),
    ("GET", "/v1/kv/nope", ""),
    ("GET", "/v1/kv/?recurse", ""),
    ("GET", "/v1/kv/a?recurse", ""),
    ("GET", "/v1/kv/?keys", ""),
    ("GET", "/v1/kv/a?keys", ""),
    ("PUT", "/v1/kv/b", "x"),
    ("DELETE", "/v1/kv/a/b", ""),
    ("DELETE", "/v1/kv/a?recurse", ""),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"x"}"#),
    ("PUT", "/v1/agent/service/register", "{bad"),
    ("PUT", "/v1/agent/service/register", "{}"),
    ("PUT", "/v1/agent/service/deregister/w1", ""),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"c","TTL":"1m"}"#),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"c","TTL":"1m","ServiceID":"w1"}"#),
    ("PUT", "/v1/agent/check/register", r#"{"TTL":"1m"}"#),
    ("PUT", "/v1/agent/check/deregister/service:w1", ""),
    ("PUT", "/v1/agent/check/deregister/disk", ""),
    ("PUT", "/v1/agent/check/pass/service:w1", ""),
    ("PUT", "/v1/agent/check/update/service:w1", r#"{"Status":"passing"}"#),
    ("GET", "/v1/agent/host", ""),
    ("GET", "/v1/agent/metrics", ""),
    ("GET", "/v1/agent/health/service/name/web", ""),
    ("GET", "/v1/agent/health/service/id/w1", ""),
    ("GET", "/v1/catalog/node/n1", ""),
    ("GET", "/v1/catalog/node-services/n1", ""),
    ("GET", "/v1/catalog/connect/web", ""),
    ("GET", "/v1/health/connect/web", ""),
    ("GET", "/v1/session/list", ""),
    ("GET", "/v1/session/node/n1", ""),
    ("GET", "/v1/session/info/11111111-1111-1111-1111-111111111112", ""),
    ("GET", "/v1/event/list", ""),
    ("GET", "/v1/coordinate/nodes", ""),
    ("GET", "/v1/coordinate/datacenters", ""),
    ("GET", "/v1/query", ""),
    ("GET", "/v1/operator/raft/configuration", ""),
    ("GET", "/v1/operator/autopilot/health", ""),
    ("GET", "/v1/internal/ui/services", ""),
    ("GET", "/v1/internal/ui/nodes", ""),
    ("GET", "/v1/connect/intentions", ""),
    ("PUT", "/v1/agent/service/maintenance/w1?enable=true", ""),
    ("PUT", "/v1/agent/maintenance?enable=true", ""),
    ("PUT", "/v1/agent/reload", ""),
    ("PUT", "/v1/agent/leave", ""),
    ("PUT", "/v1/agent/join/127.0.0.9", ""),
    ("PUT", "/v1/agent/force-leave/x", ""),
    ("PUT", "/v1/catalog/register", r#"{"Node":"n9","Address":"1.1.1.1"}"#),
    ("PUT", "/v1/catalog/deregister", r#"{"Node":"n9"}"#),
    ("PUT", "/v1/session/create", "{}"),
    ("PUT", "/v1/event/fire/x", ""),
    ("POST", "/v1/health/service/web", ""),
    ("OPTIONS", "/v1/kv/a", ""),
    ("GET", "/v1/nothing", ""),
    ("GET", "/v1/acl/token/self", ""),
    ("GET", "/v1/acl/tokens", ""),
    ("GET", "/v1/acl/policies", ""),
    ("GET", "/v1/acl/replication", ""),
];

#[tokio::test]
async fn a_client_with_no_token_or_a_wrong_one_gets_what_consul_gives() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let embedded = embedded(Compat::V1_8).await;
    let mut differences = Vec::new();
    for (method, path, body) in PREPARED {
        for url in [consul.url(), &embedded.url()] {
            let answer = call(url, Some(MASTER), method, path, body).await;
            assert!(answer.starts_with("200 "), "{path}: {answer}");
        }
    }
    for token in [None, Some("22222222-2222-2222-2222-222222222222")] {
        for (method, path, body) in CALLS {
            let theirs = call(consul.url(), token, method, path, body).await;
            let ours = call(&embedded.url(), token, method, path, body).await;
            if theirs != ours {
                differences
                    .push(format!("{token:?} {method} {path}\n  consul:   {theirs}\n  embedded: {ours}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    // And nothing did change.
    let kept = call(&embedded.url(), Some(MASTER), "GET", "/v1/kv/?keys", "").await;
    assert!(kept.ends_with(r#"["a/b"]"#), "{kept}");
    let services = call(&embedded.url(), Some(MASTER), "GET", "/v1/agent/services", "").await;
    assert!(services.contains("w1") && !services.contains("\"x\""), "{services}");
}

#[tokio::test]
async fn the_token_opens_everything_wherever_it_stands() {
    let registry = embedded(Compat::Current).await;
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let url = registry.url();
    for (query, header, value, status) in [
        (String::new(), "x-consul-token", MASTER.to_owned(), 200),
        (String::new(), "authorization", format!("bearer {MASTER}"), 200),
        (format!("?token={MASTER}"), "x-consul-token", "wrong".to_owned(), 200),
        ("?token=".to_owned(), "x-consul-token", MASTER.to_owned(), 200),
        ("?token=wrong".to_owned(), "x-consul-token", MASTER.to_owned(), 403),
        (String::new(), "authorization", format!("Basic {MASTER}"), 403),
    ] {
        let headers = HeaderMap::from_iter([(header.parse().unwrap(), value.parse().unwrap())]);
        let url = format!("{url}/v1/agent/self{query}");
        let answer = client.send(Method::GET, &url, headers, Bytes::new(), PATIENCE, 1 << 20).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{query} {header}");
    }
    let own = call(&url, Some(MASTER), "GET", "/v1/acl/token/self", "").await;
    assert!(own.contains(&format!(r#""SecretID":"{MASTER}""#)), "{own}");
}

#[tokio::test]
async fn a_wrong_token_is_refused_at_once_whatever_it_would_wait_for() {
    let registry = embedded(Compat::V1_8).await;
    let refused =
        call(&registry.url(), Some("wrong"), "GET", "/v1/health/service/web?index=1000000&wait=10m", "")
            .await;
    assert!(refused.starts_with("403 ") && refused.ends_with("ACL not found"), "{refused}");
}

#[tokio::test]
async fn current_releases_say_what_is_missing_and_that_the_default_is_to_deny() {
    let registry = embedded(Compat::Current).await;
    let refused = call(&registry.url(), None, "PUT", "/v1/kv/a", "x").await;
    assert!(refused.contains("anonymous token lacks permission 'key:write' on \"a\"."), "{refused}");
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let read =
        client.get(&format!("{}/v1/catalog/services", registry.url()), PATIENCE, 1 << 20).await.unwrap();
    assert_eq!(read.headers["x-consul-default-acl-policy"], "deny");
}

#[tokio::test]
async fn without_a_token_there_are_no_acls() {
    let options = RegistryOptions { listen: ([127, 0, 0, 1], 0).into(), ..RegistryOptions::default() };
    let registry = EmbeddedRegistry::start(options).await.unwrap();
    let answer = call(&registry.url(), None, "GET", "/v1/acl/token/self", "").await;
    assert!(answer.starts_with("401 ") && answer.ends_with("ACL support disabled"), "{answer}");
}

#[tokio::test]
async fn a_refused_client_does_not_learn_whether_a_hash_is_right_by_waiting() {
    let registry = embedded(Compat::Current).await;
    for (method, path, body) in PREPARED {
        call(&registry.url(), Some(MASTER), method, path, body).await;
    }
    let own = call(&registry.url(), Some(MASTER), "GET", "/v1/agent/service/w1", "").await;
    let (_, hash) = own.split_once("\"ContentHash\":\"").unwrap();
    let path = format!("/v1/agent/service/w1?wait=5m&hash={}", hash.split('"').next().unwrap());
    let answer = call(&registry.url(), None, "GET", &path, "").await;
    assert!(answer.starts_with("403"), "{answer}");
    let own = call(&registry.url(), Some(MASTER), "GET", "/v1/agent/self", "").await;
    assert!(own.contains("\"ACLsEnabled\":true"), "{own}");
}
