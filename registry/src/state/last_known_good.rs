//! The last believed instances of each service on disk, so that a gateway that starts while Consul is away has endpoints.
//!
//! There is one small JSON file per watched service. It is replaced as a whole: written to another name, flushed, renamed. A
//! file that cannot be read (another version, half a file, another service's name) counts as absent: the files are a cache.
//! Calls block on the disk; [`Saver`](crate::Saver) makes them on a thread of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::watch::{Instance, ServiceUpdate, WatchTarget};

/// A directory with the last believed instances of each service, one file per service.
///
/// Its calls block on the disk. See [`Saver`](crate::Saver) for saving in the background.
#[derive(Debug, Clone)]
pub struct LastKnownGood {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record<I> {
    version: u32,
    service: String,
    datacenter: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    partition: Option<String>,
    #[serde(default)]
    only_passing: bool,
    /// Seconds since the Unix epoch; absent in what an older version wrote.
    #[serde(default)]
    saved_at: Option<u64>,
    instances: I,
}

impl LastKnownGood {
    /// Opens the directory; creates it if it does not exist.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// The instances that were saved for this target; `None` if there is no file that can be used.
    pub fn load(&self, target: &WatchTarget) -> Option<Vec<Instance>> {
        self.load_dated(target).map(|(instances, _)| instances)
    }

    /// As [`LastKnownGood::load`], with the time at which the instances were saved, if that is known.
    pub fn load_dated(&self, target: &WatchTarget) -> Option<(Vec<Instance>, Option<SystemTime>)> {
        let path = self.path(target);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(file = %path.display(), "last known instances cannot be read: {error}");
                return None;
            }
        };
        match serde_json::from_slice::<Record<Vec<Instance>>>(&text) {
            Ok(record) if record.version == VERSION && record.is_for(target) => {
                let saved_at = record.saved_at.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
                Some((record.instances, saved_at))
            }
            Ok(_) => None,
            Err(error) => {
                warn!(file = %path.display(), "last known instances are ignored: {error}");
                None
            }
        }
    }

    /// Replaces the instances that are saved for the update's target. An empty set is saved as well: a removed instance must not
    /// return with a restart.
    pub fn save(&self, update: &ServiceUpdate) -> io::Result<()> {
        let WatchTarget { service, datacenter, namespace, partition, only_passing } = update.target.clone();
        let instances = &*update.instances;
        let saved_at = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        let version = VERSION;
        let record =
            Record { version, service, datacenter, namespace, partition, only_passing, saved_at, instances };
        let path = self.path(&update.target);
        // Another gateway may have the same folder: each writes beside under a name of its own.
        let beside = path.with_extension(format!("{}.{BESIDE}", std::process::id()));
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        // The rename itself is durable only when the directory is.
        File::open(&self.directory)?.sync_all()
    }

    /// Removes services that no configuration has named for 30 days, and marks `named` as wanted. It is called at a start with
    /// everything that is watched then; `now` is the wall clock. A file that cannot be read or removed is left in place and
    /// logged: it costs some kilobytes.
    pub fn forget_unnamed<'a>(&self, named: impl IntoIterator<Item = &'a WatchTarget>, now: SystemTime) {
        let named: BTreeSet<PathBuf> = named.into_iter().map(|target| self.path(target)).collect();
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(directory = %self.directory.display(), "last known instances cannot be listed: {error}");
                return;
            }
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let done = if named.contains(&path) {
                File::options().append(true).open(&path).and_then(|file| file.set_modified(now))
            } else if is_older(&path, now, KEEP_UNNAMED) && is_record(&path)
                || is_older(&path, now, KEEP_BESIDE)
                    && path.extension().is_some_and(|extension| extension == BESIDE)
            {
                fs::remove_file(&path)
            } else {
                Ok(())
            };
            if let Err(error) = done {
                warn!(file = %path.display(), "last known instances cannot be kept in order: {error}");
            }
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, target: &WatchTarget) -> PathBuf {
        let part = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut name = part(&target.service);
        let only_passing = target.only_passing.then(|| "passing".to_owned());
        for (mark, value) in [
            ('@', &target.datacenter),
            ('~', &target.namespace),
            ('^', &target.partition),
            ('+', &only_passing),
        ] {
            if let Some(value) = value {
                name.push(mark);
                name.push_str(&part(value));
            }
        }
        // Cut names may be equal; the record names its target, so the instances of another target are never loaded.
        name.truncate(FILE_NAME_BYTES_MAX);
        Path::new(&self.directory).join(format!("{name}.json"))
    }
}

impl<I> Record<I> {
    fn is_for(&self, target: &WatchTarget) -> bool {
        let Self { service, datacenter, namespace, partition, only_passing, .. } = self;
        (service, datacenter, namespace, partition, only_passing)
            == (
                &target.service,
                &target.datacenter,
                &target.namespace,
                &target.partition,
                &target.only_passing,
            )
    }
}

/// Whether a file was last written, or named, longer ago than `age`.
fn is_older(path: &Path, now: SystemTime, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|since| since > age))
}

