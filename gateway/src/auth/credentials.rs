//! The places of a credential, a token or an API key, in a request.
//!
//! Only the configured places are searched. A request with two different credentials is refused (RFC 6750 §2: one method per
//! request), because gateway and upstream might accept different ones. The same credential in two places is harmless, since
//! browsers always send cookies; so is an empty place.
//!
//! A place is found under every spelling of its name that some service accepts. Names of parameters and cookies are compared decoded, trimmed
//! and in any case, with the characters that PHP replaces (`.` and a blank are `_`) or cuts off (`[…]`); they begin after
//! `;` as well as `&`, after a comma or a blank. The word `Bearer` may precede any white space. A credential under such a
//! spelling counts as a further one.
//!
//! All programs on a domain share its cookies. If credentials have claims, a cookie from which no service can read claims
//! ([`is_foreign`]) belongs to another program. It counts only if the request has no other credential, and then as an
//! invalid one.

use http::{HeaderMap, HeaderName, header};

use super::settings::CredentialSource;
use crate::headers::list_members;

/// The request is malformed, whatever its credential is (400 `bad_request`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPlacement {
    /// There is more than one `Authorization` line, or the configured places have different credentials.
    Repeated,
    /// A place contains something that cannot be a credential.
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

    /// What the client must do, as the end of a sentence about the credential.
    pub fn cure(self) -> &'static str {
        match self {
            Self::Repeated => "must stand in one place, once",
            Self::Malformed => "must have only letters, digits and `-._~+/=`",
        }
    }
}

/// The content of the places in a request, borrowed from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found<'a> {
    pub credential: Option<&'a str>,
    /// The value of another program's cookie, or what is wrong with it as a credential.
    pub foreign: Option<Result<&'a str, BadPlacement>>,
}

impl<'a> Found<'a> {
    /// The credential to verify.
    pub fn any(self) -> Result<Option<&'a str>, BadPlacement> {
        match (self.credential, self.foreign) {
            (None, Some(foreign)) => foreign.map(Some),
            (token, _) => Ok(token),
        }
    }

    /// Adds the content of other places.
    pub fn merge(&mut self, other: Self) -> Result<(), BadPlacement> {
        merge(&mut self.credential, other.credential)?;
        self.foreign = match (self.foreign, other.foreign) {
            (Some(Ok(first)), Some(Ok(second))) if first != second => Some(Err(BadPlacement::Repeated)),
            (Some(Err(fault)), _) | (Some(Ok(_)), Some(Err(fault))) => Some(Err(fault)),
            (first, second) => first.or(second),
        };
        Ok(())
    }
}

impl<'a> From<Option<&'a str>> for Found<'a> {
    fn from(credential: Option<&'a str>) -> Self {
        Self { credential, foreign: None }
    }
}

/// Searches each of the places. `query` is the part of the request's URI after `?`. `has_claims`: credentials are tokens
/// whose claims other programs can read.
///
/// # Errors
/// A place contains something that is not a credential, or the places contain different ones.
pub fn find_credential<'a>(
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    sources: &[CredentialSource],
    has_claims: bool,
) -> Result<Found<'a>, BadPlacement> {
    let mut found = Found::default();
    for source in sources {
        found.merge(match source {
            CredentialSource::Bearer => bearer(headers)?.into(),
            CredentialSource::Cookie(name) => cookie(headers, name, has_claims)?,
            CredentialSource::Header(name) => header(headers, name)?.into(),
            CredentialSource::Query(name) => parameter(query, name)?.into(),
            CredentialSource::Subprotocol(prefix) => subprotocol(headers, prefix)?.into(),
        })?;
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

/// The credential of an `Authorization` line (RFC 6750 §2.1). A line with another scheme has none, and must not hide one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, BadPlacement> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(BadPlacement::Repeated);
    }
    let line = line.as_bytes().trim_ascii();
    if let Some(rest) = without_scheme(line) {
        return valid(rest).map(Some);
    }
    // `Bearer` as a separate word, which a search for it would find.
    let hides_one = (1..line.len()).any(|at| {
        let follows_a_word = line.get(at - 1).is_some_and(u8::is_ascii_alphanumeric);
        let rest = line.get(at..).unwrap_or_default();
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t') || !byte.is_ascii();
        !follows_a_word && without_scheme(rest).is_some() && rest.get(SCHEME.len()).is_some_and(is_blank)
    });
    if hides_one { Err(BadPlacement::Malformed) } else { Ok(None) }
}

