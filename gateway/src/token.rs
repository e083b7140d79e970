//! Tokens for development, signed with a key file on this machine. This is not an issuer for production.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::{auth::jwt, clock};

/// The content of a token, and the key that signs it.
#[derive(Debug, Clone, Default)]
pub struct MintOptions {
    /// A PEM private key (RSA → RS256, P-256 → ES256, Ed25519 → EdDSA), or the bytes of an HS256 secret.
    pub key_file: PathBuf,
    pub subject: String,
    pub scopes: Vec<String>,
    /// One role is written as the claim `role`, several as the list `roles`; a route's `require: {role: …}` reads
    /// both.
    pub roles: Vec<String>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// How long the token is valid from now.
    pub ttl: Duration,
    /// The `kid` of the header.
    pub key_id: Option<String>,
    /// Further claims, as text.
    pub claims: Vec<(String, String)>,
}

/// The reason that no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error("cannot read the key {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", path.display())]
    Key { path: PathBuf, reason: &'static str },
    #[error("the claim `{0}` is set by its own option")]
    OwnOption(String),
    #[error("a token is valid for at least 1s and at most 3650d, not for {}", humantime::format_duration(*.0))]
    Ttl(Duration),
}

/// Signs a token.
///
/// # Errors
/// The key file cannot be read or has no key that signs, or an option has a value that is not allowed.
pub fn mint(options: &MintOptions) -> Result<String, MintError> {
    jwt::install_crypto_provider();
    let claims = claims(options)?;
    let bytes = read(&options.key_file)
        .map_err(|source| MintError::Read { path: options.key_file.clone(), source })?;
    let unusable = |reason| MintError::Key { path: options.key_file.clone(), reason };
    let (algorithm, key) = signing_key(&bytes).map_err(unusable)?;
    let header = Header { kid: options.key_id.clone(), ..Header::new(algorithm) };
    // Only signing shows a curve or a length that the algorithm does not accept.
    jsonwebtoken::encode(&header, &claims, &key).map_err(|_| unusable(pem_advice(&bytes)))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(KEY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > KEY_BYTES_MAX {
        return Err(std::io::Error::other("the file is larger than 64 KiB"));
    }
    Ok(bytes)
}

/// The algorithm and key of a file. A PEM file states its kind; any other content is a secret, without the line end
/// that editors add.
fn signing_key(bytes: &[u8]) -> Result<(Algorithm, EncodingKey), &'static str> {
    if memchr::memmem::find(bytes, PEM_MARK).is_none() {
        return secret(bytes.trim_ascii_end()).map(|secret| (Algorithm::HS256, secret));
    }
    let first_that_fits = EncodingKey::from_ed_pem(bytes)
        .map(|key| (Algorithm::EdDSA, key))
        .or_else(|_| EncodingKey::from_ec_pem(bytes).map(|key| (Algorithm::ES256, key)))
        .or_else(|_| EncodingKey::from_rsa_pem(bytes).map(|key| (Algorithm::RS256, key)));
    first_that_fits.map_err(|_| pem_advice(bytes))
}

fn secret(bytes: &[u8]) -> Result<EncodingKey, &'static str> {
    let is_jwk = serde_json::from_slice::<Map<String, Value>>(bytes).is_ok_and(|map| map.contains_key("kty"));
    if is_jwk {
        return Err("this is a JSON Web Key; a private key is read as PEM, a secret as its plain bytes");
    }
    // RFC 7518 §3.2: an HS256 key has at least the length of the hash. The gateway refuses shorter ones, too.
    if bytes.len() < SECRET_BYTES_MIN {
        return Err("an HS256 secret has at least 32 bytes; make one: `openssl rand -base64 48 > FILE`");
    }
    Ok(EncodingKey::from_secret(bytes))
}

/// Advice about a PEM file that does not sign, from the label of its last block, because OpenSSL writes parameters
/// first.
fn pem_advice(bytes: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(bytes);
    let label = text.rsplit("-----BEGIN ").next().and_then(|rest| rest.split("-----").next()).unwrap_or("");
    match label {
        "ENCRYPTED PRIVATE KEY" => {
            "this key is encrypted with a password; write it in plain: `openssl pkey -in FILE -out PLAIN`"
        }
        "EC PRIVATE KEY" => {
            "this is an EC key in SEC1 form; turn it into PKCS#8: `openssl pkcs8 -topk8 -nocrypt -in FILE -out PKCS8`"
        }
        "CERTIFICATE" => "this is a certificate; a token is signed with the private key that belongs to it",
        _ if label.ends_with("PUBLIC KEY") => {
            "this is a public key; it verifies tokens, and only the private key signs them"
        }
        _ => {
            "no private key that can sign; expected PEM with RSA (2048 bits or more), EC P-256 or Ed25519: \
             `openssl genpkey -algorithm ed25519 -out FILE`"
        }
    }
}

