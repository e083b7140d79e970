//! Responses to requests whose body is not read to its end: they reach clients that read only after their last byte.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    DEADLINE,
    backend::Backend,
    client::{get, http2, request, send},
    frames::Listeners,
    tokens,
};

const BYTES: usize = 3_000_000;

async fn listeners(service: SocketAddr) -> Listeners {
    let config = format!(
        "auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\n\
         routes:\n\
         - {{path: /closed, service: s, auth: main}}\n\
         - {{path: /short, service: s, auth: none, body_limit: 100KiB}}\n\
         - {{path: /limited, service: s, auth: none, rate_limit: 1/h burst 1}}\n\
         - {{path: /none, service: none, auth: none, body: stream}}\n\
         - {{path: /open, service: s, auth: none}}\n\
         - {{path: /stream, service: s, auth: none, body: stream}}\n\
         services: {{s: {{hosts: [\"{service}\"], breaker: off}}, none: {{hosts: [\"127.0.0.1:1\"]}}}}\n"
    );
    Listeners::start_in(tokens::folder(), "", &config).await
}

/// Sends head and body to their ends, as Python's `http.client` does, and only then reads.
async fn send_all_then_read(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    fields: &str,
    bytes: usize,
) -> Result<String, String> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: gw\r\ncontent-length: {bytes}\r\n{fields}\r\n");
    io.write_all(head.as_bytes()).await.map_err(|error| format!("head: {error}"))?;
    tokio::task::yield_now().await;
    io.write_all(&vec![b'x'; bytes]).await.map_err(|error| format!("body: {error}"))?;
    io.flush().await.map_err(|error| format!("flush: {error}"))?;
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(DEADLINE, io.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match reading {
        Ok(Ok(_)) => Ok(answer),
        Ok(Err(error)) => Err(format!("read: {error} after {answer}")),
        Err(_) => Err(format!("the connection stays open after {answer}")),
    }
}

/// Peers: nginx gives the status every time; before, Python got EPIPE 27 of 30 times, Node's fetch 11 of 12.
#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_all_first() {
    let service = Backend::named("one").await;
    let listeners = listeners(service.addr).await;
    let gateway = &listeners.gateway;
    assert_eq!(send(gateway.http, get("/limited")).await.status(), 200);
    let refusals = [
        ("/closed", "", 401),
        ("/nowhere", "", 404),
        ("/short", "", 413),
        ("/open", "expect: something\r\n", 417),
        ("/limited", "", 429),
        ("/none", "", 502),
        ("/closed", "expect: 100-continue\r\n", 401),
        ("/open", "transfer-encoding: chunked\r\n", 400),
    ];
    for (path, fields, status) in refusals {
        for over_tls in [false, true, false, true, false, true, false, true] {
            let stream = listeners.open_http1(over_tls).await;
            let answer = send_all_then_read(stream, path, fields, BYTES).await;
            let what = format!("{path} {status}, over TLS: {over_tls}");
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.as_ref().is_ok_and(|a| a.starts_with(&expected)), "{what}: {answer:?}");
            let lower = answer.unwrap().to_lowercase();
            assert!(lower.contains("\r\nconnection: close\r\n"), "{what}: {lower}");
        }
    }
}

