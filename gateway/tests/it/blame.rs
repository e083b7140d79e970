//! Breakers and outlier detection learn what an endpoint did, all of it, and nothing that something else caused.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{
    backend::{Backend, RawBackend},
    client::{Connection, get, json, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn to(hosts: &[SocketAddr], route: &str, service: &str) -> String {
    let hosts: Vec<_> = hosts.iter().map(|addr| format!("\"{addr}\"")).collect();
    format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s{route}}}\nservices:\n  s: {{hosts: [{}]{service}}}\n",
        hosts.join(", ")
    )
}

async fn endpoint(gateway: &TestGateway, addr: SocketAddr) -> Value {
    let services = json(&send(gateway.admin(), get("/api/v1/services")).await);
    let endpoints = services["services"][0]["endpoints"].as_array().unwrap().clone();
    endpoints.into_iter().find(|one| one["address"] == addr.to_string()).unwrap_or_default()
}

/// The status is 200, but the content never ends.
#[tokio::test]
async fn responses_that_break_off_eject_their_endpoint_and_trip_its_breaker() {
    let torn = RawBackend::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", true).await;
    let good = Backend::named("good").await;
    for (service, field, expected) in [
        (", breaker: off", "outlier", "ejected"),
        (", outlier: off, breaker: {min: 4, open: 5m}", "breaker", "open"),
    ] {
        let gateway = TestGateway::start(&to(&[torn.addr, good.addr], "", service)).await;
        eventually(expected, || async {
            let mut client = Connection::open(gateway.http).await;
            let _ = client.try_send(get("/x")).await;
            let shown = endpoint(&gateway, torn.addr).await[field].clone();
            shown == expected || shown["state"] == expected
        })
        .await;
        assert_eq!(status(gateway.http, "/x").await, 200);
        let shown = endpoint(&gateway, torn.addr).await;
        if expected == "open" {
            // The numbers that opened it, and not those of a window that has begun anew.
            let window = &shown["breaker_window"];
            assert!(
                window["failures"].as_u64() >= Some(2) && window["requests"].as_u64() >= Some(4),
                "{shown}"
            );
            assert!(window["open_until"].is_string(), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_response_that_pauses_for_too_long_is_held_against_its_endpoint() {
    let stuck = RawBackend::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", false).await;
    let good = Backend::named("good").await;
    let route = ", timeout: {idle: 100ms}";
    let gateway = TestGateway::start(&to(&[stuck.addr, good.addr], route, ", breaker: off")).await;
    eventually("it is ejected", || async {
        let mut client = Connection::open(gateway.http).await;
        let _ = client.try_send(get("/x")).await;
        endpoint(&gateway, stuck.addr).await["outlier"]["state"] == "ejected"
    })
    .await;
}

/// Clients wait for a little more than a second and leave, long before `timeout.total`.
#[tokio::test]
async fn an_instance_that_hangs_is_found_out_by_clients_that_give_up() {
    let hanging = RawBackend::answering(b"", false).await;
    let good = Backend::named("good").await;
    let gateway = TestGateway::start(&to(&[hanging.addr, good.addr], "", ", breaker: off")).await;
    let http = gateway.http;
    let mut leaving = JoinSet::new();
    for _ in 0..12 {
        leaving.spawn(async move {
            let patience = Duration::from_millis(1_200);
            let _ = tokio::time::timeout(patience, send(http, get("/x"))).await;
        });
    }
    while leaving.join_next().await.is_some() {}
    eventually("it is ejected", || async {
        endpoint(&gateway, hanging.addr).await["outlier"]["state"] == "ejected"
    })
    .await;
    for _ in 0..6 {
        assert_eq!(status(gateway.http, "/x").await, 200);
    }
}

/// One path is slow, and a client leaves it early again and again; another client is served well by the same instance.
#[tokio::test]
async fn clients_that_give_up_prove_nothing_while_the_endpoint_answers_others() {
    let half = Backend::named("fine").await;
    let addr = half.addr;
    let slow = slow_path(addr).await;
    let gateway = TestGateway::start(&to(&[slow], "", ", breaker: {min: 4, open: 5m}")).await;
    let http = gateway.http;
    let done = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&done);
    let honest = tokio::spawn(async move {
        let mut client = Connection::open(http).await;
        let mut answers = 0;
        while !ends.load(Ordering::SeqCst) {
            assert_eq!(client.send(get("/fine")).await.status(), 200);
            answers += 1;
            tokio::task::yield_now().await;
        }
        answers
    });
    let mut leaving = JoinSet::new();
    for _ in 0..8 {
        leaving.spawn(async move {
            let patience = Duration::from_millis(1_200);
            let _ = tokio::time::timeout(patience, send(http, get("/slow"))).await;
        });
    }
    while leaving.join_next().await.is_some() {}
    done.store(true, Ordering::SeqCst);
    assert!(honest.await.unwrap() > 0);
    let shown = endpoint(&gateway, slow).await;
    assert_eq!((&shown["breaker"], &shown["breaker_window"]["failures"]), (&"closed".into(), &0.into()));
    // The service had them all the same.
    eventually("each is counted", || {
        gateway.shows("millgate_upstream_requests_total{service=\"s\",code=\"none\"} 8")
    })
    .await;
}

/// In front of a backend: requests for `/slow` are never answered, all others are passed on.
async fn slow_path(backend: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 9];
                while client.peek(&mut first).await.is_ok_and(|read| (1..9).contains(&read)) {
                    tokio::task::yield_now().await;
                }
                if &first == b"GET /slow" {
                    return std::future::pending().await;
                }
                let mut service = TcpStream::connect(backend).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
                let _ = service.shutdown().await;
            });
        }
    });
    addr
}

