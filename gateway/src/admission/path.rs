//! The canonical path: one form that is matched, authorised, counted, logged and forwarded.
//!
//! - Percent-encoded unreserved characters are decoded, once; other encodings get upper-case digits (RFC 3986
//!   §6.2.2). A path that changes is forwarded changed.
//! - Refused, because some services read them differently: dot segments, also encoded and also before
//!   `;parameters`; empty segments (`//`); encoded slash, backslash and control characters (those of
//!   Unicode, also beyond ASCII); a percent sign that
//!   would form a new encoding when decoded once more; encodings that are not UTF-8; bytes outside visible ASCII;
//!   the characters `"`, `<`, `>`, `\`, `^`, a backtick, `{`, `|`, `}`, which must be encoded by RFC 3986.
//! - `;parameters` are kept. The router compares a segment up to its `;`, so that it reads `/admin;x` as
//!   `/admin`.
//! - A trailing slash is kept and is significant.
//!
//! A fragment never arrives, because the HTTP parser cuts it off.

use std::borrow::Cow;

use super::Refusal;

/// The canonical form of `path`. A path that is canonical is returned as it is.
///
/// # Errors
/// The reason for which the path has no canonical form.
pub fn canonical_path(path: &str) -> Result<Cow<'_, str>, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::TargetForm);
    }
    let (mut encoded, mut segments_suspect, mut previous) = (false, false, 0);
    for byte in path.bytes() {
        if !PATH_BYTES[usize::from(byte)] {
            return Err(Refusal::TargetCharacter);
        }
        encoded |= byte == b'%';
        segments_suspect |= byte == b';' || (previous == b'/' && matches!(byte, b'/' | b'.'));
        previous = byte;
    }
    let path = if encoded { decode_unreserved(path)? } else { Cow::Borrowed(path) };
    if encoded || segments_suspect {
        check_segments(&path)?;
    }
    Ok(path)
}

fn decode_unreserved(path: &str) -> Result<Cow<'_, str>, Refusal> {
    let bytes = path.as_bytes();
    let mut canonical = Vec::with_capacity(bytes.len());
    let mut beyond_ascii = false;
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            canonical.push(*first);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else {
            return Err(Refusal::TargetEncoding);
        };
        let octet = hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| high << 4 | low);
        match octet.ok_or(Refusal::TargetEncoding)? {
            0..0x20 | 0x7f | b'/' | b'\\' => return Err(Refusal::TargetEncoding),
            octet if is_unreserved(octet) => canonical.push(octet),
            octet => {
                beyond_ascii |= !octet.is_ascii();
                canonical.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
            }
        }
        rest = tail;
    }
    let canonical = String::from_utf8(canonical).map_err(|_| Refusal::TargetEncoding)?;
    check_decoded(&canonical, beyond_ascii)?;
    Ok(if canonical == path { Cow::Borrowed(path) } else { Cow::Owned(canonical) })
}

/// Whether a percent sign would form a new encoding when decoded once more.
pub(super) fn decodes_again(canonical: &str) -> bool {
    let begins_with_digits = |after: &str| {
        let mut digits = after.bytes();
        digits.next().and_then(hex_digit).is_some() && digits.next().and_then(hex_digit).is_some()
    };
    canonical.match_indices("%25").any(|(at, sign)| begins_with_digits(&canonical[at + sign.len()..]))
}

/// Checks the path after decoding, because only that makes `%2541` of `%25%34%31`.
fn check_decoded(canonical: &str, beyond_ascii: bool) -> Result<(), Refusal> {
    if decodes_again(canonical) {
        return Err(Refusal::TargetEncoding);
    }
    if beyond_ascii {
        let text = percent_encoding::percent_decode_str(canonical).decode_utf8();
        // U+0080 to U+009F are control characters, too.
        if text.map_or(true, |text| text.contains(char::is_control)) {
            return Err(Refusal::TargetEncoding);
        }
    }
    Ok(())
}

fn check_segments(path: &str) -> Result<(), Refusal> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        check_dot_segment(segment)?;
        let name = without_parameters(segment);
        // Only the last segment may be empty, which is a trailing slash.
        if name.is_empty() && (!segment.is_empty() || segments.peek().is_some()) {
            return Err(Refusal::TargetEmptySegment);
        }
    }
    Ok(())
}

/// Refuses a segment that is a dot segment, with or without parameters.
pub(super) fn check_dot_segment(segment: &str) -> Result<(), Refusal> {
    match without_parameters(segment) {
        "." | ".." => Err(Refusal::TargetDotSegment),
        _ => Ok(()),
    }
}

/// A segment up to its `;`, which may be encoded.
pub(super) fn without_parameters(segment: &str) -> &str {
    let end = segment.find(';').unwrap_or(segment.len());
    let end = segment.find("%3B").map_or(end, |encoded| encoded.min(end));
    &segment[..end]
}

/// The value of a hexadecimal digit.
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
pub(super) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The bytes that a path may contain unencoded. Every byte has an entry, so that indexing cannot fail.
pub(super) const PATH_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21_u8;
    while byte < 0x7f {
        table[byte as usize] =
            !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
        byte += 1;
    }
    table
};
