//! The claims of a token whose signature is good: are they ours, and is it their time?

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt::Write,
    marker::PhantomData,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{Jwt, JwtRejection, Verified, claim_path::ClaimPath};

/// The JSON text of a token's claims, whoever signed it. Names and values are read from it where it lies.
#[derive(Debug)]
pub(super) struct Payload(Vec<u8>);

/// The members of a JSON object in which no name occurs twice (RFC 7519 §4: refuse, or take the last one; we refuse).
/// Sorted by name.
#[derive(Debug)]
struct ClaimSet<'a, V = Value>(Vec<(Cow<'a, str>, V)>);

impl Payload {
    pub(super) fn of(token: &str) -> Result<Self, JwtRejection> {
        let encoded = token.split('.').nth(1).ok_or(JwtRejection::Malformed)?;
        URL_SAFE_NO_PAD.decode(encoded).map(Self).map_err(|_| JwtRejection::Malformed)
    }

    fn claims(&self) -> Result<ClaimSet<'_>, JwtRejection> {
        ClaimSet::read(&self.0)
    }

    /// The claims that lie inside others, beside these under the names by which they are asked for.
    fn add_nested(&self, claims: &mut ClaimSet<'_>, paths: &[ClaimPath]) -> Result<(), JwtRejection> {
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

    /// Read from the text: a name that occurs twice in an object on the way would be gone from its value.
    fn nested(&self, steps: &[Box<str>]) -> Result<Option<Value>, JwtRejection> {
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

    /// Integers beyond 64 bits (account numbers, snowflakes) as they are written: rounded, two accounts would be one. The text
    /// is read again only where there may be one.
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
    fn read(text: &'a [u8]) -> Result<Self, JwtRejection> {
        let mut claims: Self = serde_json::from_slice(text).map_err(|_| JwtRejection::Malformed)?;
        claims.sort();
        let occurs_twice = claims.0.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if occurs_twice { Err(JwtRejection::Malformed) } else { Ok(claims) }
    }
}

impl<V> ClaimSet<'_, V> {
    fn sort(&mut self) {
        self.0.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    }

    fn get(&self, name: &str) -> Option<&V> {
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

/// What a token says of its issuer. It is not verified: it only chooses the provider that verifies the token.
pub fn issuer_of(token: &str) -> Option<Box<str>> {
    let payload = Payload::of(token).ok()?;
    let claims = payload.claims().ok()?;
    claims.get("iss")?.as_str().map(Into::into)
}

/// RFC 7519 §4.1. Expiry is checked last: `token_expired` tells the client that a fresh token would do.
pub(super) fn check(jwt: &Jwt, payload: &Payload, now: u64) -> Result<Verified, JwtRejection> {
    let mut claims = payload.claims()?;
    check_issuer(jwt, claims.get("iss"))?;
    check_audience(jwt, claims.get("aud"))?;
    let subject = match claims.get("sub") {
        None => None,
        Some(Value::String(subject)) => Some(subject.as_str().into()),
        Some(_) => return Err(JwtRejection::BadClaim("sub")),
    };
    let asked = jwt.forward.iter().map(|(claim, ..)| claim).chain(&jwt.kept).map(|name| &**name);
    payload.restore_integers(&mut claims, asked);
    payload.add_nested(&mut claims, &jwt.paths)?;
    check_required(jwt, &claims)?;
    time(&claims, "iat")?;
    if time(&claims, "nbf")?.is_some_and(|nbf| nbf > now.saturating_add(jwt.leeway)) {
        return Err(JwtRejection::NotYetValid);
    }
    let exp = time(&claims, "exp")?.ok_or(JwtRejection::BadClaim("exp"))?;
    let over_at = exp.saturating_add(jwt.leeway);
    if now >= over_at {
        return Err(JwtRejection::Expired);
    }
    let mut scopes = Vec::new();
    for text in ["scope", "scp"].into_iter().flat_map(|name| texts(claims.get(name))) {
        scopes.extend(text.split(' ').filter(|scope| !scope.is_empty()).map(Into::into));
    }
    let roles =
        ["role", "roles"].into_iter().flat_map(|name| texts(claims.get(name))).map(Into::into).collect();
    let forward = forward(jwt, &claims)?;
    let kept = jwt.kept.iter().filter_map(|name| Some((name.clone(), claims.take(name)?)));
    let claims = kept.collect();
    let provider = Arc::clone(&jwt.name);
    Ok(Verified { provider, subject, scopes: scopes.into(), roles, exp, over_at, forward, claims })
}

/// One string, exactly the configured one: a list of issuers has no meaning (RFC 7519 §4.1.1).
fn check_issuer(jwt: &Jwt, iss: Option<&Value>) -> Result<(), JwtRejection> {
    match (iss, &jwt.issuer) {
        (Some(Value::String(iss)), Some(expected)) if **iss == **expected => Ok(()),
        (None | Some(Value::String(_)), Some(_)) => Err(JwtRejection::WrongIssuer),
        (None | Some(Value::String(_)), None) => Ok(()),
        (Some(_), _) => Err(JwtRejection::BadClaim("iss")),
    }
}

/// A string or a list of strings, one of which must be ours.
///
/// With `audience: none` a token that has one is not for us (RFC 7519 §4.1.3).
fn check_audience(jwt: &Jwt, aud: Option<&Value>) -> Result<(), JwtRejection> {
    let is_ours = |aud: &str| jwt.audience.iter().any(|ours| **ours == *aud);
    let found = match aud {
        None => jwt.audience.is_empty(),
        Some(Value::String(aud)) => is_ours(aud),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).any(is_ours)
        }
        Some(_) => return Err(JwtRejection::BadClaim("aud")),
    };
    if found { Ok(()) } else { Err(JwtRejection::WrongAudience) }
}

