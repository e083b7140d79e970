//! gRPC calls: what is special about them, and their errors.
//!
//! A call is recognised by its content type. It is a stream of messages in both directions, so its body is sent as it comes, whatever
//! `body` of the route is, and neither `body_limit` nor `timeout.min_rate` apply to it. The client's deadline bounds it, and its services get
//! what is left of it. Errors of the gateway come as gRPC has them: as status 200 with `grpc-status`, in one HEADERS frame.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::facts::{GrpcCall, GrpcWeb};

/// The call that a request with these fields is. `None`: it is another request.
pub(super) fn call(headers: &HeaderMap) -> Option<GrpcCall> {
    let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let (web, _) = form(kind)?;
    Some(GrpcCall { timeout: timeout(headers), web })
}

/// The form of a call with this content type, and what follows the form's name: `+proto`, and parameters.
fn form(kind: &[u8]) -> Option<(Option<GrpcWeb>, &[u8])> {
    for (name, web) in [(WEB_TEXT, Some(GrpcWeb::Text)), (WEB, Some(GrpcWeb::Binary)), (CONTENT_TYPE, None)] {
        if let Some((start, rest)) = kind.split_at_checked(name.len())
            && start.eq_ignore_ascii_case(name.as_bytes())
            && rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' '))
        {
            return Some((web, rest));
        }
    }
    None
}

/// Turns the fields of a call of gRPC-Web into those of gRPC.
pub(super) fn without_web(headers: &mut HeaderMap) {
    with_form(headers, CONTENT_TYPE);
    // The body that follows may have another length.
    headers.remove(header::CONTENT_LENGTH);
}

/// Turns the fields of a response of gRPC into those of gRPC-Web.
pub(super) fn with_web(headers: &mut HeaderMap, web: GrpcWeb) {
    with_form(headers, if web == GrpcWeb::Text { WEB_TEXT } else { WEB });
    headers.remove(header::CONTENT_LENGTH);
}

fn with_form(headers: &mut HeaderMap, name: &str) {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec()).unwrap_or_default();
    if let Some((_, rest)) = form(&kind)
        && let Ok(kind) = HeaderValue::from_bytes(&[name.as_bytes(), rest].concat())
    {
        headers.insert(header::CONTENT_TYPE, kind);
    }
}

/// The trailers of a call as gRPC-Web has them: a last message in the body (gRPC-Web protocol, "Message framing").
pub(super) fn trailers_message(trailers: &HeaderMap) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    let length = u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[TRAILERS][..], &length, &lines].concat().into()
}

/// The trailers of a call whose deadline passed in the middle of its response.
pub(super) fn deadline_trailers() -> HeaderMap {
    let message = HeaderValue::from_static("the deadline of the call passed before the service had ended it");
    HeaderMap::from_iter([(STATUS, HeaderValue::from(u16::from(DEADLINE_EXCEEDED))), (MESSAGE, message)])
}

/// A piece of a response as the form has it.
pub(super) fn encoded(piece: Bytes, web: GrpcWeb) -> Bytes {
    match web {
        GrpcWeb::Binary => piece,
        GrpcWeb::Text => BASE64.encode(&piece).into(),
    }
}

/// The client's deadline, from the beginning of the call (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit. `None`: there is
/// none, or it cannot be read.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The status that stands for the status of a call, for retries, breaker and metrics. A response whose head has no `grpc-status` is none that
/// has failed at once.
pub(super) fn status_of<B>(response: &Response<B>) -> StatusCode {
    status_in(response.headers()).map_or(response.status(), http_status)
}

/// The status of a call (gRPC, "Status codes and their use") in its head or in its trailers. `None`: they have none.
pub(super) fn status_in(fields: &HeaderMap) -> Option<u8> {
    let text = fields.get(&STATUS)?.to_str();
    Some(
        text.ok()
            .and_then(|text| text.parse().ok())
            .filter(|number| *number <= STATUS_MAX)
            .unwrap_or(UNKNOWN),
    )
}

