//! RS256 tokens for the scenarios with authentication. They are made anew for each run, so the repository contains
//! no key.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::json;

/// Longer than any run.
const TTL: Duration = Duration::from_hours(4);

/// Writes the public key in the two forms that proxies read (`issuer.pem`, `jwks.json`). Returns `count` tokens of
/// as many users, which are also in `tokens.txt`.
pub(crate) fn make(count: usize, dir: &Path) -> anyhow::Result<Vec<String>> {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).context("no RSA key")?;
    let signing = EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes())?;
    fs::write(dir.join("issuer.pem"), key.public_key_pem())?;
    let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::RS256)?;
    jwk.common.key_id = Some(KEY_ID.to_owned());
    fs::write(dir.join("jwks.json"), json!({"keys": [jwk]}).to_string())?;

    let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::RS256) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let expires = (now + TTL).as_secs();
    let tokens = (0..count)
        .map(|user| {
            let claims = json!({
                "iss": "https://issuer.example", "aud": "bench", "sub": format!("user-{user:04}"),
                "scope": "items:read", "iat": now.as_secs(), "exp": expires,
            });
            jsonwebtoken::encode(&header, &claims, &signing).context("no token")
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    fs::write(dir.join("tokens.txt"), tokens.join("\n"))?;
    Ok(tokens)
}

const KEY_ID: &str = "bench-1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_their_key_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = make(2, dir.path()).unwrap();
        assert_ne!(tokens[0], tokens[1]);
        let jwks = fs::read_to_string(dir.path().join("jwks.json")).unwrap();
        assert!(jwks.contains(KEY_ID) && jwks.contains("RSA"), "{jwks}");
        let pem = fs::read_to_string(dir.path().join("issuer.pem")).unwrap();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"), "{pem}");
    }
}
