//! Where a request carries its token.
//!
//! Only the configured places are looked at. A request that carries two different tokens is refused (RFC 6750
//! §2: one method per request): gateway and upstream might believe different ones. The same token in two
//! places is harmless, as browsers send cookies along whatever else they send.

use http::{HeaderMap, HeaderName, header};

use crate::config::settings::TokenSource;

/// The request is wrong, whatever its token says (400 `bad_request`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPlacement {
    /// More than one `Authorization` line, or different tokens in the configured places.
    Repeated,
    /// Something that cannot be a token stands where one should.
    Malformed,
}

impl BadPlacement {
    /// One word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Repeated => "token_repeated",
            Self::Malformed => "token_malformed",
        }
    }
}

/// The request's token, without a copy. `query` is the part of the request's URI after `?`.
pub fn find_token<'a>(
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    sources: &[TokenSource],
) -> Result<Option<&'a str>, BadPlacement> {
    let mut found: Option<&'a str> = None;
    for source in sources {
        let token = match source {
            TokenSource::Bearer => bearer(headers)?,
            TokenSource::Cookie(name) => cookie(headers, name)?,
            TokenSource::Header(name) => header(headers, name)?,
            TokenSource::Query(name) => parameter(query, name)?,
        };
        merge(&mut found, token)?;
    }
    Ok(found)
}

fn merge<'a>(found: &mut Option<&'a str>, token: Option<&'a str>) -> Result<(), BadPlacement> {
    match (*found, token) {
        (Some(first), Some(second)) if first != second => Err(BadPlacement::Repeated),
        (None, Some(_)) => {
            *found = token;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// RFC 6750 §2.1. Another scheme is not a token, but neither may it hide one in the same line.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, BadPlacement> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(BadPlacement::Repeated);
    }
    if let Some(rest) = without_scheme(line.as_bytes()) {
        return valid(rest).map(Some);
    }
    let hides_one =
        line.as_bytes().split(|&byte| byte == b',').skip(1).any(|part| without_scheme(part).is_some());
    if hides_one { Err(BadPlacement::Malformed) } else { Ok(None) }
}

/// What follows `Bearer`, in any case (RFC 9110 §11.1).
fn without_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.trim_ascii().split_at_checked(SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(|&byte| byte == b' ');
    is_bearer.then(|| rest.trim_ascii())
}

/// A header of its own, with or without the word `Bearer`.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, BadPlacement> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(BadPlacement::Repeated);
    }
    let value = line.as_bytes();
    valid(without_scheme(value).unwrap_or(value)).map(Some)
}

/// All `Cookie` lines (HTTP/2 splits them, RFC 9113 §8.2.3); a cookie may be set for several paths at once.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, BadPlacement> {
    let mut found = None;
    for line in headers.get_all(header::COOKIE) {
        for pair in line.as_bytes().split(|&byte| byte == b';') {
            let Some((key, value)) = split_once(pair.trim_ascii(), b'=') else { continue };
            if key == name.as_bytes() {
                let unquoted =
                    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
                merge(&mut found, Some(valid(unquoted)?))?;
            }
        }
    }
    Ok(found)
}

fn parameter<'a>(query: Option<&'a str>, name: &str) -> Result<Option<&'a str>, BadPlacement> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&') {
        // No percent decoding: no character of a token needs it.
        if let Some((key, value)) = pair.split_once('=')
            && key == name
        {
            merge(&mut found, Some(valid(value.as_bytes())?))?;
        }
    }
    Ok(found)
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// `b64token` of RFC 6750 §2.1.
fn valid(token: &[u8]) -> Result<&str, BadPlacement> {
    // All of it is looked at, with no way out in between: most tokens are good, and a loop without a branch is several
    // times as fast on the 700 bytes of one.
    let all_good = token.iter().fold(true, |good, &byte| good & TOKEN_BYTES[usize::from(byte)]);
    if token.is_empty() || !all_good {
        return Err(BadPlacement::Malformed);
    }
    std::str::from_utf8(token).map_err(|_| BadPlacement::Malformed)
}

/// Every byte has its place, so no look-up can miss.
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x7f {
        table[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        byte += 1;
    }
    table
};