/// The text after `Bearer`, in any case (RFC 9110 §11.1). The word ends at any character that cannot be part of a scheme:
/// services split at any white space, even at the no-break space that Python reads in 0xA0.
fn without_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.trim_ascii().split_at_checked(SCHEME.len())?;
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME) && !rest.first().is_some_and(goes_on);
    is_bearer.then(|| rest.trim_ascii())
}

/// A separate header field, with or without the word `Bearer`.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, BadPlacement> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(BadPlacement::Repeated);
    }
    let value = line.as_bytes();
    some(without_scheme(value).unwrap_or(value))
}

/// The cookie `name` in all `Cookie` lines (HTTP/2 splits them, RFC 9113 §8.2.3). A cookie may be set for several paths at
/// once.
fn cookie<'a>(headers: &'a HeaderMap, name: &str, has_claims: bool) -> Result<Found<'a>, BadPlacement> {
    let mut found = Found::default();
    for line in headers.get_all(header::COOKIE) {
        // RFC 2109 allowed commas, too, and old services still do.
        for pair in line.as_bytes().split(|byte| matches!(byte, b';' | b',')) {
            let mut rest = pair;
            while let Some((key, value)) = split_once(rest, b'=') {
                let name_end = key.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
                let key = key[..name_end].rsplit(|&byte| is_space(byte)).next().unwrap_or_default();
                if is_read_as(key, name) {
                    let value = value.trim_ascii();
                    let unquoted = value
                        .strip_prefix(b"\"")
                        .and_then(|value| value.strip_suffix(b"\""))
                        .unwrap_or(value);
                    found.merge(if has_claims && is_foreign(unquoted) {
                        Found { credential: None, foreign: some(unquoted).transpose() }
                    } else {
                        some(unquoted)?.into()
                    })?;
                }
                // Python's `SimpleCookie` ends a value at a blank, and another cookie may follow.
                let begin = value.iter().position(|&byte| !is_space(byte)).unwrap_or(value.len());
                let value = value.get(begin..).unwrap_or_default();
                let Some(end) = value.iter().position(|&byte| is_space(byte)) else { break };
                rest = value.get(end..).unwrap_or_default();
            }
        }
    }
    Ok(found)
}

/// Whether no service reads claims in this value of a cookie, not even a service that does not verify tokens: the second
/// part, decoded as leniently as any service does, is not the beginning of a JSON object. A value that could be quoted in
/// some way (`\"`, `\\`, bytes beyond ASCII) is not foreign.
fn is_foreign(value: &[u8]) -> bool {
    if !value.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        return false;
    }
    let second = Decoded { rest: value }.skip_while(|&byte| byte != b'.').skip(1);
    let (mut bits, mut held) = (0_u32, 0);
    // Characters outside the alphabet are skipped, as Node does.
    for sextet in second.take_while(|&byte| byte != b'.').filter_map(of_base64) {
        (bits, held) = (bits << 6 | u32::from(sextet), held + 6);
        if held < 8 {
            continue;
        }
        held -= 8;
        // Blanks and a byte order mark may come first, in any width.
        match (bits >> held) & 0xff {
            0..=0x20 | 0xbb | 0xbf | 0xef | 0xfe | 0xff => {}
            first => return first != u32::from(b'{'),
        }
    }
    true
}

/// The value of a digit of either alphabet (RFC 4648 §4 and §5).
fn of_base64(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// The members of `Sec-WebSocket-Protocol` that are credentials: they begin with the prefix, in any case. The service does not get
/// them ([`remove_subprotocols`](crate::headers::remove_subprotocols)).
fn subprotocol<'a>(headers: &'a HeaderMap, prefix: &str) -> Result<Option<&'a str>, BadPlacement> {
    let mut found = None;
    for member in list_members(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
        if let Some((start, credential)) = member.split_at_checked(prefix.len())
            && start.eq_ignore_ascii_case(prefix.as_bytes())
        {
            merge(&mut found, some(credential)?)?;
        }
    }
    Ok(found)
}

/// The parameter `name` of a query. `&` separates parameters; in older services `;` does as well.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Result<Option<&'a str>, BadPlacement> {
    let mut found = None;
    for pair in query.unwrap_or_default().split(['&', ';']) {
        // The value is not percent-decoded, because no character of a credential needs encoding.
        if let Some((key, value)) = pair.split_once('=')
            && is_read_as(key.as_bytes(), name)
        {
            merge(&mut found, some(value.as_bytes())?)?;
        }
    }
    Ok(found)
}

