//! HTTP/2 requests that are answered before their body was read: no reset takes the response away from a client that is
//! still sending (RFC 9113 §8.1 allows one), and no client sends for ever.
//!
//! Peers, with 3 MB and curl 7.88: HAProxy 2.6 0 of 10, nginx 1.22 4 of 10.

use std::time::{Duration, Instant};

use crate::{
    support::{
        DEADLINE,
        backend::{Backend, RawBackend},
        client::{get, send, text},
        eventually,
        frames::{
            ACK, CANCEL, DATA, END_STREAM, Frame, FrameClient, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
            Listeners, NO_ERROR, Outcome, RST_STREAM, SETTINGS, WINDOW_UPDATE, data, frame, reset,
        },
    },
    unread_bodies::refusing_service,
};

/// SETTINGS_HEADER_TABLE_SIZE: each response has its status in full.
const NO_TABLE: [(u16, u32); 1] = [(1, 0)];
const BYTES: usize = 3_000_000;

async fn listeners(listen: &str, service: std::net::SocketAddr) -> Listeners {
    let refusing = refusing_service().await;
    let config = format!(
        "auth: {{main: {{hs256_secret_file: gw.key, audience: api}}}}\n\
         routes:\n\
         - {{path: /closed, service: s, auth: main}}\n\
         - {{path: /short, service: s, auth: none, body_limit: 100KiB}}\n\
         - {{path: /limited, service: s, auth: none, rate_limit: 1/h burst 1}}\n\
         - {{path: /none, service: none, auth: none, body: stream}}\n\
         - {{path: /stream, service: s, auth: none, body: stream}}\n\
         - {{path: /refuses, service: refusing, auth: none}}\n\
         - {{path: /open, service: s, auth: none}}\n\
         services: {{s: {{hosts: [\"{service}\"], breaker: off}}, none: {{hosts: [\"127.0.0.1:1\"]}},\n  \
           refusing: {{hosts: [\"{refusing}\"], breaker: off}}}}\n"
    );
    Listeners::start(listen, &config).await
}

/// A client that sends no more than its windows allow.
struct Uploader {
    client: FrameClient,
    initial: i64,
    connection: i64,
    stream: i64,
    id: u32,
    /// Of the response.
    outcome: Option<u16>,
    is_answered: bool,
}

impl Uploader {
    async fn open(listeners: &Listeners, over_tls: bool) -> Self {
        let client = listeners.open_with(over_tls, &NO_TABLE).await;
        let mut uploader = Self {
            client,
            initial: 65_535,
            connection: 65_535,
            stream: 0,
            id: 0,
            outcome: None,
            is_answered: false,
        };
        while uploader.read().await.is_none_or(|frame| frame.kind != SETTINGS || frame.payload.is_empty()) {}
        uploader.client.send(&frame(SETTINGS, ACK, 0, b"")).await;
        uploader
    }

    async fn begin(&mut self, id: u32, path: &str) {
        (self.id, self.stream, self.outcome, self.is_answered) = (id, self.initial, None, false);
        let head = self.client.head(id, "POST", path, &[]);
        self.client.send(&head).await;
    }

    /// The next frame, which is noted; `None`: none comes any more.
    async fn read(&mut self) -> Option<Frame> {
        let reading = tokio::time::timeout(DEADLINE, self.client.next());
        let frame = reading.await.expect("a frame comes, or the end")?;
        match frame.kind {
            SETTINGS => {
                for setting in frame.payload.chunks_exact(6) {
                    let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
                    if u16::from_be_bytes([setting[0], setting[1]]) == INITIAL_WINDOW_SIZE {
                        self.initial = value.into();
                    }
                }
            }
            WINDOW_UPDATE => {
                let bytes = i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                match frame.stream {
                    0 => self.connection += bytes,
                    id if id == self.id => self.stream += bytes,
                    _ => {}
                }
            }
            HEADERS if frame.stream == self.id => self.outcome = frame.status(),
            _ => {}
        }
        let ends = [HEADERS, DATA].contains(&frame.kind) && frame.flags & END_STREAM != 0;
        self.is_answered |= ends && frame.stream == self.id;
        Some(frame)
    }

