//! Clients that send requests and do not take the responses: what their requests hold is given back after
//! `timeout.idle`.
//!
//! Peers: nginx ends such a stream after `send_timeout` (60 s), HAProxy after `timeout client`; Envoy after
//! `stream_idle_timeout` (5 min).

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    backend::Backend,
    client::status,
    eventually,
    frames::{DATA, Frame, HEADERS, INITIAL_WINDOW_SIZE, Listeners, RST_STREAM, window_update},
};

const SLOTS: u32 = 4;

/// Before a service that `SLOTS` requests use up.
async fn listeners(service: SocketAddr, timeout: &str) -> Listeners {
    let config = format!(
        "access_log: {{format: json, file: access.log}}\nlimits: {{per_connection: off}}\n\
         routes: [{{path: /**, service: s, timeout: {timeout}}}]\n\
         services: {{s: {{hosts: [\"{service}\"], max_inflight: {SLOTS}}}}}\n"
    );
    Listeners::start("", &config).await
}

/// Answers with the number of bytes that the path names.
async fn service() -> Backend {
    Backend::with(|request| {
        let bytes = request.uri().path().trim_start_matches('/').parse().unwrap();
        Response::new(Bytes::from(vec![b'x'; bytes]))
    })
    .await
}

fn flags(dir: &Path, flag: &str) -> usize {
    let text = std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    text.matches(&format!("\"flags\":\"{flag}\"")).count()
}

#[tokio::test]
async fn streams_whose_client_grants_no_window_give_back_what_they_hold() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 1s}").await;
    let gateway = &listeners.gateway;
    for over_tls in [false, true] {
        let mut client = listeners.open_with(over_tls, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        for at in 0..SLOTS {
            client.send(&client.get(2 * at + 1, "/300000")).await;
        }
        for _ in 0..SLOTS {
            client.next_where(|frame| frame.kind == HEADERS).await;
        }
        assert_eq!(status(gateway.http, "/1").await, 503, "all slots are taken");
        let began = Instant::now();
        for _ in 0..SLOTS {
            client.next_where(|frame| frame.kind == RST_STREAM).await;
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(status(gateway.http, "/1").await, 200);
        // The connection goes on: another stream is served.
        client.send(&client.get(101, "/0")).await;
        client.next_where(|frame| frame.stream == 101 && frame.kind == HEADERS).await;
    }
    let stalled = usize::try_from(2 * SLOTS).unwrap();
    eventually("all are logged as what they are", || async {
        flags(gateway.dir.path(), "client_stalled") == stalled
    })
    .await;
    let counted = format!("millgate_client_stalled_total {stalled}");
    eventually("all are counted", || gateway.shows(&counted)).await;
    assert_eq!(flags(gateway.dir.path(), "client_gone"), 0);
}

/// A response that is short enough to be handed over at once holds no slot, but its stream holds its bytes.
#[tokio::test]
async fn a_short_response_that_is_not_taken_is_reset_too() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 1s}").await;
    let mut client = listeners.open_with(false, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(&client.get(1, "/1000")).await;
    client.next_where(|frame| frame.kind == RST_STREAM && frame.stream == 1).await;
}

#[tokio::test]
async fn streams_that_a_connections_window_holds_back_are_ended() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 1s}").await;
    let gateway = &listeners.gateway;
    let mut client = listeners.open_with(false, &[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
    for stream in [1, 3] {
        client.send(&client.get(stream, "/300000")).await;
    }
    for _ in 0..2 {
        client.next_where(|frame| frame.kind == RST_STREAM).await;
    }
    eventually("both are logged", || async { flags(gateway.dir.path(), "client_stalled") == 2 }).await;
    eventually("both are counted", || gateway.shows("millgate_client_stalled_total 2")).await;
}

#[tokio::test]
async fn a_client_that_takes_a_little_all_the_time_gets_everything() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 500ms}").await;
    let gateway = &listeners.gateway;
    let mut client = listeners.open_with(false, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(&client.get(1, "/200000")).await;
    let mut left = 200_000;
    while left > 0 {
        // Twenty pieces in two seconds.
        client.send(&window_update(1, 10_000)).await;
        client.send(&window_update(0, 10_000)).await;
        let mut granted = 10_000.min(left);
        while granted > 0 {
            let data = client.next_where(|frame| [DATA, RST_STREAM].contains(&frame.kind)).await;
            assert!(data.kind != RST_STREAM, "{left} bytes left");
            granted -= data.payload.len();
            left -= data.payload.len();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("it is logged", || async { flags(gateway.dir.path(), "-") == 1 }).await;
}

/// A byte of window in each tenth of a second moves all the time, and is ended all the same.
#[tokio::test]
async fn a_client_that_takes_less_than_the_minimum_rate_is_ended() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 1s}").await;
    let gateway = &listeners.gateway;
    let mut client = listeners.open_with(false, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(&client.get(1, "/300000")).await;
    let began = Instant::now();
    // One byte comes for each byte of window.
    loop {
        client.send(&window_update(1, 1)).await;
        let is_wanted = |frame: &Frame| [DATA, RST_STREAM].contains(&frame.kind);
        if client.next_where(is_wanted).await.kind == RST_STREAM {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(9), "not before its time: {:?}", began.elapsed());
    eventually("it is logged", || async { flags(gateway.dir.path(), "client_stalled") == 1 }).await;
}

#[tokio::test]
async fn an_http1_client_that_does_not_read_is_ended() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 1s}").await;
    let gateway = &listeners.gateway;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    // More than both kernels' buffers take.
    client.write_all(b"GET /50000000 HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    client.read_u8().await.unwrap();
    eventually("it is logged", || async { flags(gateway.dir.path(), "client_stalled") == 1 }).await;
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
    assert!(rest.len() < 50_000_000, "the response was cut");
    assert_eq!(status(gateway.http, "/1").await, 200);
}

/// Between the gateway and such a client stand megabytes in two kernels; they must not look like a client that reads
/// nothing.
#[tokio::test]
async fn an_http1_client_that_reads_slowly_is_not_ended() {
    let service = service().await;
    let listeners = listeners(service.addr, "{idle: 1500ms}").await;
    let gateway = &listeners.gateway;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /50000000 HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let mut space = vec![0; 25_000];
    while began.elapsed() < Duration::from_secs(8) {
        // 500 KB a second.
        client.read_exact(&mut space).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gateway.shows("millgate_connections{protocol=\"http1\"} 1").await, "it is still served");
    assert_eq!(flags(gateway.dir.path(), "client_stalled"), 0);
}
