//! One admission for both protocols: the same request over HTTP/1.1 and HTTP/2 gets the same verdict, and the service
//! sees the same of it. If the protocols themselves differ, the row has both verdicts.

mod rows;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::io::AsyncReadExt;

use crate::support::{
    backend::{Backend, RawBackend},
    client::{get, http2, send, text},
    eventually,
    frames::{Cut, END_STREAM, Field, FrameClient, Listeners, Outcome, PROTOCOL_ERROR, data, headers, write},
    gateway::TestGateway,
};

/// One request and its verdict.
struct Row {
    what: &'static str,
    method: Vec<u8>,
    authority: Vec<u8>,
    path: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: &'static [u8],
    verdict: Verdict,
}

/// What must become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// This status from both.
    Both(u16),
    /// Refused by both, with a 4xx or, on HTTP/2, with RST_STREAM or GOAWAY. h2 has no other reply to a malformed
    /// request (RFC 9113 §8.1.1), and it ends the connection for a field that HPACK's types cannot contain.
    Refused,
    /// HTTP/1.1 takes it with this status; RFC 9113 makes it malformed (§8.2.1, §8.2.2), or this protocol alone.
    Http1Only(u16),
    /// Only HTTP/2 has this limit: HTTP/1.1 gets 200, HTTP/2 this.
    Http2(u16),
}

use Verdict::{Both, Http1Only, Http2, Refused};

fn row(what: &'static str, verdict: Verdict) -> Row {
    Row {
        what,
        method: b"GET".to_vec(),
        authority: b"gw".to_vec(),
        path: b"/x".to_vec(),
        fields: Vec::new(),
        body: b"",
        verdict,
    }
}

fn field(what: &'static str, name: &[u8], value: &[u8], verdict: Verdict) -> Row {
    Row { fields: vec![(name.to_vec(), value.to_vec())], ..row(what, verdict) }
}

fn target(path: &[u8], verdict: Verdict) -> Row {
    Row { path: path.to_vec(), ..row("target", verdict) }
}

fn method(method: &[u8], verdict: Verdict) -> Row {
    Row { method: method.to_vec(), ..row("method", verdict) }
}

fn authority(authority: &[u8], verdict: Verdict) -> Row {
    Row { authority: authority.to_vec(), ..row("authority", verdict) }
}

fn lengths(values: &[&[u8]], body: &'static [u8], verdict: Verdict) -> Row {
    let fields = values.iter().map(|value| (b"content-length".to_vec(), value.to_vec())).collect();
    Row { method: b"POST".to_vec(), fields, body, ..row("lengths", verdict) }
}

fn many(what: &'static str, count: usize, name: &[u8], value: &[u8], verdict: Verdict) -> Row {
    Row { fields: vec![(name.to_vec(), value.to_vec()); count], ..row(what, verdict) }
}

