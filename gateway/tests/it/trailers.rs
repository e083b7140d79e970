//! Trailer sections pass in both directions where both sides can carry them, without fields that a message may not decide behind its
//! content (RFC 9110 §6.5).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    DEADLINE,
    client::raw,
    eventually,
    frames::{END_STREAM, Field, FrameClient, Outcome, data, headers},
    gateway::TestGateway,
    h2_service::{H2Service, collect, send},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// An HTTP/1.1 service that reads whole requests and gives the same answer to each.
struct Service {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Service {
    /// `answer`: `None` closes the connection instead.
    async fn start(answer: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, connections) = <(Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>)>::default();
        let (log, count) = (Arc::clone(&seen), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let (log, answer) = (Arc::clone(&log), answer.clone());
                tokio::spawn(async move {
                    while let Some(request) = read_message(&mut stream).await {
                        log.lock().unwrap().push(request);
                        let Some(answer) = &answer else { return };
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, seen, connections }
    }

    fn only_seen(&self) -> String {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

/// One message, to its last byte and not further. `None`: the connection ended.
async fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let read_to = async |stream: &mut TcpStream, bytes: &mut Vec<u8>, end: &[u8], from: usize| {
        while !bytes[from.min(bytes.len())..].ends_with(end) {
            bytes.push(stream.read_u8().await.ok()?);
        }
        Some(())
    };
    read_to(stream, &mut bytes, b"\r\n\r\n", 0).await?;
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        let mut from = bytes.len() - 2;
        read_to(stream, &mut bytes, b"\r\n0\r\n", from).await?;
        from = bytes.len() - 2;
        read_to(stream, &mut bytes, b"\r\n\r\n", from).await?;
    } else if let Some(length) = head.split("content-length: ").nth(1) {
        let length: usize = length.lines().next()?.parse().ok()?;
        let mut content = vec![0; length];
        stream.read_exact(&mut content).await.ok()?;
        bytes.extend(content);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The trailer section of a message.
fn section(message: &str) -> &str {
    message.split_once("\r\n0\r\n").map_or("", |(_, section)| section)
}

const TRAILED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: X-Sum, Content-Length, x-internal\r\n\r\n\
    5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 70\r\nx-internal: 2\r\nx-set: 3\r\nset-cookie: a=b\r\nX-Sum: 4\r\n\r\n";

/// What an HTTP/2 service answers, after it has read the request; and the trailers that it got.
async fn h2_service(length: Option<&'static str>) -> (H2Service, Arc<Mutex<Vec<(HeaderMap, HeaderMap)>>>) {
    let seen = Arc::<Mutex<Vec<(HeaderMap, HeaderMap)>>>::default();
    let log = Arc::clone(&seen);
    let service = H2Service::start(
        |_| {},
        move |request, mut reply| {
            let log = Arc::clone(&log);
            Box::pin(async move {
                let (head, mut stream) = request.into_parts();
                let Some((body, trailers)) = collect(&mut stream).await else { return };
                assert!(body.is_empty() || body == b"hello");
                log.lock().unwrap().push((head.headers, trailers.unwrap_or_default()));
                let mut response = Response::builder().header("trailer", "x-sum, x-internal");
                if let Some(length) = length {
                    response = response.header("content-length", length);
                }
                let mut to = reply.send_response(response.body(()).unwrap(), false).unwrap();
                send(&mut to, Bytes::from_static(b"hello"), false).await;
                let mut trailers = HeaderMap::new();
                for (name, value) in [
                    ("x-sum", "1"),
                    ("x-internal", "2"),
                    ("x-set", "3"),
                    ("set-cookie", "a=b"),
                    ("x-sum", "4"),
                ] {
                    trailers.append(name, value.parse().unwrap());
                }
                let _ = to.send_trailers(trailers);
            })
        },
    )
    .await;
    (service, seen)
}

async fn gateway(service: SocketAddr, protocol: &str) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\nroutes:\n\
         - {{path: /small, service: s, body_limit: 3B}}\n\
         - {{path: /streams, service: s, body: stream}}\n\
         - {{path: /**, service: s, headers: {{request: {{set: {{x-tenant: a}}}}, response: {{remove: [x-internal], set: {{x-set: '1'}}}}}}}}\n\
         services: {{s: {{hosts: [\"{service}\"], protocol: {protocol}, breaker: off, outlier: off}}}}\n"
    ))
    .await
}

/// The flag of the last line of the log, once there are so many lines.
async fn flag(gateway: &TestGateway, lines: usize) -> String {
    let file = gateway.dir.path().join("access.log");
    let log = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the request is logged", async || log().lines().count() >= lines).await;
    let line: serde_json::Value = serde_json::from_str(log().lines().last().unwrap()).unwrap();
    line["flags"].as_str().unwrap_or_default().to_owned()
}

async fn get(gateway: &TestGateway, method: &str, fields: &str) -> String {
    let request = format!("{method} /x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n{fields}\r\n");
    let (bytes, _) = raw(gateway.http, &[request.as_bytes()], false, PATIENCE).await;
    String::from_utf8(bytes).unwrap()
}

/// Head, content and trailers of a response on an HTTP/2 stream.
async fn over_http2(
    gateway: &TestGateway,
    request: Request<()>,
    content: Option<(&'static [u8], Option<HeaderMap>)>,
) -> (Response<()>, Option<(Vec<u8>, HeaderMap)>) {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let (response, mut to) = client.send_request(request, content.is_none()).unwrap();
    if let Some((content, trailers)) = content {
        to.send_data(Bytes::from_static(content), trailers.is_none()).unwrap();
        if let Some(trailers) = trailers {
            to.send_trailers(trailers).unwrap();
        }
    }
    let (head, mut from) = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_parts();
    let came = tokio::time::timeout(DEADLINE, collect(&mut from)).await.unwrap();
    (Response::from_parts(head, ()), came.map(|(content, trailers)| (content, trailers.unwrap_or_default())))
}

fn pairs(fields: &HeaderMap) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

#[tokio::test]
async fn those_of_a_service_reach_every_client_that_takes_them() {
    let http1 = Service::start(Some(TRAILED.to_vec())).await;
    let (http2, _) = h2_service(None).await;
    let (with_length, _) = h2_service(Some("5")).await;
    for (addr, protocol) in [(http1.addr, "http"), (http2.addr, "h2c"), (with_length.addr, "h2c")] {
        let gateway = gateway(addr, protocol).await;
        let (head, came) = over_http2(&gateway, Request::get("http://gw/x").body(()).unwrap(), None).await;
        let (content, trailers) = came.unwrap();
        assert_eq!((content, pairs(&trailers)), (b"hello".to_vec(), vec![("x-sum", "1"), ("x-sum", "4")]));
        assert_eq!(head.headers()["trailer"], "x-sum");

        let response = get(&gateway, "GET", "te: gzip;q=0.5, trailers\r\n").await;
        let (head, _) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\ntrailer: x-sum\r\n") && !head.contains("content-length"), "{head}");
        assert_eq!(section(&response), "x-sum: 1\r\nx-sum: 4\r\n\r\n");

        // Without the word of the client there are none, nor a word about them.
        let response = get(&gateway, "GET", "te: gzip\r\n").await;
        assert!(!response.contains("x-sum") && !response.contains("trailer:"), "{response}");
        assert!(
            response.ends_with("\r\n5\r\nhello\r\n0\r\n\r\n") || response.ends_with("\r\n\r\nhello"),
            "{response}"
        );
        for lines in 1..=3 {
            assert_eq!(flag(&gateway, lines).await, "-", "{protocol}: all of them are whole");
        }
    }
}

#[tokio::test]
async fn a_response_without_content_has_none() {
    let service = Service::start(Some(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n".to_vec(),
    ))
    .await;
    let gateway = gateway(service.addr, "http").await;
    for _ in 0..2 {
        let response = get(&gateway, "HEAD", "te: trailers\r\n").await;
        assert!(response.starts_with("HTTP/1.1 200 ") && !response.contains("trailer: "), "{response}");
        let (head, came) = over_http2(&gateway, Request::head("http://gw/x").body(()).unwrap(), None).await;
        assert!(!head.headers().contains_key("trailer") && came.unwrap().1.is_empty());
    }
    assert_eq!(service.connections.load(SeqCst), 1, "and its connection goes on");
}

/// Whom the gateway says that it takes trailers: all services of a client that has said so.
#[tokio::test]
async fn a_service_learns_whether_its_client_takes_trailers() {
    let http1 = Service::start(Some(TRAILED.to_vec())).await;
    let (http2, seen) = h2_service(None).await;
    let (before, behind) = (gateway(http1.addr, "http").await, gateway(http2.addr, "h2c").await);
    for (fields, says) in [("te: trailers\r\n", true), ("te: gzip\r\n", false), ("", false)] {
        get(&before, "GET", fields).await;
        let request = http1.only_seen();
        assert_eq!(request.contains("\r\nte: trailers\r\nconnection: te\r\n"), says, "{request}");
        assert!(!request.contains("gzip"));
        get(&behind, "GET", fields).await;
        let (head, _) = seen.lock().unwrap().pop().unwrap();
        assert_eq!((head.get("te").is_some(), head.contains_key("connection")), (says, false), "{head:?}");
    }
}

const SENT: &[(&str, &str)] = &[
    ("x-sum", "1"),
    ("content-length", "7"),
    ("x-forwarded-for", "1.2.3.4"),
    ("authorization", "Bearer x"),
    ("x-tenant", "b"),
    ("x_tenant", "b"),
    ("client-cert", "c"),
    ("x-other", ""),
];

#[tokio::test]
async fn those_of_a_client_reach_every_service_and_decide_nothing_there() {
    let http1 = Service::start(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let (http2, seen) = h2_service(None).await;
    let lines = SENT.iter().map(|(name, value)| [*name, ": ", value, "\r\n"].concat()).collect::<String>();
    let map: HeaderMap = SENT
        .iter()
        .map(|(name, value)| (http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap()))
        .collect();
    let (before, behind) = (gateway(http1.addr, "http").await, gateway(http2.addr, "h2c").await);
    for path in ["/gathers", "/streams"] {
        for gateway in [&before, &behind] {
            let raw_request = format!(
                "POST {path} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: X-Sum, Host\r\n\r\n\
                 5\r\nhello\r\n0\r\n{lines}\r\n"
            );
            let (bytes, _) = raw(gateway.http, &[raw_request.as_bytes()], false, PATIENCE).await;
            assert!(bytes.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&bytes));
            let request = Request::post(format!("http://gw{path}")).header("trailer", "x-sum, host").body(());
            let (head, _) = over_http2(gateway, request.unwrap(), Some((b"hello", Some(map.clone())))).await;
            assert_eq!(head.status(), 200);
        }
        for request in std::mem::take(&mut *http1.seen.lock().unwrap()) {
            assert!(request.contains("\r\ntrailer: x-sum\r\n"), "{request}");
            assert_eq!(
                request.matches("\r\nx-tenant: ").count(),
                usize::from(path == "/gathers"),
                "{request}"
            );
            assert_eq!(section(&request), "x-sum: 1\r\nx-other: \r\n\r\n", "{request}");
        }
        for (head, trailers) in std::mem::take(&mut *seen.lock().unwrap()) {
            assert_eq!(pairs(&trailers), [("x-sum", "1"), ("x-other", "")]);
            assert_eq!(head["trailer"], "x-sum");
        }
    }
}

#[tokio::test]
async fn a_body_of_nothing_but_trailers_and_one_with_a_length_are_framed_as_they_are() {
    let service = Service::start(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let (http2, seen) = h2_service(None).await;
    let trailers = || HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), "1".parse().unwrap())]);
    let post = |length: Option<&'static str>| {
        let request = Request::post("http://gw/x");
        length
            .map_or(Request::post("http://gw/x"), |length| request.header("content-length", length))
            .body(())
            .unwrap()
    };
    let (before, behind) = (gateway(service.addr, "http").await, gateway(http2.addr, "h2c").await);
    over_http2(&before, post(None), Some((b"", Some(trailers())))).await;
    let request = service.only_seen();
    assert!(request.contains("transfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n"), "{request}");
    // A message with a length has no trailer section in HTTP/1.1.
    over_http2(&before, post(Some("5")), Some((b"hello", Some(trailers())))).await;
    let request = service.only_seen();
    assert!(request.ends_with("content-length: 5\r\n\r\nhello"), "{request}");
    over_http2(&behind, post(Some("5")), Some((b"hello", Some(trailers())))).await;
    assert_eq!(pairs(&seen.lock().unwrap()[0].1), [("x-sum", "1")]);
    // All of them went over one connection: nothing of a trailer section was left on it.
    over_http2(&before, post(None), Some((b"hello", Some(trailers())))).await;
    assert!(section(&service.only_seen()).starts_with("x-sum: 1\r\n"));
    assert_eq!(service.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn both_connections_go_on_behind_trailers_without_a_byte_left_over() {
    let service = Service::start(Some(TRAILED.to_vec())).await;
    let gateway = gateway(service.addr, "http").await;
    let request = |close: &str| {
        format!(
            "POST /x HTTP/1.1\r\nhost: gw\r\n{close}te: trailers\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: GET /evil HTTP/1.1\r\n\r\n"
        )
    };
    let all = [request(""), request(""), request("connection: close, te\r\n")].concat();
    let (bytes, closed) = raw(gateway.http, &[all.as_bytes()], false, PATIENCE).await;
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(
        (text.matches("HTTP/1.1 200 ").count(), text.matches("x-sum: 4\r\n\r\n").count()),
        (3, 3),
        "{text}"
    );
    assert!(closed);
    let seen = service.seen.lock().unwrap();
    assert!(seen.iter().all(|request| request.starts_with("POST /x ")) && seen.len() == 3, "{seen:?}");
    assert_eq!(service.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn what_connection_names_ends_here_in_trailers_too() {
    let service = Service::start(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let gateway = gateway(service.addr, "http").await;
    let request = "POST /x HTTP/1.1\r\nhost: gw\r\nconnection: close, x-hop\r\ntransfer-encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nx-hop: 1\r\nx-sum: 1\r\n\r\n";
    raw(gateway.http, &[request.as_bytes()], false, PATIENCE).await;
    assert_eq!(section(&service.only_seen()), "\r\n");
}

#[tokio::test]
async fn another_attempt_sends_the_trailers_again() {
    let (closing, answering) = (
        Service::start(None).await,
        Service::start(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await,
    );
    let gateway = TestGateway::start(&format!(
        "workers: 1\nroutes: [{{path: /**, service: s, retry: {{methods: [PUT], budget: 100%, backoff: 1ms..1ms}}}}]\n\
         services: {{s: {{hosts: [\"{}\", \"{}\"], balance: round_robin, breaker: off, outlier: off}}}}\n",
        closing.addr, answering.addr
    ))
    .await;
    let request = "PUT /x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    for _ in 0..2 {
        let (bytes, _) = raw(gateway.http, &[request.as_bytes()], false, PATIENCE).await;
        assert!(bytes.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&bytes));
    }
    assert!(!closing.seen.lock().unwrap().is_empty(), "one attempt failed");
    for seen in [&closing, &answering].map(|service| service.seen.lock().unwrap().clone()) {
        assert!(seen.iter().all(|request| section(request) == "x-sum: 1\r\n\r\n"), "{seen:?}");
    }
    assert_eq!(answering.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_section_is_bounded_as_a_header_section_is() {
    let service = Service::start(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let gateway = gateway(service.addr, "http").await;
    let long = "v".repeat(66 * 1024);
    let many: Vec<String> = (0..101).map(|at| format!("x-{at}")).collect();
    let sections: [Vec<Field<'_>>; 3] = [
        many.iter().map(|name| (name.as_bytes(), &b"v"[..])).collect(),
        vec![(b"x-long", long.as_bytes())],
        many[..100].iter().map(|name| (name.as_bytes(), &b"v"[..])).collect(),
    ];
    for (section, status) in sections.iter().zip([400, 400, 200]) {
        let mut request = b"POST /x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n".to_vec();
        for (name, value) in section {
            request.extend([*name, b": ", value, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        let (bytes, _) = raw(gateway.http, &[&request], false, PATIENCE).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{} fields: {text}", section.len());
        let mut client = FrameClient::open(gateway.http).await;
        let head = client.head(1, "POST", "/x", &[]);
        client.send(&[head, data(1, 0, b"hello"), headers(1, END_STREAM, section)].concat()).await;
        assert_eq!(client.outcome(1).await, Outcome::Status(status), "{} fields", section.len());
    }
    assert_eq!(service.seen.lock().unwrap().len(), 2, "the service gets only what has an end");
}

#[tokio::test]
async fn a_service_whose_trailers_do_not_end_breaks_off() {
    let mut answer = TRAILED.strip_suffix(b"\r\n").unwrap().to_vec();
    answer.extend(format!("x-long: {}\r\n\r\n", "v".repeat(1024 * 1024)).bytes());
    let service = Service::start(Some(answer)).await;
    let gateway = gateway(service.addr, "http").await;
    let response = get(&gateway, "GET", "te: trailers\r\n").await;
    assert!(response.contains("hello") && !response.contains("\r\n0\r\n"), "cut before its end: {response}");
    assert_eq!(flag(&gateway, 1).await, "upstream_protocol_error");
    let (_, came) = over_http2(&gateway, Request::get("http://gw/x").body(()).unwrap(), None).await;
    assert!(came.is_none(), "the stream is reset");
}

#[tokio::test]
async fn trailers_behind_a_body_that_is_too_large_are_not_read() {
    let service = Service::start(Some(TRAILED.to_vec())).await;
    let gateway = gateway(service.addr, "http").await;
    let request = "POST /small HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    let (bytes, _) = raw(gateway.http, &[request.as_bytes()], false, PATIENCE).await;
    assert!(bytes.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&bytes));
    assert!(service.seen.lock().unwrap().is_empty());
}
