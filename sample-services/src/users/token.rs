//! Access tokens: JWTs (RFC 7519) signed with HS256, for development. In production an identity provider signs
//! with a private key, and no service holds a secret that could make tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::http::Role;

/// The secret that signs tokens. It is never printed.
#[derive(Clone)]
pub struct TokenKey(EncodingKey);

impl TokenKey {
    /// RFC 7518 §3.2: a key for HS256 has at least 32 bytes. White space at its end (a file's last line break) is
    /// not part of the key, which is also how the gateway reads `hs256_secret_file`.
    pub fn from_secret(secret: &[u8]) -> anyhow::Result<Self> {
        let secret = secret.trim_ascii_end();
        ensure!(secret.len() >= 32, "an HS256 key needs at least 32 bytes, this one has {}", secret.len());
        Ok(Self(EncodingKey::from_secret(secret)))
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Makes the tokens that `POST /login` hands out.
#[derive(Debug, Clone)]
pub struct TokenSigner {
    pub key: TokenKey,
    pub issuer: String,
    pub audience: String,
    /// The lifetime of a token.
    pub ttl: Duration,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    scope: &'a str,
    role: Role,
    iat: u64,
    exp: u64,
}

impl TokenSigner {
    pub(super) fn sign(&self, user_id: &str, role: Role) -> Result<String, jsonwebtoken::errors::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: &self.issuer,
            aud: &self.audience,
            sub: user_id,
            scope: scope_of(role),
            role,
            iat: now,
            exp: now + self.ttl.as_secs(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key.0)
    }
}

/// What a role may do, as an OAuth 2.0 scope (RFC 6749 §3.3).
pub(crate) fn scope_of(role: Role) -> &'static str {
    match role {
        Role::Customer => "catalog:read orders:write",
        Role::Staff => "catalog:read catalog:write orders:write",
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn a_token_carries_the_claims_that_the_gateway_checks() {
        let signer = TokenSigner {
            key: TokenKey::from_secret(SECRET).unwrap(),
            issuer: "https://issuer.test".to_owned(),
            audience: "api".to_owned(),
            ttl: Duration::from_mins(1),
        };
        let token = signer.sign("ada", Role::Staff).unwrap();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&["https://issuer.test"]);
        validation.set_audience(&["api"]);
        let claims = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_secret(SECRET), &validation)
            .unwrap()
            .claims;
        assert_eq!(claims["sub"], "ada");
        assert_eq!(claims["role"], "staff");
        assert_eq!(claims["scope"], "catalog:read catalog:write orders:write");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
    }

    #[test]
    fn a_short_key_is_refused_and_a_line_break_does_not_count() {
        assert!(TokenKey::from_secret(&SECRET[1..]).is_err());
        assert!(TokenKey::from_secret(b"0123456789abcdef0123456789abcde\n").is_err());
        assert!(TokenKey::from_secret(SECRET).is_ok());
        assert_eq!(format!("{:?}", TokenKey::from_secret(SECRET).unwrap()), "[redacted]");
    }
}