/// The opposite of [`number`], as far as there is one.
pub(super) fn http_status(number: u8) -> StatusCode {
    match number {
        0 => StatusCode::OK,
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The number of the status (gRPC, "Status codes and their use") for a status of HTTP, in the sense that the gateway gives to it.
fn number(status: StatusCode) -> &'static str {
    match status.as_u16() {
        // DEADLINE_EXCEEDED
        408 | 504 => "4",
        // PERMISSION_DENIED
        403 => "7",
        // RESOURCE_EXHAUSTED
        413 | 429 | 431 => "8",
        // UNIMPLEMENTED: what a client gets for a method that a server does not know.
        404 | 405 | 501 => "12",
        // UNAVAILABLE
        502 | 503 => "14",
        // UNAUTHENTICATED
        401 => "16",
        // INTERNAL
        _ => "13",
    }
}

/// Turns an error's response into that of a call. The fields of the error stay.
pub(super) fn into_error(response: Response<Bytes>, call: GrpcCall, detail: &str) -> Response<Bytes> {
    let (mut parts, _) = response.into_parts();
    let status = number(parts.status);
    parts.status = StatusCode::OK;
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if let Some(web) = call.web {
        with_web(&mut parts.headers, web);
    }
    parts.headers.insert(&STATUS, HeaderValue::from_static(status));
    if let Ok(message) = HeaderValue::try_from(utf8_percent_encode(detail, UNFIT).to_string()) {
        parts.headers.insert(&MESSAGE, message);
    }
    Response::from_parts(parts, Bytes::new())
}

/// The form of `grpc-message`: visible ASCII and blanks stay, except `%`.
const UNFIT: &AsciiSet = &CONTROLS.add(b'%');

pub(super) const DEADLINE_EXCEEDED: u8 = 4;
/// What a status is that is none of the standard's.
const UNKNOWN: u8 = 2;
const STATUS_MAX: u8 = 16;
const CONTENT_TYPE: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const WEB_TEXT: &str = "application/grpc-web-text";
/// The flag of a message with trailers.
const TRAILERS: u8 = 0x80;
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
    }

    #[test]
    fn a_call_has_the_content_type_of_one_of_three_forms() {
        for (kind, expected) in [
            ("application/grpc", Some(None)),
            ("application/grpc+proto", Some(None)),
            ("Application/gRPC; charset=utf-8", Some(None)),
            ("application/grpc-web", Some(Some(GrpcWeb::Binary))),
            ("application/grpc-web+proto", Some(Some(GrpcWeb::Binary))),
            ("application/grpc-web-text+proto", Some(Some(GrpcWeb::Text))),
            ("application/grpc-webtext", None),
            ("application/json", None),
            ("application/grp", None),
        ] {
            let call = call(&headers(header::CONTENT_TYPE, kind));
            assert_eq!(call.map(|call| call.web), expected, "{kind}");
        }
        assert_eq!(call(&HeaderMap::new()), None);
    }

    #[test]
    fn the_content_type_keeps_its_subtype_in_both_directions_and_trailers_become_a_message() {
        let mut fields = headers(header::CONTENT_TYPE, "application/grpc-web-text+proto");
        without_web(&mut fields);
        assert_eq!(fields[header::CONTENT_TYPE], "application/grpc+proto");
        with_web(&mut fields, GrpcWeb::Binary);
        assert_eq!(fields[header::CONTENT_TYPE], "application/grpc-web+proto");
        let message = trailers_message(&headers(STATUS, "0"));
        assert_eq!(message, &b"\x80\0\0\0\x10grpc-status: 0\r\n"[..]);
        assert_eq!(encoded(Bytes::from_static(b"hi"), GrpcWeb::Text), "aGk=");
    }

    #[test]
    fn a_timeout_has_up_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1.5S", None),
        ] {
            assert_eq!(timeout(&headers(TIMEOUT, text)), expected, "{text}");
        }
    }

    #[test]
    fn an_error_is_a_head_with_the_status_of_grpc_and_a_message_that_can_be_read() {
        for (status, number) in [
            (401, "16"),
            (403, "7"),
            (404, "12"),
            (429, "8"),
            (502, "14"),
            (503, "14"),
            (504, "4"),
            (500, "13"),
        ] {
            let mut response = Response::new(Bytes::from_static(b"{}"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert(header::RETRY_AFTER, 1.into());
            let response = into_error(
                response,
                GrpcCall { timeout: None, web: None },
                "100 % of the \u{201c}slots\u{201d}",
            );
            assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0));
            assert_eq!(response.headers()[&STATUS], number);
            assert_eq!(response.headers()[&MESSAGE], "100 %25 of the %E2%80%9Cslots%E2%80%9D");
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }
}
