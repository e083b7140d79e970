//! What another ACL token changes for queries that are under way, and what a real Consul says of a token's rights.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::testing::{ConsulServer, MASTER_TOKEN};
use millgate_registry::{
    Client, ClientConfig, FollowOptions, HttpClient, HttpOptions, ServiceRegistration, Sight, WatchTarget,
    follow_key, watch,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::fake::{Fake, Reply};
use crate::support::{PATIENCE, quick};

#[tokio::test]
async fn another_token_cuts_the_queries_in_flight() {
    // Answers at once, and then to nobody that waits.
    let fake = Fake::start(|_, head| match head.split_once(' ') {
        _ if head.contains("index=") => Reply::Silence,
        Some((_, path)) if path.starts_with("/v1/kv/") => {
            Reply::list(7, r#"[{"Key":"k","Value":"eA==","Flags":0,"ModifyIndex":7}]"#)
        }
        _ => Reply::list(
            7,
            r#"[{"Node":{"Node":"n","Address":"10.0.0.9"},"Service":{"ID":"a","Port":80},"Checks":[]}]"#,
        ),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first").unwrap();
    let config = ClientConfig { token_file: Some(file.clone()), ..ClientConfig::new(&fake.url) };
    let client = Client::new(config).unwrap();
    let (updates, mut changes) = mpsc::channel(8);
    let _watch = watch::spawn(client.clone(), WatchTarget::service("web"), quick(), updates);
    let (values, mut keys) = mpsc::channel(8);
    let _key = follow_key(client, "k".to_owned(), None, FollowOptions::default(), values);
    changes.recv().await.unwrap();
    keys.recv().await.unwrap();
    let waits = |of: &str| fake.requests().iter().any(|head| head.contains(of) && head.contains("index=7"));
    let asked = |of: &str| {
        let with =
            |head: &&String| head.contains(of) && head.to_lowercase().contains("x-consul-token: second");
        fake.requests().iter().find(with).cloned()
    };
    until("both wait", || waits("/health/service/web") && waits("/v1/kv/k")).await;
    std::fs::write(&file, "second").unwrap();
    for of in ["/health/service/web", "/v1/kv/k"] {
        until(of, || asked(of).is_some()).await;
        assert!(!asked(of).unwrap().contains("index="), "it is asked anew");
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = tokio::time::Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn put(consul: &ConsulServer, path: &str, body: Value) -> Value {
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let headers = HeaderMap::from_iter([("x-consul-token".parse().unwrap(), MASTER_TOKEN.parse().unwrap())]);
    let url = format!("{}{path}", consul.url());
    let body = Bytes::from(body.to_string());
    let answer = http.send(Method::PUT, &url, headers, body, PATIENCE, 1 << 20).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn what_a_token_hides_is_told_from_what_is_not_there() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    for service in ["web", "other"] {
        consul.client().register(&ServiceRegistration::http(service, service, "10.0.0.1", 80)).await.unwrap();
    }
    let (nodes, web) = ("node_prefix \"\" { policy = \"read\" }", "service \"web\" { policy = \"read\" }");
    for (number, (rules, of_web, of_nothing)) in [
        (Some(format!("{nodes} {web}")), Sight::Shown, Sight::ServiceHidden),
        (Some(format!("{nodes} service_prefix \"\" {{ policy = \"read\" }}")), Sight::Shown, Sight::Clear),
        (Some(web.to_owned()), Sight::NodesHidden, Sight::ServiceHidden),
        (Some(nodes.to_owned()), Sight::ServiceHidden, Sight::ServiceHidden),
        (None, Sight::ServiceHidden, Sight::ServiceHidden),
    ]
    .into_iter()
    .enumerate()
    {
        let token = match &rules {
            Some(rules) => {
                let name = format!("policy-{number}");
                put(&consul, "/v1/acl/policy", json!({"Name": name, "Rules": rules})).await;
                let token = put(&consul, "/v1/acl/token", json!({"Policies": [{"Name": name}]})).await;
                Some(token["SecretID"].as_str().unwrap().to_owned())
            }
            None => None,
        };
        let client = Client::new(ClientConfig { token, ..ClientConfig::new(consul.url()) }).unwrap();
        let sight = async |service: &str| client.sight(&WatchTarget::service(service)).await.unwrap();
        assert_eq!((sight("web").await, sight("nothing").await), (of_web, of_nothing), "{rules:?}");
    }
    let Some(open) = ConsulServer::dev(json!({})).await else { return };
    assert_eq!(open.client().sight(&WatchTarget::service("nothing")).await.unwrap(), Sight::Clear);
    assert!(open.client().cluster().await.unwrap().unwrap().ends_with(".consul"));
}
