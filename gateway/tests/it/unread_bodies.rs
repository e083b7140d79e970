//! Responses to requests whose body nothing reads to its end: they reach clients that look only after the last byte.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    DEADLINE,
    authority::Authority,
    backend::Backend,
    client::{get, request, send},
    gateway::TestGateway,
    raw_h2::tls_client,
};

const BYTES: usize = 3_000_000;

async fn gateway(service: SocketAddr, authority: &Authority) -> (TestGateway, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let certified = authority.certify("127.0.0.1");
    std::fs::write(dir.path().join("server.pem"), certified.cert).unwrap();
    std::fs::write(dir.path().join("server.key"), certified.key).unwrap();
    std::fs::write(dir.path().join("secret.key"), "0123456789abcdef0123456789abcdef").unwrap();
    let config = format!(
        "workers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\",\n  \
           https: {{bind: \"127.0.0.1:0\", cert_file: server.pem, key_file: server.key}}}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\n\
         routes:\n\
         - {{path: /closed, service: s, auth: main}}\n\
         - {{path: /short, service: s, auth: none, body_limit: 100KiB}}\n\
         - {{path: /limited, service: s, auth: none, rate_limit: 1/h burst 1}}\n\
         - {{path: /none, service: none, auth: none, body: stream}}\n\
         - {{path: /open, service: s, auth: none}}\n\
         - {{path: /stream, service: s, auth: none, body: stream}}\n\
         services: {{s: {{hosts: [\"{service}\"], breaker: off}}, none: {{hosts: [\"127.0.0.1:1\"]}}}}\n"
    );
    let gateway = TestGateway::start_in(dir, &config).await;
    let https = gateway.https_addr().unwrap();
    (gateway, https)
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
    let (service, authority) = (Backend::named("one").await, Authority::new());
    let (gateway, https) = gateway(service.addr, &authority).await;
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
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_client(&authority, &[b"http/1.1"])));
    for (path, fields, status) in refusals {
        for _ in 0..4 {
            let stream = TcpStream::connect(gateway.http).await.unwrap();
            let answer = send_all_then_read(stream, path, fields, BYTES).await;
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.as_ref().is_ok_and(|a| a.starts_with(&expected)), "{path} {status}: {answer:?}");
            let lower = answer.unwrap().to_lowercase();
            assert!(lower.contains("\r\nconnection: close\r\n"), "{path} {status}: {lower}");

            let stream = TcpStream::connect(https).await.unwrap();
            let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            let answer = send_all_then_read(stream, path, fields, BYTES).await;
            assert!(
                answer.as_ref().is_ok_and(|a| a.starts_with(&expected)),
                "TLS {path} {status}: {answer:?}"
            );
        }
    }
}

/// What the parser refuses is a refusal like any other.
#[tokio::test]
async fn a_refused_head_reaches_a_client_that_sends_all_first() {
    let (service, authority) = (Backend::named("one").await, Authority::new());
    let (gateway, _) = gateway(service.addr, &authority).await;
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
    let (service, authority) = (Backend::named("one").await, Authority::new());
    let (gateway, _) = gateway(service.addr, &authority).await;
    let mut client = crate::support::client::Connection::open(gateway.http).await;
    for _ in 0..5 {
        let reply = client.send(request("POST", "/closed", "a short body")).await;
        assert_eq!(reply.status(), 401);
        assert!(reply.headers().get("connection").is_none());
    }
}

#[tokio::test]
async fn lingering_ends_when_the_client_pauses_or_never_stops() {
    let (service, authority) = (Backend::named("one").await, Authority::new());
    let (gateway, _) = gateway(service.addr, &authority).await;
    let head = b"POST /closed HTTP/1.1\r\nhost: gw\r\ncontent-length: 100000000000\r\n\r\nx";

    let mut pauses = TcpStream::connect(gateway.http).await.unwrap();
    pauses.write_all(head).await.unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    pauses.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    let pieces = async {
        // The gateway's side is closed; ours fails when its socket is gone.
        while pauses.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    tokio::time::timeout(DEADLINE, pieces).await.expect("the connection is gone after the pause");
    assert!(began.elapsed() >= Duration::from_secs(2), "not before: {:?}", began.elapsed());

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
async fn refusing_service() -> SocketAddr {
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
    let authority = Authority::new();
    let (gateway, _) = gateway(refusing_service().await, &authority).await;
    for path in ["/open", "/stream"] {
        for _ in 0..10 {
            let stream = TcpStream::connect(gateway.http).await.unwrap();
            let answer = send_all_then_read(stream, path, "connection: close\r\n", 2_000_000).await;
            let is_right = |a: &String| a.starts_with("HTTP/1.1 413 ") && a.ends_with("\r\n\r\nbig");
            assert!(answer.as_ref().is_ok_and(is_right), "{path}: {answer:?}");
        }
        let stream = TcpStream::connect(gateway.http).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..10 {
            let body = Full::new(Bytes::from(vec![b'x'; 2_000_000]));
            let request = http::Request::post(format!("http://gw{path}")).body(body).unwrap();
            let status = sender.send_request(request).await.map(|response: Response<_>| response.status());
            assert!(status.as_ref().is_ok_and(|status| *status == 413), "{path}: {status:?}");
        }
    }
}
