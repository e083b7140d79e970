//! Odd paths: paths that are refused unless their route allows them (`allow_in_path`). Some services have names that need
//! them, such as GitLab (`/projects/group%2Fname`), RabbitMQ (`/api/queues/%2F/q`) and npm (`/@scope%2fname`).
//!
//! An allowed oddity is never decoded and never a separator: the path is matched, authorised, logged and sent in one form,
//! which is canonical in all other respects. Since some services read such a path differently, it passes only if none of
//! these readings ([`lenient_readings`]: decoded once or several times, slashes merged) has a dot segment or a control
//! character, or gives its sender what a plain path would not (`request/readings.rs`). No route can allow an encoded
//! backslash, invalid encodings and encodings that are not UTF-8, dot segments, and an empty segment before `;` that is not
//! the last.
//!
//! A last segment that is only `;parameters` is always allowed, because servlet containers write `/;jsessionid=A` into the
//! links of their first page. Servlet containers read it as a slash at the end, other programs as the text of a segment, and
//! the same test of both readings decides.

use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};

use super::{
    Refusal,
    path::{PATH_BYTES, check_dot_segment, decodes_again, hex_digit, is_unreserved, without_parameters},
};

/// The oddities that a path has, or that a route allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Oddities(u8);

impl Oddities {
    pub const NONE: Self = Self(0);
    /// `%2F`
    pub const ENCODED_SLASH: Self = Self(1);
    /// `%25` before two digits, which is something else when decoded twice.
    pub const ENCODED_PERCENT: Self = Self(1 << 1);
    /// `//`
    pub const DOUBLE_SLASH: Self = Self(1 << 2);
    /// Characters that must be encoded by RFC 3986: `"`, `<`, `>`, `^`, a backtick, `{`, `|`, `}`.
    pub const RAW: Self = Self(1 << 3);
    /// `/;x` at the end.
    pub const ONLY_PARAMETERS: Self = Self(1 << 4);
    /// The oddities that every route allows.
    pub const ALWAYS: Self = Self::ONLY_PARAMETERS;

    /// The oddities of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether some programs see a separator, or the end of a segment, where others do not.
    fn has_separators(self) -> bool {
        [Self::ENCODED_SLASH, Self::ENCODED_PERCENT, Self::DOUBLE_SLASH]
            .into_iter()
            .any(|one| self.contains(one))
    }

    /// Whether all oddities of `other` are in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The oddities of a path, which its route must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odd {
    pub found: Oddities,
    /// The refusal if the route does not allow them.
    pub refusal: Refusal,
}

/// The one form of a path that the strict rules refuse with `refusal`.
///
/// # Errors
/// `refusal` if the path has an oddity that is not in `allowed`, and the reason if no route can allow it.
pub(crate) fn canonical(path: &str, allowed: Oddities, refusal: Refusal) -> Result<(String, Odd), Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::TargetForm);
    }
    let (canonical, mut found) = decode(path)?;
    if decodes_again(&canonical) {
        found = found.with(Oddities::ENCODED_PERCENT);
    }
    let mut segments = canonical.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        check_dot_segment(segment)?;
        match (without_parameters(segment), segment) {
            ("", "") if segments.peek().is_some() => found = found.with(Oddities::DOUBLE_SLASH),
            ("", "") => {}
            ("", text) if text.starts_with(';') && segments.peek().is_none() => {
                found = found.with(Oddities::ONLY_PARAMETERS);
            }
            ("", _) => return Err(Refusal::TargetEmptySegment),
            _ => {}
        }
    }
    if !allowed.contains(found) {
        return Err(refusal);
    }
    lenient_readings(&canonical, found)?;
    Ok((canonical, Odd { found, refusal }))
}