/// Whether some service treats the byte as white space around a name. Latin-1 and UTF-8 have white space beyond ASCII
/// (U+0085, U+00A0, U+2003), which Python, Node and others trim. No configured name has such bytes, so all of them count as
/// white space.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || !byte.is_ascii()
}

/// Whether some service reads a parameter or cookie with the name `written` as `name`.
fn is_read_as(written: &[u8], name: &str) -> bool {
    // PHP's rule, which applies to a bracket that is never closed, too.
    let fold = |byte: u8| match byte {
        b'.' | b' ' | b'+' | b'[' => b'_',
        _ => byte.to_ascii_lowercase(),
    };
    let is_blank = |byte: &u8| is_space(*byte) || *byte == b'+';
    let mut read = Decoded { rest: written }.skip_while(is_blank);
    if !name.bytes().all(|wanted| read.next().is_some_and(|byte| fold(byte) == fold(wanted))) {
        return false;
    }
    // `name[…]` is a list, and a program in C ends a name at a zero.
    read.find(|byte| !is_blank(byte)).is_none_or(|byte| matches!(byte, b'[' | 0))
}

/// Bytes with `%HH` decoded once, and `%u00HH`, which Microsoft's services decode.
struct Decoded<'a> {
    rest: &'a [u8],
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let hex = |digits: &[u8]| {
            let text =
                std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
            u8::from_str_radix(text, 16).ok()
        };
        let (byte, rest) = match self.rest {
            [b'%', b'u' | b'U', b'0', b'0', high, low, rest @ ..] | [b'%', high, low, rest @ ..] => {
                (hex(&[*high, *low]), rest)
            }
            _ => (None, self.rest),
        };
        if let Some(byte) = byte {
            self.rest = rest;
            return Some(byte);
        }
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }
}

