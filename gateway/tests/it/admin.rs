//! The admin listener and the access log.

use crate::support::{
    backend::Backend,
    client::{get, header, json, request, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn config(backend: &Backend) -> String {
    format!(
        "routes:\n  - {{path: GET /a/**, service: one, rate_limit: 50/s per ip}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

#[tokio::test]
async fn health_metrics_and_tables_are_served_on_the_admin_listener_only() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend)).await;
    assert_eq!(status(gateway.admin(), "/livez").await, 200);
    assert_eq!(status(gateway.admin(), "/readyz").await, 200);
    assert_eq!(status(gateway.admin(), "/healthz").await, 200);
    assert_eq!(status(gateway.http, "/metrics").await, 404);
    let routes = json(&send(gateway.admin(), get("/api/v1/routes")).await);
    assert_eq!(routes["routes"][0]["path"], "/a/**");
    assert_eq!(routes["routes"][0]["service"], "one");
    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    assert_eq!(services["services"][0]["endpoints"][0]["address"], backend.addr.to_string());
    assert_eq!(services["services"][0]["endpoints"][0]["breaker"], "closed");
}

#[tokio::test]
async fn a_request_shows_in_the_metrics_of_its_route() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend)).await;
    for _ in 0..3 {
        send(gateway.http, get("/a/x")).await;
    }
    send(gateway.http, request("POST", "/nowhere", "")).await;
    let expected = [
        r#"millgate_requests_total{route="GET /a/**",service="one",method="GET",code="200"} 3"#,
        r#"millgate_requests_total{route="(none)",service="(none)",method="POST",code="404"} 1"#,
        r#"millgate_request_duration_seconds_count{route="GET /a/**",service="one"} 3"#,
        r#"millgate_upstream_requests_total{service="one",code="200"} 3"#,
        r#"millgate_local_replies_total{route="(none)",reason="route_not_found"} 1"#,
        r#"millgate_endpoints{service="one"} 1"#,
    ];
    eventually("all requests are counted", || async {
        let reply = send(gateway.admin(), get("/metrics")).await;
        assert!(header(&reply, "content-type").starts_with("text/plain; version=0.0.4"));
        expected.iter().all(|line| text(&reply).lines().any(|known| known == *line))
    })
    .await;
}

#[tokio::test]
async fn every_request_is_one_json_line_and_no_token_is_in_it() {
    let backend = Backend::named("one").await;
    let log = "access_log: {format: json, file: access.log}\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let gateway = TestGateway::start_in(dir, &format!("{log}{}", config(&backend))).await;
    let mut sent = get("/a/x?token=secret-in-query");
    sent.headers_mut().insert("authorization", "Bearer secret-token".parse().unwrap());
    send(gateway.http, sent).await;
    send(gateway.http, get("/nowhere")).await;
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("two lines are written", || async { lines().lines().count() == 2 }).await;
    let text = lines();
    assert!(!text.contains("secret"), "{text}");
    let parsed: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ok = parsed.iter().find(|line| line["status"] == 200).unwrap();
    for (field, value) in
        [("method", "GET"), ("path", "/a/x"), ("route", "GET /a/**"), ("service", "one"), ("flags", "-")]
    {
        assert_eq!(ok[field], value, "{field}");
    }
    assert_eq!(ok["attempts"], 1);
    assert_eq!(ok["bytes_out"], 3);
    let refused = parsed.iter().find(|line| line["status"] == 404).unwrap();
    assert_eq!(refused["flags"], "route_not_found", "the same word as in the problem document");
}
