//! The claims of a credential: they are read from JSON and become an [`Identity`].
//!
//! All kinds of credentials share this. A name that occurs twice is refused (RFC 7519 §4), a path such as
//! `realm_access.roles` leads into objects ([`ClaimPath`]), integers beyond 64 bits keep their digits, and a credential is
//! refused if a claim that is forwarded cannot be written unchanged into a header field.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt::Write,
    marker::PhantomData,
    sync::Arc,
};

use http::{HeaderName, HeaderValue};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{Identity, claim_path::ClaimPath, settings::ProviderSettings};

/// Claims, each with its accepted texts.
pub(crate) type ClaimTexts = Box<[(Box<str>, Box<[Box<str>]>)]>;

/// The claims in the form in which requests compare them.
pub(crate) fn claim_texts(claims: &[(String, Vec<String>)]) -> ClaimTexts {
    let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
    claims.iter().map(|(name, texts)| (name.as_str().into(), boxed(texts))).collect()
}

/// The reason that claims do not make an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClaimFault {
    /// The claims are not a JSON object, or a name occurs in it twice.
    Malformed,
    /// This claim, which is forwarded, cannot be written into a header field without a change of its meaning.
    NotForwardable(Box<str>),
}

/// The claims that a provider uses, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Projection {
    /// The claim, the header field, and the separator between the texts of a list.
    forward: Box<[(Box<str>, HeaderName, char)]>,
    /// The names of the claims that an [`Identity`] keeps. They are not all claims, because thousands of identities are
    /// remembered.
    kept: Box<[Box<str>]>,
    /// The paths of all claims in use that may be inside others.
    paths: Box<[ClaimPath]>,
}

impl Projection {
    /// `kept` are the claims that requirements, limits and header values use; `own` are those that the provider itself
    /// compares.
    pub(super) fn new(
        settings: &ProviderSettings,
        kept: impl IntoIterator<Item = Box<str>>,
        own: &[(String, Vec<String>)],
    ) -> Self {
        let forward: Box<[_]> = settings
            .forward
            .iter()
            .map(|(claim, name)| (claim.as_str().into(), name.clone(), settings.separator(name)))
            .collect();
        let kept: Box<[Box<str>]> = kept.into_iter().collect();
        let forwarded = forward.iter().map(|(claim, ..): &(Box<str>, _, _)| &**claim);
        let own = own.iter().map(|(claim, _)| claim.as_str());
        let asked = forwarded.chain(own).chain(kept.iter().map(|claim| &**claim));
        let mut paths: Vec<_> = asked.filter_map(ClaimPath::of).collect();
        paths.sort_unstable_by(|a, b| a.written.cmp(&b.written));
        paths.dedup();
        Self { paths: paths.into(), forward, kept }
    }

    /// Adds to `claims` those that are in use and need more than a look-up by name.
    pub(super) fn complete(&self, payload: &Payload, claims: &mut ClaimSet<'_>) -> Result<(), ClaimFault> {
        let asked = self.forward.iter().map(|(claim, ..)| claim).chain(&self.kept).map(|name| &**name);
        payload.restore_integers(claims, asked);
        payload.add_nested(claims, &self.paths)
    }

    /// Makes the identity. `claims` must be complete. `valid_until` is the first second since 1970 in which the credential
    /// is no longer valid.
    pub(super) fn identity(
        &self,
        provider: &Arc<str>,
        subject: Option<Box<str>>,
        mut claims: ClaimSet<'_>,
        valid_until: u64,
    ) -> Result<Identity, ClaimFault> {
        let mut scopes = Vec::new();
        for text in ["scope", "scp"].into_iter().flat_map(|name| texts(claims.get(name))) {
            scopes.extend(text.split(' ').filter(|scope| !scope.is_empty()).map(Into::into));
        }
        let roles =
            ["role", "roles"].into_iter().flat_map(|name| texts(claims.get(name))).map(Into::into).collect();
        let forward = forwarded(&self.forward, &claims)?;
        let kept = self.kept.iter().filter_map(|name| Some((name.clone(), claims.take(name)?)));
        let claims = kept.collect();
        let provider = Arc::clone(provider);
        Ok(Identity { provider, subject, scopes: scopes.into(), roles, valid_until, forward, claims })
    }
}