/// What the parser refuses is a refusal like any other.
#[tokio::test]
async fn a_refused_head_reaches_a_client_that_sends_all_first() {
    let service = Backend::named("one").await;
    let gateway = listeners(service.addr).await.gateway;
    // More than both kernels' buffers take: of less, the gateway could leave all unread and the client would not learn it.
    let more = "x".repeat(8 * BYTES);
    let long = format!("GET /open HTTP/1.1\r\nhost: gw\r\nx-long: {more}\r\n\r\n");
    let wrong = format!("GET /open HTTP/1.1\r\nhost gw\r\n\r\n{more}");
    for (bytes, status) in [(long, 431), (wrong, 400)] {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(gateway.http).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.expect("the gateway reads on");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("no reset");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_with_a_short_body_keeps_its_connection() {
    let service = Backend::named("one").await;
    let gateway = listeners(service.addr).await.gateway;
    let mut client = crate::support::client::Connection::open(gateway.http).await;
    for _ in 0..5 {
        let reply = client.send(request("POST", "/closed", "a short body")).await;
        assert_eq!(reply.status(), 401);
        assert!(reply.headers().get("connection").is_none());
    }
}

#[tokio::test]
async fn lingering_ends_when_the_client_pauses_or_never_stops() {
    let service = Backend::named("one").await;
    let gateway = listeners(service.addr).await.gateway;
    let head = b"POST /closed HTTP/1.1\r\nhost: gw\r\ncontent-length: 100000000000\r\n\r\nx";

    let mut pauses = TcpStream::connect(gateway.http).await.unwrap();
    pauses.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    pauses.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    // A short pause does not end the wait: the gateway has closed its side, and it reads on.
    for _ in 0..3 {
        pauses.write_all(b"x").await.expect("the gateway reads");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let is_gone = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        // Ours fails when its socket is gone.
        while pauses.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, is_gone).await.expect("the connection is gone after the pause");

    let mut goes_on = TcpStream::connect(gateway.http).await.unwrap();
    goes_on.write_all(head).await.unwrap();
    let (piece, mut sent) = (vec![b'x'; 1 << 20], 0);
    while goes_on.write_all(&piece).await.is_ok() {
        sent += piece.len();
        assert!(sent < 200 << 20, "it reads on for ever");
    }
    assert!(sent > BYTES, "{sent}");
}

/// A service that looks at the head and a little of the body, answers, and closes with the rest unread.
pub(crate) async fn refusing_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut start = [0; 4096];
            let _ = stream.read(&mut start).await;
            let answer =
                b"HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
            let _ = stream.write_all(answer).await;
        }
    });
    addr
}

/// Peers: HAProxy 20 of 20; before, 7 of 20 were 502.
#[tokio::test]
async fn the_last_words_of_a_service_reach_the_client() {
    let gateway = listeners(refusing_service().await).await.gateway;
    for path in ["/open", "/stream"] {
        for _ in 0..10 {
            let stream = TcpStream::connect(gateway.http).await.unwrap();
            let answer = send_all_then_read(stream, path, "connection: close\r\n", 2_000_000).await;
            let is_right = |a: &String| a.starts_with("HTTP/1.1 413 ") && a.ends_with("\r\n\r\nbig");
            assert!(answer.as_ref().is_ok_and(is_right), "{path}: {answer:?}");
        }
        let mut sender = http2(gateway.http).await;
        for _ in 0..10 {
            let body = Full::new(Bytes::from(vec![b'x'; 2_000_000]));
            let request = http::Request::post(format!("http://gw{path}")).body(body).unwrap();
            let status = sender.send_request(request).await.map(|response: Response<_>| response.status());
            assert!(status.as_ref().is_ok_and(|status| *status == 413), "{path}: {status:?}");
        }
    }
}

/// Bytes that the gateway does not read any more must not turn the end of its response into a reset: a client of HTTP/1.0 then
/// takes the whole response for a part, and programs get an error instead of it.
#[tokio::test]
async fn a_client_that_sends_more_than_is_read_gets_the_end_of_its_response() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = listeners(service.local_addr().unwrap()).await;
    let gateway = &listeners.gateway;
    for (version, more) in
        [("1.0", "\r\n"), ("1.0", "GET /open HTTP/1.0\r\n\r\n"), ("1.1", "GET /open HTTP/1.1\r\n")]
    {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        let head = format!("GET /open HTTP/{version}\r\nhost: gw\r\nconnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut stream, _) = service.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nfirst").await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(5).any(|part| part == b"first") {
            answer.push(client.read_u8().await.unwrap());
        }
        client.write_all(more.as_bytes()).await.unwrap();
        stream.write_all(b" and last").await.unwrap();
        drop(stream);
        let rest = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answer)).await.expect("an end");
        assert!(rest.is_ok(), "HTTP/{version} {more:?}: {rest:?}");
        assert!(String::from_utf8(answer).unwrap().contains("last"), "HTTP/{version} {more:?}");
    }
}
