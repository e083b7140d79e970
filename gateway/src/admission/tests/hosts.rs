//! The host and scheme that a request is for.

use super::*;

#[test]
fn host_is_folded_to_lower_case_without_root_dot_and_default_port() {
    for (host, folded, authority, port) in [
        ("gw", "gw", "gw", None),
        ("GW.:80", "gw", "gw", None),
        ("gw:8080", "gw", "gw:8080", Some(8080)),
        ("gw:08080", "gw", "gw:8080", Some(8080)),
        ("gw:", "gw", "gw", None),
        ("gw:0", "gw", "gw:0", Some(0)),
        ("gw:65535", "gw", "gw:65535", Some(65535)),
        ("10.0.0.1:443", "10.0.0.1", "10.0.0.1:443", Some(443)),
        ("[::1]", "[::1]", "[::1]", None),
        ("[FE80::1]:81", "[fe80::1]", "[fe80::1]:81", Some(81)),
        ("my_service.local", "my_service.local", "my_service.local", None),
    ] {
        let admitted = admitted(&format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(
            (admitted.host(), admitted.authority().host_line(), admitted.authority().port()),
            (folded, &http::HeaderValue::from_static(authority), port),
            "{host}"
        );
    }
}

#[test]
fn the_authority_of_the_last_request_is_taken_again_only_for_the_same_text() {
    let authority = |raw: &str, last: Option<&Rc<Authority>>| {
        let parts = parse(raw).expect("a request that http's types can hold");
        match admit(&parts, &limits(), DIRECT, last) {
            Ok(Admission::Forward(admitted)) => Rc::clone(admitted.authority()),
            other => panic!("{other:?}"),
        }
    };
    let first = authority("GET /a HTTP/1.1\r\nHost: gw:8080\r\n\r\n", None);
    let same = authority("GET /b HTTP/1.1\r\nHost: gw:8080\r\n\r\n", Some(&first));
    assert!(Rc::ptr_eq(&first, &same));
    for (host, line) in [("gw", "gw"), ("GW:8080", "gw:8080"), ("gw:80800", ""), ("gw:8080 ", "gw:8080")] {
        let raw = format!("GET /b HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let parts = parse(&raw).expect("a request that http's types can hold");
        match admit(&parts, &limits(), DIRECT, Some(&first)) {
            Ok(Admission::Forward(admitted)) => {
                assert_eq!(admitted.authority().host_line(), line, "{host:?}");
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => assert_eq!((line, refusal), ("", Refusal::HostInvalid), "{host:?}"),
        }
    }
}

#[test]
fn a_host_with_two_readings_is_refused() {
    for host in [
        "",
        ".",
        "..",
        ".gw",
        "gw..",
        "a..b",
        "gw, evil",
        "u:p@gw",
        "gw:80:80",
        "gw:99999",
        "gw:-1",
        "gw:+1",
        "gw:8x",
        "gw:000080",
        "[::1",
        "::1",
        "[gw]",
        "[::1]x",
        "[::1]80",
        "a b",
        "gw/a",
        "gw%41",
        "gw\\",
        "gw#",
        "gw?",
        ":80",
    ] {
        let answer = check(&format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer, Err(Refusal::HostInvalid), "{host:?}");
    }
}

#[test]
fn an_absolute_target_must_name_the_host_and_goes_on_in_origin_form() {
    let absolute =
        |target: &str, host: &str| check(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for (target, host, origin) in [
        ("http://gw/a?b", "gw", "/a?b"),
        ("http://GW:80/a", "gw", "/a"),
        ("http://gw:8080/a", "Gw:8080", "/a"),
        ("http://gw", "gw", "/"),
        ("http://gw?q", "gw", "/?q"),
    ] {
        match absolute(target, host) {
            Ok(Admission::Forward(admitted)) => assert_eq!(admitted.target().as_str(), origin),
            other => panic!("{target}: {other:?}"),
        }
    }
    assert_eq!(absolute("http://evil/a", "gw"), Err(Refusal::AuthorityMismatch));
    assert_eq!(absolute("http://gw:81/a", "gw"), Err(Refusal::AuthorityMismatch));
    assert_eq!(absolute("https://gw/a", "gw"), Err(Refusal::SchemeMismatch));
    assert_eq!(absolute("http://u@gw/a", "gw"), Err(Refusal::HostInvalid));
}

#[test]
fn http2_takes_the_host_from_authority_or_host_and_refuses_a_contradiction() {
    let over_tls = Arrival { scheme: Scheme::Https, peer_is_trusted: false };
    let host = |parts: Parts| match admit(&parts, &limits(), over_tls, None) {
        Ok(Admission::Forward(admitted)) => Ok(admitted.host().to_owned()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal),
    };
    assert_eq!(host(h2("https://gw/a", &[])).as_deref(), Ok("gw"));
    assert_eq!(host(h2("https://gw/a", &[("host", "GW:443")])).as_deref(), Ok("gw"));
    assert_eq!(host(h2("/a", &[("host", "gw")])).as_deref(), Ok("gw"));
    assert_eq!(host(h2("https://gw/a", &[("host", "evil")])), Err(Refusal::AuthorityMismatch));
    assert_eq!(host(h2("http://gw/a", &[])), Err(Refusal::SchemeMismatch));
    assert_eq!(host(h2("/a", &[])), Err(Refusal::HostMissing));
    assert_eq!(
        host(h2("https://gw/a", &[("transfer-encoding", "chunked")])),
        Err(Refusal::TransferEncodingVersion)
    );
}

#[test]
fn the_scheme_of_a_target_is_a_statement_that_only_a_trusted_proxy_may_make() {
    let scheme = |uri: &str, peer_is_trusted: bool| {
        let arrival = Arrival { scheme: Scheme::Http, peer_is_trusted };
        match admit(&h2(uri, &[]), &limits(), arrival, None) {
            Ok(Admission::Forward(admitted)) => {
                Ok((admitted.scheme(), admitted.authority().port_text().clone()))
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal),
        }
    };
    let of = |scheme: Scheme, port: &'static str| Ok((scheme, http::HeaderValue::from_static(port)));
    for peer_is_trusted in [false, true] {
        assert_eq!(scheme("http://gw/a", peer_is_trusted), of(Scheme::Http, "80"));
        assert_eq!(scheme("HTTP://gw/a", peer_is_trusted), of(Scheme::Http, "80"));
        assert_eq!(scheme("ftp://gw/a", peer_is_trusted), Err(Refusal::SchemeMismatch));
    }
    assert_eq!(scheme("https://gw/a", false), Err(Refusal::SchemeMismatch));
    assert_eq!(scheme("https://gw/a", true), of(Scheme::Https, "443"));
    assert_eq!(scheme("HTTPS://gw:443/a", true), of(Scheme::Https, "443"));
}

#[test]
fn the_authority_of_the_last_request_is_not_taken_again_for_another_scheme() {
    let trusted = Arrival { scheme: Scheme::Http, peer_is_trusted: true };
    let authority =
        |uri: &str, last: Option<&Rc<Authority>>| match admit(&h2(uri, &[]), &limits(), trusted, last) {
            Ok(Admission::Forward(admitted)) => Rc::clone(admitted.authority()),
            other => panic!("{other:?}"),
        };
    let clear = authority("http://gw:443/a", None);
    assert_eq!(clear.host_line(), "gw:443");
    assert_eq!(authority("https://gw:443/a", Some(&clear)).host_line(), "gw");
}
