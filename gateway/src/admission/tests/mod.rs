//! Admission against the framing cases, and against both sides of each rule.

mod hosts;
mod paths;

use http::{Request, Version};
use serde_json::Value;

use super::*;
use crate::message::ConfiguredNames;

fn names() -> GuardedNames {
    GuardedNames::compile(ConfiguredNames {
        identity: vec![HeaderName::from_static("x-user-id")],
        untrusted: vec!["x-original-*".to_owned()],
        ..ConfiguredNames::default()
    })
}

fn limits() -> AdmissionLimits {
    AdmissionLimits {
        target_bytes_max: TARGET_BYTES_MAX,
        header_bytes_max: 64 << 10,
        header_lines_max: 100,
        extension_methods: vec![],
        oddities: Oddities::NONE,
        names: Arc::new(names()),
    }
}

const DIRECT: Arrival = Arrival { scheme: Scheme::Http, peer_is_trusted: false };

/// The head of a raw HTTP/1 message (latin-1) in the form that hyper returns. `None` if hyper's types cannot
/// hold it.
fn parse(raw: &str) -> Option<Parts> {
    let (head, _) = raw.trim_start_matches("\r\n").split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let latin1 =
        |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>();
    let mut request = Request::builder()
        .method(words.next()?)
        .uri(latin1(words.next()?)?.as_slice())
        .version(match words.next()? {
            "HTTP/1.0" => Version::HTTP_10,
            "HTTP/1.1" => Version::HTTP_11,
            _ => return None,
        });
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name, latin1(value.trim_matches([' ', '\t']))?);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

fn check(raw: &str) -> Result<Admission, Refusal> {
    admit(&parse(raw).expect("a request that http's types can hold"), &limits(), DIRECT, None)
}

fn admitted(raw: &str) -> Admitted {
    match check(raw) {
        Ok(Admission::Forward(admitted)) => admitted,
        other => panic!("{raw:?} gave {other:?}"),
    }
}

fn get(target: &str) -> Result<Admission, Refusal> {
    check(&format!("GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n"))
}

fn h2(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

/// The cases whose bytes are generated.
fn long_case(id: &str) -> Option<String> {
    let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: gw\r\n");
    Some(match id {
        "D29" => head(&format!("{} /a", "A".repeat(9_000))) + "\r\n",
        "D30" => head(&format!("GET /{}", "a".repeat(60_000))) + "\r\n",
        "D31" => head("GET /a") + &format!("X: {}\r\n\r\n", "b".repeat(100_000)),
        "G9" => head("GET /a") + &format!("Connection: {}b\r\n\r\n", "a,".repeat(8_000)),
        _ => return None,
    })
}

fn case_file(text: &str, list: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).expect("a JSON file");
    file[list].as_array().expect("a list").clone()
}

const CASES: &str = include_str!("../../../tests/cases/http1-framing.json");
const EXPECTED: &str = include_str!("../../../tests/cases/http1-framing-expected.json");

#[test]
fn every_framing_case_has_one_expectation() {
    let ids = |cases: Vec<Value>| cases.iter().map(|case| case["id"].to_string()).collect::<Vec<_>>();
    let mut known = ids(case_file(CASES, "requests"));
    known.extend(ids(case_file(CASES, "responses")));
    assert_eq!(known, ids(case_file(EXPECTED, "cases")));
}

