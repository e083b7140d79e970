//! `Expect: 100-continue` from end to end (RFC 9110 §10.1.1): the client's body is sent when the service invites it, and a service that
//! refuses the request gets no byte of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
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
    client::raw,
    eventually,
    frames::{END_STREAM, Field, FrameClient, Outcome, data},
    gateway::TestGateway,
    h2_service::{H2Service, collect, send},
};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";

/// What a service has got, over all of its connections.
#[derive(Default)]
struct Got {
    heads: Mutex<Vec<String>>,
    content: Mutex<Vec<u8>>,
    connections: AtomicUsize,
    /// Connections that the gateway has closed.
    closed: AtomicUsize,
}

impl Got {
    fn content(&self) -> Vec<u8> {
        self.content.lock().unwrap().clone()
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// An HTTP/1.1 service that answers by path.
async fn service() -> (SocketAddr, Arc<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, got) = (listener.local_addr().unwrap(), Arc::<Got>::default());
    let log = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            log.connections.fetch_add(1, SeqCst);
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                serve(stream, &log).await;
                log.closed.fetch_add(1, SeqCst);
            });
        }
    });
    (addr, got)
}

/// `None`: the connection has ended.
async fn serve(mut stream: TcpStream, got: &Got) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1)?.to_owned();
        let is_chunked = head.contains("transfer-encoding: chunked");
        got.heads.lock().unwrap().push(head);
        let before: &[&[u8]] = match path.as_str() {
            "/refuses" => {
                let refusal = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
                stream.write_all(refusal).await.ok()?;
                // All that comes afterwards.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                got.content.lock().unwrap().extend(rest);
                return None;
            }
            "/leaves" => return None,
            "/ignores" => &[],
            "/hints" => &[HINTS, CONTINUE],
            "/twice" => &[CONTINUE, CONTINUE],
            _ => &[CONTINUE],
        };
        for bytes in before {
            stream.write_all(bytes).await.ok()?;
        }
        // `5\r\nhello\r\n0\r\n\r\n` in chunks.
        let mut content = vec![0; if is_chunked { 15 } else { 5 }];
        stream.read_exact(&mut content).await.ok()?;
        got.content.lock().unwrap().extend(content);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
    }
}

/// The same on streams of HTTP/2.
async fn h2_service() -> (H2Service, Arc<Got>) {
    let got = Arc::<Got>::default();
    let log = Arc::clone(&got);
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            let log = Arc::clone(&log);
            Box::pin(async move {
                let (head, mut stream) = request.into_parts();
                let expects = head.headers.get("expect").map_or("", |value| value.to_str().unwrap());
                log.heads.lock().unwrap().push(format!("{} expect: {expects}\r\n", head.uri.path()));
                let informational = |status: u16| Response::builder().status(status).body(()).unwrap();
                let statuses: &[u16] = match head.uri.path() {
                    "/refuses" => {
                        let refusal = Response::builder().status(417).body(()).unwrap();
                        let mut to = reply.send_response(refusal, false).unwrap();
                        send(&mut to, Bytes::from_static(b"no"), true).await;
                        if let Some((rest, _)) = collect(&mut stream).await {
                            log.content.lock().unwrap().extend(rest);
                        }
                        return;
                    }
                    "/ignores" => &[],
                    "/hints" => &[103, 100],
                    "/twice" => &[100, 100],
                    _ => &[100],
                };
                for status in statuses {
                    reply.send_informational(informational(*status)).unwrap();
                }
                let Some((content, _)) = collect(&mut stream).await else { return };
                log.content.lock().unwrap().extend(content);
                let mut to = reply.send_response(Response::new(()), false).unwrap();
                send(&mut to, Bytes::from_static(b"ok"), true).await;
            })
        },
    )
    .await;
    (service, got)
}

