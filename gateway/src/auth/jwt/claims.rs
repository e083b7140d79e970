//! The checks of a token's claims once its signature is valid: whether it is for this gateway, and valid at
//! this time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{
    super::{
        Identity,
        claims::{ClaimFault, ClaimSet, Payload, is_one_of},
    },
    Jwt, JwtRejection,
};

/// The claims of a token, which are not verified.
pub(super) fn payload_of(token: &str) -> Result<Payload, JwtRejection> {
    let encoded = token.split('.').nth(1).ok_or(JwtRejection::Malformed)?;
    URL_SAFE_NO_PAD.decode(encoded).map(Payload::new).map_err(|_| JwtRejection::Malformed)
}

impl From<ClaimFault> for JwtRejection {
    fn from(fault: ClaimFault) -> Self {
        match fault {
            ClaimFault::Malformed => Self::Malformed,
            ClaimFault::NotForwardable(claim) => Self::NotForwardable(claim),
        }
    }
}

/// The issuer that a token claims. It is not verified: it only chooses the provider that verifies the token.
pub fn issuer_of(token: &str) -> Option<Box<str>> {
    let payload = payload_of(token).ok()?;
    let claims = payload.claims().ok()?;
    claims.get("iss")?.as_str().map(Into::into)
}

/// Checks the claims (RFC 7519 §4.1). Expiry is checked last, because `token_expired` means to the client
/// that a fresh token is enough.
pub(super) fn check(jwt: &Jwt, payload: &Payload, now: u64) -> Result<Identity, JwtRejection> {
    let mut claims = payload.claims()?;
    check_issuer(jwt, claims.get("iss"))?;
    check_audience(jwt, claims.get("aud"))?;
    let subject = match claims.get("sub") {
        None => None,
        Some(Value::String(subject)) => Some(subject.as_str().into()),
        Some(_) => return Err(JwtRejection::BadClaim("sub")),
    };
    jwt.projection.complete(payload, &mut claims)?;
    check_required(jwt, &claims)?;
    time(&claims, "iat")?;
    if time(&claims, "nbf")?.is_some_and(|nbf| nbf > now.saturating_add(jwt.leeway)) {
        return Err(JwtRejection::NotYetValid);
    }
    let exp = time(&claims, "exp")?.ok_or(JwtRejection::BadClaim("exp"))?;
    let valid_until = exp.saturating_add(jwt.leeway);
    if now >= valid_until {
        return Err(JwtRejection::Expired);
    }
    Ok(jwt.projection.identity(&jwt.provider, subject, claims, valid_until)?)
}

/// Requires one string, exactly the configured one. A list of issuers has no meaning (RFC 7519 §4.1.1).
fn check_issuer(jwt: &Jwt, iss: Option<&Value>) -> Result<(), JwtRejection> {
    match (iss, &jwt.issuer) {
        (Some(Value::String(iss)), Some(expected)) if **iss == **expected => Ok(()),
        (None | Some(Value::String(_)), Some(_)) => Err(JwtRejection::WrongIssuer),
        (None | Some(Value::String(_)), None) => Ok(()),
        (Some(_), _) => Err(JwtRejection::BadClaim("iss")),
    }
}

/// Requires a string or a list of strings, one of which is configured.
///
/// With `audience: none`, a token that has an audience is not for this gateway (RFC 7519 §4.1.3).
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

/// Requires the claims that replace an audience or are required in addition to it.
fn check_required(jwt: &Jwt, claims: &ClaimSet<'_>) -> Result<(), JwtRejection> {
    match jwt.required.iter().find(|(name, texts)| !is_one_of(claims.get(name), texts)) {
        Some((name, _)) => Err(JwtRejection::WrongClaim(name.clone())),
        None => Ok(()),
    }
}

/// A NumericDate (RFC 7519 §2) in whole seconds, rounded down. A time past the year 9999 is refused: it is
/// probably in milliseconds, and such a token would never expire.
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

/// The last second of the year 9999.
const TIME_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::{HeaderName, HeaderValue};
    use jsonwebtoken::Algorithm;
    use serde_json::json;

    use super::{
        super::{
            LastHeader,
            tests::{Given, ISSUER, LEEWAY, NOW, check, check_at, claims, es256, settings, signed, with},
        },
        *,
    };

    /// The verdict on valid claims of which some are changed; `"<none>"` removes one.
    fn check_claims(more: Value) -> Result<Identity, JwtRejection> {
        check(&es256(json!({}), &with(claims(), more)))
    }

    #[test]
    fn the_first_second_at_which_a_token_is_over_is_exp_and_the_leeway() {
        let token = es256(json!({}), &claims());
        let valid_until = NOW + 60 + LEEWAY;
        let verified = check_at(&token, valid_until - 1).unwrap();
        assert!(verified.is_valid_at(valid_until - 1) && !verified.is_valid_at(valid_until));
        assert_eq!(check_at(&token, valid_until), Err(JwtRejection::Expired));
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
            // Lists and objects are refused already when the library reads the claims.
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
        let jwt = Given { issuer: None, ..settings() }.compile().unwrap();
        for iss in ["<none>", "https://other.test"] {
            let token = es256(json!({}), &with(claims(), json!({ "iss": iss })));
            assert!(jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).is_ok());
        }
        let token = es256(json!({}), &with(claims(), json!({"iss": ["https://other.test"]})));
        assert_eq!(
            jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()),
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
            let jwt = Given { separators, ..settings() }.compile().unwrap();
            let token = es256(json!({}), &with(claims(), json!({ "roles": roles })));
            let verified = jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).unwrap();
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
        let jwt = settings().keeping(&["level", "deep"]).compile().unwrap();
        let verified = jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).unwrap();
        let level = verified.forward.iter().find(|(name, _)| name == "x-level").unwrap();
        assert_eq!(level.1, BIG);
        assert_eq!(verified.claims["level"], json!(BIG));
        assert_eq!(verified.claims["deep"], json!({"a": [format!("-{BIG}"), 1.5, 1]}));
    }

    #[test]
    fn only_claims_that_something_asks_for_are_kept() {
        let token = es256(json!({}), &with(claims(), json!({"tenant": "blue", "list": ["a"], "other": 1})));
        let jwt = settings().keeping(&["list", "sub", "missing"]).compile().unwrap();
        let verified = jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).unwrap();
        let kept: Vec<_> = verified.claims.iter().map(|(name, value)| (&**name, value.clone())).collect();
        assert_eq!(kept, [("list", json!(["a"])), ("sub", json!("ann"))]);
        assert_eq!(verified.subject.as_deref(), Some("ann"), "and fields have their own");
    }

    fn verified_by(settings: &Given, kept: &[&str], payload: &str) -> Result<Identity, JwtRejection> {
        let jwt = settings.clone().keeping(kept).compile().unwrap();
        let header = r#"{"alg":"ES256","kid":"ec"}"#;
        let token = signed(header, payload.as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
        jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default())
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
            // Together with other parts of the same claim, as a configuration may have them.
            let kept: BTreeSet<&str> = ["realm_access", "realm_access.roles", name].into();
            let kept: Vec<&str> = kept.into_iter().collect();
            let verified = verified_by(&settings(), &kept, &payload).unwrap();
            assert_eq!(verified.claims.get(name).unwrap_or(&Value::Null), &expected, "{name}");
        }
        let forward = vec![(r"realm_access.roles".into(), HeaderName::from_static("x-roles"))];
        let verified = verified_by(&Given { forward, ..settings() }, &[], &payload).unwrap();
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
        let cognito = Given {
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
        let both = Given { audience: vec!["api".into()], ..cognito };
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
