//! The claims of a token whose signature is good: are they ours, and is it their time?

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{Jwt, JwtRejection, Verified};

/// The JSON text of a token's claims, whoever signed it. Names and values are read from it where it lies.
#[derive(Debug)]
pub(super) struct Payload(Vec<u8>);

/// The members of a JSON object in which no name occurs twice (RFC 7519 §4: refuse, or take the last one; we refuse).
/// Sorted by name.
#[derive(Debug)]
struct ClaimSet<'a>(Vec<(Cow<'a, str>, Value)>);

impl Payload {
    pub(super) fn of(token: &str) -> Result<Self, JwtRejection> {
        let encoded = token.split('.').nth(1).ok_or(JwtRejection::Malformed)?;
        URL_SAFE_NO_PAD.decode(encoded).map(Self).map_err(|_| JwtRejection::Malformed)
    }

    fn claims(&self) -> Result<ClaimSet<'_>, JwtRejection> {
        let mut claims: ClaimSet<'_> =
            serde_json::from_slice(&self.0).map_err(|_| JwtRejection::Malformed)?;
        claims.0.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let occurs_twice = claims.0.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if occurs_twice { Err(JwtRejection::Malformed) } else { Ok(claims) }
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

impl ClaimSet<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.get_mut(name).map(Value::take)
    }
}

impl<'de> Deserialize<'de> for ClaimSet<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Claims;
        impl<'de> Visitor<'de> for Claims {
            type Value = ClaimSet<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<ClaimSet<'de>, A::Error> {
                let mut claims = Vec::with_capacity(CLAIMS_EXPECTED);
                while let Some((Name(name), value)) = members.next_entry()? {
                    claims.push((name, value));
                }
                Ok(ClaimSet(claims))
            }
        }
        deserializer.deserialize_map(Claims)
    }
}

/// What a token says of its issuer. It is not verified: for the choice of who verifies it.
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
    let asked = jwt.forward.iter().map(|(claim, ..)| claim).chain(&jwt.kept).map(|name| &**name);
    payload.restore_integers(&mut claims, asked);
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
fn check_audience(jwt: &Jwt, aud: Option<&Value>) -> Result<(), JwtRejection> {
    let is_ours = |aud: &str| jwt.audience.iter().any(|ours| **ours == *aud);
    let found = match aud {
        None => false,
        Some(Value::String(aud)) => is_ours(aud),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).any(is_ours)
        }
        Some(_) => return Err(JwtRejection::BadClaim("aud")),
    };
    if found { Ok(()) } else { Err(JwtRejection::WrongAudience) }
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
        let value = match claims.get(claim) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => match joined(list, *separator)? {
                Some(words) => words,
                None => continue,
            },
            Some(value) => text(value).ok_or(JwtRejection::NotForwardable)?,
        };
        // Readers of headers strip white space at the ends: " admin" would arrive as "admin".
        if value.trim() != value {
            return Err(JwtRejection::NotForwardable);
        }
        // UTF-8 beyond ASCII passes as it is (RFC 9110 §5.5, obs-text); control characters do not.
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| JwtRejection::NotForwardable)?;
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

/// Texts with a separator between. What would make two texts of one, say a role that was never given, or end the header,
/// is percent-encoded, and so is `%` itself: no two lists arrive as one. An empty text or null is left out.
fn joined(list: &[Value], separator: char) -> Result<Option<Cow<'_, str>>, JwtRejection> {
    let mut words = String::new();
    for value in list.iter().filter(|value| !value.is_null()) {
        let word = text(value).ok_or(JwtRejection::NotForwardable)?;
        if word.is_empty() {
            continue;
        }
        if !words.is_empty() {
            words.push(separator);
        }
        push_encoded(&mut words, &word, separator);
    }
    Ok(Some(words).filter(|words| !words.is_empty()).map(Cow::Owned))
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
        for more in [
            json!({"sub": "a\r\nX-Admin: 1"}),
            json!({"sub": "a\u{0}"}),
            json!({"sub": " admin"}),
            json!({"sub": "admin\t"}),
            json!({"level": {"a": 1}}),
            json!({"roles": [["a"]]}),
            json!({"roles": [{"a": 1}]}),
        ] {
            assert_eq!(check_claims(more.clone()), Err(JwtRejection::NotForwardable), "{more}");
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

    #[test]
    fn a_name_that_is_written_in_two_ways_still_occurs_twice() {
        let text = claims().to_string().replacen('{', r#"{"\u0073ub":"root","#, 1);
        let token =
            signed(r#"{"alg":"ES256","kid":"ec"}"#, text.as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
        assert_eq!(check(&token), Err(JwtRejection::Malformed));
    }
}
