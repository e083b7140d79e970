//! Paths that are refused unless their route allows them (`allow_in_path`): services exist whose names need them, such as
//! GitLab (`/projects/group%2Fname`), RabbitMQ (`/api/queues/%2F/q`) and npm (`/@scope%2fname`).
//!
//! What is allowed is never decoded and never a separator: the path is matched, authorised, logged and sent in one form, which
//! is the canonical one otherwise. Some programs behind read it in another way all the same, so it passes only if no such reading
//! ([`lenient_readings`]: decoded once, or as often as it goes, slashes merged) has a dot segment or a control character, or gives
//! its sender what no plain path would (`request/readings.rs`). What no route can allow: an encoded backslash, encodings that are
//! none or no UTF-8, dot segments, and an empty segment before `;` that is not the last.
//!
//! A last segment of nothing but `;parameters` needs no word in the file: servlet containers write `/;jsessionid=A` into the
//! links of their first page. To them it is a slash at the end, to others the text of a segment, and the same test of both
//! readings decides.

use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};

use super::{
    Refusal,
    path::{PATH_BYTES, check_dot_segment, decodes_again, hex_digit, is_unreserved, without_parameters},
};

/// A set of what a path has, or of what a route allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Oddities(u8);

impl Oddities {
    pub const NONE: Self = Self(0);
    /// `%2F`
    pub const ENCODED_SLASH: Self = Self(1);
    /// `%25` before two digits: decoded twice it is something else.
    pub const ENCODED_PERCENT: Self = Self(1 << 1);
    /// `//`
    pub const DOUBLE_SLASH: Self = Self(1 << 2);
    /// Characters that RFC 3986 has encoded: `"`, `<`, `>`, `^`, a backtick, `{`, `|`, `}`.
    pub const RAW: Self = Self(1 << 3);
    /// `/;x` at the end.
    pub const ONLY_PARAMETERS: Self = Self(1 << 4);
    /// What every route takes.
    pub const ALWAYS: Self = Self::ONLY_PARAMETERS;

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Some programs see a separator, or the end of a segment, where others do not.
    fn has_separators(self) -> bool {
        [Self::ENCODED_SLASH, Self::ENCODED_PERCENT, Self::DOUBLE_SLASH]
            .into_iter()
            .any(|one| self.contains(one))
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What of a path its route must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odd {
    pub found: Oddities,
    /// Where it does not.
    pub refusal: Refusal,
}

/// The one form of a path that is refused (`refusal`) where nothing is allowed.
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

/// As for every path, and what else it has.
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

/// The path as programs read it that decode it once or too often, take each slash for a separator and merge empty segments,
/// or take what follows a double slash for a host (RFC 3986 §4.2, as URL parsers do with the target of a request);
/// each reading as a canonical path again.
///
/// Programs also differ in when they cut parameters off: before they decode, before they merge, or never. With a separator
/// that some of them see and others do not, there would be too many readings, so such a path has no `;` in any form.
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

/// The path behind what a URL parser takes for a host.
fn behind_host(text: &str) -> Option<&str> {
    let is_separator = |c: char| matches!(c, '/' | '\\');
    let host = text.trim_start_matches(is_separator);
    let is_host = text.len() - host.len() >= 2;
    is_host.then(|| host.find(is_separator).and_then(|end| host.get(end..)).unwrap_or("/"))
}

/// `text` without its empty segments. `canonical`: makes the text of a segment canonical.
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

/// Programs decode twice by mistake, and a proxy between may do so once more. Each pass reads the whole path.
const DECODINGS_MAX: usize = 3;
/// Stands in front of what is text to a program that knows no parameters: no route has it as a literal.
const ANY_TEXT: &str = "~";
/// What a canonical path has encoded of text, beside what is encoded in any case.
const NOT_ASCII: &AsciiSet = &AsciiSet::EMPTY.add(b'%');