/// What stands in the place of an audience, or beside it.
fn check_required(jwt: &Jwt, claims: &ClaimSet<'_>) -> Result<(), JwtRejection> {
    match jwt.required.iter().find(|(name, texts)| !is_one_of(claims.get(name), texts)) {
        Some((name, _)) => Err(JwtRejection::WrongClaim(name.clone())),
        None => Ok(()),
    }
}

/// Whether the claim, or one of the texts of its list, is one of these.
pub(in crate::policy) fn is_one_of(claim: Option<&Value>, texts: &[Box<str>]) -> bool {
    let is_wanted =
        |value: &Value| text(value).is_some_and(|text| texts.iter().any(|wanted| **wanted == *text));
    match claim {
        Some(Value::Array(list)) => list.iter().any(is_wanted),
        Some(value) => is_wanted(value),
        None => false,
    }
}

/// A NumericDate (RFC 7519 §2) in whole seconds, rounded down. Nothing past the year 9999: that is a date in
/// milliseconds, a token that would never expire.
fn time(claims: &ClaimSet<'_>, name: &'static str) -> Result<Option<u64>, JwtRejection> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole_seconds)),
        _ => None,
    };
    seconds.filter(|&seconds| seconds <= TIME_MAX).map(Some).ok_or(JwtRejection::BadClaim(name))
}

fn whole_seconds(seconds: f64) -> Option<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range is checked first
    (0.0..1e12).contains(&seconds).then_some(seconds as u64)
}

/// A string, or the strings of a list. Anything else grants nothing.
fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, list) = match value {
        Some(Value::String(text)) => (Some(text.as_str()), &[][..]),
        Some(Value::Array(list)) => (None, list.as_slice()),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(list.iter().filter_map(Value::as_str))
}

pub(super) fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The headers that carry identity to the upstream. A claim that is missing, null or an empty list makes
/// none.
///
/// A claim that no header can carry refuses the token. To leave such a header out would be worse: the
/// upstream trusts it, and a request without it may pass for an anonymous or an internal one.
fn forward(jwt: &Jwt, claims: &ClaimSet<'_>) -> Result<Vec<(http::HeaderName, HeaderValue)>, JwtRejection> {
    let mut headers = Vec::with_capacity(jwt.forward.len());
    for (claim, name, separator) in &jwt.forward {
        let refused = || JwtRejection::NotForwardable(claim.clone());
        let value = match claims.get(claim) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => match joined(list, *separator).ok_or_else(refused)? {
                words if words.is_empty() => continue,
                words => Cow::Owned(words),
            },
            Some(value) => text(value).ok_or_else(refused)?,
        };
        // Readers of headers strip white space at the ends: " admin" would arrive as "admin".
        if value.trim() != value {
            return Err(refused());
        }
        // UTF-8 beyond ASCII passes as it is (RFC 9110 §5.5, obs-text); control characters do not.
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| refused())?;
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