/// The JSON text of claims, which may not be verified yet. Names and values are borrowed from it.
#[derive(Debug)]
pub(super) struct Payload(Vec<u8>);

/// The members of a JSON object in which no name occurs twice, sorted by name. RFC 7519 §4 allows refusing such a name, or
/// taking the last one; it is refused here.
#[derive(Debug)]
pub(super) struct ClaimSet<'a, V = Value>(Vec<(Cow<'a, str>, V)>);

impl Payload {
    /// `json` is the text of an object.
    pub(super) fn new(json: Vec<u8>) -> Self {
        Self(json)
    }

    /// The claims, by name.
    pub(super) fn claims(&self) -> Result<ClaimSet<'_>, ClaimFault> {
        ClaimSet::read(&self.0)
    }

    /// Adds the claims that are inside others, under the names that the configuration uses.
    fn add_nested(&self, claims: &mut ClaimSet<'_>, paths: &[ClaimPath]) -> Result<(), ClaimFault> {
        for ClaimPath { written, steps } in paths {
            if claims.get(written).is_none()
                && let Some(value) = self.nested(steps)?
            {
                claims.0.push((Cow::Owned(written.to_string()), value));
                claims.sort();
            }
        }
        Ok(())
    }

    /// Finds a claim inside others. It is read from the text, because a parsed value would have lost a name that occurs
    /// twice in an object on the path.
    fn nested(&self, steps: &[Box<str>]) -> Result<Option<Value>, ClaimFault> {
        let mut text = self.0.as_slice();
        let mut found = None;
        for step in steps {
            if !text.trim_ascii_start().starts_with(b"{") {
                return Ok(None);
            }
            let Some(&raw) = ClaimSet::<&RawValue>::read(text)?.get(step) else { return Ok(None) };
            text = raw.get().as_bytes();
            found = Some(raw);
        }
        Ok(found.map(exact))
    }

    /// Restores integers beyond 64 bits (account numbers, snowflakes) as they are written: rounded, two accounts could
    /// become one. The text is read again only if it may contain such an integer.
    fn restore_integers<'n>(&self, claims: &mut ClaimSet<'_>, asked: impl Iterator<Item = &'n str>) {
        let mut members: Option<HashMap<Cow<'_, str>, &RawValue>> = None;
        for name in asked {
            let Some(value) = claims.get_mut(name).filter(|value| may_be_rounded(value)) else { continue };
            let members = members.get_or_insert_with(|| serde_json::from_slice(&self.0).unwrap_or_default());
            if let Some(raw) = members.get(name) {
                *value = exact(raw);
            }
        }
    }
}

impl<'a, V: Deserialize<'a>> ClaimSet<'a, V> {
    fn read(text: &'a [u8]) -> Result<Self, ClaimFault> {
        let mut claims: Self = serde_json::from_slice(text).map_err(|_| ClaimFault::Malformed)?;
        claims.sort();
        let occurs_twice = claims.0.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if occurs_twice { Err(ClaimFault::Malformed) } else { Ok(claims) }
    }
}

impl<V> ClaimSet<'_, V> {
    fn sort(&mut self) {
        self.0.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }
}

impl ClaimSet<'_> {
    fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.get_mut(name).map(Value::take)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for ClaimSet<'de, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Claims<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Claims<V> {
            type Value = ClaimSet<'de, V>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut claims = Vec::with_capacity(CLAIMS_EXPECTED);
                while let Some((Name(name), value)) = members.next_entry()? {
                    claims.push((name, value));
                }
                Ok(ClaimSet(claims))
            }
        }
        deserializer.deserialize_map(Claims(PhantomData))
    }
}

