//! The fields that a response keeps and loses, and the faults for which it is refused.

use http::StatusCode;

use super::{super::*, *};

pub(super) fn response(context_rules: &HeaderRules, fields_in: &[(&str, &str)]) -> HeaderMap {
    let mut headers = fields(fields_in);
    remove_hop_by_hop(&mut headers);
    let context = ResponseContext {
        framing: framing_of(Version::HTTP_11, 200, fields_in).expect("a response"),
        version: Version::HTTP_11,
        request_id: &HeaderValue::from_static("id-1"),
        has_trailers: false,
        rules: context_rules,
    };
    apply_response(&mut headers, &context);
    headers
}

fn framing_of(
    version: Version,
    status: u16,
    fields_in: &[(&str, &str)],
) -> Result<ResponseFraming, ResponseFault> {
    let mut reading = FramingReading::default();
    for (name, value) in fields_in {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        reading.read(&name, value.as_bytes(), version)?;
    }
    Ok(reading.framing(StatusCode::from_u16(status).expect("a status")))
}

#[test]
fn a_204_goes_on_without_a_length_and_its_connection_is_given_up_where_content_may_follow() {
    for (fields_in, reusable) in [
        (&[][..], true),
        (&[("content-length", "0")], true),
        (&[("content-length", "5")], false),
        (&[("transfer-encoding", "chunked")], false),
    ] {
        let framing = framing_of(Version::HTTP_11, 204, fields_in).expect("a response");
        assert_eq!((framing.content_length, framing.reusable), (None, reusable), "{fields_in:?}");
        let mut headers = fields(fields_in);
        remove_hop_by_hop(&mut headers);
        let rules = HeaderRules::default();
        let id = HeaderValue::from_static("id-1");
        let context = ResponseContext {
            framing,
            version: Version::HTTP_11,
            request_id: &id,
            has_trailers: false,
            rules: &rules,
        };
        apply_response(&mut headers, &context);
        assert!(!headers.contains_key("content-length") && !headers.contains_key("transfer-encoding"));
    }
    let not_modified = framing_of(Version::HTTP_11, 304, &[("content-length", "5")]).expect("a response");
    assert_eq!((not_modified.content_length, not_modified.reusable), (Some(5), true));
}

#[test]
fn a_response_whose_end_is_uncertain_is_refused() {
    let framing = |lines: &[(&str, &str)]| {
        framing_of(Version::HTTP_11, 200, lines).map(|framing| (framing.content_length, framing.reusable))
    };
    let plain = |content_length: Option<u64>| Ok((content_length, true));
    assert_eq!(framing(&[]), plain(None));
    assert_eq!(framing(&[("content-length", "5")]), plain(Some(5)));
    assert_eq!(framing(&[("content-length", "5, 05")]), plain(Some(5)));
    assert_eq!(framing(&[("content-length", "5"), ("content-length", "5")]), plain(Some(5)));
    assert_eq!(framing(&[("transfer-encoding", "Chunked")]), plain(None));
    for length in ["5, 6", "+5", "", "5,", "x", "-1"] {
        assert_eq!(framing(&[("content-length", length)]), Err(ResponseFault::ContentLength), "{length:?}");
    }
    for coding in ["gzip", "gzip, chunked", "chunked, chunked", "", "chunked,", "identity"] {
        assert_eq!(
            framing(&[("transfer-encoding", coding)]),
            Err(ResponseFault::TransferEncoding),
            "{coding:?}"
        );
    }
    let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
    assert_eq!(framing(&twice), Err(ResponseFault::TransferEncoding));
    let old = framing_of(Version::HTTP_10, 200, &[("transfer-encoding", "chunked")]);
    assert_eq!(old, Err(ResponseFault::TransferEncoding));
    assert_eq!(StatusCode::SWITCHING_PROTOCOLS, 101);
}

#[test]
fn a_response_with_chunks_and_a_length_loses_the_length_and_its_connection() {
    let both = [("content-length", "3"), ("transfer-encoding", "chunked")];
    let framing = framing_of(Version::HTTP_11, 200, &both).expect("a response");
    assert_eq!((framing.content_length, framing.reusable), (None, false));
    let headers = response(&HeaderRules::default(), &both);
    assert!(!headers.contains_key("content-length") && !headers.contains_key("transfer-encoding"));
}

#[test]
fn a_service_cannot_have_its_length_removed() {
    let fields_in = [("connection", "content-length"), ("content-length", "5")];
    let headers = response(&HeaderRules::default(), &fields_in);
    assert_eq!(lines(&headers, "content-length"), ["5"]);
}

#[test]
fn a_response_keeps_what_is_end_to_end() {
    let headers = response(
        &HeaderRules::default(),
        &[
            ("connection", "close, X-Internal"),
            ("x-internal", "s"),
            ("keep-alive", "timeout=9"),
            ("proxy-authenticate", "Basic"),
            ("proxy-status", "inner; error=dns_error"),
            ("server", "axum"),
            ("content-length", "5, 5"),
            ("x-request-id", "theirs"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ],
    );
    for name in ["connection", "x-internal", "keep-alive", "proxy-authenticate"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(lines(&headers, "proxy-status"), ["inner; error=dns_error"]);
    assert_eq!(lines(&headers, "server"), ["axum"]);
    assert_eq!(lines(&headers, "content-length"), ["5"]);
    assert_eq!(lines(&headers, "x-request-id"), ["id-1"]);
    assert_eq!(lines(&headers, "via"), ["1.1 millgate"]);
    assert_eq!(lines(&headers, "set-cookie"), ["a=1", "b=2"]);
}
