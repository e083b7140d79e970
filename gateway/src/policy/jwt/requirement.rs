//! What a route asks of a token that holds: scopes, roles, claims. Compiled from `RequireSettings`.

use http::HeaderValue;

use super::{ClaimTexts, Verified, claim_texts, claims};
use crate::config::settings::RequireSettings;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Requirement {
    scopes: Box<[Box<str>]>,
    roles: Box<[Box<str>]>,
    claims: ClaimTexts,
}

/// The token holds but does not suffice (403).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsufficientScope<'a> {
    /// A required scope is missing.
    Scope,
    /// None of the accepted roles is there.
    Role,
    /// This claim, which is required, is missing or different.
    Claim(&'a str),
}

impl<'a> InsufficientScope<'a> {
    /// What is missing: for the log.
    pub fn what(self) -> &'a str {
        match self {
            Self::Scope => "scope",
            Self::Role => "role",
            Self::Claim(name) => name,
        }
    }
}

impl Requirement {
    pub fn compile(settings: &RequireSettings) -> Self {
        let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        Self {
            scopes: boxed(&settings.scopes),
            roles: boxed(&settings.roles),
            claims: claim_texts(&settings.claims),
        }
    }

    /// Does the token carry every scope, one of the roles and every claim?
    pub fn check(&self, verified: &Verified) -> Result<(), InsufficientScope<'_>> {
        if !self.scopes.iter().all(|scope| verified.scopes.contains(scope)) {
            return Err(InsufficientScope::Scope);
        }
        if !self.roles.is_empty() && !self.roles.iter().any(|role| verified.roles.contains(role)) {
            return Err(InsufficientScope::Role);
        }
        let is_met = |name: &str, texts: &[Box<str>]| claims::is_one_of(verified.claims.get(name), texts);
        match self.claims.iter().find(|(name, texts)| !is_met(name, texts)) {
            Some((name, _)) => Err(InsufficientScope::Claim(name)),
            None => Ok(()),
        }
    }

    /// Nothing is asked: every token that holds suffices.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.roles.is_empty() && self.claims.is_empty()
    }

    /// All scopes, for `scope="…"` in `WWW-Authenticate` (RFC 6750 §3); `None` if no scope is asked.
    pub fn scope_value(&self) -> Option<HeaderValue> {
        if self.scopes.is_empty() {
            return None;
        }
        HeaderValue::try_from(self.scopes.join(" ")).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verified() -> Verified {
        let Value::Object(claims) = json!({
            "tenant": "blue", "groups": ["a", "b"], "level": 3, "staff": true, "address": {"city": "x"},
        }) else {
            unreachable!("an object")
        };
        Verified {
            provider: "main".into(),
            subject: None,
            scopes: ["read".into(), "write".into()].into(),
            roles: ["staff".into()].into(),
            exp: 0,
            over_at: 0,
            forward: vec![],
            claims: claims.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        }
    }

    /// What is missing. Of a claim, `|` stands between the texts.
    fn check(scopes: &[&str], roles: &[&str], claims: &[(&str, &str)]) -> Option<String> {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let texts = |texts: &str| texts.split('|').map(ToOwned::to_owned).collect();
        let claims = claims.iter().map(|(name, value)| ((*name).into(), texts(value))).collect();
        let settings = RequireSettings { scopes: owned(scopes), roles: owned(roles), claims };
        Requirement::compile(&settings).check(&verified()).err().map(|missing| missing.what().to_owned())
    }

    #[test]
    fn every_scope_one_role_and_every_claim_must_be_there() {
        assert_eq!(check(&[], &[], &[]), None);
        assert_eq!(check(&["read", "write"], &["admin", "staff"], &[("tenant", "blue")]), None);
        assert_eq!(check(&["read", "delete"], &[], &[]).unwrap(), "scope");
        assert_eq!(check(&["rea"], &[], &[]).unwrap(), "scope", "a part of a word is not the word");
        assert_eq!(check(&[], &["admin"], &[]).unwrap(), "role");
        for (claim, is_met) in [
            (("groups", "b"), true),
            (("groups", "c"), false),
            (("groups", "c|b"), true),
            (("tenant", "red|blue"), true),
            (("tenant", "red|green"), false),
            (("level", "3"), true),
            (("staff", "true"), true),
            (("address", "x"), false),
            (("missing", ""), false),
        ] {
            let missing = check(&[], &[], &[("tenant", "blue"), claim]);
            assert_eq!(missing.as_deref(), (!is_met).then_some(claim.0), "{claim:?}");
        }
    }

    #[test]
    fn the_scopes_are_named_to_the_client() {
        let settings = RequireSettings { scopes: vec!["a".into(), "b".into()], ..RequireSettings::default() };
        assert_eq!(Requirement::compile(&settings).scope_value().unwrap(), "a b");
        assert_eq!(Requirement::default().scope_value(), None);
        assert!(Requirement::default().is_empty());
    }
}
