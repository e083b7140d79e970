//! The last good key set of each provider on disk, so that a gateway which starts while an issuer is away verifies tokens.
//!
//! Only public parts are written, with the source that they came from: a set is never used for another one. A set that was
//! fetched longer than [`USABLE`] ago is not used: the issuer may have taken a key back since. One small file for each provider,
//! replaced whole. Calls block on the disk and belong on the control plane.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::settings::{AuthSettings, KeySource},
    control::kept_file,
    policy::jwt::KeySet,
};

/// The folder of the files, and what is in them.
#[derive(Debug, Default)]
pub struct KeptKeys {
    folder: Option<PathBuf>,
    written: HashMap<Arc<str>, Written>,
}

#[derive(Debug)]
struct Written {
    source: KeySource,
    keys: Arc<KeySet>,
    fetched: Duration,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    source: String,
    /// Seconds since 1970.
    fetched: u64,
    jwks: Value,
}

impl KeptKeys {
    /// `None`: nothing is kept.
    pub fn new(state_dir: Option<&Path>) -> Self {
        Self { folder: state_dir.map(|dir| dir.join(FOLDER)), written: HashMap::new() }
    }

    /// What was kept for this provider and its source, and when it was fetched (wall time since the Unix epoch).
    pub fn load(&self, auth: &AuthSettings, now: Duration) -> Option<(KeySet, Duration)> {
        let source = name_of(&auth.keys)?;
        let path = self.path(&auth.name)?;
        // A cache, never a truth: what makes no sense counts as absent.
        let record: Record = serde_json::from_slice(&kept_file::read(&path)?).ok()?;
        let fetched = Duration::from_secs(record.fetched);
        let is_usable = record.version == VERSION
            && record.source == source
            && fetched <= now + CLOCK_STEP_MAX
            && now.saturating_sub(fetched) <= USABLE;
        let keys = KeySet::from_jwks(record.jwks.to_string().as_bytes()).ok()?;
        is_usable.then_some((keys, fetched))
    }

    /// Keeps a set that was fetched at `now`. A set that is kept already is written again only to say that it was seen.
    pub fn save(&mut self, provider: &Arc<str>, source: &KeySource, keys: &Arc<KeySet>, now: Duration) {
        let Some(path) = self.path(provider) else { return };
        let is_written = self.written.get(provider).is_some_and(|written| {
            written.source == *source
                && written.keys == *keys
                && now.saturating_sub(written.fetched) < WRITTEN_AGAIN_AFTER
        });
        let Some((source_name, jwks)) = name_of(source).zip(keys.to_jwks()).filter(|_| !is_written) else {
            return;
        };
        let record = Record { version: VERSION, source: source_name, fetched: now.as_secs(), jwks };
        if let Ok(bytes) = serde_json::to_vec(&record) {
            kept_file::write(&path, &bytes);
            let written = Written { source: source.clone(), keys: Arc::clone(keys), fetched: now };
            self.written.insert(Arc::clone(provider), written);
        }
    }

    /// Forgets providers that the configuration does not name. To be called at a start.
    pub fn forget_unnamed(&self, auth: &[AuthSettings]) {
        let named: Vec<PathBuf> = auth.iter().filter_map(|auth| self.path(&auth.name)).collect();
        let Some(entries) = self.folder.as_deref().and_then(|folder| std::fs::read_dir(folder).ok()) else {
            return;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if !named.contains(&path)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(file = %path.display(), %error, "keys of a former provider cannot be removed");
            }
        }
    }

    fn path(&self, provider: &str) -> Option<PathBuf> {
        let mut name = utf8_percent_encode(provider, NON_ALPHANUMERIC).to_string();
        // Cut names may collide; the record names its source, so a collision is a miss and not a mix-up.
        name.truncate(FILE_NAME_BYTES_MAX);
        Some(self.folder.as_ref()?.join(format!("{name}.json")))
    }
}

/// `None`: keys in files need no copy.
fn name_of(source: &KeySource) -> Option<String> {
    match source {
        KeySource::Issuer(url) => Some(format!("issuer {url}")),
        KeySource::JwksUrl(url) => Some(format!("jwks {url}")),
        KeySource::JwksFile(_) | KeySource::PublicKeyFile(_) | KeySource::Hs256SecretFile(_) => None,
    }
}

const FOLDER: &str = "keys";
const VERSION: u32 = 1;
/// File systems take 255.
const FILE_NAME_BYTES_MAX: usize = 200;
/// Longer than an outage, shorter than a key that was taken back should live on.
const USABLE: Duration = Duration::from_hours(7 * 24);
/// A set that does not change is fetched every few minutes.
const WRITTEN_AGAIN_AFTER: Duration = Duration::from_hours(1);
/// The wall clock may have been set back a little since.
const CLOCK_STEP_MAX: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const KEY: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

    fn auth(keys: &str) -> AuthSettings {
        let text = format!(
            "version: 1\nauth: {{main: {{{keys}, audience: api}}}}\nroutes: [{{path: /a, service: a, auth: main}}]\n"
        );
        load::parse("routes.yaml", &text, Path::new(""), &|_| None).unwrap().settings.auth[0].clone()
    }

    #[test]
    fn a_kept_set_is_used_for_its_own_source_only_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = KeptKeys::new(Some(dir.path()));
        let one = auth("jwks: \"https://a.test/keys\"");
        let keys = Arc::new(KeySet::from_jwks(KEY.as_bytes()).unwrap());
        let now = Duration::from_hours(500_000);
        assert!(kept.load(&one, now).is_none());
        kept.save(&"main".into(), &one.keys, &keys, now);
        for (later, is_usable) in
            [(Duration::ZERO, true), (USABLE, true), (USABLE + Duration::from_secs(1), false)]
        {
            let loaded = kept.load(&one, now + later);
            assert_eq!(loaded, is_usable.then(|| (KeySet::clone(&keys), now)), "{later:?}");
        }
        for other in ["jwks: \"https://b.test/keys\"", "issuer: \"https://a.test/keys\""] {
            assert!(kept.load(&auth(other), now).is_none(), "{other}");
        }
        let renamed = AuthSettings { name: "other".into(), ..one.clone() };
        assert!(kept.load(&renamed, now).is_none());
        kept.forget_unnamed(&[renamed]);
        assert!(kept.load(&one, now).is_none());
    }

    #[test]
    fn a_set_that_stays_is_written_once_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = KeptKeys::new(Some(dir.path()));
        let one = auth("jwks: \"https://a.test/keys\"");
        let keys = Arc::new(KeySet::from_jwks(KEY.as_bytes()).unwrap());
        let now = Duration::from_hours(500_000);
        let fetched = |kept: &KeptKeys| kept.load(&one, now).unwrap().1;
        kept.save(&"main".into(), &one.keys, &keys, now);
        kept.save(&"main".into(), &one.keys, &keys, now + WRITTEN_AGAIN_AFTER / 2);
        assert_eq!(fetched(&kept), now);
        kept.save(&"main".into(), &one.keys, &keys, now + WRITTEN_AGAIN_AFTER);
        assert_eq!(fetched(&kept), now + WRITTEN_AGAIN_AFTER);
    }
}
