//! The form in which paths are compared: by the router, in conflict detection, in the lists of `auto_routes`, and by
//! `rewrite.strip`.
//!
//! Services decode a path before they look for its handler: `/%40me` runs the handler of `/@me` in Flask, Django, Starlette
//! and Tomcat. So a path is *compared* with its encodings decoded, once, and *forwarded* as it arrived.
//!
//! - Every encoded ASCII character is decoded, except for `%25` and `%2F`: a bare `%` and a further `/` are not text of a
//!   segment, so nothing unencoded can be equal to them.
//! - Encodings beyond ASCII stay, with upper-case digits as in every canonical path: two of them are equal exactly if they
//!   decode to the same text.
//! - A segment is compared up to its `;`, written or as `%3B`: some services cut parameters off before they decode, and
//!   others get a `;` because a proxy before them has decoded it.
//!
//! A path without a `%` needs no allocation.

use std::borrow::Cow;

/// Other spellings of its path that a route takes, because its service does. `None`: it is not written, and the route does
/// not take them. Where the opposite is written, `check` does not warn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spelling {
    pub case_insensitive: Option<bool>,
    pub trailing_slash_same: Option<bool>,
}

impl Spelling {
    /// Whether the literals of the path match in any case of their ASCII letters.
    pub fn any_case(self) -> bool {
        self.case_insensitive == Some(true)
    }

    /// Whether the route matches its path with a slash at the end as well.
    pub fn trailing_slash(self) -> bool {
        self.trailing_slash_same == Some(true)
    }
}

/// `path` in the form in which it is compared, segment by segment. Parameters are still in it; [`without_parameters`]
/// removes them.
pub fn compared(path: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'%', path.as_bytes()) else { return Cow::Borrowed(path) };
    let (plain, rest) = path.split_at(first);
    let mut text = String::with_capacity(path.len());
    text.push_str(plain);
    for part in rest.split('%').skip(1) {
        if let Some(octet) = decoded(part) {
            text.push(char::from(octet));
            text.push_str(&part[ENCODED_DIGITS..]);
        } else {
            text.push('%');
            text.push_str(part);
        }
    }
    Cow::Owned(text)
}

/// The ASCII character that `%` and the first two digits of `after` encode. `None`: it is not one that is decoded.
fn decoded(after: &str) -> Option<u8> {
    let digits =
        after.as_bytes().get(..ENCODED_DIGITS).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    let digits = std::str::from_utf8(digits).ok()?;
    let octet = u8::from_str_radix(digits, 16).ok()?;
    (octet.is_ascii() && !matches!(octet, b'%' | b'/')).then_some(octet)
}

/// The part of a segment that is compared: the text before its parameters.
pub fn without_parameters(segment: &str) -> &str {
    memchr::memchr(b';', segment.as_bytes()).map_or(segment, |end| &segment[..end])
}

/// `path` without `prefix`, which must end at a segment boundary; empty where the prefix is the whole path. The prefix is
/// compared as the router compares a pattern; the rest is returned as it was written.
pub fn strip<'a>(path: &'a str, prefix: &str, any_case: bool) -> Option<&'a str> {
    let mut rest = path;
    for wanted in prefix.trim_matches('/').split('/').filter(|wanted| !wanted.is_empty()) {
        let after = rest.strip_prefix('/')?;
        let end = memchr::memchr(b'/', after.as_bytes()).unwrap_or(after.len());
        let (segment, remaining) = after.split_at(end);
        let (segment, wanted) = (compared(segment), compared(wanted));
        let (segment, wanted) = (without_parameters(&segment), without_parameters(&wanted));
        let is_same = if any_case { segment.eq_ignore_ascii_case(wanted) } else { segment == wanted };
        if !is_same {
            return None;
        }
        rest = remaining;
    }
    Some(rest)
}

const ENCODED_DIGITS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_decoded_once_where_it_has_an_unencoded_form() {
        for (written, read) in [
            ("/%40me", "/@me"),
            ("/v1/things%3Apurge", "/v1/things:purge"),
            ("/a%3Bb/c", "/a;b/c"),
            ("/%7Bid%7D/%2A", "/{id}/*"),
            ("/100%25", "/100%25"),
            ("/%2540", "/%2540"),
            ("/a%2Fb", "/a%2Fb"),
            ("/caf%C3%A9%20x", "/caf%C3%A9 x"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%zz", "/%zz"),
            ("/%4é", "/%4é"),
            ("%40", "@"),
        ] {
            assert_eq!(compared(written), read, "{written}");
        }
        assert!(matches!(compared("/plain/;x"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_prefix_is_stripped_at_a_segment_boundary_and_by_the_routers_reading() {
        for (path, prefix, any_case, rest) in [
            ("/api/users", "/api", false, Some("/users")),
            ("/api", "/api/", false, Some("")),
            ("/api/", "/api", false, Some("/")),
            ("/apiary", "/api", false, None),
            ("/users", "/api", false, None),
            ("/api;v=1/users;x=1", "/api", false, Some("/users;x=1")),
            ("/api%3Bv=1/users%40", "/api", false, Some("/users%40")),
            ("/api/%40me/x", "/api/@me", false, Some("/x")),
            ("/API/users", "/api", false, None),
            ("/API/users", "/api", true, Some("/users")),
            ("/api", "/api/v1", false, None),
        ] {
            assert_eq!(strip(path, prefix, any_case), rest, "{path} without {prefix}");
        }
    }
}
