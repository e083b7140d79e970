//! Where a body ends: a request that its client broke off never reaches a service as a whole one.

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::support::{
    authority::Authority,
    backend::Backend,
    client::{get, raw, send, text},
    eventually,
    gateway::TestGateway,
    raw_h2::{self, Frames},
    recorder::Recorder,
};

/// What each variant sends this often; peers: nginx and HAProxy cut all of them.
const TIMES: usize = 30;

/// A gateway with both listeners; what is below `/stream` is not gathered first.
async fn gateway(service: SocketAddr, authority: &Authority) -> (TestGateway, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let certified = authority.certify("127.0.0.1");
    std::fs::write(dir.path().join("server.pem"), certified.cert).unwrap();
    std::fs::write(dir.path().join("server.key"), certified.key).unwrap();
    let config = format!(
        "workers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\",\n  \
           https: {{bind: \"127.0.0.1:0\", cert_file: server.pem, key_file: server.key}}}}\n\
         access_log: {{format: json, file: access.log}}\n\
         routes: [{{path: /**, service: s}}, {{path: /stream/**, service: s, body: stream}}]\n\
         services: {{s: {{hosts: [\"{service}\"], breaker: {{errors: 10%, min: 5}}}}}}\n"
    );
    let gateway = TestGateway::start_in(dir, &config).await;
    let https = gateway.https_addr().unwrap();
    (gateway, https)
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

/// How the bytes of one request are cut into segments: one, two, and byte by byte.
const PIECES: [fn(usize) -> usize; 3] = [|all| all, |all| all.div_ceil(2), |_| 1];

#[tokio::test]
async fn an_http2_upload_that_is_reset_never_ends_as_a_whole_one() {
    let (service, authority) = (Recorder::silent().await, Authority::new());
    let (gateway, https) = gateway(service.addr, &authority).await;
    let (mut sent, mut open) = (0, Vec::new());
    for (authority, addr) in [(None, gateway.http), (Some(&authority), https)] {
        for piece in PIECES {
            for (path, code) in
                [("/x", raw_h2::NO_ERROR), ("/stream/x", raw_h2::NO_ERROR), ("/x", raw_h2::CANCEL)]
            {
                let mut client = Frames::connect(addr, authority).await;
                client.send(&raw_h2::preface(&[])).await;
                let body = vec![b'x'; if piece(8) == 1 { 100 } else { 1000 }];
                for at in 0..u32::try_from(TIMES / 3).unwrap() {
                    let stream = 2 * at + 1;
                    let scheme = if authority.is_some() { "https" } else { "http" };
                    let fields =
                        [(":method", "POST"), (":scheme", scheme), (":path", path), (":authority", "gw")];
                    let bytes = [
                        raw_h2::headers(0, stream, &fields),
                        raw_h2::frame(raw_h2::DATA, 0, stream, &body),
                        raw_h2::reset(stream, code),
                    ]
                    .concat();
                    client.send_in_pieces(&bytes, piece(bytes.len())).await;
                    sent += 1;
                }
                open.push(client);
            }
        }
    }
    logged_as_gone(&gateway, sent).await;
    eventually("the service's connections are closed", || async { service.all_closed() }).await;
    assert_nothing_whole(&service);
    assert_nothing_learned(&gateway).await;
}

/// Not a word against the instance: its breaker is closed.
async fn assert_nothing_learned(gateway: &TestGateway) {
    let services = send(gateway.admin(), get("/api/v1/services")).await;
    assert!(!text(&services).contains("open\""), "{}", text(&services));
}

#[tokio::test]
async fn a_promised_length_that_does_not_come_is_not_a_whole_request() {
    let (service, authority) = (Recorder::silent().await, Authority::new());
    let (gateway, _) = gateway(service.addr, &authority).await;
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
        let mut client = Frames::connect(gateway.http, None).await;
        client.send(&raw_h2::preface(&[])).await;
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "gw"),
            ("content-length", "5000"),
        ];
        for at in 0..20 {
            let stream = 2 * at + 1;
            let bytes = [
                raw_h2::headers(0, stream, &fields),
                raw_h2::frame(raw_h2::DATA, 0, stream, b"x"),
                raw_h2::reset(stream, raw_h2::NO_ERROR),
            ]
            .concat();
            client.send(&bytes).await;
            sent += 1;
        }
        open.push(client);
    }
    logged_as_gone(&gateway, sent).await;
    eventually("the service's connections are closed", || async { service.all_closed() }).await;
    assert_nothing_whole(&service);
    assert_nothing_learned(&gateway).await;
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
    let authority = Authority::new();
    let (gateway, _) = gateway(service.addr, &authority).await;
    let mut client = Frames::connect(gateway.http, None).await;
    client.send(&raw_h2::preface(&[])).await;
    let data = |flags, stream, bytes: &[u8]| raw_h2::frame(raw_h2::DATA, flags, stream, bytes);
    for (at, path) in ["/x", "/stream/x"].into_iter().enumerate() {
        let first = 10 * u32::try_from(at).unwrap() + 1;
        let ends: [&dyn Fn(u32) -> Vec<u8>; 3] = [
            &|stream| data(raw_h2::END_STREAM, stream, b"last"),
            &|stream| [data(0, stream, b"last"), data(raw_h2::END_STREAM, stream, b"")].concat(),
            &|stream| {
                [data(0, stream, b"last"), raw_h2::headers(raw_h2::END_STREAM, stream, &[("x-sum", "1")])]
                    .concat()
            },
        ];
        for (at, end) in ends.into_iter().enumerate() {
            let stream = first + 2 * u32::try_from(at).unwrap();
            client.send(&[raw_h2::request(0, stream, "POST", path), end(stream)].concat()).await;
            let head = client.next_where(|f| f.stream == stream && f.kind == raw_h2::HEADERS).await;
            assert!(head.flags & raw_h2::END_STREAM != 0, "204 without a body");
        }
    }
    let bodies: Vec<_> = service.take_seen().into_iter().map(Request::into_body).collect();
    assert_eq!(bodies, [&b"last"[..]; 6]);
}
