//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): the client's name for one request, under
//! which it may be sent again.

use axum::{
    extract::OptionalFromRequestParts,
    http::{HeaderMap, request::Parts},
};

use super::{Problem, Result};

/// The key without quotes. The draft's form is a quoted string (RFC 8941 §3.3.3); a bare one, as many clients send
/// it, is taken, too, and is the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub String);

impl IdempotencyKey {
    fn parse(headers: &HeaderMap) -> Result<Option<Self>> {
        let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        let text = line.to_str().ok().map(str::trim).filter(|_| lines.next().is_none());
        let key = text.and_then(|text| match text.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').and_then(unescape),
            None => Some(text.to_owned()).filter(|text| !text.contains([' ', '"'])),
        });
        let fits = |key: &String| {
            (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        };
        key.filter(fits).map(Self).map(Some).ok_or_else(|| {
            Problem::bad_request(
                "bad_idempotency_key",
                format!("Idempotency-Key must be one string of 1 to {KEY_BYTES_MAX} visible characters"),
            )
        })
    }
}

/// RFC 8941 §4.2.5: only `"` and `\` are escaped, and only by `\`.
fn unescape(quoted: &str) -> Option<String> {
    let mut key = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => key.push(characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            _ => key.push(character),
        }
    }
    Some(key)
}

impl<S: Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>> {
        Self::parse(&parts.headers)
    }
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// A UUID has 36.
const KEY_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Option<IdempotencyKey>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IDEMPOTENCY_KEY, line.parse().unwrap());
        }
        IdempotencyKey::parse(&headers)
    }

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        for (line, key) in [
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            ("\"a b\"", "a b"),
        ] {
            assert_eq!(parse(&[line]).unwrap(), Some(IdempotencyKey(key.to_owned())), "{line}");
        }
        assert_eq!(parse(&[]).unwrap(), None);
        assert!(parse(&["x".repeat(128).as_str()]).is_ok());
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        let long = "x".repeat(129);
        for lines in [
            &[""] as &[&str],
            &["\"\""],
            &["\"a"],
            &[r#""a"b""#],
            &[r#""a\b""#],
            &[r#""a\""#],
            &["a", "b"],
            &["a", "a"],
            &["a b"],
            &["a\"b"],
            &[&long],
        ] {
            assert_eq!(parse(lines).unwrap_err().code(), "bad_idempotency_key", "{lines:?}");
        }
    }
}
