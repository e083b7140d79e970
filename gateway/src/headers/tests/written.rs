//! [`write_request`] writes what [`reference::apply_request`] makes: the same fields with the same values, in the client's order.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

/// The fields of a head, read by the parser that services use here.
pub(super) fn fields_of(head: &RequestHead) -> HeaderMap {
    let mut lines = [httparse::EMPTY_HEADER; 128];
    let mut read = httparse::Request::new(&mut lines);
    let end = read.parse(head.bytes()).expect("a head");
    assert_eq!(end, httparse::Status::Complete(head.bytes().len()));
    assert_eq!(read.version, Some(1));
    let mut headers = HeaderMap::new();
    for line in read.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_bytes(line.value).expect("a value"));
    }
    headers
}

/// Names that the gateway treats in all of its ways, besides others.
const NAMES: &[&str] = &[
    "accept",
    "authorization",
    "cookie",
    "x-a",
    "x-b",
    "x-c",
    "x_a",
    "x-user-id",
    "x_user_id",
    "connection",
    "keep-alive",
    "te",
    "upgrade",
    "proxy-authorization",
    "expect",
    "via",
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x_forwarded_for",
];

/// Names that rules may have.
const RULED: &[&str] = &[
    "x-a",
    "x-b",
    "x-c",
    "x-d",
    "cookie",
    "authorization",
    "x-forwarded-for",
    "x-forwarded-prefix",
    "x-request-id",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!-~]([ -~]{0,12}[!-~])?",
        Just(String::new()),
        select(vec![
            "https",
            "http",
            "close",
            "keep-alive, x-a",
            "x-b,via , X-Forwarded-Proto",
            "203.0.113.9",
            "/p/"
        ])
        .prop_map(str::to_owned),
    ]
}

fn field(names: &'static [&'static str]) -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    (select(names), value()).prop_map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::try_from(value).expect("a value"))
    })
}

fn made() -> impl Strategy<Value = MadeField> {
    let values = select(vec!["{client}", "id={request_id}", "{claim:sub}"]);
    (select(RULED), values, any::<bool>()).prop_map(|(name, value, is_added)| MadeField {
        name: HeaderName::from_static(name),
        value: MadeValue::parse(value).expect("a value").expect("with a word"),
        is_added,
    })
}

fn rules() -> impl Strategy<Value = HeaderRules> {
    let removed = select(RULED).prop_map(HeaderName::from_static);
    let some = (vec(field(RULED), 0..3), vec(field(RULED), 0..3), vec(removed, 0..3), vec(made(), 0..3))
        .prop_map(|(set, add, remove, made)| HeaderRules { set, add, remove, made });
    prop_oneof![Just(HeaderRules::default()), some]
}

fn case() -> impl Strategy<Value = Case> {
    let framing = prop_oneof![Just(Framing::None), Just(Framing::Length(17)), Just(Framing::Chunked)];
    let method = select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE]);
    let version = select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]);
    let scheme = prop_oneof![Just(Scheme::Http), Just(Scheme::Https)];
    let host = option::of(Just(HeaderValue::from_static("inner.test")));
    let prefix = option::of(Just("/api".to_owned()));
    let forward = vec(field(&["x-user-id", "x-user-name"]), 0..3);
    let way = (any::<bool>(), scheme, option::of(Just(8080)), method, version, framing);
    (way, host, prefix, forward, rules()).prop_map(
        |((peer_is_trusted, scheme, port, method, version, framing), host, prefix, forward, rules)| Case {
            peer_is_trusted,
            scheme,
            port,
            method,
            version,
            framing,
            host,
            prefix,
            forward,
            rules,
        },
    )
}

/// All values of each name, in order.
fn by_name(headers: &HeaderMap) -> Vec<(String, Vec<Vec<u8>>)> {
    let values = |name| headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect();
    let mut all: Vec<_> = headers.keys().map(|name| (name.to_string(), values(name))).collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_writer_writes_what_the_reference_makes(
        case in case(),
        lines in vec(field(NAMES), 0..10),
        lengths in vec(select(vec!["17", "017", "17, 17"]), 0..2),
        hosts in select(vec![&["gw"][..], &["GW.:80"], &[]]),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        let framing = if matches!(case.framing, Framing::Length(_)) { lengths } else { Vec::new() };
        for length in framing {
            headers.append(header::CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        case.with_context(&headers, |context| {
            let written = fields_of(&write_request(&headers, "/items/7?x=1", context));
            let mut expected = headers.clone();
            reference::apply_request(&mut expected, context);
            prop_assert_eq!(by_name(&written), by_name(&expected));
            // `Host` is first, and what stays of the client's fields keeps its order.
            prop_assert_eq!(written.keys().next(), Some(&header::HOST));
            let own = |name: &&HeaderName| {
                let is_ruled = !case.rules.is_empty() && RULED.contains(&name.as_str());
                headers.contains_key(*name) && !is_ruled && !name.as_str().starts_with("x-forwarded-")
                    && ![header::HOST, header::CONTENT_LENGTH].contains(*name)
                    && *name != "x-request-id" && *name != "x-user-id" && *name != "via"
            };
            let kept = headers.keys().filter(own).filter(|name| written.contains_key(*name));
            prop_assert!(written.keys().filter(own).eq(kept));
            Ok(())
        })?;
    }
}

#[test]
fn a_head_is_read_as_what_it_was_written_from() {
    let headers = fields(&[("host", "a.test"), ("accept", "*/*"), ("x-a", "1"), ("x-a", "")]);
    let case = Case { method: Method::DELETE, ..Case::default() };
    let head = case.with_context(&headers, |context| write_request(&headers, "/items/7?x=1", context));
    let expected = "DELETE /items/7?x=1 HTTP/1.1\r\nhost: a.test\r\naccept: */*\r\nx-a: 1\r\nx-a: \r\n\
        x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\nx-forwarded-host: a.test\r\n\
        x-forwarded-port: 80\r\nvia: 1.1 millgate\r\nx-request-id: id-1\r\n\r\n";
    assert_eq!(std::str::from_utf8(head.bytes()).expect("ASCII"), expected);
}

/// Admission refuses such a request; the writer alone still leaves no field without a value.
#[test]
fn what_a_trusted_peer_names_in_connection_is_written_anew() {
    let headers = fields(&[
        ("host", "a.test"),
        ("connection", "x-forwarded-for, X-Forwarded-Proto"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
    ]);
    let case = Case { peer_is_trusted: true, ..Case::default() };
    let written = case.with_context(&headers, |context| fields_of(&write_request(&headers, "/", context)));
    assert_eq!(lines(&written, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(lines(&written, "x-forwarded-proto"), ["http"]);
}
