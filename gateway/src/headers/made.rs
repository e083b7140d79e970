//! Values of header rules that contain facts of the request: `{client}`, `{request_id}`, `{claim:NAME}`.
//!
//! `{{` stands for a brace. A claim becomes the text of a string, number or boolean, or the texts of a list with spaces
//! between them. If the request does not have the claim, or the claim cannot be written as a header value, the field is not
//! made. With `set` it is also removed, so that a value that the client sends under this name never passes for the claim.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::HeaderRules;
use crate::syntax::claims::names_a_claim;

/// A field of `set` or `add` whose value contains facts of the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MadeField {
    /// Name of the field.
    pub name: HeaderName,
    /// Value of the field.
    pub value: MadeValue,
    /// Whether the field is one of `add`, which keeps the values that are there.
    pub is_added: bool,
}

/// A value that contains facts of the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MadeValue(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Text(Box<str>),
    Client,
    RequestId,
    Claim(Box<str>),
}

/// The facts of a request that a value may contain.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Address of the client.
    pub client: IpAddr,
    /// Id of the request.
    pub request_id: &'a HeaderValue,
    /// Claims of a verified credential.
    pub claims: Option<&'a BTreeMap<Box<str>, Value>>,
}

impl MadeValue {
    /// Parses a value of a rule. `None`: the text contains no word in braces, and stands for itself.
    ///
    /// # Errors
    /// A word in braces is not one of those that are replaced.
    pub fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        let mut parts = Vec::new();
        let (mut plain, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('{') {
            let (before, braced) = rest.split_at(at);
            plain.push_str(before);
            if let Some(after) = braced.strip_prefix("{{") {
                plain.push('{');
                rest = after;
                continue;
            }
            let Some((word, after)) = braced[1..].split_once('}').filter(|(word, _)| is_word(word)) else {
                plain.push('{');
                rest = &braced[1..];
                continue;
            };
            let part = match word {
                "client" => Part::Client,
                "request_id" => Part::RequestId,
                _ => match word.strip_prefix("claim:") {
                    Some(claim) if names_a_claim(claim) => Part::Claim(claim.into()),
                    _ => return Err("only `{client}`, `{request_id}` and `{claim:NAME}` are replaced"),
                },
            };
            parts.push(Part::Text(std::mem::take(&mut plain).into()));
            parts.push(part);
            rest = after;
        }
        plain.push_str(rest);
        if parts.is_empty() && plain == text {
            return Ok(None);
        }
        parts.push(Part::Text(plain.into()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(Some(Self(parts.into())))
    }

    /// Names of the claims that the value contains.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Claim(name) => Some(&**name),
            Part::Text(_) | Part::Client | Part::RequestId => None,
        })
    }

    /// The value for one request. `None`: no field is made.
    pub(super) fn of(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                // Writing into a String cannot fail.
                Part::Client => _ = write!(text, "{}", facts.client),
                Part::RequestId => text.push_str(facts.request_id.to_str().ok()?),
                Part::Claim(name) => push_claim(&mut text, facts.claims?.get(&**name)?)?,
            }
        }
        // Readers strip white space at both ends, and would mistake one identity for another.
        if text.trim() != text {
            return None;
        }
        HeaderValue::from_bytes(text.as_bytes()).ok()
    }
}

/// Whether the text in braces is meant as a word to replace. JSON is not, and neither is a text that cannot be a name.
fn is_word(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '/' | '\\');
    !word.is_empty() && word.chars().all(is_plain)
}

fn push_claim(text: &mut String, claim: &Value) -> Option<()> {
    match claim {
        Value::String(claim) => text.push_str(claim),
        Value::Number(_) | Value::Bool(_) => text.push_str(&claim.to_string()),
        Value::Array(list) => {
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    text.push(' ');
                }
                // A text with a space would arrive as two texts.
                let is_one =
                    item.as_str().is_none_or(|item| !item.is_empty() && !item.contains(char::is_whitespace));
                if item.is_array() || !is_one {
                    return None;
                }
                push_claim(text, item)?;
            }
        }
        Value::Null | Value::Object(_) => return None,
    }
    Some(())
}

/// Makes the fields of `rules` that contain facts of the request.
pub fn apply_made(headers: &mut HeaderMap, rules: &HeaderRules, facts: &Facts<'_>) {
    for MadeField { name, value, is_added } in &rules.made {
        let value = value.of(facts);
        if !is_added {
            headers.remove(name);
        }
        if let Some(value) = value {
            headers.append(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Option<String> {
        let Value::Object(claims) = json!({
            "sub": "ann", "level": 3, "staff": true, "groups": ["a", "b"], "spaced": ["a b"], "pad": " x", "deep": {},
        }) else {
            unreachable!("an object")
        };
        let claims = claims.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let request_id = HeaderValue::from_static("0198");
        let facts =
            Facts { client: "192.0.2.7".parse().unwrap(), request_id: &request_id, claims: Some(&claims) };
        let made = MadeValue::parse(text).unwrap().unwrap().of(&facts);
        made.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn words_in_braces_are_replaced() {
        for (text, expected) in [
            ("{client}", "192.0.2.7"),
            ("for={client};id={request_id}", "for=192.0.2.7;id=0198"),
            ("{claim:sub}", "ann"),
            ("{claim:level}/{claim:staff}", "3/true"),
            ("{claim:groups}", "a b"),
            ("{{client}", "{client}"),
            ("{{{client}}", "{192.0.2.7}"),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_a_request_does_not_have_or_no_header_can_carry_makes_no_field() {
        for text in ["{claim:none}", "{claim:deep}", "{claim:spaced}", "{claim:pad}", "x {claim:none}"] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn other_texts_stand_for_themselves_and_misspelt_words_are_refused() {
        for text in ["", "plain", "{\"a\":1}", "a { b } c", "{", "}", "{}"] {
            assert_eq!(MadeValue::parse(text), Ok(None), "{text}");
        }
        for text in ["{cleint}", "{claim:}", "{claim:a..b}", "{claim}", "{host}"] {
            assert!(MadeValue::parse(text).is_err(), "{text}");
        }
    }
}
