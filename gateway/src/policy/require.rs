//! `require`: the scopes, roles and claims that a verified identity must have to use a route.

use std::sync::Arc;

use http::HeaderValue;

use super::{
    auth,
    of_route::{Asked, Check, Compile, RoutePolicy, View, replace},
};
use crate::auth::{
    Identity,
    claims::{ClaimTexts, claim_texts, is_one_of},
};
use crate::syntax::{
    claims::{self, Claims},
    diagnostics::{Diagnostics, Span},
    fields::{Fields, Known, is_word, some_text},
};

/// `require` as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Written {
    /// `none`: cancels the requirements of `defaults` or of a policy.
    Nothing,
    All(All),
}

/// Requirements that an identity must all meet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct All {
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) roles: Option<Vec<String>>,
    pub(crate) claims: Claims,
    pub(crate) span: Span,
}

#[cfg(test)]
impl Written {
    /// A requirement of claims only.
    pub(crate) fn claims(claims: Claims) -> Self {
        Self::All(All { scopes: None, roles: None, claims, span: Span::default() })
    }
}

impl RoutePolicy for Requirement {
    type Written = Option<Written>;
    type Compiled = Arc<Requirement>;
    const KEYS: &'static [&'static str] = &["require"];
    const MAPS: &'static [&'static Known] = &[&REQUIRE];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        let node = fields.get("require")?;
        if is_word(node, "none") {
            return Some(Written::Nothing);
        }
        let fields = Fields::of(node, &REQUIRE, sink)?;
        // RFC 6749 §3.3: a scope value has no spaces; a string with spaces is a list of scopes.
        let scopes = fields
            .values("scope", sink, some_text)
            .map(|list| list.iter().flat_map(|at| at.value.split_whitespace()).map(str::to_owned).collect());
        let roles =
            fields.values("role", sink, some_text).map(|list| list.into_iter().map(|at| at.value).collect());
        let claims = claims::read(&fields, sink);
        Some(Written::All(All { scopes, roles, claims, span: node.span }))
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        match (under.as_mut(), top) {
            (_, None) => {}
            (Some(Written::All(under)), Some(Written::All(top))) => {
                replace(&mut under.scopes, top.scopes.as_ref());
                replace(&mut under.roles, top.roles.as_ref());
                for (name, wanted) in &top.claims {
                    under.claims.retain(|(known, _)| known != name);
                    under.claims.push((name.clone(), wanted.clone()));
                }
                under.span = top.span;
            }
            (_, Some(_)) => under.clone_from(top),
        }
    }

    fn check(written: &Self::Written, with: &mut Check<'_>) {
        if let Some(Written::All(all)) = written
            && auth::is_open(with.route.auth.as_ref(), with.providers) == Some(true)
        {
            with.sink.push(
                auth::needed(all.span, with.place, "`require` needs a token, and this route asks for none")
                    .help(
                        "add `auth: PROVIDER` to the route, or `require: none` to take back what it inherits",
                    ),
            );
        }
    }

    fn ask(written: &Self::Written, asked: &mut Asked) {
        if let Some(Written::All(all)) = written {
            asked.claims.extend(all.claims.iter().map(|(name, _)| name.as_str().into()));
        }
    }

    fn compile(written: &Self::Written, with: &mut Compile<'_, '_>) -> Arc<Requirement> {
        with.shared.share(Arc::new(Self::of(written.as_ref())))
    }

    fn show(requirement: &Arc<Requirement>, view: &mut View<'_>) {
        let scopes = requirement.scopes.iter().map(|scope| format!("scope {scope}"));
        let roles = requirement.roles.iter().map(|role| format!("role {role}"));
        let claims = requirement.claims.iter();
        let claims = claims.map(|(claim, texts)| format!("{claim} = {}", texts.join(" | ")));
        view.items("require", scopes.chain(roles).chain(claims));
    }
}

/// The requirements of a route: all of the scopes, one of the roles, and all of the claims.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Requirement {
    scopes: Box<[Box<str>]>,
    roles: Box<[Box<str>]>,
    claims: ClaimTexts,
}

/// The identity is valid but does not meet the requirements (403).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsufficientScope<'a> {
    /// A required scope is missing.
    Scope,
    /// The identity has none of the accepted roles.
    Role,
    /// This required claim is missing or different.
    Claim(&'a str),
}

