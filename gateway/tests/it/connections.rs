//! Clients that are slow, silent or leave: the blame is right, and nothing stays behind.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    backend::{Backend, RawBackend},
    client::{get, http2, json, raw, request, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn to(addr: std::net::SocketAddr, route: &str, service: &str) -> String {
    format!(
        "routes:\n  - {{path: /**, service: one{route}}}\nservices:\n  one: {{hosts: [\"{addr}\"]{service}}}\n"
    )
}

const SHORT: &str =
    "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: 1s, idle_timeout: 1s}\n";

/// Within this, whatever the sweep has to end has ended.
const SWEPT: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_client_that_drips_its_body_is_timed_out_as_the_one_at_fault() {
    let backend = Backend::named("one").await;
    let breaker = ", breaker: {errors: 50%, min: 2, window: 10s, open: 30s}";
    let gateway = TestGateway::start(&to(backend.addr, ", timeout: {idle: 200ms}", breaker)).await;
    for _ in 0..4 {
        let head = b"POST /x HTTP/1.1\r\nhost: gw\r\ncontent-length: 1000\r\n\r\nx";
        let (answer, _) = raw(gateway.http, &[head], false, Duration::from_secs(2)).await;
        assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(status(gateway.http, "/x").await, 200, "the service's breaker has learned nothing from it");
}

#[tokio::test]
async fn a_local_reply_to_head_has_fields_and_no_content_in_both_protocols() {
    let backend = Backend::named("one").await;
    let log = "access_log: {format: json, file: access.log}\n";
    let gateway =
        TestGateway::start(&format!("{log}{}", to(backend.addr, "", "").replace("/**", "/known"))).await;
    let reply = send(gateway.http, request("HEAD", "/none", "")).await;
    assert_eq!((reply.status().as_u16(), text(&reply)), (404, ""));
    let mut sender = http2(gateway.http).await;
    let head = http::Request::head("http://gw/none").body(Full::new(Bytes::new())).unwrap();
    let reply = sender.send_request(head).await.unwrap();
    assert_eq!(reply.status(), 404);
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "");
    let lines = || std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
    eventually("both are logged", || async { lines().lines().count() == 2 }).await;
    assert_eq!(lines().matches(r#""flags":"route_not_found""#).count(), 2, "{}", lines());
}

#[tokio::test]
async fn a_preface_and_then_silence_is_closed() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&format!("{SHORT}{}", to(backend.addr, "", ""))).await;
    let (_, closed) = raw(gateway.http, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], false, SWEPT).await;
    assert!(closed);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_cut_and_frees_its_place() {
    let backend = Backend::with(|_| http::Response::new(Bytes::from(vec![b'x'; 64 * 1024 * 1024]))).await;
    let gateway = TestGateway::start(&format!("{SHORT}{}", to(backend.addr, "", ""))).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    client.readable().await.unwrap();
    let in_flight = || async {
        let services = send(gateway.admin(), get("/api/v1/services")).await;
        json(&services)["services"][0]["in_flight"].as_u64()
    };
    assert_eq!(in_flight().await, Some(1));
    eventually("nothing is in flight", || async { in_flight().await == Some(0) }).await;
    drop(client);
}

#[tokio::test]
async fn a_large_response_arrives_whole_and_is_read_with_large_buffers_only_for_a_client_that_takes_it() {
    let content: Bytes =
        (0..16 * 1024 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = content.clone();
    let backend = Backend::with(move |_| http::Response::new(sent.clone())).await;
    let gateway = TestGateway::start(&to(backend.addr, "", "")).await;
    let large = || async {
        let metrics = send(gateway.admin(), get("/metrics")).await;
        let line =
            text(&metrics).lines().find_map(|line| line.strip_prefix("millgate_upstream_large_buffers "));
        line.expect("the metric is there").parse::<f64>().unwrap()
    };
    let mut silent = TcpStream::connect(gateway.http).await.unwrap();
    silent.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    silent.readable().await.unwrap();
    let reply = send(gateway.http, get("/x")).await;
    assert!(reply.body() == &content, "every byte, in order");
    eventually("one connection has had large reads", || async { large().await > 0.0 }).await;
    assert!(large().await < 2.0, "the client that reads nothing caused none");
    drop(silent);
}

#[tokio::test]
async fn a_connection_that_never_said_a_word_does_not_hold_up_the_drain() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&to(backend.addr, "", "")).await;
    let mut silent = TcpStream::connect(gateway.http).await.unwrap();
    assert_eq!(status(gateway.http, "/x").await, 200);
    let cut = tokio::time::timeout(Duration::from_secs(8), gateway.stop()).await.unwrap();
    assert_eq!(cut, 0);
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_499_in_the_metrics_and_not_an_error_of_ours() {
    let silent = RawBackend::answering(b"", false).await;
    let gateway = TestGateway::start(&to(silent.addr, "", "")).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    eventually("the service has the request", || async { !silent.received.lock().unwrap().is_empty() }).await;
    drop(client);
    eventually("it is counted", || async {
        let metrics = send(gateway.admin(), get("/metrics")).await;
        assert!(!text(&metrics).contains(r#"code="500""#));
        text(&metrics)
            .contains(r#"millgate_requests_total{route="/**",service="one",method="GET",code="499"} 1"#)
    })
    .await;
}

#[tokio::test]
async fn no_retry_is_sent_when_the_time_is_over() {
    // The backlog of a listener that is never polled takes the connection, and the answer never comes.
    let silent = RawBackend::answering(b"", false).await;
    let live = Backend::named("live").await;
    let config = format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: s, timeout: {{total: 150ms, try: 100ms}}, retry: {{retries: 3, budget: 100%, backoff: 100ms..100ms}}}}\nservices:\n  s: {{hosts: [\"{}\", \"{}\"], breaker: off}}\n",
        silent.addr, live.addr
    );
    let gateway = TestGateway::start(&config).await;
    let mut late = 0;
    for _ in 0..6 {
        late += usize::from(status(gateway.http, "/x").await == 504);
    }
    assert_eq!((late, live.served()), (3, 3), "a request that timed out was not sent anywhere else");
}

#[tokio::test]
async fn the_log_has_the_path_that_was_authorised() {
    let backend = Backend::named("one").await;
    let log = "access_log: {format: json, file: access.log}\n";
    let gateway =
        TestGateway::start(&format!("{log}{}", to(backend.addr, "", "").replace("/**", "/users/**"))).await;
    assert_eq!(status(gateway.http, "/%75sers/x").await, 200);
    let lines = || std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
    eventually("it is logged", || async { lines().contains(r#""path":"/users/x""#) }).await;
}

async fn parked(gateway: &TestGateway, connections: usize) -> bool {
    let metrics = send(gateway.admin(), get("/metrics")).await;
    text(&metrics).contains(&format!("millgate_connections_parked {connections}\n"))
}

/// The status line of one answer without content.
async fn answer(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap().lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_client_that_pauses_is_parked_and_its_next_request_served_whole_or_in_pieces() {
    let backend = Backend::with(|_| http::Response::new(Bytes::new())).await;
    let listen =
        "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: 1s, idle_timeout: 5s}\n";
    let gateway = TestGateway::start(&format!("{listen}{}", to(backend.addr, "", ""))).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /a HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await, "HTTP/1.1 200 OK");
    eventually("the connection is parked", || parked(&gateway, 1)).await;
    // Two requests in one segment, the second one cut in its head.
    client.write_all(b"GET /b HTTP/1.1\r\nhost: gw\r\n\r\nGET /c HTT").await.unwrap();
    assert_eq!(answer(&mut client).await, "HTTP/1.1 200 OK");
    client.write_all(b"P/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await, "HTTP/1.1 200 OK");
    eventually("it is parked again", || parked(&gateway, 1)).await;
    let paths = backend.take_seen().into_iter().map(|seen| seen.uri().path().to_owned());
    assert_eq!(paths.collect::<Vec<_>>(), ["/a", "/b", "/c"]);
    let closed = tokio::time::timeout(SWEPT, client.read_u8()).await;
    assert!(matches!(closed, Ok(Err(_))), "idle_timeout holds for a parked connection too");
}

#[tokio::test]
async fn half_a_head_left_behind_by_a_request_is_a_head_that_is_too_slow_and_not_an_idle_connection() {
    let backend = Backend::with(|_| http::Response::new(Bytes::new())).await;
    let listen =
        "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: 2s, idle_timeout: 60s}\n";
    let gateway = TestGateway::start(&format!("{listen}{}", to(backend.addr, "", ""))).await;
    let heads: &[u8] = b"GET /a HTTP/1.1\r\nhost: gw\r\n\r\nGET /b HTTP/1.1\r\nho";
    let (answers, closed) = raw(gateway.http, &[heads], false, SWEPT).await;
    assert_eq!(answers.windows(12).filter(|window| window == b"HTTP/1.1 200").count(), 1);
    assert!(closed);
}

/// What follows a refused request on its connection is its body, however late it comes and whatever it looks like.
#[tokio::test]
async fn the_body_of_a_refused_request_is_never_a_request_after_a_pause_either() {
    let backend = Backend::with(|_| http::Response::new(Bytes::new())).await;
    let gateway = TestGateway::start(&to(backend.addr, "", "").replace("/**", "/known/**")).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let first = b"GET /known/a HTTP/1.1\r\nhost: gw\r\n\r\n";
        let (mut client, mut other) = (
            TcpStream::connect(gateway.http).await.unwrap(),
            TcpStream::connect(gateway.http).await.unwrap(),
        );
        client.write_all(first).await.unwrap();
        assert_eq!(answer(&mut client).await, "HTTP/1.1 200 OK");
        eventually("the connection is parked", || parked(&gateway, 1)).await;
        // The other one is parked by a later sweep, which has passed the first one again by then.
        other.write_all(first).await.unwrap();
        assert_eq!(answer(&mut other).await, "HTTP/1.1 200 OK");
        eventually("the other one is parked, too", || parked(&gateway, 2)).await;
        let body = b"GET /known/smuggled HTTP/1.1\r\nhost: gw\r\n\r\n";
        let head =
            format!("POST /nothing HTTP/1.1\r\nhost: gw\r\ncontent-length: {}\r\n{expect}\r\n", body.len());
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut client).await, "HTTP/1.1 404 Not Found");
        // It may be closed already.
        let _ = client.write_all(body).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(SWEPT, client.read_to_end(&mut rest)).await;
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{}", String::from_utf8_lossy(&rest));
        drop(other);
        eventually("both are gone", || parked(&gateway, 0)).await;
    }
    let paths = backend.take_seen().into_iter().map(|seen| seen.uri().path().to_owned());
    assert_eq!(paths.collect::<Vec<_>>(), ["/known/a"; 4]);
}
