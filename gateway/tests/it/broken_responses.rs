//! A response that breaks off or stands still in its middle: its client learns that it is not whole, on either protocol, and
//! so do the log, the metrics and the breaker.

use serde_json::Value;

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend},
    client::{get, json, raw, send, text},
    eventually,
    frames::{DATA, END_STREAM, Frame, FrameClient, INTERNAL_ERROR, Outcome, RST_STREAM},
    gateway::TestGateway,
};

struct Row {
    what: &'static str,
    answer: &'static [u8],
    /// The service closes its connection after that; otherwise it stands still.
    closes: bool,
    flag: &'static str,
}

impl Row {
    /// Far away where it must not be what ends the response.
    fn idle(&self) -> &'static str {
        if self.flag == "body_timeout" { "500ms" } else { "1m" }
    }
}

/// Each has `half` as its content, as far as it comes.
const ROWS: [Row; 8] = [
    Row {
        what: "a length of which a part comes",
        answer: b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        closes: true,
        flag: "upstream_truncated",
    },
    Row {
        what: "chunks without the last one",
        answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        closes: true,
        flag: "upstream_truncated",
    },
    Row {
        what: "a chunk that is cut",
        answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nhalf",
        closes: true,
        flag: "upstream_truncated",
    },
    Row {
        what: "a last chunk without the end of the trailers",
        answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        closes: true,
        flag: "upstream_truncated",
    },
    Row {
        what: "a length of which a part does not come in time",
        answer: b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        closes: false,
        flag: "body_timeout",
    },
    Row {
        what: "chunks that do not go on",
        answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        closes: false,
        flag: "body_timeout",
    },
    Row {
        what: "a chunk whose size is not a number",
        answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nfour\r\n",
        closes: false,
        flag: "upstream_protocol_error",
    },
    Row {
        what: "trailers that are not fields",
        answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nx y\r\n\r\n",
        closes: true,
        flag: "upstream_protocol_error",
    },
];

/// A route and a service of one name for each row and protocol, with a breaker that one failure opens.
async fn gateway(services: &[(String, RawBackend, &str)], fine: &Backend) -> TestGateway {
    let mut routes = vec!["routes:\n  - {path: /fine, service: fine}\n".to_owned()];
    let mut named = vec![format!("services:\n  fine: {{hosts: [\"{}\"]}}\n", fine.addr)];
    for (name, service, idle) in services {
        routes.push(format!("  - {{path: /{name}, service: {name}, timeout: {{idle: {idle}}}}}\n"));
        named.push(format!(
            "  {name}: {{hosts: [\"{}\"], breaker: {{min: 1, errors: 50%, open: 5m}}, outlier: off}}\n",
            service.addr
        ));
    }
    let (routes, named) = (routes.concat(), named.concat());
    let log = "access_log: {format: json, file: access.log}\n";
    TestGateway::start(&format!("workers: 1\n{log}{routes}{named}")).await
}