impl<'a> InsufficientScope<'a> {
    /// The missing part, for the log.
    pub fn what(self) -> &'a str {
        match self {
            Self::Scope => "scope",
            Self::Role => "role",
            Self::Claim(name) => name,
        }
    }
}

impl Requirement {
    /// The compiled requirements; nothing is required if none are written.
    pub(crate) fn of(written: Option<&Written>) -> Self {
        let Some(Written::All(all)) = written else { return Self::default() };
        let boxed = |texts: Option<&Vec<String>>| {
            texts.into_iter().flatten().map(|text| text.as_str().into()).collect()
        };
        Self {
            scopes: boxed(all.scopes.as_ref()),
            roles: boxed(all.roles.as_ref()),
            claims: claim_texts(&all.claims),
        }
    }

    /// Checks that the identity has every scope, one of the roles and every claim.
    pub fn check(&self, verified: &Identity) -> Result<(), InsufficientScope<'_>> {
        if !self.scopes.iter().all(|scope| verified.scopes.contains(scope)) {
            return Err(InsufficientScope::Scope);
        }
        if !self.roles.is_empty() && !self.roles.iter().any(|role| verified.roles.contains(role)) {
            return Err(InsufficientScope::Role);
        }
        let is_met = |name: &str, texts: &[Box<str>]| is_one_of(verified.claims.get(name), texts);
        match self.claims.iter().find(|(name, texts)| !is_met(name, texts)) {
            Some((name, _)) => Err(InsufficientScope::Claim(name)),
            None => Ok(()),
        }
    }

    /// Whether every identity that meets these requirements also meets `other`. May return false although it
    /// is so, never the reverse.
    pub fn implies(&self, other: &Self) -> bool {
        let is_part = |inner: &[Box<str>], outer: &[Box<str>]| {
            !inner.is_empty() && inner.iter().all(|text| outer.contains(text))
        };
        other.scopes.iter().all(|scope| self.scopes.contains(scope))
            && (other.roles.is_empty() || is_part(&self.roles, &other.roles))
            && other.claims.iter().all(|(name, texts)| {
                self.claims.iter().any(|(own, inner)| own == name && is_part(inner, texts))
            })
    }

    /// Whether every valid identity meets the requirements.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.roles.is_empty() && self.claims.is_empty()
    }

    /// All scopes, for `scope="…"` in `WWW-Authenticate` (RFC 6750 §3). `None`: a scope is not required.
    pub fn scope_value(&self) -> Option<HeaderValue> {
        if self.scopes.is_empty() {
            return None;
        }
        HeaderValue::try_from(self.scopes.join(" ")).ok()
    }
}

static REQUIRE: Known =
    Known { what: "`require`", prefix: "require.", fields: &["scope", "role", "claim"], later: &[] };

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verified() -> Identity {
        let Value::Object(claims) = json!({
            "tenant": "blue", "groups": ["a", "b"], "level": 3, "staff": true, "address": {"city": "x"},
        }) else {
            unreachable!("an object")
        };
        Identity {
            provider: "main".into(),
            subject: None,
            scopes: ["read".into(), "write".into()].into(),
            roles: ["staff".into()].into(),
            valid_until: 0,
            forward: vec![],
            claims: claims.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        }
    }

    /// The missing part. `|` separates the accepted texts of a claim.
    fn check(scopes: &[&str], roles: &[&str], claims: &[(&str, &str)]) -> Option<String> {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let texts = |texts: &str| texts.split('|').map(ToOwned::to_owned).collect();
        let claims = claims.iter().map(|(name, value)| ((*name).into(), texts(value))).collect();
        let all =
            All { scopes: Some(owned(scopes)), roles: Some(owned(roles)), claims, span: Span::default() };
        Requirement::of(Some(&Written::All(all)))
            .check(&verified())
            .err()
            .map(|missing| missing.what().to_owned())
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
        let requirement = Requirement { scopes: ["a".into(), "b".into()].into(), ..Requirement::default() };
        assert_eq!(requirement.scope_value().unwrap(), "a b");
        assert_eq!(Requirement::default().scope_value(), None);
        assert!(Requirement::default().is_empty());
    }
}
