//! The time of a body: pauses and rates limit it, in both directions together; the time for an answer does not.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    DEADLINE,
    backend::Backend,
    client::{raw, upload_slowly},
    eventually,
    gateway::TestGateway,
};

async fn gateway(service: std::net::SocketAddr, route: &str) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s, body_limit: off, {route}}}]\n\
         services: {{s: {{hosts: [\"{service}\"]}}}}\n"
    ))
    .await
}

async fn echo_of_length() -> Backend {
    Backend::with(|request| Response::new(Bytes::from(request.body().len().to_string()))).await
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_answer_may() {
    let service = echo_of_length().await;
    for body in ["gather", "stream"] {
        let route = format!("timeout: {{total: 300ms, idle: 1s}}, body: {body}");
        let gateway = gateway(service.addr, &route).await;
        // Four times as long as `total`, with fewer and with more bytes than are gathered.
        for bytes in [1000, 100_000] {
            let answer = upload_slowly(gateway.http, &vec![b'x'; bytes], 6, Duration::from_millis(200)).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{body} {bytes}: {answer}");
            assert!(answer.ends_with(&(6 * bytes).to_string()), "{body} {bytes}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_time_for_an_answer_begins_with_the_end_of_the_request() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for body in ["gather", "stream"] {
        let route = format!("timeout: {{total: 500ms, idle: 5s}}, body: {body}");
        let gateway = gateway(service.local_addr().unwrap(), &route).await;
        let hangs = async {
            let (mut stream, _) = service.accept().await.unwrap();
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        };
        let began = Instant::now();
        let piece = vec![b'x'; 40_000];
        let (answer, ()) =
            tokio::join!(upload_slowly(gateway.http, &piece, 4, Duration::from_millis(250)), hangs);
        assert!(answer.starts_with("HTTP/1.1 504"), "{body}: {answer}");
        assert!(answer.contains("response_timeout"), "the service is late: {answer}");
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_millis(1500) && elapsed < Duration::from_secs(4), "{elapsed:?}");
    }
}

#[tokio::test]
async fn a_client_that_pauses_for_too_long_learns_what_was_seen() {
    let service = echo_of_length().await;
    for (body, framing) in [
        ("gather", "content-length: 10"),
        ("stream", "content-length: 10"),
        ("gather", "transfer-encoding: chunked"),
    ] {
        let gateway = gateway(service.addr, &format!("timeout: {{idle: 300ms}}, body: {body}")).await;
        let head = format!("POST / HTTP/1.1\r\nhost: gw\r\n{framing}\r\n\r\n1\r\nx");
        let (answer, _) = raw(gateway.http, &[head.as_bytes()], false, Duration::from_secs(2)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408"), "{body} {framing}: {answer}");
        assert!(answer.contains("No byte of the request body arrived for 300ms."), "{answer}");
    }
}

/// A gateway that streams, with a short `idle`, and its service.
async fn streaming() -> (TestGateway, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (gateway(addr, "timeout: {total: 500ms, idle: 600ms}, body: stream").await, listener)
}

/// Sends the head of a response as soon as the head of the request is there. Returns the bytes read so far.
async fn begin_to_answer(service: &TcpListener) -> (TcpStream, Vec<u8>) {
    let (mut stream, _) = service.accept().await.unwrap();
    let mut read = Vec::new();
    stream.read_buf(&mut read).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    (stream, read)
}

/// The service sends its head at once, and then reads for longer than `idle` what the client sends in small pieces.
#[tokio::test]
async fn a_silent_response_lives_as_long_as_the_upload_moves() {
    let (gateway, listener) = streaming().await;
    let service = async {
        let (mut stream, mut all) = begin_to_answer(&listener).await;
        stream.write_all(b"1\r\na\r\n").await.unwrap();
        while !all.ends_with(b"0\r\n\r\n") {
            assert!(stream.read_buf(&mut all).await.unwrap() > 0, "{}", String::from_utf8_lossy(&all));
        }
        stream.write_all(b"1\r\nz\r\n0\r\n\r\n").await.unwrap();
    };
    let client = async {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        for _ in 0..12 {
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"1\r\nz\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&answer));
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(service, client) }).await.unwrap();
}

#[tokio::test]
async fn a_silent_upload_lives_as_long_as_the_response_moves() {
    let (gateway, listener) = streaming().await;
    let service = async {
        let (mut stream, _) = begin_to_answer(&listener).await;
        for _ in 0..8 {
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        stream.write_all(b"1\r\nz\r\n0\r\n\r\n").await.unwrap();
    };
    let client = async {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"1\r\nz\r\n0\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
        }
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(service, client) }).await.unwrap();
}

/// The response has begun, so no status can report it; the log does.
#[tokio::test]
async fn the_log_names_the_side_that_was_silent() {
    let log = "access_log: {format: json, file: access.log}\n";
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx";
    let service = crate::support::backend::RawBackend::answering(answer, false).await;
    let gateway = TestGateway::start(&format!(
        "{log}workers: 1\nroutes: [{{path: /**, service: s, body: stream, timeout: {{idle: 300ms}}}}]\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    ))
    .await;
    for (length, flag) in [(0, "body_timeout"), (10, "request_timeout")] {
        let head = format!("POST /{flag} HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n");
        let (answer, closed) = raw(gateway.http, &[head.as_bytes()], false, DEADLINE).await;
        assert!(closed && answer.ends_with(b"\r\n\r\nx"), "{}", String::from_utf8_lossy(&answer));
    }
    let lines = || std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
    eventually("both are logged", || async { lines().lines().count() == 2 }).await;
    for line in lines().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let expected = line["path"].as_str().unwrap().trim_start_matches('/');
        assert_eq!((line["flags"].as_str(), line["status"].as_u64()), (Some(expected), Some(200)), "{line}");
    }
}

#[tokio::test]
async fn a_service_that_takes_nothing_of_an_upload_is_at_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(listener.local_addr().unwrap(), "timeout: {idle: 500ms}").await;
    let accepts = async {
        let _stream = listener.accept().await.unwrap();
        std::future::pending::<Infallible>().await
    };
    let client = async {
        let stream = TcpStream::connect(gateway.http).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            let _ = write.write_all(b"POST / HTTP/1.1\r\nhost: gw\r\ncontent-length: 50000000\r\n\r\n").await;
            let _ = write.write_all(&vec![b'x'; 50_000_000]).await;
        });
        let mut answer = vec![0; 1024];
        let n = read.read(&mut answer).await.unwrap();
        sending.abort();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    };
    let answer = tokio::select! {
        answer = client => answer,
        never = accepts => match never {},
    };
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
}
