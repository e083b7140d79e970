//! Tokens that are signed with a secret in the gateway's folder.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use millgate::token::{MintOptions, mint};
use tempfile::TempDir;

/// The key of a provider with `hs256_secret_file: secret.key`.
pub(crate) const GOOD: &str = "secret.key";
/// A key that no provider has.
pub(crate) const WRONG: &str = "wrong.key";

/// A folder for a gateway, with both keys.
pub(crate) fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(GOOD), "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::write(dir.path().join(WRONG), "x123456789abcdefx123456789abcdef").unwrap();
    dir
}

/// A token for the audience `api`, signed with the key that has this name in `dir`.
pub(crate) fn token(dir: &Path, key: &str, subject: &str) -> String {
    token_with(dir, key, |options| subject.clone_into(&mut options.subject))
}

/// As [`token`], with other options.
pub(crate) fn token_with(dir: &Path, key: &str, change: impl FnOnce(&mut MintOptions)) -> String {
    let mut options = MintOptions {
        key_file: dir.join(key),
        audience: Some("api".into()),
        ttl: Duration::from_mins(5),
        ..MintOptions::default()
    };
    change(&mut options);
    mint(&options).unwrap()
}

pub(crate) fn bearing(mut request: Request<Full<Bytes>>, token: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}