/// Texts with a separator between. What would make two texts of one, say a role that was never given, or end the header,
/// is percent-encoded, and so is `%` itself: no two lists arrive as one. An empty text or null is left out.
/// `None`: there is a list or an object in it.
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
        // Readers that split at spaces split at other white space, too, and all of them strip it at the ends.
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

/// Whether the library has made a floating-point number of an integer, or of another number.
fn may_be_rounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(may_be_rounded),
        Value::Object(members) => members.values().any(may_be_rounded),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// The value with each integer beyond 64 bits as a text of its digits.
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

/// Room that is made for claims before they are counted; tokens of identity providers have about this many.
const CLAIMS_EXPECTED: usize = 12;
/// The last second of the year 9999.
const TIME_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::HeaderName;
    use jsonwebtoken::Algorithm;
    use serde_json::json;

    use super::{
        super::{
            LastHeader,
            tests::{ISSUER, LEEWAY, NOW, check, check_at, claims, es256, settings, signed, with},
        },
        *,
    };
    use crate::config::settings::AuthSettings;

    /// The verdict on good claims with some changed; `"<none>"` removes one.
    fn check_claims(more: Value) -> Result<Verified, JwtRejection> {
        check(&es256(json!({}), &with(claims(), more)))
    }

    #[test]
    fn the_first_second_at_which_a_token_is_over_is_exp_and_the_leeway() {
        let token = es256(json!({}), &claims());
        let over_at = NOW + 60 + LEEWAY;
        let verified = check_at(&token, over_at - 1).unwrap();
        assert!(verified.holds_at(over_at - 1) && !verified.holds_at(over_at));
        assert_eq!(check_at(&token, over_at), Err(JwtRejection::Expired));
        assert_eq!(check_at(&token, u64::MAX), Err(JwtRejection::Expired));
    }

    #[test]
    fn a_token_holds_from_nbf_on_less_the_leeway() {
        let nbf = |nbf: u64| check_claims(json!({ "nbf": nbf }));
        assert!(nbf(NOW + LEEWAY).is_ok());
        assert_eq!(nbf(NOW + LEEWAY + 1), Err(JwtRejection::NotYetValid));
    }

    #[test]
    fn times_that_are_no_times_are_refused() {
        for exp in [
            json!("<none>"),
            json!(null),
            json!("1893456000"),
            json!(-1),
            json!(-0.5),
            json!(u64::MAX),
            json!(9_223_372_036_854_775_808_u64),
            json!(1.5e18),
            json!((NOW + 60) * 1_000),
            json!([NOW]),
            json!({}),
            json!(true),
        ] {
            let verdict = check_claims(json!({ "exp": exp }));
            // Lists and objects do not even pass the library's reading of the claims.
            let expected = [Err(JwtRejection::BadClaim("exp")), Err(JwtRejection::Malformed)];
            assert!(expected.contains(&verdict), "{exp}: {verdict:?}");
        }
        assert_eq!(check_claims(json!({"exp": 0})), Err(JwtRejection::Expired));
        assert!(check_claims(json!({"exp": 1_900_000_000.75})).is_ok(), "NumericDate may have a fraction");
        for (name, value) in
            [("nbf", json!("0")), ("nbf", json!(null)), ("iat", json!("0")), ("iat", json!(-1))]
        {
            assert!(matches!(check_claims(json!({ name: value })), Err(JwtRejection::BadClaim(_))), "{name}");
        }
        let huge = claims().to_string().replace(&(NOW + 60).to_string(), "1e400");
        let token =
            signed(r#"{"alg":"ES256","kid":"ec"}"#, huge.as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
        assert_eq!(check(&token), Err(JwtRejection::Malformed));
    }

    #[test]
    fn the_issuer_is_one_exact_string() {
        for iss in ["<none>", "https://issuer.test/", "HTTPS://ISSUER.TEST", "", "https://evil.test"] {
            assert_eq!(check_claims(json!({ "iss": iss })), Err(JwtRejection::WrongIssuer), "{iss}");
        }
        for iss in [json!(["https://issuer.test"]), json!({"a": 1}), json!(1), json!(null)] {
            assert_eq!(check_claims(json!({ "iss": iss })), Err(JwtRejection::BadClaim("iss")), "{iss}");
        }
    }

    #[test]
    fn any_issuer_will_do_when_none_is_configured() {
        let jwt = Jwt::compile(&AuthSettings { issuer: None, ..settings() }).unwrap();
        for iss in ["<none>", "https://other.test"] {
            let token = es256(json!({}), &with(claims(), json!({ "iss": iss })));
            assert!(jwt.check(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).is_ok());
        }
        let token = es256(json!({}), &with(claims(), json!({"iss": ["https://other.test"]})));
        assert_eq!(
            jwt.check(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()),
            Err(JwtRejection::BadClaim("iss"))
        );
    }

    #[test]
    fn one_audience_must_be_ours() {
        for aud in [json!("api"), json!("shop"), json!(["other", "shop"])] {
            assert!(check_claims(json!({ "aud": aud })).is_ok(), "{aud}");
        }
        for aud in [json!("<none>"), json!("other"), json!("API"), json!(["other"]), json!([])] {
            assert_eq!(check_claims(json!({ "aud": aud })), Err(JwtRejection::WrongAudience), "{aud}");
        }
        for aud in [json!(1), json!({"api": 1}), json!(["api", 1]), json!(null), json!([["api"]])] {
            assert_eq!(check_claims(json!({ "aud": aud })), Err(JwtRejection::BadClaim("aud")), "{aud}");
        }
    }

    #[test]
    fn payloads_that_are_no_plain_json_object_are_malformed() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000), "]".repeat(1_000));
        let twice = claims().to_string().replacen('{', r#"{"sub":"bob","#, 1);
        let custom_twice = claims().to_string().replacen('{', r#"{"x":1,"x":2,"#, 1);
        for payload in [
            &b"\xEF\xBB\xBF{}"[..],
            b"[]",
            b"1",
            b"{",
            b"{\"a\":1,}",
            b"{\"a\":\"\xFF\"}",
            b"{\"a\":\"\\ud800\"}",
            deep.as_bytes(),
            twice.as_bytes(),
            custom_twice.as_bytes(),
        ] {
            let token = signed(r#"{"alg":"ES256","kid":"ec"}"#, payload, &ISSUER.ec_key, Algorithm::ES256);
            assert_eq!(check(&token), Err(JwtRejection::Malformed), "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn scopes_and_roles_are_read_from_their_usual_claims() {
        let all = |texts: &[Box<str>]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let verified =
            check_claims(json!({"scope": "read  write", "scp": ["admin"], "roles": ["a"], "role": "b c"}));
        let verified = verified.unwrap();
        assert_eq!(all(&verified.scopes), ["read", "write", "admin"]);
        assert_eq!(all(&verified.roles), ["b c", "a"]);
        let verified =
            check_claims(json!({"scope": {"admin": true}, "role": [1, null, "a"], "roles": 7})).unwrap();
        assert!(verified.scopes.is_empty(), "what has no meaning grants nothing");
        assert_eq!(all(&verified.roles), ["a"]);
        assert_eq!(check_claims(json!({"sub": 1})), Err(JwtRejection::BadClaim("sub")));
    }

    #[test]
    fn claims_are_forwarded_as_headers() {
        let verified = check_claims(json!({"sub": "josé", "roles": ["a", "b"], "level": 3})).unwrap();
        let headers: Vec<_> =
            verified.forward.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("x-user-id", "josé".as_bytes()), ("x-roles", b"a b"), ("x-level", b"3")]);
        let verified = check_claims(json!({"sub": "<none>", "roles": [], "level": null})).unwrap();
        assert_eq!(verified.forward, []);
        let jwt = Jwt::compile(&settings()).unwrap();
        let names: Vec<_> = jwt.forwarded_names().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-user-id", "x-roles", "x-level"]);
    }

    #[test]
    fn a_claim_that_no_header_carries_unchanged_refuses_the_token() {
        for (claim, value) in [
            ("sub", json!("a\r\nX-Admin: 1")),
            ("sub", json!("a\u{0}")),
            ("sub", json!(" admin")),
            ("sub", json!("admin\t")),
            ("level", json!({"a": 1})),
            ("roles", json!([["a"]])),
            ("roles", json!([{"a": 1}])),
        ] {
            let refused = check_claims(json!({ claim: value })).unwrap_err();
            assert_eq!(refused, JwtRejection::NotForwardable(claim.into()), "{value}");
        }
    }

    #[test]
    fn no_text_of_a_list_refuses_a_token_or_arrives_as_another() {
        let roles = |separators: Vec<(HeaderName, char)>, roles: Value| {
            let jwt = Jwt::compile(&AuthSettings { separators, ..settings() }).unwrap();
            let token = es256(json!({}), &with(claims(), json!({ "roles": roles })));
            let verified = jwt.check(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).unwrap();
            let found = verified.forward.iter().find(|(name, _)| name == "x-roles");
            found.map(|(_, value)| std::str::from_utf8(value.as_bytes()).unwrap().to_owned())
        };
        for (list, with_spaces, with_commas) in [
            (json!(["a", "b"]), "a b", "a,b"),
            (json!(["Domain Admins", "x"]), "Domain%20Admins x", "Domain Admins,x"),
            (json!(["Domain%20Admins"]), "Domain%2520Admins", "Domain%2520Admins"),
            (json!(["a,b", "c"]), "a,b c", "a%2Cb,c"),
            (json!([" a\t", "b\r\nc"]), "%20a%09 b%0D%0Ac", "%20a%09,b%0D%0Ac"),
            (json!(["a\u{a0}b", "é"]), "a%C2%A0b é", "a\u{a0}b,é"),
            (json!(["", "a", null, 7, true]), "a 7 true", "a,7,true"),
        ] {
            assert_eq!(roles(vec![], list.clone()).as_deref(), Some(with_spaces), "{list}");
            let commas = vec![(HeaderName::from_static("x-roles"), ',')];
            assert_eq!(roles(commas, list.clone()).as_deref(), Some(with_commas), "{list}");
        }
        assert_eq!(roles(vec![], json!(["", null])), None);
    }

    #[test]
    fn integers_beyond_64_bits_are_forwarded_and_kept_digit_by_digit() {
        const BIG: &str = "18446744073709551617";
        let text = claims().to_string().replacen('{', &format!(r#"{{"level":{BIG},"#), 1);
        let text = text.replacen('{', &format!(r#"{{"deep":{{"a":[-{BIG},1.5,1]}},"#), 1);
        let token =
            signed(r#"{"alg":"ES256","kid":"ec"}"#, text.as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
        let jwt = Jwt::compile(&settings()).unwrap().keeping(["level", "deep"].map(Into::into));
        let verified = jwt.check(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).unwrap();
        let level = verified.forward.iter().find(|(name, _)| name == "x-level").unwrap();
        assert_eq!(level.1, BIG);
        assert_eq!(verified.claims["level"], json!(BIG));
        assert_eq!(verified.claims["deep"], json!({"a": [format!("-{BIG}"), 1.5, 1]}));
    }

    #[test]
    fn only_claims_that_something_asks_for_are_kept() {
        let token = es256(json!({}), &with(claims(), json!({"tenant": "blue", "list": ["a"], "other": 1})));
        let jwt = Jwt::compile(&settings()).unwrap().keeping(["list", "sub", "missing"].map(Into::into));
        let verified = jwt.check(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).unwrap();
        let kept: Vec<_> = verified.claims.iter().map(|(name, value)| (&**name, value.clone())).collect();
        assert_eq!(kept, [("list", json!(["a"])), ("sub", json!("ann"))]);
        assert_eq!(verified.subject.as_deref(), Some("ann"), "and fields have their own");
    }

    fn verified_by(settings: &AuthSettings, kept: &[&str], payload: &str) -> Result<Verified, JwtRejection> {
        let jwt = Jwt::compile(settings).unwrap().keeping(kept.iter().map(|name| (*name).into()));
        let header = r#"{"alg":"ES256","kid":"ec"}"#;
        let token = signed(header, payload.as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
        jwt.check(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default())
    }

    #[test]
    fn a_claim_is_found_by_its_exact_name_and_else_by_its_path() {
        let payload = with(
            claims(),
            json!({
                "realm_access": {"roles": ["staff"], "n": 1_u64 << 53, "": {"x": 1}},
                "https://example.com/roles": ["url"],
                "https://example": {"com/roles": "path"},
                "cognito.groups": ["dots"],
                "cognito": {"groups": ["path"]},
                "list": [{"a": 1}],
                "text": "{\"a\":1}",
            }),
        );
        let payload = payload.to_string().replace("9007199254740992", "18446744073709551617");
        for (name, expected) in [
            ("realm_access.roles", json!(["staff"])),
            ("realm_access.n", json!("18446744073709551617")),
            ("https://example.com/roles", json!(["url"])),
            ("cognito.groups", json!(["dots"])),
            (r"cognito\.groups", json!(["dots"])),
            (r"https://example\.com/roles", json!(["url"])),
            ("realm_access", json!({"roles": ["staff"], "n": "18446744073709551617", "": {"x": 1}})),
            ("realm_access.none", json!(null)),
            ("realm_access.roles.0", json!(null)),
            (r"realm_access\.roles", json!(null)),
            ("realm_access..x", json!(null)),
            ("list.a", json!(null)),
            ("text.a", json!(null)),
            ("sub.a", json!(null)),
        ] {
            // Beside others of the same claim, as a configuration may ask for them.
            let kept: BTreeSet<&str> = ["realm_access", "realm_access.roles", name].into();
            let kept: Vec<&str> = kept.into_iter().collect();
            let verified = verified_by(&settings(), &kept, &payload).unwrap();
            assert_eq!(verified.claims.get(name).unwrap_or(&Value::Null), &expected, "{name}");
        }
        let forward = vec![(r"realm_access.roles".into(), HeaderName::from_static("x-roles"))];
        let verified = verified_by(&AuthSettings { forward, ..settings() }, &[], &payload).unwrap();
        assert_eq!(
            verified.forward,
            [(HeaderName::from_static("x-roles"), HeaderValue::from_static("staff"))]
        );
    }

    #[test]
    fn a_name_that_occurs_twice_on_the_way_to_a_claim_refuses_the_token() {
        for access in [
            r#"{"roles":["staff"],"roles":[]}"#,
            r#"{"roles":[],"r\u006fles":["staff"]}"#,
            r#"{"a":1,"a":2,"roles":["staff"]}"#,
        ] {
            let text = claims().to_string().replacen('{', &format!(r#"{{"realm_access":{access},"#), 1);
            assert_eq!(
                verified_by(&settings(), &["realm_access.roles"], &text),
                Err(JwtRejection::Malformed)
            );
            assert!(verified_by(&settings(), &[], &text).is_ok(), "of no interest");
        }
    }

    #[test]
    fn without_an_audience_a_token_has_none_and_what_is_required() {
        let cognito = AuthSettings {
            audience: vec![],
            require: vec![
                ("client_id".into(), vec!["web".into(), "app".into()]),
                ("a.b".into(), vec!["1".into()]),
            ],
            ..settings()
        };
        let verdict = |more: Value| {
            let good = json!({"aud": "<none>", "client_id": "app", "a": {"b": 1}});
            verified_by(&cognito, &[], &with(with(claims(), good), more).to_string()).map(|_| ())
        };
        let wrong = |claim: &str| Err(JwtRejection::WrongClaim(claim.into()));
        for (more, expected) in [
            (json!({}), Ok(())),
            (json!({"client_id": ["other", "web"]}), Ok(())),
            (json!({"client_id": "other"}), wrong("client_id")),
            (json!({"client_id": "<none>"}), wrong("client_id")),
            (json!({"client_id": null}), wrong("client_id")),
            (json!({"client_id": {"web": "app"}}), wrong("client_id")),
            (json!({"a": {"b": 2}}), wrong("a.b")),
            (json!({"aud": "web"}), Err(JwtRejection::WrongAudience)),
            (json!({"aud": []}), Err(JwtRejection::WrongAudience)),
            (json!({"client_id": "other", "exp": NOW - 600}), wrong("client_id")),
        ] {
            assert_eq!(verdict(more.clone()), expected, "{more}");
        }
        let both = AuthSettings { audience: vec!["api".into()], ..cognito };
        assert_eq!(
            verified_by(&both, &[], &claims().to_string()),
            Err(JwtRejection::WrongClaim("client_id".into())),
            "beside an audience"
        );
    }

    #[test]
    fn a_name_that_is_written_in_two_ways_still_occurs_twice() {
        let text = claims().to_string().replacen('{', r#"{"\u0073ub":"root","#, 1);
        let token =
            signed(r#"{"alg":"ES256","kid":"ec"}"#, text.as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
        assert_eq!(check(&token), Err(JwtRejection::Malformed));
    }
}
