//! Text from other programs and people, made safe for a log or a terminal.

use std::borrow::Cow;

/// Escapes the characters of `text` that would end a line, move a cursor or change the direction of writing. Names, tags
/// and outputs of checks are written by anyone who may register a service.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Whether `c` is a control character (C0, C1), a line separator, or a mark that Unicode's bidirectional algorithm obeys
/// (UAX #9 §2).
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_seen_is_escaped() {
        for (text, shown) in [
            ("Größe `v1` \\ \"x\"", "Größe `v1` \\ \"x\""),
            ("a\nb\r\t", "a\\nb\\r\\t"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("x\u{202e}y", "x\\u{202e}y"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