impl Row {
    /// As HTTP/1.1: crumbs of a cookie in one line, as a browser sends them.
    fn http1(&self) -> Vec<u8> {
        let (method, path) = (&self.method, &self.path);
        let mut bytes = [method, &b" "[..], path, b" HTTP/1.1\r\nhost: ", &self.authority, b"\r\n"].concat();
        bytes.extend_from_slice(b"connection: close\r\n");
        let (crumbs, fields): (Vec<_>, Vec<_>) = self.fields.iter().partition(|(name, _)| name == b"cookie");
        let crumbs: Vec<&[u8]> = crumbs.iter().map(|(_, value)| &value[..]).collect();
        bytes.extend(lines(&fields.iter().map(|(name, value)| (&name[..], &value[..])).collect::<Vec<_>>()));
        if !crumbs.is_empty() {
            bytes.extend([b"cookie: ", &crumbs.join(&b"; "[..])[..], b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// As frames of stream 1.
    fn http2(&self, scheme: &str) -> Vec<u8> {
        let flags = if self.body.is_empty() { END_STREAM } else { 0 };
        let pseudo: [Field<'_>; 4] = [
            (b":method", &self.method),
            (b":scheme", scheme.as_bytes()),
            (b":authority", &self.authority),
            (b":path", &self.path),
        ];
        let fields = self.fields.iter().map(|(name, value)| (&name[..], &value[..]));
        let mut bytes = headers(1, flags, &pseudo.into_iter().chain(fields).collect::<Vec<_>>());
        if !self.body.is_empty() {
            bytes.extend(data(1, END_STREAM, self.body));
        }
        bytes
    }

    fn holds(&self, http1: u16, http2: Outcome) -> bool {
        let malformed = matches!(http2, Outcome::Status(400) | Outcome::Reset(_) | Outcome::GoAway(_));
        match self.verdict {
            Both(status) => http1 == status && http2 == Outcome::Status(status),
            Refused => (400..500).contains(&http1) && (malformed || http2 == Outcome::Status(http1)),
            Http1Only(status) => http1 == status && malformed,
            Http2(status) => http1 == 200 && http2 == Outcome::Status(status),
        }
    }
}

/// As lines of HTTP/1.1.
fn lines(fields: &[Field<'_>]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [name, &b": "[..], value, b"\r\n"].concat()).collect()
}

fn to(backend: SocketAddr) -> String {
    format!(
        "routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{backend}\"], breaker: off}}}}\n"
    )
}

async fn status_of_http1(listeners: &Listeners, over_tls: bool, bytes: &[u8], cut: Cut) -> u16 {
    let mut stream = listeners.open_http1(over_tls).await;
    write(&mut stream, bytes, cut).await;
    let mut answer = Vec::new();
    // Bytes that the gateway did not read make the system reset the connection after the answer.
    let _ = stream.read_to_end(&mut answer).await;
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    status.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// What the service saw of the last request, without what must differ.
fn seen(backend: &Backend) -> Option<(String, HeaderMap, Bytes)> {
    let request = backend.take_seen().pop()?;
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    headers.remove("via");
    headers.remove("x-request-id");
    Some((format!("{} {}", parts.method, parts.uri), headers, body))
}

async fn check(rows: Vec<Row>) {
    check_with("", rows).await;
}

/// With further entries of `listen`.
async fn check_with(listen: &str, rows: Vec<Row>) {
    let backend = Backend::named("one").await;
    let listeners = Listeners::start(listen, &to(backend.addr)).await;
    let mut wrong = Vec::new();
    for row in &rows {
        for (over_tls, cut) in [false, true].into_iter().flat_map(|tls| Cut::ALL.map(|cut| (tls, cut))) {
            let (by_http1, by_http2) = (row.http1(), row.http2(if over_tls { "https" } else { "http" }));
            // A write for each of very many bytes takes longer than the row is worth.
            if cut == Cut::Bytes && by_http1.len() > 2000 {
                continue;
            }
            let http1 = status_of_http1(&listeners, over_tls, &by_http1, cut).await;
            let seen_by_http1 = seen(&backend);
            let mut client = listeners.open(over_tls).await;
            client.try_send(&by_http2, cut).await;
            let http2 = client.outcome(1).await;
            let seen_by_http2 = seen(&backend);
            let as_said = row.holds(http1, http2);
            if !as_said || (row.verdict == Both(200) && seen_by_http1 != seen_by_http2) {
                let (what, path) = (row.what, String::from_utf8_lossy(&row.path));
                let path = path.chars().take(40).collect::<String>();
                let method = String::from_utf8_lossy(&row.method).chars().take(40).collect::<String>();
                let authority = String::from_utf8_lossy(&row.authority).chars().take(40).collect::<String>();
                wrong.push(format!(
                    "{what} ({method} {path}, {authority}), TLS {over_tls}, {cut:?}: {http1}, {http2:?}; must be {:?}{}",
                    row.verdict,
                    if as_said { format!(": {seen_by_http1:?} {seen_by_http2:?}") } else { String::new() },
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn sizes_and_numbers_of_fields_have_one_limit_in_both_protocols() {
    check(rows::sizes()).await;
}

#[tokio::test]
async fn limits_of_the_configuration_count_in_both_protocols() {
    let long = |bytes: usize| vec![b'v'; bytes];
    let rows = vec![
        many("18 lines", 18, b"x-line", b"v", Both(200)),
        many("21 lines", 21, b"x-line", b"v", Both(431)),
        field("7 KiB", b"x-long", &long(7 * 1024), Both(200)),
        field("9 KiB", b"x-long", &long(9 * 1024), Both(431)),
        many("6 KiB in crumbs", 200, b"cookie", &long(28), Both(200)),
        many("9 KiB in crumbs", 200, b"cookie", &long(46), Both(431)),
    ];
    check_with(", max_headers: 20, max_header_size: 8KiB", rows).await;
    // The service here has a limit of its own, so a request that passes this one is refused for its method.
    let rows = vec![
        Row { method: b"PURGE".to_vec(), ..many("900 lines", 900, b"x-line", b"v", Both(501)) },
        many("900 crumbs", 900, b"cookie", b"v", Both(200)),
        many("1001 lines", 1001, b"x-line", b"v", Both(431)),
        field("250 KiB", b"x-long", &long(250 * 1024), Both(200)),
        field("257 KiB", b"x-long", &long(257 * 1024), Both(431)),
    ];
    check_with(", max_headers: 1000, max_header_size: 256KiB", rows).await;
}

#[tokio::test]
async fn names_and_values_of_fields_get_one_verdict_in_both_protocols() {
    check(rows::fields()).await;
}

#[tokio::test]
async fn methods_targets_and_hosts_get_one_verdict_in_both_protocols() {
    check(rows::request_lines()).await;
}

#[tokio::test]
async fn lengths_of_content_get_one_verdict_in_both_protocols() {
    check(rows::contents()).await;
}

/// One request over HTTP/2 in cleartext, by a library.
async fn over_http2(gateway: &TestGateway, request: Request<Empty<Bytes>>) -> Response<Bytes> {
    let (parts, body) = http2(gateway.http).await.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

/// curl ends such an answer over HTTP/2 with exit code 92.
#[tokio::test]
async fn a_204_has_no_length_in_both_protocols_and_its_connection_is_not_used_again() {
    let backend = RawBackend::answering(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", false).await;
    let gateway = TestGateway::start(&to(backend.addr)).await;
    let by_http1 = send(gateway.http, get("/x")).await;
    let by_http2 = over_http2(&gateway, Request::get("http://gw/x").body(Empty::new()).unwrap()).await;
    for reply in [by_http1, by_http2] {
        assert_eq!((reply.status().as_u16(), reply.headers().get("content-length")), (204, None));
    }
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_condition_on_cookies_sees_crumbs_as_one_cookie() {
    let (plain, tried) = (Backend::named("plain").await, Backend::named("tried").await);
    let config = format!(
        "routes:\n  - {{path: /**, service: plain}}\n  \
         - {{path: /**, service: tried, match_headers: {{Cookie: \"a=1; b=2\"}}}}\n\
         services: {{plain: {{hosts: [\"{}\"]}}, tried: {{hosts: [\"{}\"]}}}}\n",
        plain.addr, tried.addr
    );
    let gateway = TestGateway::start(&config).await;
    let crumbs = Request::get("http://gw/x").header("cookie", "a=1").header("cookie", "b=2");
    let reply = over_http2(&gateway, crumbs.body(Empty::new()).unwrap()).await;
    assert_eq!(reply.into_body(), "tried");
}

/// The scheme and port that the service gets for `:scheme` or an absolute-form target on the cleartext listener.
async fn stated(trusted: &str, scheme: &str, further: &[Field<'_>]) -> (Outcome, u16, Vec<[String; 2]>) {
    let backend = Backend::named("one").await;
    let listeners = Listeners::start(trusted, &to(backend.addr)).await;
    let mut client: FrameClient = listeners.open(false).await;
    let pseudo: [Field<'_>; 4] =
        [(b":method", b"GET"), (b":scheme", scheme.as_bytes()), (b":authority", b"gw"), (b":path", b"/x")];
    client.send(&headers(1, END_STREAM, &[&pseudo[..], further].concat())).await;
    let http2 = client.outcome(1).await;
    let head = format!("GET {scheme}://gw/x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n");
    let bytes = [head.as_bytes(), &lines(further), b"\r\n"].concat();
    let http1 = status_of_http1(&listeners, false, &bytes, Cut::Whole).await;
    let told = backend.take_seen().into_iter().map(|request| {
        ["x-forwarded-proto", "x-forwarded-port"]
            .map(|name| request.headers()[name].to_str().unwrap().to_owned())
    });
    (http2, http1, told.collect())
}

#[tokio::test]
async fn a_scheme_is_a_statement_of_a_trusted_proxy_and_is_refused_from_anything_else() {
    let trusted = ", trusted_proxies: [127.0.0.0/8]";
    let told = |scheme: &str, port: &str| vec![[scheme.to_owned(), port.to_owned()]; 2];
    let ok = Outcome::Status(200);
    let refused = (Outcome::Status(400), 400, Vec::new());
    assert_eq!(stated(trusted, "https", &[]).await, (ok, 200, told("https", "443")));
    assert_eq!(stated(trusted, "HTTPS", &[]).await, (ok, 200, told("https", "443")));
    assert_eq!(stated(trusted, "http", &[]).await, (ok, 200, told("http", "80")));
    let proto: Field<'_> = (b"x-forwarded-proto", b"http");
    assert_eq!(
        stated(trusted, "https", &[proto]).await.2[0][0],
        "http",
        "its field says it in so many words"
    );
    assert_eq!(stated("", "HTTP", &[]).await, (ok, 200, told("http", "80")));
    assert_eq!(stated("", "https", &[]).await, refused);
    assert_eq!(stated(trusted, "ftp", &[]).await, refused);
}

/// Trailers are no part of the header section, and what they may not be is refused alike (`trailers` shows what passes).
#[tokio::test]
async fn trailers_are_no_header_fields_and_broken_ones_break_the_request_in_both_protocols() {
    let backend = Backend::named("one").await;
    let listeners = Listeners::start("", &to(backend.addr)).await;
    let long = vec![b'v'; 300 * 1024];
    let rows: [(&[Field<'_>], bool); 5] = [
        (&[(b"x-sum", b"1"), (b"x-other", b"")], true),
        (&[(b"content-length", b"7"), (b"x-forwarded-for", b"1.2.3.4")], true),
        (&[(b"x\x00", b"v")], false),
        (&[(b"x", b"a\0b")], false),
        (&[(b"x-long", &long)], false),
    ];
    for (trailers, is_good) in rows {
        let head: &[u8] =
            b"POST /x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let bytes = [head, b"5\r\nhello\r\n0\r\n", &lines(trailers), b"\r\n"].concat();
        let http1 = status_of_http1(&listeners, false, &bytes, Cut::Whole).await;
        let by_http1 = seen(&backend);
        let mut client = listeners.open(false).await;
        let head = client.head(1, "POST", "/x", &[]);
        client
            .try_send(&[head, data(1, 0, b"hello"), headers(1, END_STREAM, trailers)].concat(), Cut::Whole)
            .await;
        let http2 = client.outcome(1).await;
        let by_http2 = seen(&backend);
        let (name, _) = trailers[0];
        let name = String::from_utf8_lossy(name);
        if is_good {
            assert_eq!((http1, http2), (200, Outcome::Status(200)), "{name}");
            assert!(by_http1.is_some() && by_http1 == by_http2, "{name}: {by_http1:?} {by_http2:?}");
            assert!(
                by_http1.is_some_and(|(_, headers, body)| body == "hello" && !headers.contains_key("x-sum"))
            );
        } else {
            assert!((400..500).contains(&http1), "{name}: {http1}");
            assert!(
                matches!(http2, Outcome::Status(400..500) | Outcome::Reset(_) | Outcome::GoAway(_)),
                "{http2:?}"
            );
            assert!([by_http1, by_http2].iter().flatten().all(|(.., body)| body != "hello"), "{name}");
        }
    }
    // h2 drops pseudo-fields of trailers, which RFC 9113 §8.1 calls malformed: they have no effect here.
    let mut client = listeners.open(false).await;
    let head = client.head(1, "POST", "/x", &[]);
    client
        .send(&[head, data(1, 0, b"hello"), headers(1, END_STREAM, &[(b":path", b"/other")])].concat())
        .await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    assert_eq!(seen(&backend).map(|(target, ..)| target).as_deref(), Some("POST /x"));
}

#[tokio::test]
async fn what_the_libraries_refuse_is_counted_in_both_protocols() {
    let backend = Backend::named("one").await;
    let listeners = Listeners::start("", &to(backend.addr)).await;
    let counted = async |series: &str| {
        let metrics = send(listeners.gateway.admin(), get("/metrics")).await;
        text(&metrics).lines().any(|line| line.starts_with(series) && !line.ends_with(" 0"))
    };
    let long = format!("GET /x HTTP/1.1\r\nhost: gw\r\nx-long: {}\r\n\r\n", "v".repeat(200 * 1024));
    for (bytes, status, reason) in [
        (&b"GET /x HTTP/3.0\r\nhost: gw\r\n\r\n"[..], 400, "bad_request"),
        (long.as_bytes(), 431, "head_too_large"),
    ] {
        for over_tls in [false, true] {
            assert_eq!(status_of_http1(&listeners, over_tls, bytes, Cut::Whole).await, status);
            let listener = if over_tls { "https" } else { "http" };
            let series =
                format!("millgate_connection_errors_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
            eventually(&series, || counted(&series)).await;
        }
    }
    let mut client = listeners.open(true).await;
    client.send(&row("", Refused).http2("https")).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    client.send(&headers(3, END_STREAM, &[(b":method", b"GET"), (b":scheme", b"https")])).await;
    assert_eq!(client.outcome(3).await, Outcome::Status(400));
    client.send(&headers(5, END_STREAM, &[(b":method", b"GET")])).await;
    assert_eq!(client.outcome(5).await, Outcome::Reset(PROTOCOL_ERROR));
    let series = "millgate_http2_refusals_total{scope=\"stream\",code=\"protocol_error\"}";
    eventually(series, || counted(series)).await;
    client.send(&headers(7, END_STREAM, &[(b"Upper", b"v")])).await;
    assert_eq!(client.outcome(7).await, Outcome::GoAway(PROTOCOL_ERROR));
    let series = "millgate_http2_refusals_total{scope=\"connection\",code=\"protocol_error\"}";
    eventually(series, || counted(series)).await;
}
