//! Gives an HTTP/2 header section the form that HTTP/1.1's parser gives to one before admission.
//!
//! httparse removes the whitespace around a value, and a browser that uses HTTP/1.1 sends one Cookie line. h2 returns
//! both as they arrived. All code that compares values later (conditions of routes, keys of limits, tokens) must see the
//! same values on HTTP/2 as on HTTP/1.1, so this comes before everything else that reads the section.

use bytes::{BufMut, Bytes, BytesMut};
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::Refusal;

/// Gives a request's header section the form that it has on HTTP/1.1. If that is not possible, the reason is noted and
/// [`super::admit`] refuses the request later. It is done when the request is accepted, because hundreds of streams may
/// wait for their turn then, and a field that costs its sender one byte takes 70 bytes here.
pub(crate) fn receive<B>(request: &mut Request<B>, header_lines_max: usize) {
    if *request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some() {
        // RFC 8441: the handshake of a tunnel, which is a GET on HTTP/1.1. Routes and policies see one form of it.
        *request.method_mut() = Method::GET;
    }
    let verdict = normalise(request.headers_mut(), header_lines_max);
    if let Err(refusal) = verdict {
        if matches!(refusal, Refusal::TooManyCookies | Refusal::TooManyHeaders) {
            *request.headers_mut() = HeaderMap::new();
        }
        request.extensions_mut().insert(Refused(refusal));
    }
}

/// The refusal by [`receive`], in the extensions of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused(pub(super) Refusal);

fn normalise(headers: &mut HeaderMap, header_lines_max: usize) -> Result<(), Refusal> {
    join_cookies(headers, crumbs_max(header_lines_max))?;
    if headers.len() > header_lines_max {
        return Err(Refusal::TooManyHeaders);
    }
    // A value that begins or ends with a space or a tab is malformed (RFC 9113 §8.2.1). A service would trim it and read
    // a value that the gateway has not compared.
    if headers.values().any(|value| is_padded(value.as_bytes())) {
        return Err(Refusal::HeaderPadded);
    }
    Ok(())
}

fn is_padded(value: &[u8]) -> bool {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    value.first().is_some_and(is_space) || value.last().is_some_and(is_space)
}

/// Joins the crumbs of a cookie. HTTP/2 may split Cookie into several fields, and these must be joined with `; ` before
/// the message goes to anything that is not HTTP/2 (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap, crumbs_max: usize) -> Result<(), Refusal> {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.by_ref().nth(1).is_none() {
        return Ok(());
    }
    if crumbs.count() + 2 > crumbs_max {
        return Err(Refusal::TooManyCookies);
    }
    let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::len);
    let mut joined = BytesMut::with_capacity(crumbs.map(|bytes| bytes + SEPARATOR.len()).sum());
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.put_slice(SEPARATOR);
        }
        joined.put_slice(crumb.as_bytes());
    }
    // Valid values and the separator make a valid value, so the error never occurs.
    let joined = HeaderValue::from_maybe_shared(Bytes::from(joined)).map_err(|_| Refusal::TooManyCookies)?;
    headers.insert(header::COOKIE, joined);
    Ok(())
}

/// The largest number of crumbs of a request's cookie: as many as its header lines may be, and at least [`CRUMBS_MIN`].
pub(crate) fn crumbs_max(header_lines_max: usize) -> usize {
    header_lines_max.max(CRUMBS_MIN)
}

const SEPARATOR: &[u8] = b"; ";

/// Browsers keep 180 cookies for a site and send each as a crumb. A crumb costs the gateway some 70 bytes and its sender
/// one.
const CRUMBS_MIN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(crumbs: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for crumb in crumbs {
            headers.append("cookie", HeaderValue::from_static(crumb));
        }
        headers
    }

    #[test]
    fn crumbs_become_one_cookie_up_to_their_number() {
        for (crumbs, joined) in
            [(&["a=1"][..], "a=1"), (&["a=1", "b=2", "c=3"], "a=1; b=2; c=3"), (&["", "b=2"], "b=2")]
        {
            let mut headers = cookies(crumbs);
            assert_eq!(normalise(&mut headers, 1), Ok(()));
            let lines: Vec<_> = headers.get_all("cookie").iter().collect();
            assert_eq!(lines, [joined]);
        }
        assert_eq!(normalise(&mut cookies(&["a=1"; CRUMBS_MIN]), 1), Ok(()));
        assert_eq!(normalise(&mut cookies(&["a=1"; CRUMBS_MIN + 1]), 1), Err(Refusal::TooManyCookies));
        assert_eq!(normalise(&mut cookies(&["a=1"; CRUMBS_MIN + 1]), CRUMBS_MIN + 1), Ok(()));
        assert_eq!(normalise(&mut HeaderMap::new(), 1), Ok(()));
    }

    #[test]
    fn a_section_with_too_many_fields_is_given_up_at_once() {
        for (lines, is_refused) in [(10, false), (11, true)] {
            let mut request = Request::new(());
            for _ in 0..lines {
                request.headers_mut().append("a", HeaderValue::from_static("b"));
            }
            receive(&mut request, 10);
            let refused = request.extensions().get::<Refused>().map(|refused| refused.0);
            assert_eq!(refused, is_refused.then_some(Refusal::TooManyHeaders));
            assert_eq!(request.headers().is_empty(), is_refused);
        }
    }

    #[test]
    fn a_value_with_whitespace_at_an_end_is_malformed_and_within_it_is_not() {
        for (value, verdict) in [
            (&b" k"[..], Err(Refusal::HeaderPadded)),
            (b"k ", Err(Refusal::HeaderPadded)),
            (b"\tk", Err(Refusal::HeaderPadded)),
            (b"k\t", Err(Refusal::HeaderPadded)),
            (b" ", Err(Refusal::HeaderPadded)),
            (b"", Ok(())),
            (b"a k", Ok(())),
            (b"\xa0k", Ok(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-key", HeaderValue::from_bytes(value).unwrap());
            assert_eq!(normalise(&mut headers, 1), verdict, "{value:?}");
        }
    }
}
