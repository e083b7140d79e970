//! The head of a request, written to bytes (RFC 9112 §3, §5): origin form, HTTP/1.1, each field on a line of its own, in the
//! order and the spelling of the map.

use http::{HeaderMap, Request, header};
use http_body::Body;

/// How the content of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delimiting {
    /// There is no content.
    Nothing,
    /// As many bytes as Content-Length states.
    Length(u64),
    Chunked,
}

/// Appends the head to `out`. Content of unknown length becomes chunks, unless the body is over already.
pub(super) fn write<B: Body>(request: &Request<B>, out: &mut Vec<u8>) -> Delimiting {
    let headers = request.headers();
    let content = match content_length(headers) {
        Some(length) => Delimiting::Length(length),
        None if request.body().is_end_stream() => Delimiting::Nothing,
        None => Delimiting::Chunked,
    };
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers {
        // Framing is written here alone. A length that has no single value does not delimit anything.
        let is_framing = *name == header::TRANSFER_ENCODING
            || *name == header::CONTENT_LENGTH && !matches!(content, Delimiting::Length(_));
        if !is_framing {
            write_field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    if content == Delimiting::Chunked {
        write_field(b"transfer-encoding", b"chunked", out);
    }
    out.extend_from_slice(b"\r\n");
    content
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// From one line in the only form that has one reading.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    crate::message::parse_length(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue, Method};
    use http_body_util::{Either, Empty, Full};
    use proptest::prelude::*;

    use super::*;

    fn written<B: Body>(request: &Request<B>) -> (String, Delimiting) {
        let mut out = b"before".to_vec();
        let content = write(request, &mut out);
        (String::from_utf8(out.split_off(6)).unwrap(), content)
    }

    #[test]
    fn a_head_is_written_in_origin_form_with_its_fields_in_order() {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = "http://other.test/items/7?x=1".parse().unwrap();
        for (name, value) in [("host", "a.test"), ("x-a", "1"), ("b", "2"), ("x-a", "3"), ("c", "")] {
            let name = HeaderName::from_static(name);
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let expected =
            "DELETE /items/7?x=1 HTTP/1.1\r\nhost: a.test\r\nx-a: 1\r\nx-a: 3\r\nb: 2\r\nc: \r\n\r\n";
        assert_eq!(written(&request), (expected.to_owned(), Delimiting::Nothing));
    }

    #[test]
    fn content_has_exactly_one_framing() {
        let chunked = "transfer-encoding: chunked\r\n";
        for (lengths, has_content, framing, content) in [
            (&[][..], false, "", Delimiting::Nothing),
            (&[], true, chunked, Delimiting::Chunked),
            (&["0"], false, "content-length: 0\r\n", Delimiting::Length(0)),
            (&["3"], true, "content-length: 3\r\n", Delimiting::Length(3)),
            (&["3", "3"], true, chunked, Delimiting::Chunked),
            (&["+3"], true, chunked, Delimiting::Chunked),
            (&["3, 3"], false, "", Delimiting::Nothing),
        ] {
            for coding in [None, Some("chunked"), Some("gzip")] {
                let body = if has_content {
                    Either::Left(Full::from("abc"))
                } else {
                    Either::Right(Empty::<Bytes>::new())
                };
                let mut request = Request::new(body);
                for length in lengths {
                    request.headers_mut().append(header::CONTENT_LENGTH, HeaderValue::from_static(length));
                }
                if let Some(coding) = coding {
                    request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static(coding));
                }
                let expected = format!("GET / HTTP/1.1\r\n{framing}\r\n");
                assert_eq!(written(&request), (expected, content), "{lengths:?} {has_content} {coding:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_written_head_is_read_as_what_it_was(
            path in "/[a-z0-9/._~-]{0,20}(\\?[a-z0-9=&%]{0,10})?",
            fields in proptest::collection::vec(("[a-z][a-z-]{0,20}", "([!-~\u{80}-\u{ff}]([ -~]{0,40}[!-~])?)?"), 0..20),
        ) {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = path.parse().unwrap();
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let mut out = Vec::new();
            write(&request, &mut out);
            let mut lines = [httparse::EMPTY_HEADER; 20];
            let mut read = httparse::Request::new(&mut lines);
            prop_assert_eq!(read.parse(&out), Ok(httparse::Status::Complete(out.len())));
            prop_assert_eq!((read.method, read.path, read.version), (Some("GET"), Some(&*path), Some(1)));
            let read: Vec<_> = read.headers.iter().map(|line| (line.name, line.value)).collect();
            let given: Vec<_> =
                request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            prop_assert_eq!(read, given);
        }
    }
}
