//! The configuration's text: read at start and at a reload, followed if it is in a Consul key.
//!
//! A key is treated as a file is: a wrong text, a deleted key or a Consul that is down never ends the running configuration. The
//! last accepted text is kept in the state directory. A gateway starts with it while Consul is down, or while the key has a
//! broken text. Without it, a start waits for Consul; a missing key, a refused token and a wrong text are errors, as a missing or
//! wrong file is.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use millgate_registry::{
    Client, FollowHandle, FollowOptions, KeyValue, QueryOptions, RegistryIdentity, follow_key,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;

use super::{environment, event::Event, kept, kept_file};
use crate::{
    bounded_file::{content_fingerprint, loaded_fingerprint},
    config::{
        load::{self, Loaded},
        source::{ConfigKey, ConfigSource},
    },
    syntax::diagnostics::Report,
};

/// The source of the configuration, and what is known of it.
pub struct Origin {
    source: ConfigSource,
    key: Option<KeyOrigin>,
}

struct KeyOrigin {
    client: Client,
    /// The last known text of the key. It may be wrong; then an earlier one runs.
    latest: Bytes,
    /// Whether Consul has sent `latest`; otherwise it is from disk.
    heard: bool,
    /// The file with the last accepted text.
    kept: Option<PathBuf>,
}

/// The configuration of a start.
pub struct First<T> {
    pub origin: Origin,
    pub loaded: Loaded,
    /// The result of the caller's `compile`.
    pub made: T,
    /// Why the source's present text is not in use, but the last accepted one is.
    pub refused: Option<Report>,
}

impl Origin {
    /// Reads the first configuration that `compile` accepts. For a key it waits while Consul is down, unless `state_dir` has an
    /// earlier configuration.
    ///
    /// # Errors
    /// The report of what is wrong with it.
    pub async fn first<T>(
        source: ConfigSource,
        state_dir: Option<&Path>,
        compile: impl Fn(&Loaded) -> Result<T, Report>,
    ) -> Result<First<T>, Report> {
        let key = match &source {
            ConfigSource::File(path) => {
                let loaded = load::load(path, &environment)?;
                let made = compile(&loaded)?;
                return Ok(First { origin: Self { source, key: None }, loaded, made, refused: None });
            }
            ConfigSource::Key(key) => key.clone(),
        };
        let client = key.client().map_err(|error| source.unreadable(&error.to_string(), USE_ENVIRONMENT))?;
        let kept = state_dir.and_then(|dir| kept_at(dir, &key));
        let remembered = || {
            let bytes = Bytes::from(kept_file::read(kept.as_deref()?)?);
            let loaded = source.parse_bytes(&bytes, &environment).ok()?;
            Some((compile(&loaded).ok()?, loaded, bytes))
        };
        let (latest, report) = match first_text(&source, &key, &client, || remembered().is_some()).await {
            Ok(bytes) => {
                let loaded = source.parse_bytes(&bytes, &environment);
                match loaded.and_then(|loaded| Ok((compile(&loaded)?, loaded))) {
                    Ok((made, loaded)) => {
                        let origin = Self {
                            key: Some(KeyOrigin { client, latest: bytes, heard: true, kept }),
                            source,
                        };
                        origin.accepted(&loaded);
                        return Ok(First { origin, loaded, made, refused: None });
                    }
                    Err(report) => (Some(bytes), report),
                }
            }
            Err(report) => (None, report),
        };
        let Some((made, loaded, bytes)) = remembered() else { return Err(report) };
        tracing::warn!(config = %source, "starting with the last configuration that was accepted, from disk:\n{report}");
        let heard = latest.is_some();
        let latest = latest.unwrap_or(bytes);
        let origin = Self { key: Some(KeyOrigin { client, latest, heard, kept }), source };
        Ok(First { origin, loaded, made, refused: Some(report) })
    }

    pub fn source(&self) -> &ConfigSource {
        &self.source
    }

