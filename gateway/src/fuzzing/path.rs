//! The canonical path: it is canonical to itself, and every other reader finds the same segments in it.

use crate::admission::{Oddities, Refusal, canonical_odd, canonical_path, lenient_readings};

/// Checks that a path which admission accepts has one reading, also if it has oddities that a route allows.
///
/// # Panics
/// The property is violated.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let canonical = canonical_path(text);
    if let Ok(canonical) = &canonical {
        assert_eq!(canonical_path(canonical).as_deref(), Ok(&**canonical), "canonical to itself");
        check_one_reading(text, canonical);
    }
    let Ok((odd, what)) = canonical_odd(text, EVERY, Refusal::TargetEncoding) else {
        assert!(canonical.is_err(), "what every route takes is taken with oddities, too");
        return;
    };
    assert!(canonical.is_err() || canonical.as_deref() == Ok(&*odd), "one canonical form");
    let again = canonical_odd(&odd, EVERY, Refusal::TargetEncoding);
    assert_eq!(again, Ok((odd.clone(), what)), "canonical to itself");
    assert_eq!(decoded(odd.as_bytes()), decoded(text.as_bytes()), "the same bytes");
    for reading in lenient_readings(&odd, what.found).expect("they were read before") {
        let mut bytes = reading.into_bytes();
        // Decoded until nothing changes: each pass makes the text shorter.
        while let decoded = decoded(&bytes)
            && decoded != bytes
        {
            bytes = decoded;
        }
        for segment in bytes.split(|byte| matches!(byte, b'/' | b'\\')) {
            assert!(!is_dot_segment(segment), "a dot segment in a reading of {text:?}");
        }
    }
}

fn check_one_reading(text: &str, canonical: &str) {
    let read = decoded(canonical.as_bytes());
    assert_eq!(read, decoded(text.as_bytes()), "the same bytes");
    assert_eq!(decoded(&read), read, "decoding once more changes nothing");
    let words = std::str::from_utf8(&read).expect("text");
    assert!(!words.contains(|c: char| c.is_control() || c == '\\'), "no separator, no control");
    assert!(canonical.bytes().all(|byte| byte.is_ascii_graphic()), "visible ASCII");
    let segments: Vec<&[u8]> = read.split(|byte| *byte == b'/').collect();
    assert_eq!(segments.len(), canonical.split('/').count(), "no encoded slash");
    let (last, before) = segments.split_last().expect("a split has a part");
    assert!(before.iter().skip(1).all(|segment| !segment.is_empty()), "no empty segment");
    assert!(!is_dot_segment(last) && !before.iter().any(|segment| is_dot_segment(segment)), "no dot segment");
}

/// Whether a segment is a dot segment; its parameters do not count.
fn is_dot_segment(segment: &[u8]) -> bool {
    matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."))
}

/// Decodes percent-encodings once; other text stays.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let encoded = match rest {
            [b'%', high, low, ..] => (*high as char).to_digit(16).zip((*low as char).to_digit(16)),
            _ => None,
        };
        let octet = encoded.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        out.push(octet.unwrap_or(*first));
        rest = if octet.is_some() { &rest[3..] } else { tail };
    }
    out
}

const EVERY: Oddities = Oddities::ALWAYS
    .with(Oddities::ENCODED_SLASH)
    .with(Oddities::ENCODED_PERCENT)
    .with(Oddities::DOUBLE_SLASH)
    .with(Oddities::RAW);