const SCHEME: &[u8] = b"Bearer";

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn found(
        lines: &[(&'static str, &'static str)],
        sources: &[TokenSource],
    ) -> Result<Option<String>, BadPlacement> {
        // `collect` would keep one line per name.
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        find_token(&map, Some("a=1&access_token=q.q.q&b"), sources).map(|token| token.map(str::to_owned))
    }

    const REPEATED: Result<Option<String>, BadPlacement> = Err(BadPlacement::Repeated);
    const MALFORMED: Result<Option<String>, BadPlacement> = Err(BadPlacement::Malformed);

    #[allow(clippy::unnecessary_wraps)] // so that the tables below read well
    fn token(token: &str) -> Result<Option<String>, BadPlacement> {
        Ok(Some(token.to_owned()))
    }

    #[test]
    fn a_bearer_token_is_the_only_thing_in_its_header() {
        for (value, expected) in [
            ("Bearer a.b.c", token("a.b.c")),
            ("bearer  a.b.c ", token("a.b.c")),
            ("BEARER a", token("a")),
            ("Bearer", MALFORMED),
            ("Bearer ", MALFORMED),
            ("Bearer a b", MALFORMED),
            ("Bearer a, Bearer b", MALFORMED),
            ("Basic x, Bearer a.b.c", MALFORMED),
            ("Basic dXNlcjpwYXNz", Ok(None)),
            ("Bearera.b.c", Ok(None)),
            ("Digest a=\"b, c\"", Ok(None)),
            ("", Ok(None)),
        ] {
            assert_eq!(found(&[("authorization", value)], &[TokenSource::Bearer]), expected, "{value:?}");
        }
        assert_eq!(found(&[], &[TokenSource::Bearer]), Ok(None));
    }

    #[test]
    fn two_authorization_lines_are_refused_in_any_order() {
        let (good, other) = (("authorization", "Bearer a.b.c"), ("authorization", "Basic x"));
        for lines in [[good, other], [other, good], [good, good]] {
            assert_eq!(found(&lines, &[TokenSource::Bearer]), REPEATED);
        }
    }

    #[test]
    fn cookies_are_read_from_all_lines() {
        let sources = [TokenSource::Cookie("session".into())];
        for (lines, expected) in [
            (&[("cookie", "a=1; session=x.y.z; b=2")][..], token("x.y.z")),
            (&[("cookie", "a=1"), ("cookie", "session=\"x.y.z\"")], token("x.y.z")),
            (&[("cookie", "session=x; session=x")], token("x")),
            (&[("cookie", "session=x"), ("cookie", "session=y")], REPEATED),
            (&[("cookie", "Session=x; asession=y")], Ok(None)),
            (&[("cookie", "session=")], MALFORMED),
        ] {
            assert_eq!(found(lines, &sources), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_header_or_a_parameter_carries_a_token_when_configured() {
        let header = TokenSource::Header(HeaderName::from_static("x-token"));
        for (value, expected) in
            [("a.b.c", token("a.b.c")), ("Bearer a.b.c", token("a.b.c")), ("a b", MALFORMED)]
        {
            assert_eq!(found(&[("x-token", value)], std::slice::from_ref(&header)), expected);
        }
        assert_eq!(found(&[("x-token", "a"), ("x-token", "a")], &[header]), REPEATED);
        assert_eq!(found(&[], &[TokenSource::Query("access_token".into())]), token("q.q.q"));
        assert_eq!(found(&[], &[TokenSource::Query("token".into())]), Ok(None));
    }

    #[test]
    fn different_tokens_in_two_places_are_refused_and_equal_ones_are_not() {
        let sources = [TokenSource::Bearer, TokenSource::Cookie("session".into())];
        let with = |cookie| found(&[("authorization", "Bearer a"), ("cookie", cookie)], &sources);
        assert_eq!(with("session=a"), token("a"));
        assert_eq!(with("session=b"), REPEATED);
        assert_eq!(found(&[("cookie", "session=b")], &[TokenSource::Bearer]), Ok(None), "not configured");
    }

    #[test]
    fn a_token_is_borrowed_from_the_request() {
        let headers = headers(&[("authorization", "Bearer a.b.c")]);
        let token = find_token(&headers, None, &[TokenSource::Bearer]).unwrap().unwrap();
        let line = headers[header::AUTHORIZATION].as_bytes().as_ptr_range();
        assert!(line.contains(&token.as_ptr()));
    }
}
