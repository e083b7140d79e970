//! Tokens and key sets: a token does not pass without its key, the cached header does not change a verdict, and a key set
//! is read again from its public part.

use std::{cell::RefCell, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{
    auth::{
        Check, Keys,
        jwt::{KeySet, LastHeader, install_crypto_provider, issuer_of},
        provider::Provider,
    },
    config::load,
};

thread_local! {
    static PROVIDER: (Provider, Keys, RefCell<LastHeader>) = {
        install_crypto_provider();
        let loaded = load::parse("routes.yaml", ROUTES, Path::new(""), &|_| None).expect("it is right");
        let provider = Provider::compile(&loaded.settings.auth[0], vec![]).expect("it accepts something");
        (provider, Keys::Jwt(KeySet::from_pem(KEY.as_bytes()).expect("a public key")), RefCell::default())
    };
}

/// Checks that no text is a token of an issuer whose key made no signature, and that another reader finds the same issuer
/// in it.
///
/// # Panics
/// The property is violated.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    PROVIDER.with(|(provider, keys, last)| {
        let check = |keys, last_header: &mut LastHeader| {
            provider.authenticator.check(keys, text, Check { now: NOW, has_newer_keys: true, last_header })
        };
        let fresh = check(Some(keys), &mut LastHeader::default());
        assert!(fresh.is_err(), "accepted without a signature: {text}");
        assert_eq!(check(Some(keys), &mut last.borrow_mut()), fresh, "the header that is kept");
        assert!(check(None, &mut LastHeader::default()).is_err());
    });
    if let Some(issuer) = issuer_of(text) {
        let payload = text.split('.').nth(1).map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url"));
        let claims: Value = serde_json::from_slice(&payload.expect("a second part")).expect("JSON");
        assert_eq!(claims["iss"].as_str(), Some(&*issuer));
    }
}

/// Checks that every key of a set is used or is skipped with a reason, and that the public part of the used keys is the
/// same set.
///
/// # Panics
/// The property is violated.
pub fn jwks(data: &[u8]) {
    install_crypto_provider();
    let Ok(keys) = KeySet::from_jwks(data) else { return };
    let document: Value = serde_json::from_slice(data).expect("JSON");
    let listed = document["keys"].as_array().expect("a list").len();
    assert_eq!(keys.len() + keys.skipped().len(), listed);
    for skipped in keys.skipped() {
        assert!(!skipped.to_string().is_empty());
    }
    let public = keys.to_jwks().expect("a set has public keys only");
    let again = KeySet::from_jwks(public.to_string().as_bytes()).expect("it is read again");
    assert_eq!((again.len(), again.skipped().len()), (keys.len(), 0));
    assert!(again.names().eq(keys.names()));
    assert_eq!(again.to_jwks(), Some(public));
}

const ROUTES: &str = "version: 1\n\
    auth: {main: {issuer: \"https://issuer.test\", jwks: \"https://issuer.test/keys\", audience: api}}\n\
    routes: [{path: /, service: items, auth: main}]\nservices: {items: {hosts: [\"192.0.2.1:80\"]}}\n";
/// The example key of RFC 8410 §10.1.
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
    -----END PUBLIC KEY-----\n";
const NOW: u64 = 1_800_000_000;