#[test]
fn admission_answers_the_framing_cases_as_the_table_says() {
    let requests = case_file(CASES, "requests");
    let mut checked = 0;
    for expected in case_file(EXPECTED, "cases") {
        let id = expected["id"].as_str().expect("an id");
        let ours = expected["checked_by"].as_str().is_some_and(|check| check.starts_with('K'));
        let Some(case) = requests.iter().find(|case| case["id"] == id).filter(|_| ours) else {
            continue;
        };
        let raw = case["request"].as_str().map(str::to_owned).or_else(|| long_case(id)).expect("the bytes");
        let Some(parts) = parse(&raw) else {
            // hyper's types refuse it before admission.
            assert_eq!(id, "E24");
            continue;
        };
        let answer = match admit(&parts, &limits(), DIRECT, None) {
            // A route would have sent it to a service.
            Ok(Admission::Forward(_)) if asked_protocols(&parts).any(|protocol| !is_other_http(protocol)) => {
                "R501".to_owned()
            }
            Ok(Admission::Forward(_)) => "F".to_owned(),
            Ok(Admission::LocalOptions) => "local_options".to_owned(),
            Err(refusal) => format!("R{}", refusal.status().as_u16()),
        };
        let alternatives = match &expected["expect"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let fits = alternatives
            .iter()
            .any(|one| one.as_str().map(|one| one.trim_end_matches("_close")) == Some(&answer));
        assert!(fits, "{id}: {answer}, expected {alternatives:?}");
        checked += 1;
    }
    assert!(checked >= 45, "only {checked} cases were checked");
}

#[test]
fn http2_content_without_a_length_is_settled_by_the_stream() {
    let framing = |headers: &[(&str, &str)]| match admit(
        &h2("https://gw/a", headers),
        &limits(),
        Arrival { scheme: Scheme::Https, peer_is_trusted: false },
        None,
    ) {
        Ok(Admission::Forward(admitted)) => admitted.framing(),
        other => panic!("{other:?}"),
    };
    assert_eq!(framing(&[]).resolve(true), Framing::None);
    assert_eq!(framing(&[]).resolve(false), Framing::Chunked);
    assert_eq!(framing(&[("content-length", "5")]).resolve(false), Framing::Length(5));
}

#[test]
fn content_is_delimited_by_one_number_or_by_chunks() {
    let framing = |lines: &str| {
        check(&format!("POST /a HTTP/1.1\r\nHost: gw\r\n{lines}\r\n")).map(|admission| match admission {
            Admission::Forward(admitted) => admitted.framing(),
            Admission::LocalOptions => panic!("not OPTIONS"),
        })
    };
    assert_eq!(framing(""), Ok(Framing::None));
    assert_eq!(framing("Content-Length: 00005\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing("Transfer-Encoding: cHuNkEd\r\n"), Ok(Framing::Chunked));
    for length in ["+5", "-1", "", "5, 5", "0x5", "18446744073709551616"] {
        assert_eq!(
            framing(&format!("Content-Length: {length}\r\n")),
            Err(Refusal::ContentLengthInvalid),
            "{length}"
        );
    }
    assert_eq!(framing("Content-Length: 5\r\nContent-Length: 005\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing("Content-Length: 5\r\nContent-Length: 6\r\n"), Err(Refusal::ContentLengthInvalid));
    assert_eq!(
        framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        Err(Refusal::ContentLengthAndTransferEncoding)
    );
    for coding in ["gzip, chunked", "deflate , CHUNKED"] {
        let answer = framing(&format!("Transfer-Encoding: {coding}\r\n"));
        assert_eq!(answer, Err(Refusal::TransferCodingNotImplemented), "{coding}");
    }
    for coding in
        ["gzip", "chunked, gzip", "chunked, chunked", ",chunked", "chunked,", "\"chunked\"", "", "x, chunked"]
    {
        let answer = framing(&format!("Transfer-Encoding: {coding}\r\n"));
        assert_eq!(answer, Err(Refusal::TransferEncodingInvalid), "{coding:?}");
    }
}

#[test]
fn only_methods_of_the_standard_or_of_a_route_pass() {
    let method = |method: &str, limits: &AdmissionLimits| {
        let parts = parse(&format!("{method} /a HTTP/1.1\r\nHost: gw\r\n\r\n")).expect("a request");
        admit(&parts, limits, DIRECT, None).err()
    };
    for standard in ALLOW.split(", ") {
        assert_eq!(method(standard, &limits()), None, "{standard}");
    }
    assert_eq!(method("TRACE", &limits()), Some(Refusal::MethodNotAllowed));
    assert_eq!(method("get", &limits()), Some(Refusal::MethodNotImplemented));
    assert_eq!(method("XGET", &limits()), Some(Refusal::MethodNotImplemented));
    assert_eq!(method("PRI", &limits()), Some(Refusal::MethodNotAllowed));
    assert!(REGISTERED_METHODS.is_sorted());
    for registered in REGISTERED_METHODS {
        assert_eq!(method(registered, &limits()), None, "{registered}");
    }
    assert_eq!(method("propfind", &limits()), Some(Refusal::MethodNotImplemented));
    assert_eq!(method("PURGE", &limits()), Some(Refusal::MethodNotImplemented));
    let purge = Method::from_bytes(b"PURGE").expect("a method");
    let extended = AdmissionLimits { extension_methods: vec![purge], ..limits() };
    assert_eq!(method("PURGE", &extended), None);
}

#[test]
fn limits_learn_methods_from_routes() {
    let long = "X".repeat(33);
    let methods = ["GET", "PURGE", "LOCK", "PURGE", "TRACE", "CONNECT", &long];
    let methods = methods.map(|name| Method::from_bytes(name.as_bytes()).expect("a method"));
    let bounds = HeaderBounds { bytes_max: 1_000, lines_max: 50 };
    let limits = AdmissionLimits::compile(bounds, &methods, Oddities::NONE, Arc::default());
    assert_eq!(limits.extension_methods, ["PURGE"]);
    assert_eq!((limits.header_lines_max, limits.header_bytes_max), (50, 1_000));
}

#[test]
fn a_message_at_a_limit_passes_and_one_past_it_does_not() {
    let target = |bytes: usize| get(&format!("/{}", "a".repeat(bytes - 1)));
    assert!(target(TARGET_BYTES_MAX).is_ok());
    assert_eq!(target(TARGET_BYTES_MAX + 1), Err(Refusal::TargetTooLong));

    // Host is one of the hundred lines.
    let lines =
        |count: usize| check(&format!("GET /a HTTP/1.1\r\nHost: gw\r\n{}\r\n", "x: y\r\n".repeat(count - 1)));
    assert!(lines(100).is_ok());
    assert_eq!(lines(101), Err(Refusal::TooManyHeaders));

    // `host: gw` and `x: `, each with CRLF.
    let bytes = |total: usize| {
        check(&format!("GET /a HTTP/1.1\r\nHost: gw\r\nx: {}\r\n\r\n", "y".repeat(total - 10 - 5)))
    };
    assert!(bytes(64 << 10).is_ok());
    assert_eq!(bytes((64 << 10) + 1), Err(Refusal::HeadersTooLarge));

    let options = |count: usize| {
        check(&format!("GET /a HTTP/1.1\r\nHost: gw\r\nConnection: {}b\r\n\r\n", "a,".repeat(count - 1)))
    };
    assert!(options(CONNECTION_OPTIONS_MAX).is_ok());
    assert_eq!(options(CONNECTION_OPTIONS_MAX + 1), Err(Refusal::ConnectionTooLong));
}

#[test]
fn connection_may_not_name_what_frames_authenticates_or_attributes() {
    let connection =
        |value: &str| check(&format!("GET /a HTTP/1.1\r\nHost: gw\r\nConnection: {value}\r\n\r\n")).err();
    for harmless in ["close", "Keep-Alive", "upgrade, x-hop", "", ",", "te"] {
        assert_eq!(connection(harmless), None, "{harmless:?}");
    }
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "AUTHORIZATION",
        "cookie",
        "x-real-ip",
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-anything",
        "X-User-Id",
        "X-Original-URL",
    ] {
        let refused = Some(Refusal::ConnectionNamesProtected);
        assert_eq!(connection(name), refused, "{name}");
        assert_eq!(
            connection(&format!("close\r\nConnection: a, {name}")),
            refused,
            "{name} on the second line"
        );
    }
    assert_eq!(connection("a b"), Some(Refusal::ConnectionInvalid));
}

#[test]
fn the_only_expectation_is_100_continue() {
    let expect = |version: &str, lines: &str| {
        check(&format!("POST /a HTTP/{version}\r\nHost: gw\r\n{lines}\r\n")).map(|_| ())
    };
    assert_eq!(expect("1.1", ""), Ok(()));
    assert_eq!(expect("1.1", "Expect: 100-Continue\r\n"), Ok(()));
    assert_eq!(expect("1.0", "Expect: 100-continue\r\n"), Ok(()));
    for lines in ["200-ok", "y 100-continue", "100-continue, x", "100-continue\r\nExpect: 100-continue", ""] {
        let answer = expect("1.1", &format!("Expect: {lines}\r\n"));
        assert_eq!(answer, Err(Refusal::ExpectationFailed), "{lines:?}");
    }
}

#[test]
fn star_is_for_options_and_is_answered_here() {
    assert_eq!(check("OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n"), Ok(Admission::LocalOptions));
    assert_eq!(check("GET * HTTP/1.1\r\nHost: gw\r\n\r\n"), Err(Refusal::TargetForm));
    assert_eq!(check("OPTIONS * HTTP/1.1\r\n\r\n"), Err(Refusal::HostMissing));
    assert_eq!(get("admin"), Err(Refusal::TargetForm));
}

#[test]
fn a_query_goes_on_byte_by_byte() {
    match get("/%61?a=%2e%2E/../x\\{|}?%zz") {
        Ok(Admission::Forward(admitted)) => {
            assert_eq!(admitted.target().as_str(), "/a?a=%2e%2E/../x\\{|}?%zz");
            assert_eq!((admitted.path(), admitted.query()), ("/a", Some("a=%2e%2E/../x\\{|}?%zz")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(get("/a?\u{c3}\u{a9}"), Err(Refusal::TargetCharacter));
}

#[test]
fn every_refusal_has_a_client_error_or_501() {
    for (refusal, status, code) in [
        (Refusal::TargetTooLong, 414, "uri_too_long"),
        (Refusal::TooManyHeaders, 431, "headers_too_large"),
        (Refusal::HeadersTooLarge, 431, "headers_too_large"),
        (Refusal::MethodNotAllowed, 405, "method_not_allowed"),
        (Refusal::MethodNotImplemented, 501, "not_implemented"),
        (Refusal::TransferCodingNotImplemented, 501, "not_implemented"),
        (Refusal::ExpectationFailed, 417, "expectation_failed"),
        (Refusal::HostMissing, 400, "bad_request"),
    ] {
        assert_eq!((refusal.status().as_u16(), refusal.code()), (status, code));
        assert!(refusal.detail().ends_with('.'));
    }
}