/// Whether the claim, or one element of its list, is one of these texts.
pub(crate) fn is_one_of(claim: Option<&Value>, texts: &[Box<str>]) -> bool {
    let is_wanted =
        |value: &Value| text(value).is_some_and(|text| texts.iter().any(|wanted| **wanted == *text));
    match claim {
        Some(Value::Array(list)) => list.iter().any(is_wanted),
        Some(value) => is_wanted(value),
        None => false,
    }
}

/// A string, or the strings of a list. Any other value has no texts and so grants nothing.
fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, list) = match value {
        Some(Value::String(text)) => (Some(text.as_str()), &[][..]),
        Some(Value::Array(list)) => (None, list.as_slice()),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// The text of a string, a number or a truth value. `None`: the value is another one.
pub(super) fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The header fields that carry the identity to the upstream. A claim that is missing, null or an empty list makes no field.
///
/// A credential with a claim that no header field can carry is refused. Leaving such a field out would be worse: the
/// upstream trusts it, and may treat a request without it as anonymous or internal.
fn forwarded(
    forward: &[(Box<str>, HeaderName, char)],
    claims: &ClaimSet<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, ClaimFault> {
    let mut headers = Vec::with_capacity(forward.len());
    for (claim, name, separator) in forward {
        let refused = || ClaimFault::NotForwardable(claim.clone());
        let value = match claims.get(claim) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => match joined(list, *separator).ok_or_else(refused)? {
                words if words.is_empty() => continue,
                words => Cow::Owned(words),
            },
            Some(value) => text(value).ok_or_else(refused)?,
        };
        // Readers of header fields strip white space at the ends, so " admin" would arrive as "admin".
        if value.trim() != value {
            return Err(refused());
        }
        // UTF-8 beyond ASCII passes unchanged (RFC 9110 §5.5, obs-text); control characters do not.
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| refused())?;
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

/// Texts with a separator between them. A character that would split a text into two, for example into a role that was never
/// given, or that would end the header, is percent-encoded, and so is `%` itself: two different lists never arrive as one.
/// An empty text or null is left out. `None`: the list contains a list or an object.
fn joined(list: &[Value], separator: char) -> Option<String> {
    let mut words = String::new();
    for value in list.iter().filter(|value| !value.is_null()) {
        let word = text(value)?;
        if word.is_empty() {
            continue;
        }
        if !words.is_empty() {
            words.push(separator);
        }
        push_encoded(&mut words, &word, separator);
    }
    Some(words)
}

fn push_encoded(out: &mut String, word: &str, separator: char) {
    let last = word.char_indices().next_back().map_or(0, |(at, _)| at);
    for (at, c) in word.char_indices() {
        // Readers that split at spaces also split at other white space, and all readers strip it at the ends.
        let divides = c == separator || (c.is_whitespace() && (separator == ' ' || at == 0 || at == last));
        if !divides && c != '%' && !c.is_control() {
            out.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Whether the library has turned an integer, or another number, into a floating-point number.
fn may_be_rounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(may_be_rounded),
        Value::Object(members) => members.values().any(may_be_rounded),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// The value, with each integer beyond 64 bits as the text of its digits.
fn exact(raw: &RawValue) -> Value {
    let text = raw.get();
    let is_integer = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    let value = match text.as_bytes().first() {
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text)
            .map(|list| Value::Array(list.into_iter().map(exact).collect())),
        Some(b'{') => serde_json::from_str::<BTreeMap<String, &RawValue>>(text)
            .map(|members| members.into_iter().map(|(name, raw)| (name, exact(raw))).collect()),
        _ => serde_json::from_str(text),
    };
    // It was read before, so it can be read again.
    let value = value.unwrap_or_default();
    if is_integer && may_be_rounded(&value) { Value::String(text.to_owned()) } else { value }
}

/// The room for claims before they are counted. Tokens of identity providers have about this many.
const CLAIMS_EXPECTED: usize = 12;
