//! The last good key set of each provider on disk, so that a gateway that starts while an issuer is down verifies tokens.
//!
//! Only public parts are written, with their source: a set is never used for another source. A set that was fetched longer than
//! [`USABLE`] ago is not used, because the issuer may have revoked a key since. There is one small file for each provider and
//! source, replaced whole, so gateways with one state directory keep each their own. Calls block on the disk and belong on the
//! control plane.

use std::{
    collections::HashMap,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    auth::{
        Keys,
        jwt::KeySet,
        settings::{KeySource, ProviderSettings},
    },
    control::kept_file,
};

/// The folder of the files, and their content.
#[derive(Debug, Default)]
pub struct KeptKeys {
    folder: Option<PathBuf>,
    written: HashMap<Arc<str>, Written>,
}

#[derive(Debug)]
struct Written {
    source: KeySource,
    keys: Arc<Keys>,
    fetched: Duration,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    source: String,
    /// Time of the fetch, in seconds since 1970.
    fetched: u64,
    jwks: Value,
}

impl KeptKeys {
    /// `None`: no sets are kept.
    pub fn new(state_dir: Option<&Path>) -> Self {
        Self { folder: state_dir.map(|dir| dir.join(FOLDER)), written: HashMap::new() }
    }

    /// The set that was kept for this provider and its source, and the time of its fetch (wall time since the Unix epoch).
    pub fn load(&self, auth: &ProviderSettings, now: Duration) -> Option<(Keys, Duration)> {
        let source = name_of(&auth.keys)?;
        let path = self.path(&auth.name, &source)?;
        let record: Record = kept_file::read_json(&path)?;
        let fetched = Duration::from_secs(record.fetched);
        let is_usable = record.version == VERSION
            && record.source == source
            && fetched <= now + CLOCK_STEP_MAX
            && now.saturating_sub(fetched) <= USABLE;
        let keys = KeySet::from_jwks(record.jwks.to_string().as_bytes()).ok()?;
        is_usable.then_some((Keys::Jwt(keys), fetched))
    }

    /// Keeps a set that was fetched at `now`. The same set is written again only to renew its time.
    pub fn save(&mut self, provider: &Arc<str>, source: &KeySource, keys: &Arc<Keys>, now: Duration) {
        let is_written = self.written.get(provider).is_some_and(|written| {
            written.source == *source
                && written.keys == *keys
                && now.saturating_sub(written.fetched) < WRITTEN_AGAIN_AFTER
        });
        let Some((source_name, jwks)) = name_of(source).zip(keys.to_jwks()).filter(|_| !is_written) else {
            return;
        };
        let Some(path) = self.path(provider, &source_name) else { return };
        let record = Record { version: VERSION, source: source_name, fetched: now.as_secs(), jwks };
        if let Ok(bytes) = serde_json::to_vec(&record)
            && kept_file::write(&path, &bytes)
        {
            let written = Written { source: source.clone(), keys: Arc::clone(keys), fetched: now };
            self.written.insert(Arc::clone(provider), written);
        }
    }

    /// At a start: removes sets that are too old, and those past [`FILES_MAX`], the oldest first. Another gateway may use this
    /// directory, so sets that this configuration does not name stay.
    pub fn forget_unusable(&self, now: SystemTime) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = forget_unusable(folder, now) {
            tracing::warn!(dir = %folder.display(), %error, "keys of former providers cannot be removed");
        }
    }

    fn path(&self, provider: &str, source: &str) -> Option<PathBuf> {
        let mut name = utf8_percent_encode(provider, NON_ALPHANUMERIC).to_string();
        // Names that are cut may collide. The record has its source, so a collision is a miss, not a mix-up.
        name.truncate(FILE_NAME_BYTES_MAX);
        name.push('+');
        for byte in digest(&SHA256, source.as_bytes()).as_ref().iter().take(8) {
            // Writing into a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        Some(self.folder.as_ref()?.join(format!("{name}.json")))
    }
}