/// Eight requests a second to one bad path took every instance out.
#[tokio::test]
async fn one_bad_path_takes_out_at_most_half_of_the_instances() {
    for bad in [500, 503] {
        let mut backends = Vec::new();
        for _ in 0..3 {
            backends.push(
                Backend::with(move |request| {
                    let status = if request.uri().path() == "/bad" { bad } else { 200 };
                    Response::builder().status(status).body(Bytes::from_static(b"one")).unwrap()
                })
                .await,
            );
        }
        let addrs: Vec<_> = backends.iter().map(|one| one.addr).collect();
        let gateway = TestGateway::start(&to(&addrs, ", retry: off", ", breaker: {min: 4, open: 5m}")).await;
        let mut client = Connection::open(gateway.http).await;
        let mut failed = Vec::new();
        for turn in 0..120 {
            let path = if turn % 6 == 5 { "/fine" } else { "/bad" };
            let reply = client.send(get(path)).await;
            if path == "/fine" && reply.status() != 200 {
                failed.push(text(&reply).to_owned());
            }
        }
        assert!(failed.is_empty(), "{bad}: {failed:?}");
        let mut out = 0;
        for addr in addrs {
            let shown = endpoint(&gateway, addr).await;
            out += usize::from(shown["breaker"] != "closed" || shown["outlier"]["state"] != "in");
        }
        assert!(out <= usize::from(bad == 503), "{bad}: {out} of 3 are out");
    }
}

#[tokio::test]
async fn what_proves_a_fault_opens_every_breaker() {
    let (a, b) = (RawBackend::answering(b"", true).await, RawBackend::answering(b"", true).await);
    let service = ", breaker: {min: 4, open: 5m}, outlier: off";
    let gateway = TestGateway::start(&to(&[a.addr, b.addr], ", retry: off", service)).await;
    eventually("all are open", || async {
        json(&send(gateway.http, get("/x")).await)["code"] == "breaker_open"
    })
    .await;
    let event = async || text(&send(gateway.admin(), get("/api/v1/events")).await).to_owned();
    eventually("the numbers stand in the event", || async {
        event().await.contains("4 of 4 requests failed within 10s; open for 5m until ")
    })
    .await;
}

/// The probe of an instance that had failed is a response without an end.
#[tokio::test]
async fn an_instance_whose_probe_is_a_long_response_is_back_with_its_head() {
    let sick = Arc::new(AtomicBool::new(true));
    let addr = long_answer(Arc::clone(&sick)).await;
    let good = Backend::named("good").await;
    let service = ", breaker: off, outlier: {gateway_failures: 2, pause: 200ms}";
    let gateway = TestGateway::start(&to(&[addr, good.addr], ", retry: off", service)).await;
    eventually("it is ejected", || async {
        let _ = status(gateway.http, "/x").await;
        endpoint(&gateway, addr).await["outlier"]["state"] == "ejected"
    })
    .await;
    sick.store(false, Ordering::SeqCst);
    let streams = std::sync::Mutex::new(Vec::new());
    eventually("it is back while its response goes on", || async {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        streams.lock().unwrap().push(stream);
        endpoint(&gateway, addr).await["outlier"]["state"] == "in"
    })
    .await;
}

/// Closes each connection while it is sick; then answers with a response that never ends.
async fn long_answer(sick: Arc<AtomicBool>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let sick = Arc::clone(&sick);
            // A connection without a request does not delay another one.
            tokio::spawn(async move {
                // Read and not only `readable`, which may be wrong: an answer to no request would be a fault of this service.
                let asked = client.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0);
                if asked && !sick.load(Ordering::SeqCst) {
                    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegins";
                    let _ = client.write_all(head).await;
                    let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
                }
            });
        }
    });
    addr
}
