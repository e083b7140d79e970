//! HTTP/2 frames that cost the gateway more than their sender: floods of them end their connection, and no other.
//!
//! Before there was a budget, each of the floods took 82 to 99 % of a worker for as long as its sender liked, and a reset
//! of 1,450 requests a second opened as many connections to the service.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use tokio::sync::Notify;

use crate::support::{
    backend::{Backend, RawBackend},
    client::{Connection, get, header, load, send, text},
    eventually,
    frames::{
        ACK, CANCEL, CONTINUATION, Cut, DATA, END_STREAM, ENHANCE_YOUR_CALM, FrameClient, GOAWAY, HEADERS,
        Listeners, NO_ERROR, Outcome, PING, PRIORITY, SETTINGS, data, frame, ping, reset, settings,
        window_update,
    },
};

/// Attackers are gone within a second; a loaded machine that builds and tests beside this gets more.
const GONE: Duration = Duration::from_secs(5);

async fn listeners(listen: &str, addr: std::net::SocketAddr) -> Listeners {
    let config = format!(
        "routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{addr}\"], breaker: off}}}}\n\
         access_log: {{format: json, file: access.log}}\n"
    );
    Listeners::start(listen, &config).await
}

async fn metric(listeners: &Listeners, series: &str) -> u64 {
    let metrics = send(listeners.gateway.admin(), get("/metrics")).await;
    let value = text(&metrics).lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or(0)
}

#[tokio::test]
async fn a_request_by_hand_is_answered_however_its_frames_are_cut() {
    let backend = Backend::named("one").await;
    let listeners = listeners("", backend.addr).await;
    for over_tls in [false, true] {
        for cut in Cut::ALL {
            let mut client = listeners.open(over_tls).await;
            let request = client.get(1, "/x");
            assert!(client.try_send(&request, cut).await);
            assert_eq!(client.outcome(1).await, Outcome::Status(200), "over TLS: {over_tls}, {cut:?}");
        }
    }
}

/// Frames that are not progress, by their type. Stream 1 is open.
fn control_frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("PING", ping()),
        ("PING that answers nothing", frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", settings(&[])),
        ("SETTINGS of 16 KiB", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0].repeat(2730))),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("PRIORITY of idle streams", frame(PRIORITY, 0, 999, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("WINDOW_UPDATE of a stream", window_update(1, 1)),
        ("empty DATA", data(1, 0, b"")),
        ("DATA of padding", frame(DATA, 8, 1, &[3, 0, 0, 0])),
        ("unknown", frame(0xbe, 0, 0, b"")),
        ("unknown of 16 KiB", frame(0xbe, 0, 7, &[0; 16 * 1024])),
    ]
}

