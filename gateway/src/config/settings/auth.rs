//! Providers of tokens: their keys, what a token must say, and where it is looked for.

use std::{path::PathBuf, time::Duration};

use http::HeaderName;

use crate::syntax::{diagnostics::Span, hidden::Hidden};

/// One `auth.<name>` provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    pub name: String,
    pub keys: KeySource,
    /// Required `iss`; `None` accepts a token with any issuer or none.
    pub issuer: Option<String>,
    /// Required `aud`: one of these. Empty: a token has none, and `require` is not empty.
    pub audience: Vec<String>,
    /// Claims that a token must have to be accepted, and their texts: one of them, or in the list that the claim is.
    pub require: Vec<(String, Vec<String>)>,
    /// Accepted algorithms by their JWA names; all of one family per key type, never `none`.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// Clock skew allowed for `exp` and `nbf`.
    pub leeway: Duration,
    /// Places to look for the token, in order.
    pub from: Vec<TokenSource>,
    /// Claim → header. The same headers from the client are always removed.
    pub forward: Vec<(String, HeaderName)>,
    /// By header: what stands between the texts of a list, where it is not a space.
    pub separators: Vec<(HeaderName, char)>,
    /// Verified tokens remembered per worker; 0 = none.
    pub cache_max: usize,
    /// Variables in `keys` and `issuer`, for wherever these are shown.
    pub hidden: Hidden,
    pub span: Span,
}

impl AuthSettings {
    /// Equal in meaning: wherever in the file.
    pub fn same_as(&self, other: &Self) -> bool {
        *self == Self { span: self.span, ..other.clone() }
    }

    /// What stands between the texts of a list in this header.
    pub fn separator(&self, header: &HeaderName) -> char {
        self.separators.iter().find(|(name, _)| name == header).map_or(' ', |(_, separator)| *separator)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// OIDC discovery: `<issuer>/.well-known/openid-configuration` names the JWKS.
    Issuer(String),
    JwksUrl(String),
    JwksFile(PathBuf),
    PublicKeyFile(PathBuf),
    Hs256SecretFile(PathBuf),
}

impl KeySource {
    /// From a URL, in the background.
    pub fn is_fetched(&self) -> bool {
        matches!(self, Self::Issuer(_) | Self::JwksUrl(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer …`
    Bearer,
    Cookie(String),
    Header(HeaderName),
    Query(String),
}
