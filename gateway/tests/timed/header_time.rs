//! `listen.header_timeout` of HTTP/1.1: it never ends early, and bytes that are not part of a request do not
//! start it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    backend::Backend,
    client::{get, send, text},
    eventually,
    gateway::TestGateway,
};

async fn gateway(backend: &Backend, header_timeout: &str, idle_timeout: &str) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: {header_timeout}, \
         idle_timeout: {idle_timeout}}}\nroutes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    ))
    .await
}

async fn backend() -> Backend {
    Backend::with(|_| Response::new(Bytes::new())).await
}

/// A connection that has received an answer.
async fn served(gateway: &TestGateway) -> TcpStream {
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.set_nodelay(true).unwrap();
    request(&mut client).await;
    client
}

async fn request(client: &mut TcpStream) {
    client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.expect("the connection stays"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

async fn are_parked(gateway: &TestGateway, connections: usize) {
    eventually("the connections are parked", || async {
        let metrics = send(gateway.admin(), get("/metrics")).await;
        text(&metrics).contains(&format!("millgate_connections_parked {connections}\n"))
    })
    .await;
}

/// The time for which the gateway keeps the connection. The client sends nothing more.
async fn until_closed(client: &mut TcpStream, began: Instant) -> Duration {
    let closed = tokio::time::timeout(Duration::from_secs(20), client.read(&mut [0; 64])).await;
    assert!(matches!(closed.expect("the gateway closes it"), Ok(0) | Err(_)));
    began.elapsed()
}

/// Less than the second between two sweeps of the worker, so that a clock reading of the last sweep is too old.
const HEADER_TIMEOUT: Duration = Duration::from_millis(900);

/// The connections begin their heads at times spread over such a second, and nothing else makes the worker read
/// its clock.
#[tokio::test]
async fn half_a_head_has_all_of_its_time_on_a_fresh_and_on_a_parked_connection() {
    let backend = backend().await;
    let gateway = gateway(&backend, "900ms", "60s").await;
    let mut parked = Vec::new();
    for _ in 0..6 {
        parked.push(served(&gateway).await);
    }
    are_parked(&gateway, parked.len()).await;
    let mut waiting = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(170));
    for mut client in parked {
        ticks.tick().await;
        waiting.spawn(async move {
            let began = Instant::now();
            client.write_all(b"\r\nGET /x HTTP/1.1\r\nho").await.unwrap();
            ("parked", until_closed(&mut client, began).await)
        });
        let addr = gateway.http;
        waiting.spawn(async move {
            let began = Instant::now();
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.write_all(b"GET /x HTTP/1.1\r\nho").await.unwrap();
            ("fresh", until_closed(&mut client, began).await)
        });
        waiting.spawn(async move {
            let began = Instant::now();
            let mut client = TcpStream::connect(addr).await.unwrap();
            ("silent", until_closed(&mut client, began).await)
        });
    }
    while let Some(ended) = waiting.join_next().await {
        let (what, kept) = ended.unwrap();
        assert!(kept >= HEADER_TIMEOUT, "{what}: cut after {kept:?}");
    }
}

/// RFC 9112 §2.2: empty lines before a request are to be ignored.
#[tokio::test]
async fn empty_lines_leave_a_connection_idle_busy_or_parked() {
    let backend = backend().await;
    let gateway = gateway(&backend, "1s", "60s").await;
    let mut parked = served(&gateway).await;
    are_parked(&gateway, 1).await;
    let mut open = served(&gateway).await;
    for client in [&mut parked, &mut open] {
        for piece in [&b"\r\n"[..], b"\n", b"\r"] {
            client.write_all(piece).await.unwrap();
        }
    }
    // The head of another connection runs into its timeout meanwhile.
    let mut late = TcpStream::connect(gateway.http).await.unwrap();
    late.write_all(b"GET").await.unwrap();
    until_closed(&mut late, Instant::now()).await;
    are_parked(&gateway, 2).await;
    for client in [&mut parked, &mut open] {
        client.write_all(b"\n").await.unwrap();
        request(client).await;
    }
}

#[tokio::test]
async fn empty_lines_without_end_do_not_keep_a_connection() {
    let backend = backend().await;
    let gateway = gateway(&backend, "60s", "2s").await;
    for end in ["\r\n", "\n"] {
        let mut client = served(&gateway).await;
        let began = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while client.write_all(end.as_bytes()).await.is_ok() {
            ticks.tick().await;
            assert!(began.elapsed() < Duration::from_secs(15), "{end:?} keeps it");
        }
        assert!(began.elapsed() >= Duration::from_secs(2));
    }
}