#[tokio::test]
async fn floods_of_control_frames_end_their_connection_and_no_other() {
    let backend = Backend::named("one").await;
    let listeners = listeners("", backend.addr).await;
    let stop = Arc::new(Notify::new());
    let honest = tokio::spawn(load(listeners.gateway.http, "/honest", 2, Arc::clone(&stop), usize::MAX));
    for (what, flood) in control_frames() {
        for (over_tls, cut) in [false, true].into_iter().flat_map(|tls| Cut::ALL.map(|cut| (tls, cut))) {
            let client = listeners.open(over_tls).await;
            let head = client.head(1, "POST", "/x", &[]);
            let first = [head, flood.repeat(if flood.len() < 100 { 10 } else { 1 })].concat();
            let again = flood.repeat((16 * 1024 / flood.len()).max(1));
            let (frames, took) = client.flood(&first, cut, again).await;
            assert!(took < GONE, "{what}, over TLS: {over_tls}, {cut:?}: {took:?}");
            // The system may drop it when it resets the connection.
            let goaway = frames.iter().find(|frame| frame.kind == GOAWAY);
            assert!(
                goaway.is_none_or(|frame| frame.error_code() == Some(ENHANCE_YOUR_CALM)),
                "{what}: {goaway:?}"
            );
        }
    }
    stop.notify_one();
    let honest = honest.await.unwrap();
    assert!(honest.failed.is_empty() && honest.sent > 0, "{honest:?}");
    for listener in ["http", "https"] {
        let series =
            format!("millgate_connection_errors_total{{listener=\"{listener}\",reason=\"control_flood\"}}");
        let counted = metric(&listeners, &series).await;
        assert!(counted >= 30, "{listener}: {counted}, others are h2's own limits");
    }
    let flagged =
        || std::fs::read_to_string(listeners.gateway.dir.path().join("access.log")).unwrap_or_default();
    eventually("their requests are flagged", || async { flagged().contains(r#""flags":"control_flood""#) })
        .await;
}

/// 20 requests, 12 ms, 20 resets, for ever.
#[tokio::test]
async fn a_paced_rapid_reset_ends_its_connection_and_no_other() {
    let silent = RawBackend::answering(b"", false).await;
    let honest = Backend::named("honest").await;
    let config = format!(
        "routes: [{{path: /x, service: silent}}, {{path: /honest, service: honest}}]\n\
         services: {{silent: {{hosts: [\"{}\"]}}, honest: {{hosts: [\"{}\"]}}}}\n",
        silent.addr, honest.addr
    );
    let listeners = Listeners::start("", &config).await;
    let stop = Arc::new(Notify::new());
    let load = tokio::spawn(load(listeners.gateway.http, "/honest", 2, Arc::clone(&stop), usize::MAX));
    for over_tls in [false, true] {
        let before = silent.connections();
        let mut client = listeners.open(over_tls).await;
        let began = std::time::Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(12));
        let mut streams = (1..).step_by(2);
        loop {
            assert!(began.elapsed() < GONE, "over TLS: {over_tls}");
            let ids: Vec<u32> = streams.by_ref().take(20).collect();
            let requests: Vec<u8> = ids.iter().flat_map(|&id| client.get(id, "/x")).collect();
            let resets: Vec<u8> = ids.iter().flat_map(|&id| reset(id, CANCEL)).collect();
            pace.tick().await;
            if !client.try_send(&requests, Cut::Whole).await {
                break;
            }
            pace.tick().await;
            if !client.try_send(&resets, Cut::Halves).await {
                break;
            }
        }
        let opened = silent.connections() - before;
        assert!(opened <= 600, "{opened} connections to the service");
    }
    stop.notify_one();
    let load = load.await.unwrap();
    assert!(load.failed.is_empty() && load.sent > 0, "{load:?}");
    for listener in ["http", "https"] {
        let series =
            format!("millgate_connection_errors_total{{listener=\"{listener}\",reason=\"reset_flood\"}}");
        eventually("it is counted once", || async { metric(&listeners, &series).await == 1 }).await;
    }
}

#[tokio::test]
async fn a_page_that_is_left_twice_takes_all_its_requests_back_and_is_served_on() {
    let silent = RawBackend::answering(b"", false).await;
    let listeners = listeners("", silent.addr).await;
    let mut client = listeners.open(true).await;
    let mut streams = (1..).step_by(2);
    for _ in 0..2 {
        let ids: Vec<u32> = streams.by_ref().take(100).collect();
        let requests: Vec<u8> = ids.iter().flat_map(|&id| client.get(id, "/x")).collect();
        client.send(&requests).await;
        let resets: Vec<u8> = ids.iter().flat_map(|&id| reset(id, CANCEL)).collect();
        client.send(&[resets, ping()].concat()).await;
        let pong = client.until(|frame| frame.kind == PING && frame.flags == ACK).await;
        assert!(pong.is_some());
    }
}

/// Thousands of WINDOW_UPDATE in a second, as the most eager clients send them.
#[tokio::test]
async fn a_client_that_acknowledges_each_frame_of_a_large_response_gets_all_of_it() {
    const BYTES: usize = 32 * 1024 * 1024;
    let content = Bytes::from(vec![b'x'; BYTES]);
    let backend = Backend::with(move |_| Response::new(content.clone())).await;
    let listeners = listeners("", backend.addr).await;
    let mut client: FrameClient = listeners.open(false).await;
    let request = client.get(1, "/x");
    client.send(&request).await;
    let (mut bytes, mut frames) = (0, 0);
    loop {
        let frame = client.next().await.expect("the connection stays");
        if frame.kind == DATA {
            bytes += frame.payload.len();
            frames += 1;
            let count = u32::try_from(frame.payload.len()).unwrap();
            if count > 0 {
                client.send(&[window_update(0, count), window_update(1, count), ping()].concat()).await;
            }
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(bytes, BYTES);
    assert!(frames > 1000, "{frames} frames are not enough to show anything");
}

/// h2's own limits: header blocks without an end, and streams that the gateway has to reset.
#[tokio::test]
async fn endless_header_blocks_and_streams_that_break_their_window_end_their_connection() {
    let silent = RawBackend::answering(b"", false).await;
    let listeners = listeners("", silent.addr).await;
    for (over_tls, cut) in [false, true].into_iter().flat_map(|tls| Cut::ALL.map(|cut| (tls, cut))) {
        let client = listeners.open(over_tls).await;
        let (_, took) =
            client.flood(&frame(HEADERS, END_STREAM, 1, b""), cut, frame(CONTINUATION, 0, 1, b"")).await;
        assert!(took < GONE, "{took:?}");
        let client = listeners.open(over_tls).await;
        let broken = |id: u32| [client.get(id, "/x"), window_update(id, i32::MAX.unsigned_abs())].concat();
        let first = broken(1);
        let again = (3..2003).step_by(2).flat_map(broken).collect();
        let (frames, took) = client.flood(&first, cut, again).await;
        assert!(took < GONE, "{took:?}");
        assert!(frames.iter().any(|frame| frame.error_code().is_some()));
    }
    // If all frames come in one read, h2 ends the connection before it writes its refusals of streams.
    eventually("what h2 refuses is counted", || async {
        let metrics = send(listeners.gateway.admin(), get("/metrics")).await;
        text(&metrics).lines().any(|line| line.starts_with("millgate_http2_refusals_total{"))
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_has_had_its_requests_ends_with_notice_and_loses_none() {
    let backend = Backend::named("one").await;
    let listeners = listeners(", max_requests_per_connection: 3", backend.addr).await;
    let mut connection = Connection::open(listeners.gateway.http).await;
    for at in 1..=3 {
        let reply = connection.send(get("/x")).await;
        assert_eq!(
            (reply.status().as_u16(), header(&reply, "connection")),
            (200, if at == 3 { "close" } else { "" })
        );
    }
    assert!(connection.try_send(get("/x")).await.is_err());
    for over_tls in [false, true] {
        let mut client = listeners.open(over_tls).await;
        for id in [1, 3] {
            let request = client.get(id, "/x");
            client.send(&request).await;
            assert_eq!(client.outcome(id).await, Outcome::Status(200));
        }
        let request = client.get(5, "/x");
        client.send(&request).await;
        let (mut status, mut code) = (None, None);
        while status.is_none() || code.is_none() {
            let frame = client.until(|frame| frame.stream == 5 || frame.kind == GOAWAY).await.unwrap();
            status = status.or(frame.status());
            code = code.or(frame.error_code());
        }
        assert_eq!((status, code), (Some(200), Some(NO_ERROR)));
    }
}
