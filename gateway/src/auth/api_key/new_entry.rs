//! A new key and its entry in a file of keys, for `millgate key new`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use serde_json::json;

use super::{ApiKeys, hash_of};
use crate::syntax::redacted::KEY_PREFIX;

/// A new key. The text is shown once; the file has its hash.
pub(crate) fn new_key() -> Result<String, &'static str> {
    let mut bytes = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system has no randomness")?;
    Ok(format!("{KEY_PREFIX}{}", BASE64URL.encode(bytes)))
}

/// What is to stand in the file for a key.
#[derive(Debug, Default)]
pub(crate) struct NewEntry {
    pub(crate) name: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) claims: Vec<(String, String)>,
    /// Seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl NewEntry {
    /// One item of the list `keys`, in YAML. Texts are written as JSON, which YAML reads alike.
    pub(crate) fn to_yaml(&self, key: &str) -> String {
        let mut text = format!("  - name: {}\n    sha256: {}\n", json!(self.name), to_hex(&hash_of(key)));
        // Writing into a String cannot fail.
        for (field, values) in [("scopes", &self.scopes), ("roles", &self.roles)] {
            if !values.is_empty() {
                let _ = writeln!(text, "    {field}: {}", json!(values));
            }
        }
        if !self.claims.is_empty() {
            let claims: BTreeMap<_, _> = self.claims.iter().map(|(name, value)| (name, value)).collect();
            let _ = writeln!(text, "    claims: {}", json!(claims));
        }
        if let Some(expires) = self.expires {
            let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(expires));
            let _ = writeln!(text, "    expires: {at}");
        }
        text
    }

    /// The text of a file of keys with this entry at its end. `text`: the file as it is; empty where there is none.
    ///
    /// # Errors
    /// The result would not be read as it is meant.
    pub(crate) fn added_to(&self, text: &str, key: &str) -> Result<String, String> {
        let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let is_empty_list =
            |line: &str| line.split('#').next().is_some_and(|line| line.trim_end() == "keys: []");
        let item = text.lines().find(|line| line.trim_start().starts_with("- "));
        let indent = item.map_or(2, |line| line.len() - line.trim_start().len());
        let mut all = String::new();
        for line in text.lines() {
            all += if is_empty_list(line) { "keys:" } else { line };
            all.push('\n');
        }
        if text.lines().find(is_content).is_none() {
            all += "keys:\n";
        }
        for line in self.to_yaml(key).lines() {
            all += &" ".repeat(indent);
            all += line.get(2..).unwrap_or_default();
            all.push('\n');
        }
        let text = all;
        match ApiKeys::read(text.as_bytes()) {
            Ok(keys) if keys.find(key).is_some() => Ok(text),
            Ok(_) => Err("the entry would not be one of its keys".to_owned()),
            Err(reason) => Err(reason),
        }
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 256 bits: guessing is hopeless whatever the hash.
const KEY_BYTES: usize = 32;
