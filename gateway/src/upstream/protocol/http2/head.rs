//! The head of a request as HTTP/2 sends it, from the form that it has for HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

use super::super::SendError;
use crate::message::Scheme;

/// The request of a head that this gateway has written. `Host` becomes `:authority` (RFC 9113 §8.3.1), and what only HTTP/1.1 has
/// is left out. `call_left`: what is left of the deadline of a gRPC call, which its service must know.
pub(super) fn read(
    head: &[u8],
    scheme: Scheme,
    call_left: Option<Duration>,
) -> Result<Request<()>, SendError> {
    let invalid = || SendError::Invalid("the request has no form in HTTP/2".into());
    // The values share one copy.
    let head = Bytes::copy_from_slice(head);
    let lines = memchr::memchr_iter(b'\n', &head).count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(&head).map_err(|_| invalid())?;
    let mut request = Request::new(());
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    let mut authority = "";
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| invalid())?;
        if name == header::HOST {
            authority = std::str::from_utf8(field.value).map_err(|_| invalid())?;
        } else if name != header::TRANSFER_ENCODING && name != header::CONNECTION && name != header::UPGRADE {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
            headers.append(name, value.map_err(|_| invalid())?);
        }
    }
    if let Some(left) = call_left {
        headers.insert(TIMEOUT, timeout(left));
    }
    *request.method_mut() =
        Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| invalid())?;
    let uri = Uri::builder().scheme(scheme.as_str()).authority(authority);
    *request.uri_mut() =
        uri.path_and_query(parsed.path.unwrap_or_default()).build().map_err(|_| invalid())?;
    Ok(request)
}

/// At most eight digits (gRPC over HTTP/2, "Timeout"), and never more than is left.
fn timeout(left: Duration) -> HeaderValue {
    let (number, unit) = match left.as_millis() {
        0..=99_999_999 => (left.as_millis(), 'm'),
        _ => (u128::from(left.as_secs().min(99_999_999)), 'S'),
    };
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0m"))
}

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_in_their_order_and_those_of_the_connection_go() {
        let head = b"POST /a?b=1 HTTP/1.1\r\nhost: a.test:8080\r\nx: 1\r\ny: \xff\r\nx: 2\r\nte: trailers\r\nconnection: te\r\ncontent-length: 3\r\n\r\n";
        let request = read(head, Scheme::Http, None).unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::POST, "http://a.test:8080/a?b=1".to_owned())
        );
        let fields: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 5] =
            [("x", b"1"), ("x", b"2"), ("y", b"\xff"), ("te", b"trailers"), ("content-length", b"3")];
        assert_eq!(fields.len(), expected.len());
        assert!(expected.iter().all(|field| fields.contains(field)), "{fields:?}");
        let chunked = b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(read(chunked, Scheme::Https, None).unwrap().headers().is_empty());
    }
    #[test]
    fn the_service_of_a_call_gets_what_is_left_of_its_deadline() {
        let head = b"POST /p.S/M HTTP/1.1\r\nhost: a\r\ngrpc-timeout: 5S\r\n\r\n";
        for (left, text) in [
            (Duration::from_millis(4_900), "4900m"),
            (Duration::from_hours(40), "144000S"),
            (Duration::ZERO, "0m"),
        ] {
            let request = read(head, Scheme::Http, Some(left)).unwrap();
            assert_eq!(request.headers().get_all(TIMEOUT).iter().collect::<Vec<_>>(), [text]);
        }
    }
}
