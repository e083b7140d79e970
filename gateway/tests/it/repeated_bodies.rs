//! A request with a body is sent again where the route allows it, whole and from its first byte, or not at all.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::support::{
    backend::{Backend, RawBackend},
    client::{Connection, get, http2, request, send, text},
    gateway::TestGateway,
};

/// Bad first: with one worker, round robin sends every other first attempt to it.
fn to(bad: SocketAddr, good: SocketAddr, route: &str) -> String {
    format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s{route}}}\n\
         services:\n  s: {{hosts: [\"{bad}\", \"{good}\"], breaker: off, outlier: off}}\n"
    )
}

async fn busy() -> Backend {
    Backend::with(|_| Response::builder().status(503).body(Bytes::from_static(b"busy")).unwrap()).await
}

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

async fn put(gateway: &TestGateway, body: Bytes) -> u16 {
    let request = Request::put("/x").header("host", "gw").body(Full::new(body)).unwrap();
    send(gateway.http, request).await.status().as_u16()
}

const PUT: &str = ", retry: {methods: [PUT], budget: 100%, backoff: 1ms..1ms}";

#[tokio::test]
async fn a_body_that_is_kept_reaches_the_next_endpoint_whole() {
    let (bad, good) = (busy().await, Backend::named("good").await);
    let gateway = TestGateway::start(&to(bad.addr, good.addr, PUT)).await;
    for bytes in [1, 1000, 64 * 1024] {
        let body = content(bytes);
        for _ in 0..4 {
            assert_eq!(put(&gateway, body.clone()).await, 200, "{bytes} bytes");
        }
        let (first, second) = (bad.take_seen(), good.take_seen());
        assert_eq!((first.len(), second.len()), (2, 4), "{bytes} bytes");
        for seen in first.iter().chain(&second) {
            assert_eq!(seen.headers()["content-length"], bytes.to_string().as_str());
            assert!(*seen.body() == body, "{bytes} bytes");
        }
    }
}

#[tokio::test]
async fn chunks_and_http2_streams_are_repeated_as_well() {
    let (bad, good) = (busy().await, Backend::named("good").await);
    let gateway = TestGateway::start(&to(bad.addr, good.addr, PUT)).await;
    let parts = || Parts(vec!["three", "two ", "one "]);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut http1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut http2 = http2(gateway.http).await;
    for _ in 0..4 {
        let request = Request::put("/x").header("host", "gw").body(parts()).unwrap();
        let answer = http1.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        let request = Request::put("http://gw/x").body(parts()).unwrap();
        assert_eq!(http2.send_request(request).await.unwrap().status(), 200);
    }
    let seen = [bad.take_seen(), good.take_seen()].concat();
    assert!(seen.len() > 8, "some were sent twice");
    assert!(seen.iter().all(|seen| seen.body() == "one two three"));
}

/// A body of unknown length; the last part comes first.
struct Parts(Vec<&'static str>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))))
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_sent_once_and_a_larger_limit_keeps_it() {
    let (bad, good) = (busy().await, Backend::named("good").await);
    let body = content(200 * 1024);
    for (limit, statuses) in [("", [200, 503]), (", body: 256KiB", [200, 200]), (", body: off", [200, 503])] {
        let route = PUT.replace("[PUT]", &format!("[PUT]{limit}"));
        let gateway = TestGateway::start(&to(bad.addr, good.addr, &route)).await;
        let mut answers = [put(&gateway, body.clone()).await, put(&gateway, body.clone()).await];
        answers.sort_unstable();
        assert_eq!(answers, statuses, "{limit}");
        let seen = [bad.take_seen(), good.take_seen()].concat();
        assert!(seen.iter().all(|seen| *seen.body() == body), "{limit}");
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another_with_the_same_body() {
    let silent = RawBackend::answering(b"", false).await;
    let good = Backend::named("good").await;
    let route =
        ", timeout: {total: 10s, try: 300ms}, retry: {methods: [GET, PUT], budget: 100%, backoff: 1ms..1ms}";
    let gateway = TestGateway::start(&to(silent.addr, good.addr, route)).await;
    let body = content(5000);
    for _ in 0..2 {
        assert_eq!(put(&gateway, body.clone()).await, 200);
        assert_eq!(send(gateway.http, get("/x")).await.status(), 200);
    }
    assert!(good.take_seen().iter().all(|seen| seen.method() == "GET" || *seen.body() == body));
}

#[tokio::test]
async fn what_the_method_does_not_allow_is_sent_once() {
    let (bad, good) = (busy().await, Backend::named("good").await);
    let gateway = TestGateway::start(&to(bad.addr, good.addr, "")).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(send(gateway.http, request("POST", "/x", "body")).await.status().as_u16());
    }
    answers.sort_unstable();
    assert_eq!((answers, bad.served()), (vec![200, 200, 503, 503], 2));
}

#[tokio::test]
async fn nothing_is_sent_again_once_a_byte_of_the_answer_is_out() {
    let torn = RawBackend::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", true).await;
    let good = Backend::named("good").await;
    let gateway = TestGateway::start(&to(torn.addr, good.addr, ", retry: {retries: 5, budget: 100%}")).await;
    let mut broken = 0;
    for _ in 0..4 {
        let mut client = Connection::open(gateway.http).await;
        match tokio::time::timeout(Duration::from_secs(5), client.try_send(get("/x"))).await.unwrap() {
            Ok(reply) => assert_eq!(text(&reply), "good"),
            Err(_) => broken += 1,
        }
    }
    assert_eq!((broken, good.served()), (2, 2));
}