/// Decodes as for every path, and returns the oddities that it found.
fn decode(path: &str) -> Result<(String, Oddities), Refusal> {
    let mut found = Oddities::NONE;
    let mut canonical = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match *first {
            b'%' => {
                let [high, low, tail @ ..] = tail else { return Err(Refusal::TargetEncoding) };
                rest = tail;
                let octet = hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| high << 4 | low);
                match octet.ok_or(Refusal::TargetEncoding)? {
                    0..0x20 | 0x7f | b'\\' => return Err(Refusal::TargetEncoding),
                    octet if is_unreserved(octet) => {
                        canonical.push(octet);
                        continue;
                    }
                    b'/' => found = found.with(Oddities::ENCODED_SLASH),
                    _ => {}
                }
                canonical.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
            }
            byte if PATH_BYTES[usize::from(byte)] => canonical.push(byte),
            byte @ (b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                found = found.with(Oddities::RAW);
                canonical.push(byte);
            }
            _ => return Err(Refusal::TargetCharacter),
        }
    }
    let canonical = String::from_utf8(canonical).map_err(|_| Refusal::TargetEncoding)?;
    if percent_decode_str(&canonical).decode_utf8().is_err() {
        return Err(Refusal::TargetEncoding);
    }
    Ok((canonical, found))
}

/// The readings of a path in programs that decode it once or several times, treat each slash as a separator and merge empty
/// segments, or treat the text after a double slash as a host (RFC 3986 §4.2, as URL parsers do with the target of a
/// request). Each reading is a canonical path again.
///
/// Programs also differ in when they cut parameters off: before they decode, before they merge, or never. With a separator
/// that some of them see and others do not, there would be too many readings, so such a path may not have `;` in any form.
pub(crate) fn lenient_readings(canonical: &str, found: Oddities) -> Result<Vec<String>, Refusal> {
    let mut readings = Vec::new();
    let mut add = |text: &str, canonical: fn(&str) -> String| {
        readings.push(merged(text, canonical)?);
        if let Some(path) = behind_host(text) {
            readings.push(merged(path, canonical)?);
        }
        Ok(())
    };
    add(canonical, str::to_owned)?;
    let mut text = canonical.to_owned();
    for pass in 0.. {
        let decoded = percent_decode_str(&text).decode_utf8().map_err(|_| Refusal::TargetEncoding)?;
        if *decoded == *text {
            break;
        }
        if pass == DECODINGS_MAX {
            return Err(Refusal::TargetEncoding);
        }
        text = decoded.into_owned();
        add(&text, |segment| utf8_percent_encode(segment, NOT_ASCII).to_string())?;
    }
    if text.contains(';') && found.has_separators() {
        return Err(Refusal::TargetEncoding);
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::TargetEncoding);
    }
    readings.dedup();
    Ok(readings)
}

/// The path after the part that a URL parser takes for a host.
fn behind_host(text: &str) -> Option<&str> {
    let is_separator = |c: char| matches!(c, '/' | '\\');
    let host = text.trim_start_matches(is_separator);
    let is_host = text.len() - host.len() >= 2;
    is_host.then(|| host.find(is_separator).and_then(|end| host.get(end..)).unwrap_or("/"))
}

/// `text` without its empty segments. `canonical` makes the text of a segment canonical.
fn merged(text: &str, canonical: impl Fn(&str) -> String) -> Result<String, Refusal> {
    let is_separator = |c: char| matches!(c, '/' | '\\');
    let mut merged = String::with_capacity(text.len());
    for segment in text.split(is_separator).filter(|segment| !segment.is_empty()) {
        check_dot_segment(segment)?;
        merged.push('/');
        if segment.starts_with(';') {
            merged.push_str(ANY_TEXT);
        }
        merged.push_str(&canonical(segment));
    }
    if text.ends_with(is_separator) {
        merged.push('/');
    }
    Ok(merged)
}

/// The largest number of times that a path is decoded. Programs decode twice by mistake, and a proxy before them may do so
/// once more.
const DECODINGS_MAX: usize = 3;
/// A sign before text that is only text to programs without parameters: no route has it as a literal.
const ANY_TEXT: &str = "~";
/// Characters that are encoded in the text of a canonical path, in addition to those that are always encoded.
const NOT_ASCII: &AsciiSet = &AsciiSet::EMPTY.add(b'%');
