//! The reasons for which credentials are refused, and what the client learns of them.
//!
//! The reason is one word for logs and metrics. The client learns only [`Told`] and a challenge (RFC 9110 §11.6.1), so that
//! a refusal does not help an attacker to guess.

use std::fmt;

use super::CredentialWords;

/// The rejection of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthRejection {
    /// One word for logs and metrics.
    pub reason: &'static str,
    /// The claim that is the reason.
    pub claim: Option<Box<str>>,
    pub told: Told,
    /// Newer keys could make the credential valid.
    pub is_doubtful: bool,
}

/// The part of a rejection that the client learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// `token_invalid`
    Invalid,
    /// `token_expired`
    Expired,
    /// `keys_unavailable`
    Unavailable,
}

impl AuthRejection {
    /// The provider's keys are not loaded yet.
    pub fn unavailable() -> Self {
        Self { reason: "keys_unavailable", claim: None, told: Told::Unavailable, is_doubtful: false }
    }

    /// No provider of the route accepts the issuer that the credential names.
    pub fn of_no_provider() -> Self {
        Self { reason: "wrong_issuer", claim: Some("iss".into()), told: Told::Invalid, is_doubtful: false }
    }

    /// The usefulness of a rejection among several: undecided ranks highest, then expired, then invalid.
    pub fn rank(&self) -> u8 {
        match (self.is_doubtful, self.told) {
            (true, _) | (_, Told::Unavailable) => 2,
            (false, Told::Expired) => 1,
            (false, Told::Invalid) => 0,
        }
    }
}

/// The kinds of credentials that a route accepts, each once, with their schemes. The kind that was refused comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedKinds(Box<[(&'static str, &'static CredentialWords)]>);

impl AcceptedKinds {
    /// Leaves out repetitions.
    pub fn new(kinds: impl IntoIterator<Item = (&'static str, &'static CredentialWords)>) -> Self {
        let mut all = Vec::new();
        for kind in kinds {
            if !all.contains(&kind) {
                all.push(kind);
            }
        }
        Self(all.into())
    }

    /// Whether some kind has a scheme. Without one there is no challenge, and RFC 9110 §15.5.2 requires one for 401.
    pub fn has_challenge(&self) -> bool {
        self.0.iter().any(|(scheme, _)| !scheme.is_empty())
    }

    /// "token" or "API key".
    pub fn credential(&self) -> &'static str {
        self.0.first().map_or("credential", |(_, words)| words.credential)
    }

    /// The value of `WWW-Authenticate`: one challenge for each scheme. `parameters` are those of RFC 6750 §3. They are added
    /// to the first challenge, if its scheme is that of bearer tokens.
    pub fn challenge(&self, parameters: &str) -> String {
        let mut value = String::new();
        let mut schemes = Vec::new();
        for (at, (scheme, _)) in self.0.iter().enumerate() {
            if scheme.is_empty() || schemes.contains(scheme) {
                continue;
            }
            let separator = if schemes.is_empty() { "" } else { ", " };
            schemes.push(*scheme);
            let parameters = if at == 0 && *scheme == "Bearer" { parameters } else { "" };
            value = format!(r#"{value}{separator}{scheme} realm="api"{parameters}"#);
        }
        value
    }
}

/// "a bearer token", or "a bearer token or an API key".
impl fmt::Display for AcceptedKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<&str> = Vec::new();
        for (_, words) in &self.0 {
            if !all.contains(&words.wanted) {
                all.push(words.wanted);
            }
        }
        f.write_str(&all.join(" or "))
    }
}