fn claims(options: &MintOptions) -> Result<Map<String, Value>, MintError> {
    if !(TTL_MIN..=TTL_MAX).contains(&options.ttl) {
        return Err(MintError::Ttl(options.ttl));
    }
    let now = clock::unix_now();
    let mut claims = Map::new();
    for (claim, value) in &options.claims {
        if OWN_OPTIONS.contains(&claim.as_str()) {
            return Err(MintError::OwnOption(claim.clone()));
        }
        claims.insert(claim.clone(), json!(value));
    }
    claims.insert("sub".into(), json!(options.subject));
    claims.insert("iat".into(), json!(now.as_secs()));
    claims.insert("exp".into(), json!((now + options.ttl).as_secs()));
    if let Some(issuer) = &options.issuer {
        claims.insert("iss".into(), json!(issuer));
    }
    if let Some(audience) = &options.audience {
        claims.insert("aud".into(), json!(audience));
    }
    if !options.scopes.is_empty() {
        claims.insert("scope".into(), json!(options.scopes.join(" ")));
    }
    match &options.roles[..] {
        [] => {}
        [role] => _ = claims.insert("role".into(), json!(role)),
        roles => _ = claims.insert("roles".into(), json!(roles)),
    }
    Ok(claims)
}

const PEM_MARK: &[u8] = b"-----BEGIN ";
/// An RSA key of 16,384 bits has less than 13 KiB; a larger file is the wrong file.
const KEY_BYTES_MAX: u64 = 64 * 1024;
const SECRET_BYTES_MIN: usize = 32;
const TTL_MIN: Duration = Duration::from_secs(1);
/// Ten years. A longer time is a typing error; a token for development needs less.
const TTL_MAX: Duration = Duration::from_hours(3650 * 24);
/// Claims that have their own option. As further claims they would be overwritten silently.
const OWN_OPTIONS: [&str; 7] = ["sub", "iss", "aud", "scope", "role", "iat", "exp"];

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    /// The reason for which a key file with this content is refused.
    fn refused(content: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, content).unwrap();
        let options = MintOptions { key_file: file.path().into(), ttl: TTL_MIN, ..MintOptions::default() };
        mint(&options).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_cannot_sign_says_what_it_is_and_what_to_do() {
        let key = KeyPair::generate().unwrap();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let block = |label: &str| format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n");
        for (content, words) in [
            (key.public_key_pem(), "this is a public key"),
            (block("CERTIFICATE"), "this is a certificate"),
            (block("ENCRYPTED PRIVATE KEY"), "encrypted with a password"),
            (block("EC PARAMETERS") + &block("EC PRIVATE KEY"), "openssl pkcs8 -topk8 -nocrypt"),
            (block("PRIVATE KEY"), "EC P-256 or Ed25519"),
            (p384.serialize_pem(), "EC P-256 or Ed25519"),
            (String::new(), "at least 32 bytes"),
            ("x".repeat(SECRET_BYTES_MIN - 1) + "\n", "at least 32 bytes"),
            ("{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}".to_owned(), "JSON Web Key"),
        ] {
            let reason = refused(&content);
            assert!(reason.contains(words), "{content} gave {reason}");
        }
    }

    #[test]
    fn a_lifetime_has_two_ends() {
        for (ttl, fits) in [
            (Duration::ZERO, false),
            (TTL_MIN, true),
            (TTL_MAX, true),
            (TTL_MAX + TTL_MIN, false),
            (Duration::MAX, false),
        ] {
            assert_eq!(claims(&MintOptions { ttl, ..MintOptions::default() }).is_ok(), fits, "{ttl:?}");
        }
    }

    #[test]
    fn a_claim_with_an_option_of_its_own_is_refused() {
        let claim = |name: &str| MintOptions {
            ttl: TTL_MIN,
            claims: vec![(name.to_owned(), "x".to_owned())],
            ..MintOptions::default()
        };
        assert_eq!(claims(&claim("team")).unwrap()["team"], "x");
        assert!(matches!(claims(&claim("exp")), Err(MintError::OwnOption(name)) if name == "exp"));
    }
}