/// Whether the file is a record of this module: other programs may keep files here.
fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
        && fs::read(path).is_ok_and(|text| serde_json::from_slice::<Record<IgnoredAny>>(&text).is_ok())
}

/// A service that is configured again within this time finds its instances; older addresses may belong to another service by
/// now.
const KEEP_UNNAMED: Duration = Duration::from_hours(24 * 30);
/// A process that was killed while it wrote leaves a file of this extension.
const BESIDE: &str = "tmp";
const KEEP_BESIDE: Duration = Duration::from_hours(1);
const VERSION: u32 = 1;
/// File systems allow 255 bytes; the suffix needs some.
const FILE_NAME_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::testing::instance;
    use crate::watch::Status;

    fn update(service: &str, ids: &[&str]) -> ServiceUpdate {
        let instance = |id: &&str| Instance {
            weight: 2,
            tags: vec!["v1".to_owned()],
            meta: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..instance(id, Status::Warning)
        };
        ServiceUpdate {
            target: WatchTarget::service(service),
            instances: ids.iter().map(instance).collect(),
            only_side_kinds: false,
            answered_at: tokio::time::Instant::now(),
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_the_latest_wins() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path().join("state")).unwrap();
        let before = update("a/../b", &["1"]);
        store.save(&before).unwrap();
        let after = update("a/../b", &["1", "2"]);
        store.save(&after).unwrap();
        assert_eq!(store.load(&after.target).unwrap(), after.instances.to_vec());
        let (_, saved_at) = store.load_dated(&after.target).unwrap();
        assert!(saved_at.unwrap().elapsed().unwrap() < Duration::from_mins(1));
        assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 1);
    }

    #[test]
    fn targets_are_kept_apart() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let plain = update("web", &["1"]);
        store.save(&plain).unwrap();
        let some = |text: &str| Some(text.to_owned());
        for other in [
            WatchTarget { datacenter: some("x"), ..plain.target.clone() },
            WatchTarget { namespace: some("x"), ..plain.target.clone() },
            WatchTarget { partition: some("x"), ..plain.target.clone() },
            WatchTarget { only_passing: true, ..plain.target.clone() },
        ] {
            assert_eq!(store.load(&other), None);
            let saved = ServiceUpdate { target: other.clone(), instances: Arc::from([]), ..plain.clone() };
            store.save(&saved).unwrap();
            assert_eq!(store.load(&other), Some(Vec::new()), "{other:?}");
        }
        assert_eq!(store.load(&plain.target).unwrap().len(), 1);
    }

    #[test]
    fn what_an_older_version_wrote_is_still_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let old = r#"{"version":1,"service":"web","tag":null,"datacenter":null,"instances":[{"node":"n1","id":"1",
            "address":"10.0.0.1","port":80,"weight":2,"status":"passing","tags":[],"meta":{}}]}"#;
        let target = WatchTarget::service("web");
        fs::write(store.path(&target), old).unwrap();
        let (instances, saved_at) = store.load_dated(&target).unwrap();
        assert_eq!((instances[0].id.as_str(), saved_at), ("1", None));
    }

    #[test]
    fn a_file_that_makes_no_sense_counts_as_absent() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let target = WatchTarget::service("web");
        let saved = update("web", &["1"]);
        store.save(&saved).unwrap();
        let whole = fs::read_to_string(store.path(&target)).unwrap();
        for broken in [&whole[..whole.len() / 2], "", "[]", &whole.replace("\"version\":1", "\"version\":9")]
        {
            fs::write(store.path(&target), broken).unwrap();
            assert_eq!(store.load(&target), None, "{broken}");
        }
    }

    #[test]
    fn what_nobody_names_for_a_month_is_forgotten_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let [named, unnamed] = ["named", "unnamed"].map(|service| update(service, &["1"]));
        store.save(&named).unwrap();
        store.save(&unnamed).unwrap();
        for other in ["declared+routes.json", "config+edge.yaml", "notes.json"] {
            fs::write(directory.path().join(other), r#"{"version":1,"tags":[]}"#).unwrap();
        }
        let day = Duration::from_hours(24);
        let start = SystemTime::now();
        let starts_at = |days: u32| store.forget_unnamed([&named.target], start + day * days);
        starts_at(29);
        assert!(store.load(&unnamed.target).is_some());
        // Named at the last start, so the month begins anew for it.
        starts_at(31);
        assert_eq!((store.load(&unnamed.target), store.load(&named.target).is_some()), (None, true));
        store.forget_unnamed([], start + day * 60);
        assert!(store.load(&named.target).is_some());
        store.forget_unnamed([], start + day * 62);
        assert_eq!(store.load(&named.target), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "what others keep");
    }

    #[test]
    fn an_empty_set_is_remembered_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let store = LastKnownGood::open(directory.path()).unwrap();
        let empty = update("web", &[]);
        store.save(&empty).unwrap();
        assert_eq!(store.load(&empty.target), Some(Vec::new()));
    }
}
