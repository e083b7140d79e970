//! The embedded registry beside Consul 1.8.7: the same calls, the same answers, but for ids and indexes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use millgate_registry::{HttpClient, HttpOptions, HttpResponse};
use serde_json::Value;

use crate::backend::Backend;

/// Method, path, body. In order: later calls see what earlier ones did.
const CALLS: &[(&str, &str, &str)] = &[
    ("GET", "/v1/status/nothing", ""),
    ("GET", "/v1/health/service/web", ""),
    ("GET", "/v1/health/service/", ""),
    ("GET", "/v1/catalog/service/", ""),
    ("GET", "/v1/health/state/", ""),
    ("GET", "/v1/health/service/web?wait=10", ""),
    ("GET", "/v1/health/service/web?index=-1", ""),
    ("GET", "/v1/health/service/web?index=&wait=-1s&ns=&dc=", ""),
    ("GET", "/v1/health/service/web?passing=maybe", ""),
    ("GET", "/v1/health/service/web?stale&consistent", ""),
    ("GET", "/v1/health/service/web?cached&consistent", ""),
    ("GET", "/v1/health/service/web?max_stale=junk", ""),
    ("GET", "/v1/health/service/web?ns=default", ""),
    ("GET", "/v1/health/service/web?dc=dc9", ""),
    ("POST", "/v1/health/service/web", ""),
    ("PUT", "/v1/agent/self", ""),
    ("GET", "/v1/agent/service/register", ""),
    ("DELETE", "/v1/catalog/services", ""),
    ("OPTIONS", "/v1/agent/services", ""),
    ("OPTIONS", "/v1/kv/a", ""),
    ("OPTIONS", "/v1/nothing", ""),
    ("PUT", "/v1/agent/service/register", ""),
    ("PUT", "/v1/agent/service/register", "{}"),
    ("PUT", "/v1/agent/service/register", "null"),
    ("PUT", "/v1/agent/service/register", "{bad"),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Bogus":1}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","SocketPath":""}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Port":"80"}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Port":80.5}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Address":"0.0.0.0"}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Meta":{"bad key!":"1"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Meta":{"consul-x":"1"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Weights":{"Warning":5}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Weights":{"Passing":1,"Warning":-1}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Weights":{"Passing":70000}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"HTTP":"http://127.0.0.1/"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"TTL":"1s","Interval":"1s"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"TTL":"bogus"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"TTL":"10"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"TTL":"1s","Status":"great"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"Args":["true"],"Interval":"1s"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"plain","Check":{}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"plain2","Check":{"TTL":"0s","Interval":true}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"Name":"x"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Checks":[{}]}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"TTL":"-1s"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":"x"}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Tags":"x"}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Tags":[1]}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Meta":{"a":1}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Meta":[]}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":7}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Weights":7}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","EnableTagOverride":"yes"}"#),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name":"w","Check":{"HTTP":"http://127.0.0.1/","Interval":"9s","Header":{"a":"b"}}}"#,
    ),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Namespace":"x"}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","Check":{"TTL":"9s","Bogus":1}}"#),
    ("PUT", "/v1/agent/service/register", "[]"),
    ("PUT", "/v1/agent/service/register", "7"),
    ("PUT", "/v1/agent/service/register", "nope"),
    ("PUT", "/v1/agent/service/register", r#"{"Name" "w"}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w" "x":1}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name":"w","#),
    ("PUT", "/v1/agent/service/register", "\u{feff}{}"),
    (
        "PUT",
        "/v1/agent/service/register?replace-existing-checks",
        r#"{"Name":"api","Port":1,"Checks":[{"CheckID":"a","TTL":"80s","Timeout":[]},{"CheckID":"b","TTL":"80s","Status":"warning"}]}"#,
    ),
    (
        "PUT",
        "/v1/agent/service/register?replace-existing-checks=1",
        r#"{"Name":"api","Port":1,"Checks":[{"CheckID":"a","TTL":"80s"}]}"#,
    ),
    ("GET", "/v1/health/service/api", ""),
    (
        "PUT",
        "/v1/agent/service/register?replace-existing-checks=true",
        r#"{"Name":"api","Port":2,"Checks":[{"CheckID":"b","TTL":"80s"}]}"#,
    ),
    ("GET", "/v1/health/service/api", ""),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"ID":"web1","name":"web","tags":["v1","primary"],"Address":"10.0.0.1","PORT":8080,"Meta":{"version":"1.2"},
        "tagged_addresses":{"lan":{"address":"192.168.0.1","port":8080},"wan":{"address":"198.18.0.1","port":80}},
        "Weights":{"Passing":10,"Warning":2},"enable_tag_override":true,"Check":{"TTL":"30s"}} trailing"#,
    ),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"ID":"web2","Name":"Web","Port":-1,"Checks":[{"TTL":"90s"},{"TTL":"95s","Name":"n","Notes":"<a&b>"}]}"#,
    ),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"ID":"v6","Name":"v6","Address":"2001:db8::1","Port":99999,"Tags":null,"Meta":null,"Check":null,"Checks":null,"Weights":null}"#,
    ),
    ("GET", "/v1/health/service/web", ""),
    ("GET", "/v1/health/service/WEB?tag=V1", ""),
    ("GET", "/v1/health/service/web?tag=v1&tag=nope", ""),
    ("GET", "/v1/health/service/web?passing", ""),
    ("GET", "/v1/health/service/v6?stale", ""),
    ("GET", "/v1/health/service/plain?passing=1", ""),
    ("GET", "/v1/health/service/plain?consistent", ""),
    ("GET", "/v1/catalog/service/web", ""),
    ("GET", "/v1/catalog/service/plain", ""),
    ("GET", "/v1/catalog/service/unknown", ""),
    ("GET", "/v1/catalog/nodes", ""),
    ("GET", "/v1/catalog/datacenters", ""),
    ("GET", "/v1/health/checks/web", ""),
    ("GET", "/v1/health/state/critical", ""),
    ("GET", "/v1/health/state/bogus", ""),
    ("GET", "/v1/health/node/n1", ""),
    ("GET", "/v1/health/node/unknown", ""),
    ("GET", "/v1/agent/services", ""),
    ("GET", "/v1/agent/checks", ""),
    ("GET", "/v1/agent/service/unknown", ""),
    ("PUT", "/v1/agent/check/pass/service:web1?note=all%20good", ""),
    ("PUT", "/v1/agent/check/warn/service%3Aweb2%3A1", ""),
    ("PUT", "/v1/agent/check/fail/unknown", ""),
    ("PUT", "/v1/agent/check/pass/serfHealth", ""),
    ("PUT", "/v1/agent/check/update/service:web2:2", r#"{"status":"passing","OUTPUT":"fine"}"#),
    ("PUT", "/v1/agent/check/update/service:web1", r#"{"Status":"foo"}"#),
    ("PUT", "/v1/agent/check/update/service:web1", ""),
    ("GET", "/v1/health/service/web?passing=true", ""),
    ("GET", "/v1/agent/checks", ""),
    ("PUT", "/v1/agent/check/register", r#"{"TTL":"10s"}"#),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"x"}"#),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"x","TTL":"10s","Status":"bogus"}"#),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"x","TTL":"10s","ServiceID":"nope"}"#),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"x","TTL":"10s","CheckID":"y"}"#),
    (
        "PUT",
        "/v1/agent/check/register",
        r#"{"ID":"extra","Name":"x","TTL":"60s","ServiceID":"web1","Status":"passing"}"#,
    ),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"disk","TTL":"60s","Status":"warning"}"#),
    ("GET", "/v1/health/service/web", ""),
    ("PUT", "/v1/agent/check/deregister/disk", ""),
    ("PUT", "/v1/agent/check/deregister/unknown", ""),
    ("PUT", "/v1/agent/check/deregister/", ""),
    ("PUT", "/v1/agent/service/deregister/unknown", ""),
    ("PUT", "/v1/agent/service/deregister/", ""),
    ("PUT", "/v1/agent/service/deregister/web2", ""),
    ("GET", "/v1/health/service/web", ""),
    ("PUT", "/v1/agent/service/deregister/web1", ""),
    ("GET", "/v1/health/service/web", ""),
    ("GET", "/v1/kv/", ""),
    ("GET", "/v1/kv/?keys", ""),
    ("GET", "/v1/kv/?recurse", ""),
    ("GET", "/v1/kv/a", ""),
    ("PUT", "/v1/kv/a", "one"),
    ("PUT", "/v1/kv/a?cas=0", "two"),
    ("PUT", "/v1/kv/a?cas=abc", "two"),
    ("PUT", "/v1/kv/d%2Fb?flags=42", "<&>"),
    ("PUT", "/v1/kv/d/c/e", ""),
    ("GET", "/v1/kv/a", ""),
    ("GET", "/v1/kv/a?raw", ""),
    ("GET", "/v1/kv/d/b?raw", ""),
    ("GET", "/v1/kv/d/?recurse", ""),
    ("GET", "/v1/kv/d/?keys&separator=/", ""),
    ("GET", "/v1/kv/?keys&separator=", ""),
    ("DELETE", "/v1/kv/a?cas=0", ""),
    ("DELETE", "/v1/kv/unknown", ""),
    ("DELETE", "/v1/kv/d?recurse&cas=1", ""),
    ("DELETE", "/v1/kv/d?recurse", ""),
    ("GET", "/v1/kv/d?recurse", ""),
    ("DELETE", "/v1/kv/a", ""),
];

#[tokio::test]
async fn the_embedded_registry_answers_as_consul_does() {
    let Some(consul) = Backend::consul().await else { return };
    let embedded = Backend::embedded().await;
    let mut differences = Vec::new();
    for (method, path, body) in CALLS {
        let theirs = describe(&send(&consul.url(), method, path, body).await);
        let ours = describe(&send(&embedded.url(), method, path, body).await);
        if theirs != ours {
            let same = theirs.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| text.chars().skip(same.saturating_sub(40)).take(200).collect::<String>();
            let (theirs, ours) = (part(&theirs), part(&ours));
            differences.push(format!("{method} {path} {body}\n  consul:   …{theirs}\n  embedded: …{ours}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

async fn send(url: &str, method: &str, path: &str, body: &'static str) -> HttpResponse {
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let url = format!("{url}{path}");
    let body = Bytes::from_static(body.as_bytes());
    client.send(method, &url, HeaderMap::new(), body, Duration::from_secs(20), 1 << 20).await.unwrap()
}

/// Status, headers and body, without what differs from run to run.
fn describe(response: &HttpResponse) -> String {
    let mut headers: Vec<String> = response
        .headers
        .iter()
        .filter(|(name, _)| !["date", "content-length", "transfer-encoding"].contains(&name.as_str()))
        .map(|(name, value)| match name.as_str() {
            "x-consul-index" => format!("{name}: {}", if value == "1" { "1" } else { "N" }),
            _ => format!("{name}: {}", value.to_str().unwrap()),
        })
        .collect();
    headers.sort();
    let text = String::from_utf8_lossy(&response.body).into_owned();
    let body = match serde_json::from_str::<Value>(&text) {
        Ok(mut value) => {
            normalise(&mut value);
            value.to_string()
        }
        // Go prints the whole type; that it is a structure is enough.
        Err(_) => match text.split_once("of type struct {") {
            Some((before, _)) => format!("{before}of type struct {{"),
            None => text,
        },
    };
    format!("{} [{}] {body}", response.status.as_u16(), headers.join("; "))
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(object) => {
            // The node's id; instances have ids of their own, but also a `Service`.
            let is_node = object.contains_key("Datacenter") && object.contains_key("Node");
            for (name, value) in object.iter_mut() {
                match name.as_str() {
                    "CreateIndex" | "ModifyIndex" if *value != 0 => *value = Value::from("N"),
                    "ID" if is_node => *value = Value::from("node id"),
                    _ => normalise(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(normalise),
        _ => {}
    }
}
