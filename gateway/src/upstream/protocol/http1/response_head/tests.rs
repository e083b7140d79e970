//! Heads of responses, complete, cut and wrong.

use super::*;
use crate::headers::remove_hop_by_hop;

fn parsed(bytes: &[u8], is_head: bool) -> Result<Parsed, HeadFault> {
    parse(bytes, Expected { is_head, may_switch: false }, &mut HeaderMap::new())
}

fn read(bytes: &[u8], is_head: bool) -> FinalHead {
    match parsed(bytes, is_head) {
        Ok(Parsed::Final(head)) => head,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

/// A fault is found at some truncation, and not taken back later; before that, every truncation is partial.
fn fault_of(bytes: &[u8]) -> HeadFault {
    let mut fault = None;
    for end in 0..=bytes.len() {
        match (&fault, parsed(&bytes[..end], false)) {
            (None, Ok(Parsed::Partial)) => {}
            (None, Err(found)) => fault = Some(found),
            (Some(known), Err(found)) => assert_eq!(*known, found, "at {end}"),
            (_, other) => panic!("{:?}: {other:?}", String::from_utf8_lossy(&bytes[..end])),
        }
    }
    fault.unwrap()
}

#[test]
fn every_truncation_of_a_head_is_partial_and_what_follows_it_is_not_read() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-a: \xe9 b \t\r\nX-A:\r\n\r\n";
    for end in 0..head.len() {
        assert!(matches!(parsed(&head[..end], false), Ok(Parsed::Partial)), "{end}");
    }
    for rest in ["", "hello", "\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let found = read(&[head, rest.as_bytes()].concat(), false);
        assert_eq!((found.bytes, found.content), (head.len(), Delimited::Length(5)));
        let fields: Vec<_> =
            found.response.headers().iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        assert_eq!(fields, [("content-length", &b"5"[..]), ("x-a", b"\xe9 b"), ("x-a", b"")]);
        assert!(found.keeps_alive && found.framing.reusable);
    }
}

#[test]
fn content_ends_as_the_rfc_says_in_its_order() {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    for (status, fields, is_head, expected) in [
        (200, "", false, Delimited::ByClose),
        (200, "Content-Length: 0\r\n", false, Delimited::Nothing),
        (200, "Content-Length: 5\r\n", false, Delimited::Length(5)),
        (200, "Content-Length: 5, 5\r\nContent-Length:  05\t\r\n", false, Delimited::Length(5)),
        (200, "Content-Length: 18446744073709551613\r\n", false, Delimited::Length(u64::MAX - 2)),
        (200, CHUNKED, false, Delimited::Chunked),
        (200, "transfer-encoding:\tcHuNkEd \r\n", false, Delimited::Chunked),
        (200, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", false, Delimited::Chunked),
        (200, "Content-Length: 5\r\n", true, Delimited::Nothing),
        (200, CHUNKED, true, Delimited::Nothing),
        (204, "Content-Length: 5\r\n", false, Delimited::Nothing),
        (304, "Content-Length: 5\r\n", false, Delimited::Nothing),
        (304, CHUNKED, false, Delimited::Nothing),
        (404, "", false, Delimited::ByClose),
        (999, "", false, Delimited::ByClose),
    ] {
        let head = format!("HTTP/1.1 {status} Any\r\n{fields}\r\n");
        let found = read(head.as_bytes(), is_head);
        assert_eq!(found.content, expected, "{head:?}");
    }
}

#[test]
fn a_head_that_may_not_be_passed_on_is_refused_at_every_length() {
    let framing = HeadFault::Framing;
    for (head, fault) in [
        ("hello world", HeadFault::Start),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", HeadFault::Start),
        ("\nHTTP/1.1 200 OK\r\n\r\n", HeadFault::Start),
        (" HTTP/1.1 200 OK\r\n\r\n", HeadFault::Start),
        ("HTTP/2.0 200 OK\r\n\r\n", HeadFault::Syntax(httparse::Error::Version)),
        ("HTTP/1.2 200 OK\r\n\r\n", HeadFault::Syntax(httparse::Error::Version)),
        ("HTTP/1.1 099 OK\r\n\r\n", HeadFault::Value),
        ("HTTP/1.1 2000 OK\r\n\r\n", HeadFault::Syntax(httparse::Error::Status)),
        ("HTTP/1.1  200 OK\r\n\r\n", HeadFault::Syntax(httparse::Error::Status)),
        ("HTTP/1.1 +20 OK\r\n\r\n", HeadFault::Syntax(httparse::Error::Status)),
        ("HTTP/1.1 200 O\0K\r\n\r\n", HeadFault::Syntax(httparse::Error::Status)),
        ("HTTP/1.1 200 OK\rX\r\n\r\n", HeadFault::Syntax(httparse::Error::Status)),
        ("HTTP/1.1 200 OK\r\n X: a\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\n: a\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\nX\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderValue)),
        ("HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderValue)),
        ("HTTP/1.1 200 OK\r\nX: a\x7f\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderValue)),
        ("HTTP/1.1 200 OK\r\n\rX: a\r\n\r\n", HeadFault::Syntax(httparse::Error::NewLine)),
        ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", framing(ResponseFault::SwitchingProtocols)),
    ] {
        assert_eq!(fault_of(head.as_bytes()), fault, "{head:?}");
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length:",
        "Content-Length: 5,",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 1_0",
        "Content-Length: 18446744073709551614",
        "Content-Length: 18446744073709551615",
        "Content-Length: 18446744073709551616",
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        assert_eq!(fault_of(head.as_bytes()), framing(ResponseFault::ContentLength), "{head:?}");
    }
    for (version, fields) in [
        (1, "Transfer-Encoding: gzip"),
        (1, "Transfer-Encoding: gzip, chunked"),
        (1, "Transfer-Encoding: chunked, gzip"),
        (1, "Transfer-Encoding: chunked, chunked"),
        (1, "Transfer-Encoding: chunked,"),
        (1, "Transfer-Encoding: ,chunked"),
        (1, "Transfer-Encoding: \"chunked\""),
        (1, "Transfer-Encoding: xchunked"),
        (1, "Transfer-Encoding:"),
        (1, "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        (1, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        (1, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        (0, "Transfer-Encoding: chunked"),
        (0, "Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ] {
        let head = format!("HTTP/1.{version} 200 OK\r\n{fields}\r\n\r\n");
        assert_eq!(fault_of(head.as_bytes()), framing(ResponseFault::TransferEncoding), "{head:?}");
    }
}

#[test]
fn a_head_is_limited_in_bytes_and_in_lines() {
    let of_bytes = |bytes: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(bytes - 24));
    assert_eq!(read(of_bytes(RESPONSE_HEAD_BYTES_MAX).as_bytes(), false).bytes, RESPONSE_HEAD_BYTES_MAX);
    for long in [
        of_bytes(RESPONSE_HEAD_BYTES_MAX + 1),
        "HTTP/1.1 200 ".to_owned() + &"a".repeat(RESPONSE_HEAD_BYTES_MAX),
    ] {
        assert_eq!(parsed(long.as_bytes(), false).unwrap_err(), HeadFault::TooLarge);
        assert_eq!(
            parsed(&long.as_bytes()[..RESPONSE_HEAD_BYTES_MAX], false).unwrap_err(),
            HeadFault::TooLarge
        );
        assert!(matches!(
            parsed(&long.as_bytes()[..RESPONSE_HEAD_BYTES_MAX - 1], false),
            Ok(Parsed::Partial)
        ));
    }
    let of_lines = |lines: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(lines));
    assert_eq!(
        read(of_lines(RESPONSE_LINES_MAX).as_bytes(), false).response.headers().len(),
        RESPONSE_LINES_MAX
    );
    assert_eq!(fault_of(of_lines(RESPONSE_LINES_MAX + 1).as_bytes()), HeadFault::TooLarge);
}

#[test]
fn a_connection_goes_on_only_if_all_that_the_head_says_allows_it() {
    for (version, fields, keeps_alive) in [
        (1, "", true),
        (1, "Connection: keep-alive", true),
        (1, "Connection: close", false),
        (1, "Connection: x, \tClOsE", false),
        (1, "Connection: \u{e9}, close", false),
        (1, "Connection: keep-alive\r\nConnection: close", false),
        (1, "Connection: close\r\nConnection: keep-alive", false),
        (1, "Connection: closed", true),
        (0, "", false),
        (0, "Connection: Keep-Alive", true),
        (0, "Connection: \u{e9}, keep-alive", false),
        (0, "Connection: keep-alive, close", false),
        (0, "Connection: close\r\nConnection: keep-alive", false),
    ] {
        let line = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
        let head = format!("HTTP/1.{version} 200 OK\r\nContent-Length: 0\r\n{line}\r\n");
        assert_eq!(read(head.as_bytes(), false).keeps_alive, keeps_alive, "{head:?}");
    }
}

#[test]
fn a_line_that_ends_with_lf_alone_is_read_and_leaves_the_connection_unusable() {
    let lines = ["HTTP/1.1 200 OK", "A: 1", "B:", "Content-Length: 2", ""];
    for bare in 0..lines.len() {
        let head: String = lines
            .iter()
            .enumerate()
            .map(|(at, line)| line.to_string() + if at == bare { "\n" } else { "\r\n" })
            .collect();
        let found = read(head.as_bytes(), false);
        assert_eq!((found.response.headers().len(), found.content), (3, Delimited::Length(2)), "{head:?}");
        assert!(!found.keeps_alive, "{head:?}");
    }
    assert!(!read(b"HTTP/1.1 200\n\n", false).keeps_alive);
    assert!(!read(b"HTTP/1.1 200\n\r\n", false).keeps_alive);
    assert!(!read(b"HTTP/1.1 200\r\n\n", false).keeps_alive);
    assert!(read(b"HTTP/1.1 200\r\n\r\n", false).keeps_alive);
}

#[test]
fn informational_heads_are_told_apart_and_end_where_they_end() {
    for status in [100, 102, 103, 199] {
        let head = format!("HTTP/1.1 {status} Any\r\nLink: </x>\r\nContent-Length: 5\r\n\r\n");
        let Ok(Parsed::Informational { bytes, response, .. }) =
            parsed((head.clone() + "HTTP/1.1 2").as_bytes(), false)
        else {
            panic!("{status}")
        };
        assert_eq!((bytes, response.status().as_u16()), (head.len(), status));
        assert_eq!(response.headers()["link"], "</x>");
    }
}

#[test]
fn only_a_reason_that_is_not_the_usual_one_is_kept() {
    let reason = |head: &[u8]| {
        read(head, false).response.extensions().get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
    };
    assert_eq!(reason(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    assert_eq!(reason(b"HTTP/1.1 200 Fine\r\n\r\n"), Some(b"Fine".to_vec()));
    assert_eq!(reason(b"HTTP/1.1 200\r\n\r\n"), Some(Vec::new()));
    assert_eq!(reason(b"HTTP/1.1 200 \xe9\r\n\r\n"), Some(Vec::new()));
    assert_eq!(reason(b"HTTP/1.1 299 Any\r\n\r\n"), Some(b"Any".to_vec()));
}

/// The fields that end at this hop are left out while the head is parsed. The reference removes them afterwards.
#[test]
fn what_ends_at_this_hop_is_not_in_the_map() {
    let lines = [
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("connection", "x-a, close"),
        ("connection", "keep-alive,X-B"),
        ("keep-alive", "1"),
        ("proxy-status", "a"),
        ("proxy-authenticate", "b"),
        ("x-a", "1"),
        ("x-b", "2"),
        ("x-b", "3"),
        ("set-cookie", "c"),
    ];
    for set in 0..1_u32 << lines.len() {
        let chosen = || (0..lines.len()).filter(|at| set & (1 << at) != 0).map(|at| lines[at]);
        let fields: Vec<_> = chosen().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
        let fields = fields.concat();
        let found = read(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), false);
        let mut expected = HeaderMap::new();
        for (name, value) in chosen() {
            expected.append(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut expected);
        assert_eq!(*found.response.headers(), expected, "{fields}");
        assert_eq!(found.keeps_alive, !fields.contains("close"), "{fields}");
    }
}
