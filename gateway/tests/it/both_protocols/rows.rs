//! Requests, and what must become of them in both protocols.

use super::Verdict::{Both, Http1Only, Http2, Refused};
use super::{Row, authority, field, lengths, many, method, row, target};

pub(super) fn sizes() -> Vec<Row> {
    let long = |bytes: usize| vec![b'v'; bytes];
    vec![
        field("17 KiB of cookies in one", b"cookie", &long(17 * 1024), Both(200)),
        many("17 KiB of cookies in 120 crumbs", 120, b"cookie", &long(145), Both(200)),
        many("120 cookies of 20 bytes", 120, b"cookie", &long(20), Both(200)),
        many("256 crumbs", 256, b"cookie", b"a=b", Both(200)),
        many("257 crumbs", 257, b"cookie", b"a=b", Http2(431)),
        many("2000 crumbs of a byte", 2000, b"cookie", b"a", Http2(431)),
        field("63 KiB", b"x-long", &long(63 * 1024), Both(200)),
        field("65 KiB", b"x-long", &long(65 * 1024), Both(431)),
        field("70 KB", b"x-long", &long(70_000), Both(431)),
        field("200 KiB, more than h2 waits for", b"x-long", &long(200 * 1024), Refused),
        many("64 KiB in crumbs that are too much together", 200, b"cookie", &long(330), Both(431)),
        many("90 lines", 90, b"x-line", b"v", Both(200)),
        many("101 lines", 101, b"x-line", b"v", Both(431)),
        many("1000 lines", 1000, b"x", b"", Both(431)),
        many("2500 lines", 2500, b"x", b"", Both(431)),
        many("4000 lines, more than h2 keeps", 4000, b"x", b"", Both(431)),
    ]
}

pub(super) fn fields() -> Vec<Row> {
    let value = |what, value: &[u8], verdict| field(what, b"x-key", value, verdict);
    let name = |what, name: &[u8], verdict| field(what, name, b"v", verdict);
    vec![
        value("empty value", b"", Both(200)),
        value("whitespace within", b"a \t k", Both(200)),
        value("obs-text", b"\x80k\xff", Both(200)),
        value("space before", b" k", Http1Only(200)),
        value("space after", b"k ", Http1Only(200)),
        value("tab before", b"\tk", Http1Only(200)),
        value("tab after", b"k\t", Http1Only(200)),
        value("only a space", b" ", Http1Only(200)),
        field("space before a cookie", b"cookie", b" a=b", Http1Only(200)),
        value("control", b"a\x01b", Refused),
        value("NUL", b"a\0b", Refused),
        value("CR", b"a\rb", Refused),
        value("DEL", b"a\x7fb", Refused),
        name("no name", b"", Refused),
        name("space in a name", b"x key", Refused),
        name("space after a name", b"x-key ", Refused),
        name("parenthesis in a name", b"x(key", Refused),
        name("obs-text in a name", b"x\xffkey", Refused),
        name("token characters in a name", b"x!#$%&'*+-^`|~key", Both(200)),
        name("upper case in a name", b"X-Key", Http1Only(200)),
        field("TE: trailers", b"te", b"trailers", Both(200)),
        field("TE", b"te", b"gzip", Http1Only(200)),
        field("Connection", b"connection", b"x-key", Http1Only(200)),
        field("Keep-Alive", b"keep-alive", b"timeout=5", Http1Only(200)),
        field("Proxy-Connection", b"proxy-connection", b"keep-alive", Http1Only(200)),
        field("Transfer-Encoding that is none", b"transfer-encoding", b"identity", Refused),
        field("Expect", b"expect", b"100-continue", Both(200)),
        field("unknown expectation", b"expect", b"200-ok", Both(417)),
        field("a proxy's word", b"x-forwarded-for", b"1.2.3.4", Both(200)),
        field("a name that may be taken for another", b"x_forwarded_for", b"1.2.3.4", Both(200)),
    ]
}

pub(super) fn request_lines() -> Vec<Row> {
    let path = |bytes: usize| [&b"/"[..], &vec![b'a'; bytes - 1]].concat();
    let name = |bytes: usize| vec![b'a'; bytes];
    vec![
        row("plain", Both(200)),
        method(b"get", Both(501)),
        method(b"PURGE", Both(501)),
        method(&[b'A'; 33], Both(501)),
        method(&[b'A'; 1000], Both(501)),
        method(b"TRACE", Both(405)),
        method(b"G(T", Refused),
        method(b"G\x80T", Refused),
        method(b"", Refused),
        target(b"/x?a=b&c", Both(200)),
        target(b"/x#part", Both(200)),
        target(b"/x y", Refused),
        target(b"/x\x7f", Refused),
        target(b"/x\0", Refused),
        target(b"/x\\y", Refused),
        target(b"/x\"y", Refused),
        target(b"/x|y", Refused),
        target(b"/x^y", Refused),
        target(b"/x{y}", Refused),
        target("/é".as_bytes(), Refused),
        target(b"/x?\xff", Refused),
        target(b"/x?a|b", Both(200)),
        target(b"/%zz", Both(400)),
        target(b"/a/../x", Both(400)),
        target(b"//x", Both(400)),
        target(b"*", Both(400)),
        target(b"", Refused),
        target(b"x", Refused),
        target(b"?x", Refused),
        target(&path(8 * 1024), Both(200)),
        target(&path(8 * 1024 + 1), Both(414)),
        target(&path(60_000), Both(414)),
        target(&path(70_000), Refused),
        authority(b"GW.", Both(200)),
        authority(b"gw:8080", Both(200)),
        authority(b"[::1]", Both(200)),
        authority(b"", Refused),
        authority(b"u@gw", Both(400)),
        authority(b"gw:99999", Refused),
        authority(b"gw:x", Refused),
        authority(b"gw, evil", Refused),
        authority(b"gw/x", Refused),
        authority(b"g\0w", Refused),
        authority(&name(253), Both(200)),
        authority(&name(254), Both(400)),
    ]
}

pub(super) fn contents() -> Vec<Row> {
    vec![
        lengths(&[], b"", Both(200)),
        lengths(&[b"5"], b"hello", Both(200)),
        lengths(&[b"5", b"5"], b"hello", Both(200)),
        lengths(&[b"5", b"005"], b"hello", Both(200)),
        lengths(&[b"0005"], b"hello", Both(200)),
        lengths(&[b"5", b"6"], b"hello", Refused),
        lengths(&[b"5, 5"], b"hello", Refused),
        lengths(&[b"+5"], b"hello", Refused),
        lengths(&[b"-5"], b"hello", Refused),
        lengths(&[b"0x5"], b"hello", Refused),
        lengths(&[b""], b"", Refused),
        lengths(&[b"18446744073709551616"], b"", Refused),
    ]
}
