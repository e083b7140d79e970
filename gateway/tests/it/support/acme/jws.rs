//! Signed requests (RFC 8555 §6.2): the URL, the key and the signature are checked.

use std::collections::HashMap;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::Problem;

/// A request whose signature is good.
pub(super) struct Call {
    pub(super) nonce: String,
    pub(super) payload: Value,
    pub(super) signer: Signer,
}

pub(super) enum Signer {
    /// The public key of an account that is to be made.
    New(Value),
    Known(Account),
}

#[derive(Clone)]
pub(super) struct Account {
    pub(super) id: String,
    pub(super) key: Value,
}

impl Account {
    /// RFC 7638, and RFC 8555 §8.1.
    pub(super) fn key_authorization(&self, token: &str) -> String {
        let field = |name: &str| self.key[name].as_str().unwrap();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, field("x"), field("y"));
        format!("{token}.{}", URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes())))
    }
}

impl Call {
    pub(super) fn read(body: &[u8], url: &str, known: &HashMap<String, Account>) -> Result<Self, Problem> {
        let (header, payload, signature, text) =
            parts(&serde_json::from_slice(body).map_err(|_| malformed("no JSON"))?)?;
        if header["alg"] != "ES256" || header["url"] != url {
            return Err(malformed("another algorithm, or another URL"));
        }
        let signer = match (header.get("jwk"), header["kid"].as_str()) {
            (Some(key), None) => Signer::New(key.clone()),
            (None, Some(id)) => Signer::Known(
                known
                    .get(id)
                    .cloned()
                    .ok_or_else(|| Problem(400, "accountDoesNotExist", "no such account".to_owned()))?,
            ),
            _ => return Err(malformed("either a key or an account")),
        };
        let key = match &signer {
            Signer::New(key) => key,
            Signer::Known(account) => &account.key,
        };
        let mut point = vec![4];
        for name in ["x", "y"] {
            point.extend(decode(&key[name])?);
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(text.as_bytes(), &signature)
            .map_err(|_| Problem(403, "unauthorized", "a bad signature".to_owned()))?;
        let nonce = header["nonce"].as_str().ok_or_else(|| malformed("no nonce"))?.to_owned();
        let payload =
            if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload).unwrap() };
        Ok(Self { nonce, payload, signer })
    }

    pub(super) fn account(&self) -> Result<&Account, Problem> {
        match &self.signer {
            Signer::Known(account) => Ok(account),
            Signer::New(_) => Err(malformed("signed without an account")),
        }
    }
}

/// The binding of a new account to one that is known from elsewhere (RFC 8555 §7.3.4).
pub(super) fn external(
    binding: &Value,
    id: &str,
    hmac_key: &[u8],
    key: &Value,
    url: &str,
) -> Result<(), Problem> {
    let required = || Problem(403, "externalAccountRequired", "an external account is required".to_owned());
    if binding.is_null() {
        return Err(required());
    }
    let (header, payload, signature, signed) = parts(binding)?;
    let is_own = serde_json::from_slice::<Value>(&payload).is_ok_and(|payload| payload == *key);
    let mac = hmac::Key::new(hmac::HMAC_SHA256, hmac_key);
    let is_signed = hmac::verify(&mac, signed.as_bytes(), &signature).is_ok();
    let is_good = header["alg"] == "HS256" && header["kid"] == id && header["url"] == url;
    if is_own && is_signed && is_good { Ok(()) } else { Err(required()) }
}

/// Header, payload, signature, and what was signed.
fn parts(jws: &Value) -> Result<(Value, Vec<u8>, Vec<u8>, String), Problem> {
    let header = decode(&jws["protected"])?;
    let text = |name: &str| jws[name].as_str().unwrap_or_default().to_owned();
    let header = serde_json::from_slice(&header).map_err(|_| malformed("no header"))?;
    let signed = format!("{}.{}", text("protected"), text("payload"));
    Ok((header, decode(&jws["payload"])?, decode(&jws["signature"])?, signed))
}

fn decode(value: &Value) -> Result<Vec<u8>, Problem> {
    let text = value.as_str().ok_or_else(|| malformed("a part is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed("no base64"))
}

fn malformed(detail: &str) -> Problem {
    Problem(400, "malformed", detail.to_owned())
}