    /// Follows the key; `None` for a file.
    pub fn follow(&self, events: mpsc::Sender<Event>) -> Option<FollowHandle> {
        let (ConfigSource::Key(key), Some(origin)) = (&self.source, &self.key) else {
            return None;
        };
        let (updates, mut received) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(value) = received.recv().await {
                if events.send(Event::ConfigKey(value)).await.is_err() {
                    return;
                }
            }
        });
        // It starts with an empty text, which is not a configuration. So the first answer is an event in any case, also if the
        // key was deleted, or has again the text that runs.
        let known = if origin.heard { origin.latest.clone() } else { Bytes::new() };
        Some(follow_key(
            origin.client.clone(),
            key.key.clone(),
            Some(known),
            FollowOptions::default(),
            updates,
        ))
    }

    /// Takes a new text of the key.
    pub fn learn(&mut self, value: Bytes) {
        if let Some(key) = &mut self.key {
            (key.latest, key.heard) = (value, true);
        }
    }

    /// Reads the configuration. A key's latest text is here already, so Consul is not queried.
    ///
    /// # Errors
    /// The report of what is wrong with it.
    pub fn load(&self) -> Result<Loaded, Report> {
        match (&self.source, &self.key) {
            (ConfigSource::File(path), _) => load::load(path, &environment),
            (ConfigSource::Key(_), key) => {
                self.source.parse_bytes(key.as_ref().map_or(&[][..], |key| &key.latest), &environment)
            }
        }
    }

    /// Keeps an accepted text for the next start.
    pub fn accepted(&self, loaded: &Loaded) {
        if let Some(KeyOrigin { kept: Some(path), .. }) = &self.key {
            kept_file::write(path, loaded.source.text.as_bytes());
        }
    }

    /// The files to watch: a change of one is a reason to read the configuration again.
    pub fn watched_files(&self, named: &[PathBuf]) -> Vec<PathBuf> {
        let own = match &self.source {
            ConfigSource::File(path) => Some(path.clone()),
            ConfigSource::Key(_) => None,
        };
        own.into_iter().chain(named.iter().cloned()).collect()
    }

    /// The fingerprint of `files`, as [`Origin::watched_files`] returned them, when `text` was read from the source.
    pub fn fingerprint(&self, files: &[PathBuf], text: &str) -> u64 {
        match &self.source {
            ConfigSource::File(_) => loaded_fingerprint(files, text),
            ConfigSource::Key(_) => content_fingerprint(files),
        }
    }
}

/// Queries Consul until it answers, or until the gateway can start with another text.
async fn first_text(
    source: &ConfigSource,
    key: &ConfigKey,
    client: &Client,
    has_other: impl Fn() -> bool,
) -> Result<Bytes, Report> {
    let mut pause = RETRY_MIN;
    let mut said = false;
    loop {
        let options =
            QueryOptions { consistency: millgate_registry::Consistency::Leader, ..QueryOptions::default() };
        let error = match client.kv_read(&key.key, &options).await {
            Ok(KeyValue { value: Some(value), .. }) => return Ok(value),
            Ok(KeyValue { value: None, .. }) => {
                let reason = format!("there is no key `{}` in Consul at {}", key.key, client.address());
                return Err(source.unreadable(&reason, &key.advice()));
            }
            Err(error) => error,
        };
        // Another try is useless if the token is refused or the settings are wrong.
        if !error.may_pass() || has_other() {
            return Err(source.unreadable(&error.to_string(), USE_ENVIRONMENT));
        }
        if !said {
            tracing::warn!(config = %source, %error, "waiting for Consul; nothing is served without a configuration");
            said = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Reads the text once, for commands that only look at it.
///
/// # Errors
/// Consul does not answer, or has no such key.
pub fn read_key(source: &ConfigSource, key: &ConfigKey) -> Result<Bytes, Report> {
    let failed = |reason: String| source.unreadable(&reason, USE_ENVIRONMENT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let client = key.client().map_err(|error| failed(error.to_string()))?;
    runtime.block_on(first_text(source, key, &client, || true))
}

/// The file for the last accepted text of a key. It is in the folder of its registry, because another registry may have a key of
/// this name.
fn kept_at(state_dir: &Path, key: &ConfigKey) -> Option<PathBuf> {
    let dir = kept::folder(state_dir, &RegistryIdentity::of(&key.consul).ok()?);
    let mut name = format!("config+{}", utf8_percent_encode(&key.key, NON_ALPHANUMERIC));
    if name.len() > FILE_NAME_BYTES_MAX {
        // The name is cut, and another long key may begin with the same characters; its configuration must not start this
        // gateway.
        let digest = digest(&SHA256, key.key.as_bytes());
        name.truncate(FILE_NAME_BYTES_MAX);
        name.push('+');
        for byte in digest.as_ref().iter().take(8) {
            let _ = write!(name, "{byte:02x}");
        }
    }
    Some(dir.join(format!("{name}.yaml")))
}

const USE_ENVIRONMENT: &str = "Consul is the one that CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and CONSUL_HTTP_TOKEN_FILE name; \
     the token needs `key \"…\" { policy = \"read\" }`";
/// Pause between two tries of a start that waits for Consul.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// File systems allow 255 bytes; the suffix needs some.
const FILE_NAME_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use millgate_registry::ClientConfig;

    use super::*;

    #[test]
    fn every_key_has_a_file_of_its_own_with_a_name_that_a_disk_takes() {
        let kept = |address: &str, key: &str| {
            let key = ConfigKey { key: key.to_owned(), consul: ClientConfig::new(address) };
            kept_at(Path::new("/state"), &key).unwrap()
        };
        let of_one = kept("one:8500", "edge/r");
        assert_eq!(of_one, Path::new("/state/consul+http%3A%2F%2Fone%3A8500/config+edge%2Fr.yaml"));
        assert_ne!(of_one, kept("other:8500", "edge/r"), "the same key of another registry");
        let [one, other] = ["a", "b"].map(|end| kept("one:8500", &("k".repeat(300) + end)));
        assert_ne!(one, other);
        assert!(one.file_name().unwrap().len() <= 255);
    }
}