async fn gateway(service: SocketAddr, protocol: &str) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\nroutes:\n- {{path: /small, service: s, body_limit: 3B}}\n\
         - {{path: /streams, service: s, body: stream}}\n- {{path: /**, service: s}}\n\
         services: {{s: {{hosts: [\"{service}\"], protocol: {protocol}, breaker: off, outlier: off}}}}\n"
    ))
    .await
}

fn head(method: &str, path: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\nexpect: 100-Continue\r\ncontent-length: 5\r\n\r\n"
    )
    .into_bytes()
}

/// The statuses that a client of HTTP/1.1 gets, which sends its body when it is invited; and all that came.
async fn over_http1(gateway: &TestGateway, method: &str, path: &str) -> (Vec<u16>, String) {
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(&head(method, path)).await.unwrap();
    let mut all = Vec::new();
    let mut is_invited = false;
    let reading = async {
        while client.read_buf(&mut all).await.unwrap() > 0 {
            if !is_invited && all.windows(CONTINUE.len()).any(|bytes| bytes == CONTINUE) {
                is_invited = true;
                client.write_all(b"hello").await.unwrap();
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    let text = String::from_utf8(all).unwrap();
    let statuses = text.split("HTTP/1.1 ").skip(1).map(|head| head[..3].parse().unwrap()).collect();
    (statuses, text)
}

/// The same over HTTP/2.
async fn over_http2(gateway: &TestGateway, method: &str, path: &str) -> Vec<u16> {
    let mut client = FrameClient::open(gateway.http).await;
    let fields: [Field<'_>; 2] = [(b"expect", b"100-continue"), (b"content-length", b"5")];
    client.send(&client.head(1, method, path, &fields)).await;
    let mut statuses = Vec::new();
    loop {
        let Outcome::Status(status) = client.outcome(1).await else { panic!("after {statuses:?}") };
        statuses.push(status);
        match status {
            100 => client.send(&data(1, END_STREAM, b"hello")).await,
            101..200 => {}
            _ => return statuses,
        }
    }
}

#[tokio::test]
async fn the_service_invites_the_client_and_the_gateway_does_not() {
    for (http1, path, expected) in [
        (true, "/", &[100, 200][..]),
        (true, "/streams", &[100, 200]),
        (true, "/hints", &[103, 100, 200]),
        (true, "/twice", &[100, 200]),
        (false, "/", &[100, 200]),
        (false, "/streams", &[100, 200]),
        (false, "/hints", &[103, 100, 200]),
        (false, "/twice", &[100, 200]),
    ] {
        let (addr, got) = service().await;
        let (h2, got_by_h2) = h2_service().await;
        for (addr, protocol, got) in [(addr, "http", got), (h2.addr, "h2c", got_by_h2)] {
            let gateway = gateway(addr, protocol).await;
            let statuses = if http1 {
                over_http1(&gateway, "POST", path).await.0
            } else {
                over_http2(&gateway, "POST", path).await
            };
            assert_eq!(statuses, expected, "{path} of {protocol}");
            assert_eq!(got.content(), b"hello", "{path} of {protocol}");
            assert!(got.heads()[0].contains("expect: 100-continue\r\n"), "{:?}", got.heads());
        }
    }
}

#[tokio::test]
async fn a_final_answer_before_the_invitation_costs_no_byte_of_the_body() {
    let (addr, got) = service().await;
    let (h2, got_by_h2) = h2_service().await;
    let before = gateway(addr, "http").await;
    for n in 1..=2 {
        let (statuses, text) = over_http1(&before, "POST", "/refuses").await;
        assert_eq!(statuses, [417]);
        assert!(text.contains("connection: close\r\n") && text.ends_with("\r\n\r\nno"), "{text}");
        // The service would take the next request for the content that was announced.
        eventually("the connection is closed", async || got.closed.load(SeqCst) == n).await;
    }
    assert_eq!(over_http2(&before, "POST", "/refuses").await, [417]);
    eventually("the connection is closed", async || got.closed.load(SeqCst) == 3).await;
    let behind = gateway(h2.addr, "h2c").await;
    assert_eq!(over_http1(&behind, "POST", "/refuses").await.0, [417]);
    assert_eq!(over_http2(&behind, "POST", "/refuses").await, [417]);
    assert_eq!(over_http2(&behind, "POST", "/").await, [100, 200], "the other streams go on");
    assert_eq!(h2.connections(), 1);
    assert_eq!((got.content(), got_by_h2.content()), (vec![], b"hello".to_vec()));
}

/// A service that has refused a request, and has not asked for its body, takes a body that comes anyway for its next request.
#[tokio::test]
async fn a_connection_on_which_a_body_was_sent_without_an_invitation_serves_no_other_request() {
    let (addr, got) = service().await;
    let gateway = gateway(addr, "http").await;
    assert_eq!(over_http1(&gateway, "POST", "/").await.0, [100, 200]);
    assert_eq!(over_http1(&gateway, "POST", "/ignores").await.0, [100, 200]);
    assert_eq!(got.connections.load(SeqCst), 1, "the first one had an invitation");
    eventually("the connection is closed", async || got.closed.load(SeqCst) == 1).await;
    assert_eq!(over_http2(&gateway, "POST", "/ignores").await, [100, 200]);
    eventually("the connection is closed", async || got.closed.load(SeqCst) == 2).await;
    assert_eq!(over_http1(&gateway, "POST", "/").await.0, [100, 200]);
    assert_eq!(got.connections.load(SeqCst), 3);
}

#[tokio::test]
async fn policies_refuse_before_the_service_hears_of_it() {
    let (addr, got) = service().await;
    let gateway = gateway(addr, "http").await;
    assert_eq!(over_http1(&gateway, "POST", "/small").await.0, [413]);
    assert_eq!(over_http2(&gateway, "POST", "/small").await, [413]);
    let other =
        b"POST / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\nexpect: x\r\ncontent-length: 5\r\n\r\nhello";
    let (bytes, _) = raw(gateway.http, &[other], false, Duration::from_secs(5)).await;
    assert!(bytes.starts_with(b"HTTP/1.1 417 "), "{}", String::from_utf8_lossy(&bytes));
    assert!(got.heads().is_empty());
}

#[tokio::test]
async fn a_service_that_ignores_the_expectation_gets_the_body_after_a_second() {
    let (addr, got) = service().await;
    let (h2, got_by_h2) = h2_service().await;
    for (addr, protocol, got) in [(addr, "http", got), (h2.addr, "h2c", got_by_h2)] {
        let gateway = gateway(addr, protocol).await;
        let began = Instant::now();
        let (one, two) =
            tokio::join!(over_http1(&gateway, "POST", "/ignores"), over_http2(&gateway, "POST", "/ignores"));
        assert_eq!((one.0, two), (vec![100, 200], vec![100, 200]), "{protocol}");
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(got.content(), b"hellohello");
    }
}

#[tokio::test]
async fn a_client_that_does_not_wait_loses_nothing() {
    let (addr, got) = service().await;
    let gateway = gateway(addr, "http").await;
    let request = [head("POST", "/"), b"hello".to_vec()].concat();
    let (bytes, _) = raw(gateway.http, &[&request], false, Duration::from_secs(10)).await;
    assert!(bytes.starts_with(CONTINUE) && bytes.ends_with(b"ok"), "{}", String::from_utf8_lossy(&bytes));
    let mut client = FrameClient::open(gateway.http).await;
    let fields: [Field<'_>; 1] = [(b"expect", b"100-continue")];
    client.send(&[client.head(1, "POST", "/refuses", &fields), data(1, END_STREAM, b"hello")].concat()).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(417));
    client.send(&[client.head(3, "POST", "/", &fields), data(3, END_STREAM, b"hello")].concat()).await;
    assert_eq!(client.outcome(3).await, Outcome::Status(100));
    assert_eq!(client.outcome(3).await, Outcome::Status(200));
    assert!(got.heads()[2].contains("transfer-encoding: chunked"));
}

/// Without an expectation the gateway waits for nothing; without content there is nothing to expect.
#[tokio::test]
async fn an_expectation_that_means_nothing_is_not_passed_on() {
    let (addr, got) = service().await;
    let gateway = gateway(addr, "http").await;
    for request in [
        &b"POST /ignores HTTP/1.0\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello"[..],
        b"POST /ignores HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let began = Instant::now();
        let (bytes, _) = raw(gateway.http, &[request], false, Duration::from_secs(10)).await;
        assert!(
            bytes.starts_with(b"HTTP/1.") && bytes.ends_with(b"ok"),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    let without = b"GET /leaves HTTP/1.1\r\nhost: gw\r\nconnection: close\r\nexpect: 100-continue\r\n\r\n";
    raw(gateway.http, &[without], false, Duration::from_secs(10)).await;
    assert!(got.heads().iter().all(|head| !head.contains("expect")), "{:?}", got.heads());
}

#[tokio::test]
async fn another_instance_is_tried_while_the_client_still_has_its_body() {
    let (leaving, other) = (service().await, service().await);
    // The first instance answers every path by leaving.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = listener.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 1024];
            let _ = stream.read(&mut some).await;
            count.fetch_add(1, SeqCst);
        }
    });
    drop(leaving);
    let gateway = TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s, retry: {{methods: [PUT], body: off, budget: 100%, backoff: 1ms..1ms}}}}]\n\
         services: {{s: {{hosts: [\"{first}\", \"{}\"], balance: round_robin, breaker: off, outlier: off}}}}\n",
        other.0
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(over_http1(&gateway, "PUT", "/").await.0, [100, 200]);
        assert_eq!(over_http2(&gateway, "PUT", "/").await, [100, 200]);
    }
    assert!(tries.load(SeqCst) > 0, "some attempt failed");
    assert_eq!(other.1.content(), b"hello".repeat(4));
}
