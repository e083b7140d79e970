//! An instance that fails behind retries is seen: in numbers of its own, and in the line of each request that went there.
//!
//! Before: an instance that refused 13 of 13 connects left its service's numbers good, and the log named only the last one tried.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{
    backend::{Backend, closed_port},
    client::{get, json, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn config(hosts: &[SocketAddr], more: &str) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\nroutes:\n  - {{path: /**, service: s{more}}}\n\
         services:\n  s: {{hosts: [{}], outlier: off, balance: round_robin}}\n",
        hosts.join(", ")
    )
}

fn lines(gateway: &TestGateway) -> Vec<Value> {
    let log = std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn an_instance_that_refuses_each_connect_has_numbers_of_its_own_and_stands_in_the_log() {
    let (dead, good) = (closed_port(), Backend::named("good").await);
    let gateway = TestGateway::start(&config(&[dead, good.addr], "")).await;
    for _ in 0..26 {
        assert_eq!(status(gateway.http, "/x").await, 200);
    }
    let series = |family: &str, instance: SocketAddr, more: &str| {
        format!("millgate_endpoint_{family}{{service=\"s\",instance=\"{instance}\"{more}}}")
    };
    let (good, count) = (good.addr, |series: String, n: u32| format!("{series} {n}"));
    for line in [
        count(series("failures_total", dead, ",reason=\"connect_failed\""), 13),
        count(series("requests_total", dead, ",code=\"none\""), 13),
        count(series("requests_total", good, ",code=\"200\""), 26),
        count(series("duration_seconds_count", good, ""), 26),
        count(series("duration_seconds_bucket", good, ",le=\"+Inf\""), 26),
    ] {
        eventually(&line, || gateway.shows(&line)).await;
    }
    let shown = send(gateway.admin(), get("/metrics")).await;
    let failures = series("failures_total", good, "");
    assert!(!text(&shown).contains(failures.trim_end_matches('}')), "the good one has none");

    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    let endpoints = services["services"][0]["endpoints"].as_array().unwrap();
    let of_dead = endpoints.iter().find(|one| one["instance"] == dead.to_string().as_str());
    let seen = &of_dead.unwrap()["seen"];
    assert_eq!(
        (&seen["attempts"], &seen["failures"]["connect_failed"]),
        (&13.into(), &13.into()),
        "{services}"
    );
    assert!(seen["p99_seconds"].as_f64().unwrap() > 0.0, "{seen}");

    eventually("all lines are written", || async { lines(&gateway).len() == 26 }).await;
    let (two, one): (Vec<_>, Vec<_>) = lines(&gateway).into_iter().partition(|line| line["attempts"] == 2);
    assert_eq!((two.len(), one.len()), (13, 13));
    assert!(one.iter().all(|line| line.get("tried").is_none()), "a good first attempt needs no list");
    for line in two {
        let tried = line["tried"].as_array().unwrap();
        let pairs: Vec<_> = tried.iter().map(|one| (&one["instance"], &one["outcome"])).collect();
        let [dead, good] = [dead, good].map(|addr| Value::from(addr.to_string()));
        assert_eq!(pairs, [(&dead, &"connect_failed".into()), (&good, &"200".into())]);
        let ms = |at: usize, field: &str| tried[at][field].as_f64().unwrap();
        assert!(ms(1, "after_ms") >= ms(0, "after_ms") + ms(0, "ms"), "{line}");
    }
}

#[tokio::test]
async fn attempts_that_all_failed_are_listed_too_and_a_long_list_is_bounded() {
    let dead: Vec<_> = (0..20).map(|_| closed_port()).collect();
    let gateway = TestGateway::start(&config(&dead, "")).await;
    assert_eq!(status(gateway.http, "/x").await, 502);
    eventually("the line is written", || async { lines(&gateway).len() == 1 }).await;
    let line = &lines(&gateway)[0];
    assert_eq!(line["attempts"], 20);
    let tried = line["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 16);
    assert!(tried.iter().all(|one| one["outcome"] == "connect_failed"), "{line}");
    assert_eq!(tried[15]["instance"], line["instance"], "the last one that was tried");
}

#[tokio::test]
async fn a_service_of_more_than_fifty_instances_has_no_series_for_each() {
    let good = Backend::named("good").await;
    let hosts = |n: u16| -> Vec<_> {
        let others = (1..n).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        std::iter::once(good.addr).chain(others).collect()
    };
    for (instances, has_series) in [(50, true), (51, false)] {
        let gateway = TestGateway::start(&config(&hosts(instances), "")).await;
        assert_eq!(status(gateway.http, "/x").await, 200);
        eventually("the request is counted", || {
            gateway.shows("millgate_upstream_requests_total{service=\"s\",code=\"200\"} 1")
        })
        .await;
        let shown = send(gateway.admin(), get("/metrics")).await;
        assert_eq!(text(&shown).contains("millgate_endpoint_requests_total{"), has_series, "{instances}");
    }
}
