//! What a route asks of a token that holds: scopes, roles, claims. Compiled from `RequireSettings`.

use http::HeaderValue;
use serde_json::Value;

use super::{Verified, claims};
use crate::config::settings::RequireSettings;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Requirement {
    scopes: Box<[Box<str>]>,
    roles: Box<[Box<str>]>,
    claims: Box<[(Box<str>, Box<str>)]>,
}

/// The token holds but does not suffice (403).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsufficientScope {
    /// A required scope is missing.
    Scope,
    /// None of the accepted roles is there.
    Role,
    /// A required claim is missing or different.
    Claim,
}

impl InsufficientScope {
    /// What is missing: for the log.
    pub fn what(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Role => "role",
            Self::Claim => "claim",
        }
    }
}

impl Requirement {
    pub fn compile(settings: &RequireSettings) -> Self {
        let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        Self {
            scopes: boxed(&settings.scopes),
            roles: boxed(&settings.roles),
            claims: settings
                .claims
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
        }
    }

    /// Does the token carry every scope, one of the roles and every claim?
    pub fn check(&self, verified: &Verified) -> Result<(), InsufficientScope> {
        if !self.scopes.iter().all(|scope| verified.scopes.contains(scope)) {
            return Err(InsufficientScope::Scope);
        }
        if !self.roles.is_empty() && !self.roles.iter().any(|role| verified.roles.contains(role)) {
            return Err(InsufficientScope::Role);
        }
        let holds = |(name, expected): &(Box<str>, Box<str>)| match verified.claims.get(&**name) {
            Some(Value::Array(list)) => list.iter().any(|value| is_text(value, expected)),
            Some(value) => is_text(value, expected),
            None => false,
        };
        if !self.claims.iter().all(holds) {
            return Err(InsufficientScope::Claim);
        }
        Ok(())
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

fn is_text(value: &Value, expected: &str) -> bool {
    claims::text(value).is_some_and(|text| text == expected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    fn check(scopes: &[&str], roles: &[&str], claims: &[(&str, &str)]) -> Result<(), InsufficientScope> {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let claims = claims.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Requirement::compile(&RequireSettings { scopes: owned(scopes), roles: owned(roles), claims })
            .check(&verified())
    }

    #[test]
    fn every_scope_one_role_and_every_claim_must_be_there() {
        use InsufficientScope::{Claim, Role, Scope};
        assert_eq!(check(&[], &[], &[]), Ok(()));
        assert_eq!(check(&["read", "write"], &["admin", "staff"], &[("tenant", "blue")]), Ok(()));
        assert_eq!(check(&["read", "delete"], &[], &[]), Err(Scope));
        assert_eq!(check(&["rea"], &[], &[]), Err(Scope), "a part of a word is not the word");
        assert_eq!(check(&[], &["admin"], &[]), Err(Role));
        for (claim, verdict) in [
            (("groups", "b"), Ok(())),
            (("groups", "c"), Err(Claim)),
            (("level", "3"), Ok(())),
            (("staff", "true"), Ok(())),
            (("address", "x"), Err(Claim)),
            (("missing", ""), Err(Claim)),
        ] {
            assert_eq!(check(&[], &[], &[claim]), verdict, "{claim:?}");
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
