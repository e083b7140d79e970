//! What may be a secret stands in no name: values of conditions are neither in metrics nor in logs, the admin API or errors.
//!
//! Before: `match_headers: {X-Api-Key: "${KEY}"}` put the key into the name that is made for the route.

use crate::support::{
    backend::Backend,
    client::{get, header, json, send, text},
    eventually,
    gateway::TestGateway,
};

fn config(backend: &Backend, keys: [&str; 2]) -> String {
    let route = |key: &str, limit: u32| {
        format!(
            "  - {{path: /x, service: one, match_headers: {{X-Api-Key: {key}}}, rate_limit: {limit}/h per route}}\n"
        )
    };
    let limit = |key: &str| if key == "correct-horse" { 1 } else { 2 };
    format!(
        "access_log: {{format: json, file: access.log}}\nroutes:\n{}{}services: {{one: {{hosts: [\"{}\"]}}}}\n",
        route(keys[0], limit(keys[0])),
        route(keys[1], limit(keys[1])),
        backend.addr
    )
}

#[tokio::test]
async fn the_value_of_a_condition_is_shown_nowhere_and_its_route_keeps_its_name() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend, ["correct-horse", "battery-staple"])).await;
    let ask = |key: &'static str| {
        let mut request = get("/x");
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        send(gateway.http, request)
    };
    assert_eq!(ask("correct-horse").await.status(), 200);
    let refused = ask("correct-horse").await;
    assert_eq!(
        (refused.status().as_u16(), json(&refused)["route"].as_str()),
        (429, Some("/x [x-api-key] #2"))
    );
    assert_eq!(header(&ask("battery-staple").await, "ratelimit").split(';').nth(1), Some("r=1"));
    // Written in the other order, it is the same route: its limit is used up.
    gateway.rewrite(&config(&backend, ["battery-staple", "correct-horse"]));
    gateway.reload().await.unwrap();
    let again = ask("correct-horse").await;
    assert_eq!((again.status().as_u16(), json(&again)["route"].as_str()), (429, Some("/x [x-api-key] #2")));
    let log = gateway.dir.path().join("access.log");
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the log is written", || async { written().lines().count() >= 4 }).await;
    let mut shown = vec![written(), text(&refused).to_owned()];
    for path in ["/metrics", "/api/v1/routes", "/api/v1/services", "/api/v1/events"] {
        shown.push(text(&send(gateway.admin(), get(path)).await).to_owned());
    }
    assert!(shown[0].contains("/x [x-api-key]"), "{}", shown[0]);
    for shown in shown {
        assert!(!shown.contains("horse") && !shown.contains("staple"), "{shown}");
    }
}
