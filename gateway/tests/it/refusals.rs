//! The reason of a refusal can be found: refusals are in a sampled access log, and those below the log are in a list on the
//! admin listener.
//!
//! Before: 25 answers 429 at `sample: 1%` left no line, and a 90 KB head, a bad version or no TLS left only a number.

use std::time::Duration;

use rcgen::generate_simple_self_signed;
use serde_json::Value;

use crate::support::{
    backend::Backend,
    client::{Connection, get, json, raw, send},
    eventually,
    gateway::TestGateway,
};

fn log(gateway: &TestGateway) -> String {
    std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default()
}

/// Two workers, and a service that answers 404; one request is allowed, all others get 429.
fn sampled(refusals: &str, backend: &Backend) -> String {
    format!(
        "access_log: {{format: json, file: access.log, sample: 1%{refusals}}}\nroutes:\n  \
         - {{path: /limited, service: one, rate_limit: 1/h per route}}\n  - {{path: /open, service: one}}\n\
         services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

async fn missing() -> Backend {
    let not_found = |_: &http::Request<bytes::Bytes>| {
        let mut response = http::Response::new(bytes::Bytes::new());
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    };
    Backend::with(not_found).await
}

#[tokio::test]
async fn refusals_are_kept_by_the_sample_and_answers_of_the_service_are_not() {
    let backend = missing().await;
    let gateway = TestGateway::start(&sampled("", &backend)).await;
    let mut client = Connection::open(gateway.http).await;
    for path in ["/limited", "/open"] {
        for _ in 0..26 {
            client.send(get(path)).await;
        }
    }
    // 52 requests are half of what one line in a hundred needs.
    eventually("each refusal is written", || async { log(&gateway).matches("\"status\":429").count() == 25 })
        .await;
    assert!(!log(&gateway).contains("\"status\":404"), "{}", log(&gateway));
}

#[tokio::test]
async fn refusals_past_their_number_are_counted_and_none_are_kept_where_that_is_off() {
    let backend = missing().await;
    for (refusals, written) in [(", refusals_per_second: 1", true), (", refusals_per_second: off", false)] {
        let gateway = TestGateway::start(&format!("workers: 1\n{}", sampled(refusals, &backend))).await;
        let mut client = Connection::open(gateway.http).await;
        for _ in 0..51 {
            client.send(get("/limited")).await;
        }
        let left_out = || async {
            let shown = send(gateway.admin(), get("/metrics")).await;
            let shown = String::from_utf8(shown.body().to_vec()).unwrap();
            let name = "millgate_log_refusals_left_out_total ";
            shown.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap_or(0)
        };
        let lines = || log(&gateway).matches("\"status\":429").count();
        if written {
            eventually("all are written or counted", || async { lines() + left_out().await == 50 }).await;
            assert!(lines() >= 1 && left_out().await >= 1);
        } else {
            eventually("all are counted", || {
                gateway.shows("millgate_requests_total{route=\"/limited\",service=\"one\",method=\"GET\",code=\"429\"} 50")
            })
            .await;
            assert_eq!((lines(), left_out().await), (0, 0));
        }
    }
}

#[tokio::test]
async fn what_is_refused_below_the_log_is_listed_with_address_reason_and_time() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let made = generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let gateway = TestGateway::start_in(
        dir,
        &format!(
            "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: 1s, \
             https: {{bind: \"127.0.0.1:0\", cert_file: cert.pem, key_file: key.pem}}}}\nroutes:\n  \
             - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
            backend.addr
        ),
    )
    .await;
    let head = [b"GET / HTTP/1.1\r\nhost: gw\r\nx: ".to_vec(), vec![b'x'; 120 * 1024]].concat();
    let patience = Duration::from_secs(10);
    let (http, https) = (gateway.http, gateway.https_addr().unwrap());
    for _ in 0..3 {
        raw(http, &[b"GET / HTTP/7.7\r\nhost: gw\r\n\r\n"], true, patience).await;
    }
    raw(http, &[&head], true, patience).await;
    raw(http, &[b"GET / HTTP/1.1\r\nhost:"], false, patience).await;
    raw(https, &[b"GET / HTTP/1.1\r\nhost: gw\r\n\r\n"], true, patience).await;
    // A SETTINGS frame of five bytes (RFC 9113 §6.5).
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x05\x04\0\0\0\0\0abcde";
    raw(http, &[preface], true, patience).await;
    let rows = || async { json(&send(gateway.admin(), get("/api/v1/refusals")).await)["refusals"].clone() };
    let times = async |listener: &str, reason: &str| {
        let rows = rows().await;
        let of_kind = rows.as_array().unwrap().iter();
        let of_kind = of_kind.filter(|row| row["listener"] == listener && row["reason"] == reason);
        of_kind.map(|row| row["times"].as_u64().unwrap()).sum::<u64>()
    };
    for (listener, reason, expected) in [
        ("http", "bad_request", 3),
        ("http", "head_too_large", 1),
        ("http", "header_timeout", 1),
        ("https", "tls_handshake", 1),
        ("http", "http2", 1),
    ] {
        eventually(reason, || async { times(listener, reason).await == expected }).await;
    }
    let shown = rows().await;
    for row in shown.as_array().unwrap() {
        assert_eq!(row["client"], "127.0.0.1", "{row}");
        assert!(row["time"].as_str().unwrap() >= row["first"].as_str().unwrap(), "{row}");
        let has_words = row["detail"] != "" || row["reason"] == "header_timeout";
        assert!(has_words, "{row}");
    }
    let version = |row: &&Value| row["reason"] == "bad_request";
    let version = shown.as_array().unwrap().iter().find(version).unwrap();
    assert!(version["detail"].as_str().unwrap().contains("version"), "{version}");
}