/// The credential of a place. An empty place has none.
fn some(token: &[u8]) -> Result<Option<&str>, BadPlacement> {
    if token.is_empty() { Ok(None) } else { valid(token).map(Some) }
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Checks that a credential is a `b64token` (RFC 6750 §2.1).
fn valid(token: &[u8]) -> Result<&str, BadPlacement> {
    // The loop reads all bytes and has no early exit: most tokens are valid, and a loop without branches and tables reads 16
    // bytes at once. A token has about 700.
    let all_good = token.iter().fold(true, |good, &byte| good & is_of_a_token(byte));
    if token.is_empty() || !all_good {
        return Err(BadPlacement::Malformed);
    }
    std::str::from_utf8(token).map_err(|_| BadPlacement::Malformed)
}

/// Letters, digits, and `-._~+/=`. The range includes `-./`, which come before the digits.
#[expect(clippy::needless_bitwise_bool, reason = "without a branch, many bytes are looked at at once")]
fn is_of_a_token(byte: u8) -> bool {
    let is_letter = (byte | 0x20).is_ascii_lowercase();
    let is_between = matches!(byte, b'-'..=b'9');
    is_letter | is_between | (byte == b'_') | (byte == b'~') | (byte == b'+') | (byte == b'=')
}

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
        sources: &[CredentialSource],
    ) -> Result<Option<String>, BadPlacement> {
        // `collect` would keep one line per name.
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        let found =
            find_credential(&map, Some("a=1&access_token=q.q.q&b"), sources, true).and_then(Found::any);
        found.map(|token| token.map(str::to_owned))
    }

    #[test]
    fn a_token_is_made_of_the_bytes_that_rfc_6750_names() {
        for byte in 0..=u8::MAX {
            let is_named = byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            assert_eq!(is_of_a_token(byte), is_named, "{byte}");
        }
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
            ("Bearer\ta.b.c", token("a.b.c")),
            ("Bearer \t a.b.c", token("a.b.c")),
            ("Bearer:a", MALFORMED),
            ("Token Bearer a", MALFORMED),
            ("Basic x;bearer\ta", MALFORMED),
            ("Basic xBearer a", Ok(None)),
            ("Bearer-x a", Ok(None)),
        ] {
            assert_eq!(
                found(&[("authorization", value)], &[CredentialSource::Bearer]),
                expected,
                "{value:?}"
            );
        }
        assert_eq!(found(&[], &[CredentialSource::Bearer]), Ok(None));
    }

    #[test]
    fn two_authorization_lines_are_refused_in_any_order() {
        let (good, other) = (("authorization", "Bearer a.b.c"), ("authorization", "Basic x"));
        for lines in [[good, other], [other, good], [good, good]] {
            assert_eq!(found(&lines, &[CredentialSource::Bearer]), REPEATED);
        }
    }

    #[test]
    fn cookies_are_read_from_all_lines() {
        let sources = [CredentialSource::Cookie("session".into())];
        for (lines, expected) in [
            (&[("cookie", "a=1; session=x.y.z; b=2")][..], token("x.y.z")),
            (&[("cookie", "a=1"), ("cookie", "session=\"x.y.z\"")], token("x.y.z")),
            (&[("cookie", "session=x; session=x")], token("x")),
            (&[("cookie", "session=x"), ("cookie", "session=y")], REPEATED),
            (&[("cookie", "asession=y; sessions=z")], Ok(None)),
            (&[("cookie", "session=")], Ok(None)),
            (&[("cookie", "session=\"\"; session=x")], token("x")),
            (&[("cookie", "session=a%2Eb")], MALFORMED),
        ] {
            assert_eq!(found(lines, &sources), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_header_or_a_parameter_carries_a_token_when_configured() {
        let header = CredentialSource::Header(HeaderName::from_static("x-token"));
        for (value, expected) in
            [("a.b.c", token("a.b.c")), ("Bearer a.b.c", token("a.b.c")), ("a b", MALFORMED)]
        {
            assert_eq!(found(&[("x-token", value)], std::slice::from_ref(&header)), expected);
        }
        assert_eq!(found(&[("x-token", "a"), ("x-token", "a")], &[header]), REPEATED);
        assert_eq!(found(&[], &[CredentialSource::Query("access_token".into())]), token("q.q.q"));
        assert_eq!(found(&[], &[CredentialSource::Query("token".into())]), Ok(None));
    }

    #[test]
    fn different_tokens_in_two_places_are_refused_and_equal_ones_are_not() {
        let sources = [CredentialSource::Bearer, CredentialSource::Cookie("session".into())];
        let with = |cookie| found(&[("authorization", "Bearer a.e30.b"), ("cookie", cookie)], &sources);
        assert_eq!(with("session=a.e30.b"), token("a.e30.b"));
        assert_eq!(with("session=a.e30.c"), REPEATED);
        assert_eq!(
            found(&[("cookie", "session=b")], &[CredentialSource::Bearer]),
            Ok(None),
            "not configured"
        );
    }

    #[test]
    fn a_token_in_a_spelling_that_some_service_reads_is_one_more_token() {
        let read = |query: &str| {
            let sources = [CredentialSource::Query("access_token".into())];
            let headers = HeaderMap::new();
            let found = find_credential(&headers, Some(query), &sources, true).and_then(Found::any);
            found.map(|token| token.map(str::to_owned))
        };
        for name in [
            "access%5Ftoken",
            "access%5ftoken",
            "Access_Token",
            "%20access_token",
            "access_token+",
            "access.token",
            "access+token",
            "access%20token",
            "access_token[]",
            "access_token%5B0%5D",
            "access_token%00x",
            "%61ccess_token",
            "access%u005Ftoken",
            "access[token",
            "access%5Btoken",
        ] {
            assert_eq!(read(&format!("{name}=a")), token("a"), "{name}");
            for query in [
                format!("access_token=a&{name}=b"),
                format!("{name}=b;access_token=a"),
                format!("access_token=a;x&{name}=b"),
            ] {
                assert_eq!(read(&query), REPEATED, "{query}");
            }
            assert_eq!(read(&format!("access_token=a&{name}=a&{name}=")), token("a"), "{name}");
        }
        for name in
            ["access%255Ftoken", "access_tokens", "xaccess_token", "access-token", "access", "%", "%5"]
        {
            assert_eq!(read(&format!("{name}=b&access_token=a")), token("a"), "{name}");
        }
        let cookies = [CredentialSource::Cookie("session".into())];
        for line in [
            "session =b; session=a",
            "session=a;\tSESSION=b",
            "session=a; s%65ssion=b",
            "session=a, session=b",
            "session=a; x=1 session=b",
            "x session=b; session=a",
            "session=a; session[x]=b",
            "session=a; session = b",
        ] {
            assert_eq!(found(&[("cookie", line)], &cookies), REPEATED, "{line}");
        }
        for line in [
            &b"\xa0session=b; session=a"[..],
            b"session=a; session\xa0=b",
            b"session=a; \x85session=b",
            b"session=a; \xc2\xa0session=b",
            b"session=a; session\xe2\x80\x83=b",
            b"session=a; x=1\xa0session=b",
        ] {
            let mut map = HeaderMap::new();
            map.insert(header::COOKIE, HeaderValue::from_bytes(line).unwrap());
            let found = find_credential(&map, None, &cookies, true).and_then(Found::any);
            assert_eq!(found, Err(BadPlacement::Repeated), "{}", line.escape_ascii());
        }
        for name in
            ["%C2%A0access_token", "access_token%E2%80%83", "%E2%80%8Baccess_token", "%0Baccess_token"]
        {
            assert_eq!(read(&format!("access_token=a&{name}=b")), REPEATED, "{name}");
        }
        assert_eq!(found(&[("cookie", "a=1 2 3; b==; session=x")], &cookies), token("x"));
        assert_eq!(found(&[("cookie", "session=a b")], &cookies), MALFORMED);
    }

    /// Python decodes a header as Latin-1, in which 0xA0 is white space.
    #[test]
    fn a_no_break_space_does_not_hide_the_scheme() {
        let mut map = HeaderMap::new();
        map.insert(header::AUTHORIZATION, HeaderValue::from_bytes(b"Bearer\xa0a.b.c").unwrap());
        assert_eq!(
            find_credential(&map, None, &[CredentialSource::Bearer], true),
            Err(BadPlacement::Malformed)
        );
    }

    #[test]
    fn an_empty_place_beside_a_token_is_no_token() {
        let sources = [
            CredentialSource::Bearer,
            CredentialSource::Cookie("session".into()),
            CredentialSource::Header(HeaderName::from_static("x-token")),
        ];
        let lines = [("authorization", "Bearer a"), ("cookie", "session="), ("x-token", "")];
        assert_eq!(found(&lines, &sources), token("a"));
        assert_eq!(found(&lines[1..], &sources), Ok(None));
    }

    #[test]
    fn somebody_elses_cookie_beside_a_token_is_no_token() {
        let sources = [CredentialSource::Cookie("session".into()), CredentialSource::Bearer];
        for (cookie, is_foreign) in [
            ("7f3a", true),
            ("s%3AqYc.b0uW%2Fx", true),
            ("eyJpZCI6MX0.X-abc.c2ln", true), // itsdangerous: its claims come first, and it is not a token
            (".eJw.X-abc.c2ln", true),
            ("a|b:c$d", true),
            ("x.eyJzdWIiOiJyb290In0.y", false),
            ("x.eyJzdWIiOiJyb290In0", false),
            ("x%2EeyJzdWIiOiJyb290In0%2Ey", false),
            ("x.%65yJzdWIiOiJyb290In0.y", false),
            ("x.IHsic3ViIjoicm9vdCJ9.y", false),    // a blank comes first
            ("x.77u_eyJzdWIiOiJyb290In0.y", false), // a byte order mark comes first
            ("x.e!yJzdWIiOiJyb290In0.y", false),
            ("x\\056eyJzdWIiOiJyb290In0.y", false), // quoted as Python reads it
        ] {
            let line: &'static str = format!("session={cookie}").leak();
            let beside = found(&[("authorization", "Bearer a.e30.b"), ("cookie", line)], &sources);
            assert_eq!(beside == token("a.e30.b"), is_foreign, "{cookie}: {beside:?}");
            let alone = found(&[("cookie", line)], &sources);
            assert_ne!(alone, Ok(None), "{cookie}: it is not as if there were nothing");
        }
        let two = [("cookie", "session=7f3a; session=x.e30.y; session=8b")];
        assert_eq!(found(&two, &sources), token("x.e30.y"));
    }

    #[test]
    fn a_token_is_borrowed_from_the_request() {
        let headers = headers(&[("authorization", "Bearer a.b.c")]);
        let token =
            find_credential(&headers, None, &[CredentialSource::Bearer], true).unwrap().credential.unwrap();
        let line = headers[header::AUTHORIZATION].as_bytes().as_ptr_range();
        assert!(line.contains(&token.as_ptr()));
    }
}
