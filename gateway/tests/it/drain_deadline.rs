//! `drain.timeout` is over: requests without an answer get one, responses that have begun are cut, and the log has
//! the reason.

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{Response, StatusCode};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend},
    client::{Connection, get, json},
    eventually,
    frames::{DATA, FrameClient, HEADERS, INITIAL_WINDOW_SIZE},
    gateway::TestGateway,
};

/// The log outlives the gateway's folder.
async fn gateway(log: &Path, service: SocketAddr) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\ndrain: {{timeout: 700ms}}\naccess_log: {{format: json, file: {}}}\n\
         routes: [{{path: /**, service: s}}]\n\
         services: {{s: {{hosts: [\"{service}\"], outlier: off}}}}\n",
        log.display()
    ))
    .await
}

/// (status, flag) of each line.
fn logged(log: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| (line["status"].as_u64().unwrap(), line["flags"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn requests_without_an_answer_get_one_from_the_gateway() {
    let silent = RawBackend::answering(b"", false).await;
    let (dir, timed_out) = (TempDir::new().unwrap(), || (503, "drain_timeout".to_owned()));
    let log = dir.path().join("access.log");
    let gateway = gateway(&log, silent.addr).await;
    let mut http1 = Connection::open(gateway.http).await;
    let reply = tokio::spawn(async move { http1.send(get("/hangs")).await });
    let mut uploading = TcpStream::connect(gateway.http).await.unwrap();
    uploading.write_all(b"POST / HTTP/1.1\r\nhost: gw\r\ncontent-length: 100000\r\n\r\nsome").await.unwrap();
    let mut http2 = FrameClient::open(gateway.http).await;
    http2.send(&[http2.get(1, "/hangs"), http2.get(3, "/hangs")].concat()).await;
    eventually("all that need no body are sent on", || async { silent.connections() == 3 }).await;
    let cut = gateway.stop().await;
    assert_eq!(cut, 3, "connections that had something under way");
    let reply = reply.await.unwrap();
    assert_eq!(
        (reply.status(), json(&reply)["code"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("drain_timeout"))
    );
    assert_eq!(reply.headers()["connection"], "close");
    for stream in [1, 3] {
        let head = http2.next_where(|frame| frame.kind == HEADERS && frame.stream == stream).await;
        // The second refers to the first.
        assert!(stream == 3 || head.status() == Some(503));
    }
    let mut answer = String::new();
    let _ = tokio::time::timeout(DEADLINE, uploading.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(logged(&log), [timed_out(), timed_out(), timed_out(), timed_out()]);
}

#[tokio::test]
async fn responses_that_have_begun_are_cut_and_logged_as_that() {
    let service = Backend::with(|_| Response::new(Bytes::from(vec![b'x'; 16 << 20]))).await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("access.log");
    let gateway = gateway(&log, service.addr).await;
    let mut http1 = TcpStream::connect(gateway.http).await.unwrap();
    http1.write_all(b"GET / HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    http1.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut http2 = FrameClient::open_with(gateway.http, &[(INITIAL_WINDOW_SIZE, 10)]).await;
    http2.send(&http2.get(1, "/")).await;
    http2.next_where(|frame| frame.kind == HEADERS).await;
    http2.next_where(|frame| frame.kind == DATA).await;
    assert_eq!(gateway.stop().await, 2);
    let cut = || (200, "drain_timeout".to_owned());
    assert_eq!(logged(&log), [cut(), cut()]);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, http1.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() < 16 << 20, "its length says that some of it is missing");
}