    async fn until_answered(&mut self) -> Option<u16> {
        while !self.is_answered {
            let frame = self.read().await.expect("the connection stays");
            assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?}");
        }
        self.outcome
    }

    /// Sends so many bytes as the windows open; `Err`: the frame that ended the stream, and how much was sent before.
    async fn send(&mut self, bytes: usize) -> Result<(), (Frame, usize)> {
        let piece = vec![b'x'; 16 * 1024];
        let mut sent = 0;
        while sent < bytes {
            let size = piece.len().min(bytes - sent);
            let window = i64::try_from(size).unwrap();
            // What came meanwhile is read without waiting.
            let frame = if self.stream.min(self.connection) < window {
                self.read().await
            } else {
                let bytes = data(self.id, 0, &piece[..size]);
                self.client.send(&bytes).await;
                (self.stream, self.connection, sent) =
                    (self.stream - window, self.connection - window, sent + size);
                continue;
            };
            let frame = frame.expect("the connection stays");
            if frame.kind == GOAWAY || frame.kind == RST_STREAM && frame.stream == self.id {
                return Err((frame, sent));
            }
        }
        Ok(())
    }

    async fn end(&mut self) {
        let bytes = data(self.id, END_STREAM, b"");
        self.client.send(&bytes).await;
    }

    /// The stream was not reset, and the connection serves another one.
    async fn goes_on(&mut self, id: u32) {
        let request = self.client.get(id, "/open");
        self.client.send(&request).await;
        loop {
            let frame = self.read().await.expect("the connection stays");
            assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?}");
            if frame.stream == id && frame.kind == HEADERS {
                return assert_eq!(frame.status(), Some(200));
            }
        }
    }
}

const REFUSALS: [(&str, u16); 5] =
    [("/closed", 401), ("/nowhere", 404), ("/limited", 429), ("/none", 502), ("/refuses", 413)];

#[tokio::test]
async fn a_refused_stream_is_not_reset_while_its_client_sends() {
    let service = Backend::named("one").await;
    let listeners = listeners("", service.addr).await;
    assert_eq!(send(listeners.gateway.http, get("/limited")).await.status(), 200);
    for over_tls in [false, true] {
        let mut uploader = Uploader::open(&listeners, over_tls).await;
        let mut ids = (1..).step_by(4);
        for (path, status) in REFUSALS {
            let id = ids.next().unwrap();
            uploader.begin(id, path).await;
            if path == "/refuses" {
                // It answers when it has seen some of the body.
                assert_eq!(uploader.send(100_000).await, Ok(()));
            }
            assert_eq!(uploader.until_answered().await, Some(status), "{path}");
            assert_eq!(uploader.send(BYTES).await, Ok(()), "{path}");
            uploader.end().await;
            uploader.goes_on(id + 2).await;
        }
        let id = ids.next().unwrap();
        uploader.begin(id, "/short").await;
        assert_eq!(uploader.send(BYTES).await, Ok(()));
        assert_eq!(uploader.until_answered().await, Some(413));
        uploader.end().await;
        uploader.goes_on(id + 2).await;
    }
}

#[tokio::test]
async fn a_client_that_pauses_or_never_stops_is_reset() {
    let service = Backend::named("one").await;
    let listeners = listeners("", service.addr).await;
    let mut uploader = Uploader::open(&listeners, false).await;
    uploader.begin(1, "/closed").await;
    assert_eq!(uploader.until_answered().await, Some(401));
    let began = Instant::now();
    let frame = loop {
        let frame = uploader.read().await.expect("the connection stays");
        if frame.kind == RST_STREAM {
            break frame;
        }
    };
    assert_eq!((frame.stream, frame.error_code()), (1, Some(NO_ERROR)));
    assert!(began.elapsed() > Duration::from_secs(1), "not before: {:?}", began.elapsed());

    uploader.begin(3, "/closed").await;
    let (frame, sent) = uploader.send(200 << 20).await.expect_err("it reads on for ever");
    assert_eq!((frame.kind, frame.stream, frame.error_code()), (RST_STREAM, 3, Some(NO_ERROR)));
    assert!(sent >= 64 << 20, "{sent}");
    uploader.goes_on(5).await;
    let counted = "millgate_connection_errors_total{listener=\"http\",reason=\"lingered\"} 1\n";
    eventually("it is counted", || async {
        text(&send(listeners.gateway.admin(), get("/metrics")).await).contains(counted)
    })
    .await;
}

/// And none that lingers keeps others from being served.
#[tokio::test]
async fn only_so_many_streams_of_a_connection_linger() {
    let service = Backend::named("one").await;
    let listeners = listeners("", service.addr).await;
    let mut client = listeners.open(true).await;
    let ids = (1..41).step_by(2);
    let heads: Vec<u8> = ids.flat_map(|id| client.head(id, "POST", "/closed", &[])).collect();
    client.send(&heads).await;
    // Four more than have a place are reset at once, the others after their pause.
    let began = Instant::now();
    for at in 0..20 {
        let frame = client.until(|frame| frame.kind == RST_STREAM).await.expect("the connection stays");
        assert_eq!(frame.error_code(), Some(NO_ERROR));
        let is_soon = began.elapsed() < Duration::from_secs(1);
        assert!(at < 4 || !is_soon, "{at}: {:?}", began.elapsed());
    }
    let request = client.get(101, "/open");
    client.send(&request).await;
    assert_eq!(client.outcome(101).await, Outcome::Status(200));
}

