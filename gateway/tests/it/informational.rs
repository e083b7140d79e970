//! Informational responses (1xx) of a service reach the client, before the final response and over both protocols
//! (RFC 9110 §15.2).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};

use crate::support::{
    DEADLINE,
    backend::Backend,
    client::{get, raw, send, text},
    eventually,
    frames::{END_STREAM, Field, FrameClient, Outcome, data},
    gateway::TestGateway,
};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nx-internal: 7\r\nx-set: of the service\r\naccess-control-allow-origin: *\r\nx-request-id: of-the-service\r\n\
    connection: x-hop\r\nx-hop: 1\r\ncontent-length: 3\r\n\r\n";
/// As short as can be: nearly as many as one request may get.
const SHORT: &str = "HTTP/1.1 103 E\r\n\r\n";
const FLOOD: usize = 3_600;
const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers by path; `/waits` sends its final response when it is notified.
async fn service() -> (SocketAddr, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, go_on) = (listener.local_addr().unwrap(), Arc::new(Notify::new()));
    let told = Arc::clone(&go_on);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_all(stream, Arc::clone(&told)));
        }
    });
    (addr, go_on)
}

async fn answer_all(mut stream: TcpStream, go_on: Arc<Notify>) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let path = text.split(' ').nth(1).unwrap().to_owned();
        let mut say = async |bytes: &[u8]| stream.write_all(bytes).await.is_ok();
        let all_went = match path.as_str() {
            "/together" => say(format!("{HINTS}{FINAL}").as_bytes()).await,
            "/bytes" => {
                let mut all_went = true;
                for byte in format!("{HINTS}{HINTS}{FINAL}").as_bytes() {
                    all_went &= say(&[*byte]).await;
                    tokio::task::yield_now().await;
                }
                all_went
            }
            "/waits" => {
                let begun = say(HINTS.as_bytes()).await;
                go_on.notified().await;
                begun && say(FINAL.as_bytes()).await
            }
            "/several" => {
                let others = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 X\r\na: b\r\n\r\n";
                say(format!("{others}{FINAL}").as_bytes()).await
            }
            "/switches" => {
                say(format!("{HINTS}HTTP/1.1 101 Switching Protocols\r\n\r\n{HINTS}").as_bytes()).await
            }
            "/broken" => {
                say(format!("{HINTS}HTTP/1.1 103 Early\r\nbad name: x\r\n\r\n{FINAL}").as_bytes()).await
            }
            // The parser ends a head at bare line feeds, too.
            "/feeds" => {
                let length = HINTS.len();
                let hints = "HTTP/1.1 103 Early\nlink: a\n\n";
                say(format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{HINTS}").as_bytes())
                    .await
            }
            "/hangs" => say(HINTS.as_bytes()).await,
            "/flood" => say(format!("{}{FINAL}", SHORT.repeat(FLOOD)).as_bytes()).await,
            "/endless" => {
                // It fails when the gateway closes the connection.
                while say(HINTS.repeat(100).as_bytes()).await {}
                false
            }
            // The content looks like a head.
            "/content" => {
                let length = HINTS.len();
                say(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{HINTS}").as_bytes()).await
            }
            "/gone" => {
                say(HINTS.as_bytes()).await;
                false
            }
            _ => say(FINAL.as_bytes()).await,
        };
        if !all_went {
            return;
        }
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("it comes in time")
}

async fn gateway(service: SocketAddr) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\nroutes:\n- {{path: /flood, service: s}}\n- {{path: /**, service: s, headers: {{response: {{remove: [x-internal], set: {{x-set: '1'}}}}}},\n\
           \x20  timeout: {{total: 2s, try: 1s}}, retry: {{on: []}}}}\nservices: {{s: {{hosts: [\"{service}\"], breaker: off, outlier: off}}}}\n"
    ))
    .await
}

/// The heads of all responses on one HTTP/1.1 connection, and their content, as lines in order.
async fn heads(gateway: &TestGateway, requests: &str) -> Vec<String> {
    let (bytes, _) = raw(gateway.http, &[requests.as_bytes()], false, Duration::from_secs(10)).await;
    let text = String::from_utf8(bytes).unwrap();
    text.split("HTTP/1.1 ").skip(1).map(str::to_owned).collect()
}

fn request(path: &str, last: bool) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: gw\r\n{}\r\n", if last { "connection: close\r\n" } else { "" })
}

fn statuses(heads: &[String]) -> Vec<&str> {
    heads.iter().map(|head| head.get(..3).unwrap_or_default()).collect()
}

#[tokio::test]
async fn an_http1_client_gets_them_before_the_final_response_in_whatever_pieces_they_come() {
    let (service, _) = service().await;
    let gateway = gateway(service).await;
    for (path, expected) in [
        ("/together", &["103", "200"][..]),
        ("/bytes", &["103", "103", "200"]),
        ("/several", &["102", "199", "200"]),
        ("/switches", &["103", "502"]),
        ("/broken", &["103", "502"]),
        ("/hangs", &["103", "504"]),
        ("/gone", &["103", "502"]),
        ("/none", &["200"]),
    ] {
        let heads = heads(&gateway, &request(path, true)).await;
        assert_eq!(statuses(&heads), expected, "{path}: {heads:?}");
        for hints in heads.iter().filter(|head| head.starts_with("103")) {
            assert_eq!(
                *hints, "103 Early Hints\r\nlink: </a.css>; rel=preload\r\nvia: 1.1 millgate\r\n\r\n",
                "{path}: no field of the connection, none that the route removes, none that it sets"
            );
        }
        assert!(heads.last().unwrap().contains("x-set: 1"), "{path}");
    }
    let feeds = heads(&gateway, &request("/feeds", true)).await;
    assert_eq!(statuses(&feeds), ["103", "200", "103"], "the last one is content: {feeds:?}");
    assert!(feeds[2].ends_with("content-length: 3\r\n\r\n"), "and goes as it came: {feeds:?}");
    let content = heads(&gateway, &request("/content", true)).await;
    assert_eq!(statuses(&content), ["200", "103"], "the second one is content");
    assert!(content[1].ends_with("content-length: 3\r\n\r\n"), "and goes as it came: {content:?}");
}

#[tokio::test]
async fn they_come_while_the_service_still_works_on_its_response() {
    let (service, go_on) = service().await;
    let gateway = gateway(service).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    for _ in 0..2 {
        client.write_all(request("/waits", false).as_bytes()).await.unwrap();
        let read = async |client: &mut TcpStream, end: &str| {
            let mut bytes = Vec::new();
            while !bytes.ends_with(end.as_bytes()) {
                bytes.push(client.read_u8().await.unwrap());
            }
            String::from_utf8(bytes).unwrap()
        };
        let hints = soon(read(&mut client, "\r\n\r\n")).await;
        assert!(hints.starts_with("HTTP/1.1 103 "), "{hints}");
        go_on.notify_one();
        let response = soon(read(&mut client, "\r\n\r\nok")).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }
}

#[tokio::test]
async fn pipelined_requests_and_a_connection_that_is_used_again_have_each_its_own() {
    let (service, _) = service().await;
    let gateway = gateway(service).await;
    let pipelined = [request("/together", false), request("/none", false), request("/bytes", false)].concat();
    let heads = heads(&gateway, &(pipelined + &request("/together", true))).await;
    assert_eq!(statuses(&heads), ["103", "200", "200", "103", "103", "200", "103", "200"]);
}

#[tokio::test]
async fn an_http_1_0_client_gets_none() {
    let (service, _) = service().await;
    let gateway = gateway(service).await;
    let request = b"GET /together HTTP/1.0\r\nhost: gw\r\n\r\n";
    let (bytes, _) = raw(gateway.http, &[request], false, Duration::from_secs(10)).await;
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(" 200 OK\r\n") && !text.contains(" 103 "), "{text}");
}

/// Informational responses and the final one of a stream.
async fn over_http2(
    sender: &h2::client::SendRequest<Bytes>,
    path: &str,
    mut seen: impl FnMut(),
) -> (Vec<(StatusCode, HeaderMap)>, Result<StatusCode, h2::Error>) {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = Request::get(format!("http://gw{path}")).body(()).unwrap();
    let (mut response, _) = sender.send_request(request, true).unwrap();
    let mut informational = Vec::new();
    loop {
        let next = std::future::poll_fn(|cx| response.poll_informational(cx));
        let Some(found) = soon(next).await else { break };
        let (parts, ()) = found.unwrap().into_parts();
        informational.push((parts.status, parts.headers));
        seen();
    }
    (informational, soon(response).await.map(|response| response.status()))
}

#[tokio::test]
async fn http2_streams_get_them_each_its_own_and_while_the_service_still_works() {
    let (service, go_on) = service().await;
    let gateway = gateway(service).await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (found, status) = over_http2(&sender, "/waits", || go_on.notify_one()).await;
    assert_eq!((found.len(), status.unwrap()), (1, StatusCode::OK));
    let fields: Vec<_> =
        found[0].1.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(fields, [("link", "</a.css>; rel=preload"), ("via", "1.1 millgate")]);
    let asked = ["/together", "/bytes", "/several", "/none", "/switches", "/hangs", "/gone"].map(|path| {
        let sender = sender.clone();
        tokio::spawn(async move {
            let (found, status) = over_http2(&sender, path, || ()).await;
            (found.iter().map(|(status, _)| status.as_u16()).collect::<Vec<_>>(), status.unwrap().as_u16())
        })
    });
    let mut came = Vec::new();
    for one in asked {
        came.push(soon(one).await.unwrap());
    }
    let expected: [(&[u16], u16); 7] = [
        (&[103], 200),
        (&[103, 103], 200),
        (&[102, 199], 200),
        (&[], 200),
        (&[103], 502),
        (&[103], 504),
        (&[103], 502),
    ];
    assert_eq!(came, expected.map(|(informational, status)| (informational.to_vec(), status)));
}

#[tokio::test]
async fn a_client_that_takes_them_slowly_gets_the_final_response_and_costs_no_more_than_a_few() {
    let (service, _) = service().await;
    let gateway = gateway(service).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut client = socket.connect(gateway.http).await.unwrap();
    client.write_all(request("/flood", true).as_bytes()).await.unwrap();
    // They come at once, with what the gateway adds they are five times what it keeps, and the client reads nothing of them.
    let dropped = "millgate_informational_responses_total{result=\"dropped\"}";
    let metrics = async || text(&send(gateway.admin(), get("/metrics")).await).to_owned();
    eventually("some are dropped", async || metrics().await.contains(dropped)).await;
    let mut all = Vec::new();
    soon(client.read_to_end(&mut all)).await.unwrap();
    let all = String::from_utf8(all).unwrap();
    assert!(all.ends_with("\r\n\r\nok"), "{}", &all[all.len() - 200..]);
    let sent = all.matches("HTTP/1.1 103 ").count();
    let metrics = metrics().await;
    let count = |result: &str| {
        let name = format!("millgate_informational_responses_total{{result=\"{result}\"}} ");
        metrics.split(&name).nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok()).unwrap()
    };
    assert_eq!((count("forwarded"), count("forwarded") + count("dropped")), (sent, FLOOD));
}

#[tokio::test]
async fn a_service_that_sends_them_without_end_has_not_answered() {
    let (service, _) = service().await;
    let gateway = gateway(service).await;
    let heads = heads(&gateway, &request("/endless", true)).await;
    assert_eq!(statuses(&heads).last(), Some(&"502"), "{} responses", heads.len());
    let last = heads.last().unwrap();
    assert!(last.contains("\"code\":\"upstream_protocol_error\""), "{last}");
    assert!(heads.len() <= 64 * 1024 / HINTS.len() + 1, "{} responses", heads.len());
}

/// curl waits a second with a large upload unless it is invited; other clients wait for longer.
#[tokio::test]
async fn a_client_of_http2_that_waits_with_its_body_is_invited_or_gets_its_refusal() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&format!(
        "access_log: {{format: off}}\nroutes:\n\
         \x20 - {{path: /small, service: s, body_limit: 1KiB}}\n\
         \x20 - {{path: /gathers, service: s}}\n\
         \x20 - {{path: /streams, service: s, body: stream}}\n\
         services: {{s: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    ))
    .await;
    let stream = 1;
    for path in ["/gathers", "/streams"] {
        let mut client = FrameClient::open(gateway.http).await;
        let fields: [Field<'_>; 2] = [(b"expect", b"100-continue"), (b"content-length", b"5")];
        client.send(&client.head(stream, "POST", path, &fields)).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(100), "{path}");
        client.send(&data(stream, END_STREAM, b"hello")).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(200), "{path}");
        let seen = backend.only_seen();
        assert_eq!(seen.body(), "hello");
        assert_eq!(seen.headers()["expect"], "100-continue");
    }
    let fields: [Field<'_>; 2] = [(b"expect", b"100-continue"), (b"content-length", b"5000")];
    for (path, status) in [("/small", 413), ("/none", 404)] {
        let mut client = FrameClient::open(gateway.http).await;
        client.send(&client.head(stream, "POST", path, &fields)).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(status), "{path}: no body is wanted");
    }
}
