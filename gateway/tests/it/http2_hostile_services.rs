//! Services that speak HTTP/2 and do harm: each has a limit, its client gets an error that says so, and other requests go on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    DEADLINE,
    client::{get, json, request, send},
    eventually,
    frame_service::FrameService,
    frames::{
        CONTINUATION, DATA, END_STREAM, Field, Frame, FrameClient, HEADERS, INITIAL_WINDOW_SIZE,
        INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, NO_ERROR, Outcome, RST_STREAM, block, data, frame, headers,
        ping, reset, settings, window_update,
    },
    gateway::TestGateway,
    h2_service::H2Service,
};

const OK: &[Field<'_>] = &[(b":status", b"200")];

/// A gateway before a service that does harm and one that does not.
async fn gateway(bad: SocketAddr, good: SocketAddr, service: &str) -> TestGateway {
    TestGateway::start(&format!(
        "workers: 1\naccess_log: {{format: off}}\nroutes:\n\
         \x20 - {{path: /good, service: good}}\n\
         \x20 - {{path: /**, service: bad, body: stream, body_limit: 100MB, retry: off, timeout: {{total: 2s, idle: 1s}}}}\n\
         services:\n  good: {{hosts: [\"{good}\"], protocol: h2c}}\n\
         \x20 bad: {{hosts: [\"{bad}\"], protocol: h2c, outlier: off{service}}}\n"
    ))
    .await
}

/// What a service sends for the first request on the stream that it begins.
async fn answering(
    values: &'static [(u16, u32)],
    answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> FrameService {
    FrameService::start(
        values,
        move |frame, _| if frame.kind == HEADERS { answer(frame.stream) } else { Vec::new() },
    )
    .await
}

type Answer = fn(u32) -> Vec<u8>;

/// What a service sends instead of a response, and the code of the client's error.
const INSTEAD: [(&str, Answer, &str); 13] = [
    ("a reset", |stream| reset(stream, INTERNAL_ERROR), "upstream_reset"),
    ("SETTINGS", |_| settings(&[(4, 65_535)]).repeat(2000), "upstream_protocol_error"),
    ("PING", |_| ping().repeat(2000), "upstream_protocol_error"),
    ("WINDOW_UPDATE", |_| window_update(0, 1).repeat(2000), "upstream_protocol_error"),
    (
        "CONTINUATION",
        |stream| {
            [frame(HEADERS, 0, stream, &block(OK)), frame(CONTINUATION, 0, stream, b"").repeat(2000)].concat()
        },
        "upstream_protocol_error",
    ),
    (
        "informational responses",
        |stream| headers(stream, 0, &[(b":status", b"103"), (b"link", &[b'a'; 1000])]).repeat(100),
        "upstream_protocol_error",
    ),
    (
        "a head of 64 KiB",
        |stream| headers(stream, END_STREAM, &[OK, &[(b"x", &[b'a'; 65_536])]].concat()),
        "upstream_protocol_error",
    ),
    (
        "a head of 150 fields",
        |stream| headers(stream, END_STREAM, &[OK, &[(&b"x"[..], &b"a"[..]); 150]].concat()),
        "upstream_protocol_error",
    ),
    ("no status", |stream| headers(stream, END_STREAM, &[(b"x", b"a")]), "upstream_protocol_error"),
    (
        "a field of the connection",
        |stream| headers(stream, END_STREAM, &[OK, &[(b"transfer-encoding", b"chunked")]].concat()),
        "upstream_protocol_error",
    ),
    (
        "two lengths",
        |stream| headers(stream, 0, &[OK, &[(b"content-length", b"1"), (b"content-length", b"2")]].concat()),
        "upstream_protocol_error",
    ),
    ("content without a head", |stream| data(stream, END_STREAM, b"some"), "upstream_protocol_error"),
    (
        "a switch of protocols",
        |stream| headers(stream, END_STREAM, &[(b":status", b"101")]),
        "upstream_protocol_error",
    ),
];

#[tokio::test]
async fn what_is_not_a_response_is_refused_and_other_services_go_on() {
    let (good, _) = H2Service::echoing(|_| {}).await;
    for (what, answer, code) in INSTEAD {
        let bad = answering(&[], answer).await;
        let gateway = gateway(bad.addr, good.addr, "").await;
        for _ in 0..2 {
            let reply = send(gateway.http, get("/")).await;
            assert_eq!(reply.status(), 502, "{what}");
            assert_eq!(json(&reply)["code"], code, "{what}");
            assert_eq!(send(gateway.http, get("/good")).await.status(), 200, "{what}");
        }
    }
}

/// Content that never ends well, behind a head of these fields.
const BEHIND: [(&str, &[Field<'_>], Answer); 4] = [
    ("DATA without content", &[], |stream| data(stream, 0, b"").repeat(3000)),
    ("less than its length", &[(b"content-length", b"9")], |stream| data(stream, END_STREAM, b"some")),
    ("more than its length", &[(b"content-length", b"2")], |stream| data(stream, END_STREAM, b"some")),
    ("a reset", &[], |stream| [data(stream, 0, b"some"), reset(stream, INTERNAL_ERROR)].concat()),
];

#[tokio::test]
async fn content_that_is_not_what_its_head_says_breaks_the_response_off() {
    let (good, _) = H2Service::echoing(|_| {}).await;
    for (what, fields, content) in BEHIND {
        let bad = answering(&[], move |stream| {
            [headers(stream, 0, &[OK, fields].concat()), content(stream)].concat()
        })
        .await;
        let gateway = gateway(bad.addr, good.addr, "").await;
        let mut client = FrameClient::open(gateway.http).await;
        client.send(&client.get(1, "/")).await;
        let is_end =
            |frame: &Frame| frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0);
        let end = client.next_where(is_end).await;
        // A response whose head has not been passed on yet is an error instead.
        let is_error = end.kind != RST_STREAM;
        if is_error {
            assert_eq!(end.kind, DATA, "{what}");
            assert_eq!(
                json(&send(gateway.http, get("/")).await)["code"],
                "upstream_protocol_error",
                "{what}"
            );
        }
        assert_eq!(send(gateway.http, get("/good")).await.status(), 200, "{what}");
    }
}

#[tokio::test]
async fn a_service_that_allows_no_stream_or_no_byte_has_the_time_of_the_route() {
    let (good, _) = H2Service::echoing(|_| {}).await;
    for values in [&[(MAX_CONCURRENT_STREAMS, 0)], &[(INITIAL_WINDOW_SIZE, 0)]] {
        let bad = FrameService::start(values, |_, _| Vec::new()).await;
        let gateway = gateway(bad.addr, good.addr, "").await;
        for _ in 0..2 {
            let asked = send(gateway.http, request("POST", "/", "content that waits"));
            let reply = tokio::time::timeout(DEADLINE, asked).await.unwrap();
            assert_eq!(
                (reply.status().as_u16(), json(&reply)["code"].as_str()),
                (504, Some("response_timeout"))
            );
            assert_eq!(send(gateway.http, get("/good")).await.status(), 200);
        }
        assert!(bad.connections.load(SeqCst) <= 8);
    }
}

#[tokio::test]
async fn a_breaker_learns_from_streams_that_a_service_resets_on_a_connection_that_goes_on() {
    let (good, _) = H2Service::echoing(|_| {}).await;
    let bad = FrameService::start(&[], |frame, number| match frame.kind {
        HEADERS if number == 1 => headers(frame.stream, END_STREAM, OK),
        HEADERS => reset(frame.stream, INTERNAL_ERROR),
        _ => Vec::new(),
    })
    .await;
    let gateway = gateway(bad.addr, good.addr, ", breaker: {min: 4, open: 5m}").await;
    assert_eq!(send(gateway.http, get("/")).await.status(), 200);
    eventually("the breaker opens", || async {
        json(&send(gateway.http, get("/")).await)["code"] == "breaker_open"
    })
    .await;
    assert_eq!((bad.connections.load(SeqCst), bad.requests() <= 10), (1, true));
}

const BYTES: usize = 40_000_000;

#[tokio::test]
async fn a_service_that_acknowledges_each_frame_of_an_upload_is_no_flood() {
    let (good, _) = H2Service::echoing(|_| {}).await;
    let got = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&got);
    // As Go's server does.
    let bad = FrameService::start(&[], move |frame, _| {
        let length = u32::try_from(frame.payload.len()).unwrap();
        count.fetch_add(if frame.kind == DATA { frame.payload.len() } else { 0 }, SeqCst);
        match frame.kind {
            DATA if frame.flags & END_STREAM != 0 => headers(frame.stream, END_STREAM, OK),
            DATA => [window_update(0, length), window_update(frame.stream, length)].concat(),
            _ => Vec::new(),
        }
    })
    .await;
    let gateway = gateway(bad.addr, good.addr, "").await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: {BYTES}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 100_000];
    for _ in 0..BYTES / piece.len() {
        if client.write_all(&piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(got.load(SeqCst), BYTES);
}

#[tokio::test]
async fn a_whole_response_may_end_with_a_reset_that_refuses_the_rest_of_the_request() {
    let (good, _) = H2Service::echoing(|_| {}).await;
    let bad = answering(&[], |stream| {
        [headers(stream, 0, OK), data(stream, END_STREAM, b"enough"), reset(stream, NO_ERROR)].concat()
    })
    .await;
    let gateway = gateway(bad.addr, good.addr, "").await;
    for _ in 0..20 {
        let mut client = FrameClient::open(gateway.http).await;
        client.send(&client.head(1, "POST", "/", &[])).await;
        client.send(&data(1, 0, &[0; 16_000])).await;
        assert_eq!(client.outcome(1).await, Outcome::Status(200));
        let end = client.next_where(|frame| frame.stream == 1 && frame.kind == DATA).await;
        assert_eq!(end.payload, b"enough");
        if end.flags & END_STREAM == 0 {
            let end = client
                .next_where(|frame| frame.stream == 1 && [DATA, RST_STREAM].contains(&frame.kind))
                .await;
            assert_eq!((end.kind, end.flags & END_STREAM), (DATA, END_STREAM), "{end:?}");
        }
    }
}