#[tokio::test]
async fn a_response_that_is_not_whole_is_never_taken_for_one_and_is_held_against_its_endpoint() {
    let mut services = Vec::new();
    for (at, row) in ROWS.iter().enumerate() {
        for protocol in ["http1", "http2"] {
            let service = RawBackend::answering(row.answer, row.closes).await;
            services.push((format!("{protocol}-{at}"), service, row.idle()));
        }
    }
    let fine = Backend::named("fine").await;
    let gateway = gateway(&services, &fine).await;
    for ((name, ..), row) in services.iter().zip(ROWS.iter().flat_map(|row| [row, row])) {
        if name.starts_with("http1") {
            over_http1(&gateway, name, row).await;
        } else {
            over_http2(&gateway, name, row).await;
        }
        let refused = send(gateway.http, get(&format!("/{name}"))).await;
        let code = json(&refused)["code"].clone();
        assert_eq!((refused.status().as_u16(), code), (503, "breaker_open".into()), "{name}: {}", row.what);
    }
    // Two for each, and one to the service that is fine for each stream.
    eventually("each is logged", || async { logged(&gateway).len() == 5 * ROWS.len() }).await;
    let (lines, metrics) = (logged(&gateway), send(gateway.admin(), get("/metrics")).await);
    let metrics = text(&metrics);
    for ((name, service, _), row) in services.iter().zip(ROWS.iter().flat_map(|row| [row, row])) {
        let what = format!("{name}: {}", row.what);
        let line = lines.iter().find(|line| line["path"] == format!("/{name}")).unwrap();
        let logged = ["status", "flags", "bytes_out"].map(|field| line[field].clone());
        assert_eq!(logged, [Value::from(200), Value::from(row.flag), Value::from(4)], "{what}: {line}");
        let labels = format!("route=\"/{name}\",service=\"{name}\"");
        for shown in [
            format!("millgate_requests_total{{{labels},method=\"GET\",code=\"200\"}} 1"),
            format!("millgate_requests_total{{{labels},method=\"GET\",code=\"503\"}} 1"),
            format!("millgate_upstream_requests_total{{service=\"{name}\",code=\"200\"}} 1"),
            format!(
                "millgate_breaker_transitions_total{{service=\"{name}\",instance=\"{}\",to=\"open\"}} 1",
                service.addr
            ),
        ] {
            assert!(metrics.lines().any(|line| line == shown), "{what}: {shown}\n{metrics}");
        }
    }
    assert!(!metrics.contains("\nmillgate_client_gone_total "), "no client left: {metrics}");
}

/// A length that is not reached, or chunks without the last one, and then the connection's end (RFC 9112 §8).
async fn over_http1(gateway: &TestGateway, name: &str, row: &Row) {
    let request = format!("GET /{name} HTTP/1.1\r\nhost: gw\r\n\r\n");
    let (answer, is_closed) = raw(gateway.http, &[request.as_bytes()], false, DEADLINE).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(is_closed, "{}: {answer}", row.what);
    let (head, content) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{}: {answer}", row.what);
    if head.contains("content-length: 100") {
        assert_eq!(content, "half", "{}", row.what);
    } else {
        assert!(head.contains("transfer-encoding: chunked"), "{}: {answer}", row.what);
        assert_eq!(content, "4\r\nhalf\r\n", "{}", row.what);
    }
}

/// RST_STREAM and not END_STREAM (RFC 9113 §8.1); the connection and its other streams go on.
async fn over_http2(gateway: &TestGateway, name: &str, row: &Row) {
    let mut client = FrameClient::open(gateway.http).await;
    client.send(&client.get(1, &format!("/{name}"))).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200), "{}", row.what);
    let mut content = Vec::new();
    let end: Frame = loop {
        let frame = client.next_where(|frame| frame.stream == 1).await;
        assert_eq!(frame.flags & END_STREAM, 0, "{}: {frame:?}", row.what);
        match frame.kind {
            DATA => content.extend(frame.payload),
            _ => break frame,
        }
    };
    assert_eq!((end.kind, end.error_code()), (RST_STREAM, Some(INTERNAL_ERROR)), "{}", row.what);
    assert_eq!(content, b"half", "{}", row.what);
    client.send(&client.get(3, "/fine")).await;
    assert_eq!(client.outcome(3).await, Outcome::Status(200), "{}", row.what);
}

fn logged(gateway: &TestGateway) -> Vec<Value> {
    let text = std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Without a length and without chunks the end of the connection is the end of the content (RFC 9112 §6.3).
#[tokio::test]
async fn a_response_that_its_connection_ends_is_whole() {
    let old = RawBackend::answering(b"HTTP/1.0 200 OK\r\n\r\nwhole", true).await;
    let fine = Backend::named("fine").await;
    let services = [("s0".to_owned(), old, "1m")];
    let gateway = gateway(&services, &fine).await;
    let request = b"GET /s0 HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n";
    let (answer, _) = raw(gateway.http, &[request], false, DEADLINE).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.ends_with("5\r\nwhole\r\n0\r\n\r\n"), "{answer}");
    let mut client = FrameClient::open(gateway.http).await;
    client.send(&client.get(1, "/s0")).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    let last = client.next_where(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).await;
    assert_eq!(last.kind, DATA);
    eventually("both are logged", || async { logged(&gateway).len() == 2 }).await;
    assert!(logged(&gateway).iter().all(|line| line["flags"] == "-"), "{:?}", logged(&gateway));
}
