//! Where a body ends: a request that its client broke off never reaches a service as a whole one.

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::support::{
    backend::Backend,
    client::{get, raw, send, text},
    eventually,
    frames::{CANCEL, Cut, END_STREAM, HEADERS, Listeners, NO_ERROR, data, headers, reset},
    gateway::TestGateway,
    recorder::Recorder,
};

/// Uploads of each kind, over all ways to cut them. Peers: nginx and HAProxy cut off all of them.
const TIMES: usize = 30;

/// What is below `/stream` is not gathered first.
async fn listeners(service: SocketAddr) -> Listeners {
    let config = format!(
        "access_log: {{format: json, file: access.log}}\n\
         routes: [{{path: /**, service: s}}, {{path: /stream/**, service: s, body: stream}}]\n\
         services: {{s: {{hosts: [\"{service}\"], breaker: {{errors: 10%, min: 5}}}}}}\n"
    );
    Listeners::start("", &config).await
}

fn log_lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn logged_as_gone(gateway: &TestGateway, requests: usize) {
    eventually("every request is logged", || async { log_lines(gateway.dir.path()).len() >= requests }).await;
    for line in log_lines(gateway.dir.path()) {
        assert_eq!(
            (line["status"].as_u64(), line["flags"].as_str()),
            (Some(499), Some("client_gone")),
            "{line}"
        );
    }
}

/// No connection has the end of a chunked body or as many bytes as it promised.
fn assert_nothing_whole(service: &Recorder) {
    for connection in service.connections() {
        let text = String::from_utf8_lossy(&connection.bytes);
        assert!(!connection.ends_with(b"\r\n0\r\n\r\n"), "taken for a whole request: {text}");
    }
}

#[tokio::test]
async fn an_http2_upload_that_is_reset_never_ends_as_a_whole_one() {
    let service = Recorder::silent().await;
    let listeners = listeners(service.addr).await;
    let gateway = &listeners.gateway;
    let (mut sent, mut open) = (0, Vec::new());
    for (over_tls, cut) in [false, true].into_iter().flat_map(|tls| Cut::ALL.map(|cut| (tls, cut))) {
        for (path, code) in [("/x", NO_ERROR), ("/stream/x", NO_ERROR), ("/x", CANCEL)] {
            let mut client = listeners.open(over_tls).await;
            let body = vec![b'x'; if cut == Cut::Bytes { 100 } else { 1000 }];
            for stream in (1..).step_by(2).take(TIMES / 3) {
                let head = client.head(stream, "POST", path, &[]);
                let bytes = [head, data(stream, 0, &body), reset(stream, code)].concat();
                assert!(client.try_send(&bytes, cut).await);
                sent += 1;
            }
            open.push(client);
        }
    }
    logged_as_gone(gateway, sent).await;
    eventually("the service's connections are closed", || async { service.all_closed() }).await;
    assert_nothing_whole(&service);
    assert_nothing_learned(gateway).await;
}

/// Not a word against the instance: its breaker is closed.
async fn assert_nothing_learned(gateway: &TestGateway) {
    let services = send(gateway.admin(), get("/api/v1/services")).await;
    assert!(!text(&services).contains("open\""), "{}", text(&services));
}

#[tokio::test]
async fn a_promised_length_that_does_not_come_is_not_a_whole_request() {
    let service = Recorder::silent().await;
    let listeners = listeners(service.addr).await;
    let gateway = &listeners.gateway;
    let (mut sent, mut open) = (0, Vec::new());
    for path in ["/x", "/stream/x"] {
        for framing in ["content-length: 5000", "transfer-encoding: chunked"] {
            let head = format!("POST {path} HTTP/1.1\r\nhost: gw\r\n{framing}\r\n\r\n");
            let body: &[u8] = if framing.starts_with('c') { b"0123456789" } else { b"a\r\n0123456789\r\n" };
            for half_close in [true, false] {
                let patience =
                    if half_close { crate::support::DEADLINE } else { std::time::Duration::from_millis(50) };
                let (_, _) = raw(gateway.http, &[head.as_bytes(), body], half_close, patience).await;
                sent += 1;
            }
        }
        let mut client = listeners.open(false).await;
        for stream in (1..).step_by(2).take(20) {
            let head = client.head(stream, "POST", path, &[(b"content-length", b"5000")]);
            client.send(&[head, data(stream, 0, b"x"), reset(stream, NO_ERROR)].concat()).await;
            sent += 1;
        }
        open.push(client);
    }
    logged_as_gone(gateway, sent).await;
    eventually("the service's connections are closed", || async { service.all_closed() }).await;
    assert_nothing_whole(&service);
    assert_nothing_learned(gateway).await;
    for connection in service.connections() {
        let text = String::from_utf8_lossy(&connection.bytes);
        let promised = text.contains("content-length: 5000");
        assert!(!promised || connection.bytes.len() < 5000, "{text}");
    }
}

/// Trailers are an end, too, and so is an empty DATA frame.
#[tokio::test]
async fn every_true_end_is_one() {
    let service = Backend::with(|_| {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    })
    .await;
    let listeners = listeners(service.addr).await;
    let mut client = listeners.open(false).await;
    for (at, path) in ["/x", "/stream/x"].into_iter().enumerate() {
        let first = 10 * u32::try_from(at).unwrap() + 1;
        let ends: [&dyn Fn(u32) -> Vec<u8>; 3] = [
            &|stream| data(stream, END_STREAM, b"last"),
            &|stream| [data(stream, 0, b"last"), data(stream, END_STREAM, b"")].concat(),
            &|stream| [data(stream, 0, b"last"), headers(stream, END_STREAM, &[(b"x-sum", b"1")])].concat(),
        ];
        for (at, end) in ends.into_iter().enumerate() {
            let stream = first + 2 * u32::try_from(at).unwrap();
            client.send(&[client.head(stream, "POST", path, &[]), end(stream)].concat()).await;
            let head = client.next_where(|f| f.stream == stream && f.kind == HEADERS).await;
            assert!(head.flags & END_STREAM != 0, "204 without a body");
        }
    }
    let bodies: Vec<_> = service.take_seen().into_iter().map(Request::into_body).collect();
    assert_eq!(bodies, [&b"last"[..]; 6]);
}
