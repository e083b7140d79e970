//! Go's habits that Consul's clients can see: how durations are written, how JSON errors read, how strings are
//! escaped.

use serde_json::Value;
use serde_json::error::Category;

/// Reads a Go duration such as `10s`, `1m30s`, `-1.5h`, `120000ms`, as nanoseconds. The error is Go's text.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if total > NANOSECONDS_MAX {
        return Err(invalid());
    }
    // Within range by the line above; a fraction of a nanosecond is dropped, as Go drops it.
    #[expect(clippy::cast_possible_truncation)]
    let nanoseconds = total as i64;
    Ok(if negative { -nanoseconds } else { nanoseconds })
}

/// Writes a duration as Go does: `1m0s`, `1.5s`, `200ms`.
pub(crate) fn write_duration(nanoseconds: i64) -> String {
    let total = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let part = |unit: u64, name: &str| {
        let fraction = format!("{:0width$}", total % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() || unit == 1 { "" } else { "." };
        format!("{sign}{}{dot}{}{name}", total / unit, if unit == 1 { "" } else { fraction })
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => part(1, "ns"),
        1_000..1_000_000 => part(1_000, "µs"),
        1_000_000..1_000_000_000 => part(1_000_000, "ms"),
        _ => {
            let seconds = total / 1_000_000_000;
            let fraction = format!("{:09}", total % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}{dot}{fraction}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}{dot}{fraction}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}{dot}{fraction}s"),
            }
        }
    }
}

/// The first JSON value of a body; Consul ignores whatever follows it. The error is Go's text.
pub(crate) fn parse_json(body: &[u8]) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    match values.next() {
        None => Err("EOF".to_owned()),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) if error.classify() == Category::Eof => Err("unexpected EOF".to_owned()),
        Some(Err(error)) => Err(syntax_error(body, &error)),
    }
}

/// What Go calls a value of a wrong type.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_f64() => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

fn syntax_error(body: &[u8], error: &serde_json::Error) -> String {
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // The column is the number of bytes read so far, the offending one included.
    let at = error.column().saturating_sub(1);
    let byte = line.get(at).copied().unwrap_or(b'?');
    if let Some(expecting) = broken_literal(line, at) {
        return format!("invalid character '{}' {expecting}", char::from(byte));
    }
    let wanted = match error.to_string() {
        text if text.contains("key must be a string") => "looking for beginning of object key string",
        text if text.contains("expected `:`") => "after object key",
        text if text.contains("expected `,` or `}`") => "after object key:value pair",
        text if text.contains("expected `,` or `]`") => "after array element",
        _ => "looking for beginning of value",
    };
    format!("invalid character '{}' {wanted}", char::from(byte))
}

/// What Go expected in place of the byte at `at`, if a literal begins before it: `nope` breaks at its `o`.
fn broken_literal(line: &[u8], at: usize) -> Option<String> {
    let before = line.get(..at)?.iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let literal = match line.get(at.checked_sub(before)?)? {
        b'n' if before > 0 => "null",
        b't' if before > 0 => "true",
        b'f' if before > 0 => "false",
        _ => return None,
    };
    let wanted = literal.chars().nth(before)?;
    Some(format!("in literal {literal} (expecting '{wanted}')"))
}

/// Compact JSON, or with `pretty` indented by four blanks and ended by a line feed. Go escapes `<`, `>` and `&`,
/// which can stand only inside strings.
pub(crate) fn write_json(value: &Value, pretty: bool) -> String {
    let plain = if pretty { indented(value) } else { value.to_string() };
    let mut text = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    if pretty {
        text.push('\n');
    }
    text
}

fn indented(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        // A `Value` always serialises into memory; compact is right as well.
        Err(_) => value.to_string(),
    }
}

/// Above 2^53 a float has no whole nanoseconds any more; a hundred days are enough.
const NANOSECONDS_MAX: f64 = 9e15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("10s", 10_000_000_000),
            ("1m30s", 90_000_000_000),
            ("120000ms", 120_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("-1s", -1_000_000_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for text in ["0s", "10s", "1m0s", "1h0m0s", "1m30.5s", "200ms", "1.5ms", "7ns", "-1s", "24h0m1s"] {
            assert_eq!(write_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn bad_durations_are_refused_in_gos_words() {
        for (text, error) in [
            ("bogus", "time: invalid duration \"bogus\""),
            ("", "time: invalid duration \"\""),
            ("10", "time: missing unit in duration \"10\""),
            ("10x", "time: unknown unit \"x\" in duration \"10x\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn json_errors_read_as_gos() {
        for (body, error) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{\"a\":", "unexpected EOF"),
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("[trap]", "invalid character 'a' in literal true (expecting 'u')"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
        ] {
            assert_eq!(parse_json(body.as_bytes()).unwrap_err(), error, "{body}");
        }
        assert_eq!(parse_json(b"{} trailing"), Ok(serde_json::json!({})));
    }

    #[test]
    fn strings_are_escaped_for_html_and_pretty_means_four_blanks() {
        let value = serde_json::json!({"a": "<&>"});
        assert_eq!(write_json(&value, false), r#"{"a":"\u003c\u0026\u003e"}"#);
        assert_eq!(write_json(&value, true), "{\n    \"a\": \"\\u003c\\u0026\\u003e\"\n}\n");
    }
}