/// A client that takes its refused request back, or leaves, is not waited for.
#[tokio::test]
async fn a_refused_request_that_is_taken_back_holds_nothing() {
    let service = Backend::named("one").await;
    let listeners = listeners(", max_streams: 2", service.addr).await;
    let mut client = listeners.open_with(false, &NO_TABLE).await;
    for id in (1..41).step_by(2) {
        let request = client.head(id, "POST", "/closed", &[]);
        client.send(&request).await;
        assert_eq!(client.outcome(id).await, Outcome::Status(401), "{id}");
        client.send(&reset(id, CANCEL)).await;
    }
}

/// The gateway lets go of the connection to such a service, and of the stream only when its client is done.
#[tokio::test]
async fn an_upload_whose_service_answers_first_is_not_reset() {
    let service = RawBackend::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false).await;
    let listeners = listeners("", service.addr).await;
    let mut uploader = Uploader::open(&listeners, true).await;
    uploader.begin(1, "/stream").await;
    assert_eq!(uploader.until_answered().await, Some(200));
    assert_eq!(uploader.send(BYTES).await, Ok(()));
    uploader.end().await;
    let request = uploader.client.get(3, "/stream");
    uploader.client.send(&request).await;
    assert_eq!(uploader.client.outcome(3).await, Outcome::Status(200));
}

/// What curl makes of it: status and exit code.
async fn curl(arguments: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new("curl");
    command.args([
        "-s",
        "-k",
        "-m",
        "20",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code} %{exitcode}",
    ]);
    let output = command.args(arguments).kill_on_drop(true).output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn curl_gets_the_status_of_a_refused_upload() {
    let service = Backend::named("one").await;
    let listeners = listeners("", service.addr).await;
    let file = listeners.gateway.dir.path().join("upload");
    std::fs::write(&file, vec![b'x'; BYTES]).unwrap();
    let body = format!("@{}", file.display());
    let https = listeners.gateway.https_addr().unwrap();
    for (base, protocol) in [
        (format!("http://{}", listeners.gateway.http), "--http2-prior-knowledge"),
        (format!("https://{https}"), "--http2"),
    ] {
        for (path, status) in [("/closed", 401), ("/nowhere", 404), ("/short", 413), ("/refuses", 413)] {
            for expect in ["Expect:", "Expect: 100-continue"] {
                let url = format!("{base}{path}");
                let seen = curl(&[protocol, "-H", expect, "--data-binary", &body, &url]).await;
                let Some(seen) = seen else {
                    assert!(std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none(), "no curl on PATH");
                    return println!("skipped: no curl on PATH");
                };
                assert_eq!(seen, format!("2 {status} 0"), "{url}, {expect}");
            }
        }
    }
}

/// h2 has its lock while it drops the rest of a response. The rest of a request must not be dropped by that.
#[tokio::test]
async fn a_stream_that_ends_with_an_unread_request_and_an_unsent_response_does_not_hold_up_its_worker() {
    let service = Backend::named("s").await;
    // More than h2 takes at once, so that the stream's task waits for its client.
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let raw = RawBackend::answering(answer.leak().as_bytes(), false).await;
    let config = format!(
        "routes:\n\
         - {{path: /silent, service: s, timeout: {{idle: 1s}}}}\n\
         - {{path: /early, service: raw, body: stream, timeout: {{idle: 1s}}}}\n\
         - {{path: /**, service: s}}\n\
         services: {{s: {{hosts: [\"{}\"]}}, raw: {{hosts: [\"{}\"]}}}}\n",
        service.addr, raw.addr
    );
    let listeners = Listeners::start("", &config).await;
    for over_tls in [false, true] {
        // A request that stops in the middle gets 408, and its body is never read.
        let mut client = listeners.open(over_tls).await;
        let head = client.head(1, "POST", "/silent", &[]);
        client.send(&[head, data(1, 0, b"a")].concat()).await;
        client.next_where(|frame| frame.kind == HEADERS).await;
        client.next_where(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).await;
        assert_eq!(send(listeners.gateway.http, get("/x")).await.status(), 200);
        drop(client);
        // A response that its client does not take, before the request is over; then the connection ends.
        let mut client = listeners.open_with(over_tls, &[(INITIAL_WINDOW_SIZE, 1)]).await;
        let head = client.head(1, "POST", "/early", &[]);
        client.send(&[head, data(1, 0, &[b'a'; 14_000])].concat()).await;
        client.next_where(|frame| frame.kind == DATA).await;
        tokio::time::timeout(DEADLINE, client.until(|frame| frame.kind == RST_STREAM)).await.unwrap();
        drop(client);
        assert_eq!(send(listeners.gateway.http, get("/x")).await.status(), 200);
    }
}
