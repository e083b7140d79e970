//! Uploads that take seconds: of a client that is slower than it may be, and of one over HTTP/2 that is far away, which windows bound.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    backend::Backend,
    client::{http2, upload_slowly},
    gateway::TestGateway,
};

/// And a service that answers with the length of what it got.
async fn gateway(timeout: &str) -> (TestGateway, Backend) {
    let service = Backend::with(|request| Response::new(Bytes::from(request.body().len().to_string()))).await;
    let gateway = TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s, body_limit: off, timeout: {timeout}}}]\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    ))
    .await;
    (gateway, service)
}

#[tokio::test]
async fn a_client_that_is_slower_than_the_minimum_learns_it() {
    let (gateway, _service) = gateway("{idle: 5s, min_rate: 1KiB/s}").await;
    let began = Instant::now();
    let answer = upload_slowly(gateway.http, &[b'x'; 20], 58, Duration::from_millis(200)).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("The request body came slower than 1024 bytes/s"), "{answer}");
    assert!(began.elapsed() > Duration::from_secs(10));
}

/// Bytes go on after `DELAY` in each direction, however many there are.
async fn relay(to: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tokio::spawn(delay(near_read, far_write));
        delay(far_read, near_write).await;
    });
    addr
}

const DELAY: Duration = Duration::from_millis(75);

async fn delay(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin + Send + 'static) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = receiver.recv().await {
            tokio::time::sleep_until((at + DELAY).into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if sender.send((Instant::now(), buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

/// Peers: HAProxy 1.4 s; with windows of 64 KiB it takes 21 s.
#[tokio::test]
async fn an_http2_upload_over_a_long_way_is_not_held_up_by_windows() {
    let (gateway, _service) = gateway("5s").await;
    let mut sender = http2(relay(gateway.http).await).await;
    let began = Instant::now();
    let body = Full::new(Bytes::from(vec![b'x'; 9_000_000]));
    let response = sender.send_request(http::Request::post("http://gw/").body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "9000000");
    let elapsed = began.elapsed();
    println!("9 MB over HTTP/2 at 150 ms for the way and back: {elapsed:?}");
    // A debug build beside other tests takes its time.
    let most = Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 3 });
    assert!(elapsed < most, "{elapsed:?}");
}