fn forget_unusable(folder: &Path, now: SystemTime) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    for (at, (written, path)) in files.iter().enumerate() {
        let is_old = now.duration_since(*written).is_ok_and(|age| age > USABLE);
        if at >= FILES_MAX || is_old {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A name for the source of a set. `None`: keys in files need no copy.
fn name_of(source: &KeySource) -> Option<String> {
    match source {
        KeySource::Issuer(url) => Some(format!("issuer {url}")),
        KeySource::JwksUrl(url) => Some(format!("jwks {url}")),
        KeySource::File(..) | KeySource::Listener => None,
    }
}

const FOLDER: &str = "keys";
const VERSION: u32 = 1;
/// File systems allow 255 bytes, with the suffix.
const FILE_NAME_BYTES_MAX: usize = 200;
/// Sets of all gateways that share the directory; each has some kilobytes.
const FILES_MAX: usize = 256;
/// Longer than an outage, and shorter than a revoked key should live on.
const USABLE: Duration = Duration::from_hours(7 * 24);
/// A set that stays the same is fetched every few minutes; its time on disk is renewed this often.
const WRITTEN_AGAIN_AFTER: Duration = Duration::from_hours(1);
/// The wall clock may have been set back a little since.
const CLOCK_STEP_MAX: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const KEY: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

    fn auth(keys: &str) -> ProviderSettings {
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
        let keys = Arc::new(Keys::Jwt(KeySet::from_jwks(KEY.as_bytes()).unwrap()));
        let now = Duration::from_hours(500_000);
        assert!(kept.load(&one, now).is_none());
        kept.save(&"main".into(), &one.keys, &keys, now);
        for (later, is_usable) in
            [(Duration::ZERO, true), (USABLE, true), (USABLE + Duration::from_secs(1), false)]
        {
            let loaded = kept.load(&one, now + later);
            assert_eq!(loaded, is_usable.then(|| (Keys::clone(&keys), now)), "{later:?}");
        }
        for other in ["jwks: \"https://b.test/keys\"", "issuer: \"https://a.test/keys\""] {
            assert!(kept.load(&auth(other), now).is_none(), "{other}");
        }
        let renamed = ProviderSettings { name: "other".into(), ..one.clone() };
        assert!(kept.load(&renamed, now).is_none());
    }

    #[test]
    fn providers_of_one_name_in_one_directory_keep_each_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let now = Duration::from_hours(500_000);
        let keys = Arc::new(Keys::Jwt(KeySet::from_jwks(KEY.as_bytes()).unwrap()));
        let both = ["jwks: \"https://a.test/keys\"", "jwks: \"https://b.test/keys\""].map(auth);
        for one in &both {
            let mut kept = KeptKeys::new(Some(dir.path()));
            kept.forget_unusable(SystemTime::now());
            kept.save(&"main".into(), &one.keys, &keys, now);
        }
        let kept = KeptKeys::new(Some(dir.path()));
        assert!(both.iter().all(|one| kept.load(one, now).is_some()));
    }

    #[test]
    fn what_cannot_be_used_any_more_is_forgotten_and_so_is_what_is_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        let (now, kept) = (SystemTime::now(), KeptKeys::new(Some(dir.path())));
        kept.forget_unusable(now);
        fs::create_dir(&folder).unwrap();
        let file = |name: usize, age: Duration| {
            let file = fs::File::create(folder.join(name.to_string())).unwrap();
            file.set_modified(now - age).unwrap();
        };
        for name in 0..=FILES_MAX {
            file(name, Duration::from_secs(name as u64));
        }
        file(FILES_MAX + 1, USABLE + Duration::from_secs(1));
        kept.forget_unusable(now);
        let is_there = |name: usize| folder.join(name.to_string()).exists();
        assert!((0..FILES_MAX).all(is_there) && !is_there(FILES_MAX) && !is_there(FILES_MAX + 1));
        file(0, USABLE + Duration::from_secs(1));
        kept.forget_unusable(now);
        assert!(!is_there(0) && is_there(1));
    }

    #[test]
    fn a_set_that_stays_is_written_once_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = KeptKeys::new(Some(dir.path()));
        let one = auth("jwks: \"https://a.test/keys\"");
        let keys = Arc::new(Keys::Jwt(KeySet::from_jwks(KEY.as_bytes()).unwrap()));
        let now = Duration::from_hours(500_000);
        let fetched = |kept: &KeptKeys| kept.load(&one, now).unwrap().1;
        kept.save(&"main".into(), &one.keys, &keys, now);
        kept.save(&"main".into(), &one.keys, &keys, now + WRITTEN_AGAIN_AFTER / 2);
        assert_eq!(fetched(&kept), now);
        kept.save(&"main".into(), &one.keys, &keys, now + WRITTEN_AGAIN_AFTER);
        assert_eq!(fetched(&kept), now + WRITTEN_AGAIN_AFTER);
    }
}
