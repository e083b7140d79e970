//! A client that cannot go on without another protocol gets 501; one that only prefers another HTTP version is
//! served.
//!
//! Before: `Upgrade` went on as a plain GET, and nothing reported it.

use std::time::Duration;

use crate::support::{
    backend::Backend,
    client::{get, raw, send, text},
    eventually,
    gateway::TestGateway,
    tokens,
};

async fn gateway(backend: &Backend) -> TestGateway {
    let config = format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\nroutes:\n\
         \x20 - {{path: /open/**, service: one, auth: none}}\n\
         \x20 - {{path: /closed, service: one, auth: main}}\n\
         \x20 - {{path: /moved, redirect: 'https://x.test/', auth: none}}\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    TestGateway::start_in(tokens::folder(), &config).await
}

/// A request that would be an answer's last on its connection, and its status and code.
async fn ask(gateway: &TestGateway, path: &str, version: &str, fields: &str) -> (u16, String) {
    let head = format!("GET {path} HTTP/{version}\r\nHost: gw\r\n{fields}\r\n");
    let (answer, closed) = raw(gateway.http, &[head.as_bytes()], false, Duration::from_secs(10)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(closed, "{answer}");
    let code = answer.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    (answer[9..12].parse().unwrap(), code.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn what_cannot_go_on_without_another_protocol_gets_501_and_the_rest_is_served() {
    let backend = Backend::named("one").await;
    let gateway = gateway(&backend).await;
    let refused = [
        "Connection: Upgrade\r\nUpgrade: echo\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: Echo/1\r\n",
        "Connection: keep-alive\r\nconnection: upgrade\r\nUpgrade: h2c\r\nUpgrade: echo\r\n",
        "Connection: upgrade\r\nUpgrade: h2c, ,echo\r\n",
        "Connection: upgrade\r\nUpgrade: connect-udp\r\n",
        "Connection: upgrade\r\nUpgrade: \"h2c\"\r\n",
        "Connection: upgrade\r\nUpgrade: h2cx\r\n",
    ];
    for fields in refused {
        let answer = ask(&gateway, "/open/a", "1.1", fields).await;
        assert_eq!(answer, (501, "upgrade_unsupported".to_owned()), "{fields}");
    }
    assert_eq!(backend.take_seen().len(), 0, "none of them is a plain request");
    for fields in [
        // As curl --http2 and Java's HttpClient send it.
        "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade, close\r\nUpgrade: TLS/1.0\r\n",
        "Connection: Upgrade, close\r\nUpgrade: H2C, HTTP/2.0, tls/1.2\r\n",
        "Connection: Upgrade, close\r\nUpgrade:\r\n",
        "Connection: Upgrade, close\r\n",
        // Of an earlier hop.
        "Connection: close\r\nUpgrade: websocket\r\n",
    ] {
        assert_eq!(ask(&gateway, "/open/a", "1.1", fields).await.0, 200, "{fields}");
        let seen = backend.only_seen();
        assert!(!seen.headers().contains_key("upgrade") && !seen.headers().contains_key("http2-settings"));
    }
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(ask(&gateway, "/open/a", "1.0", websocket).await.0, 200, "RFC 9110 §7.8: ignored");
    // What is refused or answered whatever the protocol.
    let websocket = "Connection: Upgrade, close\r\nUpgrade: echo\r\n";
    assert_eq!(ask(&gateway, "/none", "1.1", websocket).await, (404, "route_not_found".to_owned()));
    assert_eq!(ask(&gateway, "/closed", "1.1", websocket).await, (401, "token_missing".to_owned()));
    assert_eq!(ask(&gateway, "/moved", "1.1", websocket).await.0, 308);

    let metrics = text(&send(gateway.admin(), get("/metrics")).await).to_owned();
    let counted = format!("reason=\"upgrade_unsupported\"}} {}", refused.len());
    assert!(metrics.contains(&counted), "{metrics}");
    let log = gateway.dir.path().join("access.log");
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let of_route = "\"route\":\"/open/**\"";
    let is_logged =
        |line: &str| line.contains(of_route) && line.contains("\"flags\":\"upgrade_unsupported\"");
    eventually("the refusals are logged with their route", || async {
        read().lines().filter(|line| is_logged(line)).count() == refused.len()
    })
    .await;
}
