//! State of registries on disk: one folder for each registry in the state directory.
//!
//! State of one registry is never used for another. So gateways of several registries can share a state directory, and a gateway
//! whose configuration names another registry begins with nothing. A registry is identified by the agents' addresses and the
//! datacenter ([`RegistryIdentity`]), which are known while no agent answers. If the registry reports the name of its cluster,
//! another cluster at the same addresses is another registry, too.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use millgate_registry::{Client, ClientConfig, LastKnownGood, RegistryIdentity, Saver, ServiceUpdate};
use tokio::sync::mpsc;

use super::{event::Event, kept_file};

/// The state of the registry in use.
pub struct Kept {
    state_dir: Option<PathBuf>,
    registry: Option<RegistryIdentity>,
    saver: Option<Saver>,
    /// The cluster that the kept state is from, if it is known.
    cluster: Option<String>,
    /// Whether the registry has reported its cluster since the start.
    has_met: bool,
}

/// How the registry that is used from now on compares with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Same,
    /// The first registry, or one of whose agents at least one was there before. What is known stays valid, and moves to another
    /// folder.
    Like,
    /// Nothing that is known came from this registry.
    Another,
}

impl Kept {
    /// `state_dir`: `None` keeps nothing. `registry`: the one whose state the gateway began with.
    pub fn new(state_dir: Option<PathBuf>, registry: Option<RegistryIdentity>) -> Self {
        let mut kept = Self { state_dir, registry, saver: None, cluster: None, has_met: false };
        kept.begin();
        kept
    }

    /// Keeps the state of this registry from now on. A configuration that is not valid for a client changes nothing.
    pub fn use_registry(&mut self, config: &ClientConfig) -> Change {
        let Ok(new) = RegistryIdentity::of(config) else { return Change::Same };
        let change = match &self.registry {
            Some(old) if *old == new => return Change::Same,
            Some(old) if !old.is_like(&new) => Change::Another,
            _ => Change::Like,
        };
        self.registry = Some(new);
        self.begin();
        change
    }

    fn begin(&mut self) {
        // Dropping the old saver writes what it has not written yet.
        self.saver = self.start_saver();
        let mark = self.folder().and_then(|folder| kept_file::read(&folder.join(MARK)));
        self.cluster = mark.and_then(|text| String::from_utf8(text).ok()).filter(|name| !name.is_empty());
        self.has_met = false;
    }

    /// Takes the name of the registry's cluster. `true`: the state that the gateway began with is from another cluster. A cluster
    /// whose name changes later has lost its memory, which the watches notice themselves.
    pub fn meet(&mut self, cluster: String) -> bool {
        let is_another = !self.has_met && self.cluster.as_ref().is_some_and(|known| *known != cluster);
        self.has_met = true;
        if let Some(folder) = self.folder() {
            kept_file::write(&folder.join(MARK), cluster.as_bytes());
        }
        self.cluster = Some(cluster);
        is_another
    }

    /// The folder with the state of the registry in use.
    pub fn folder(&self) -> Option<PathBuf> {
        Some(folder(self.state_dir.as_deref()?, self.registry.as_ref()?))
    }

    /// Removes the state of registries past [`REGISTRIES_MAX`]: first of those that no gateway was started with for the longest
    /// time. A failure is logged; it costs some kilobytes.
    pub fn forget_unused(&self, now: SystemTime) {
        let (Some(state_dir), Some(used)) = (&self.state_dir, self.folder()) else { return };
        if let Err(error) = forget_unused(state_dir, &used, now) {
            tracing::warn!(dir = %state_dir.display(), %error, "the state directory cannot be kept in order");
        }
        // Version 0.1 kept instances here, without the name of their registry.
        if let Some(old) = open(state_dir) {
            old.forget_unnamed([], now);
        }
    }

    pub fn save(&self, update: ServiceUpdate) {
        if let Some(saver) = &self.saver {
            saver.save(update);
        }
    }

    fn start_saver(&self) -> Option<Saver> {
        let store = open(&self.folder()?)?;
        Saver::start(store)
            .inspect_err(|error| tracing::warn!(%error, "last known instances are kept in memory only"))
            .ok()
    }
}

/// Polls the registry for the name of its cluster, until dropped.
pub struct ClusterFollow(tokio::task::JoinHandle<()>);

impl ClusterFollow {
    pub fn start(client: Client, events: mpsc::Sender<Event>, registry: u64) -> Self {
        Self(tokio::spawn(async move {
            let mut known = None;
            loop {
                let pause = match client.cluster().await {
                    Ok(named) => {
                        if let Some(name) = named.filter(|name| known.as_ref() != Some(name)) {
                            known = Some(name.clone());
                            if events.send(Event::Cluster { name, registry }).await.is_err() {
                                return;
                            }
                        }
                        ASK_EVERY
                    }
                    Err(_) => ASK_AGAIN,
                };
                tokio::time::sleep(pause).await;
            }
        }))
    }
}

impl Drop for ClusterFollow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The folder for the state of this registry.
pub fn folder(state_dir: &Path, registry: &RegistryIdentity) -> PathBuf {
    state_dir.join(registry.folder_name())
}

/// Without a usable folder the gateway starts all the same; it remembers nothing across restarts.
pub fn open(folder: &Path) -> Option<LastKnownGood> {
    LastKnownGood::open(folder)
        .inspect_err(|error| tracing::warn!(dir = %folder.display(), %error, "last known instances are kept in memory only"))
        .ok()
}

fn forget_unused(state_dir: &Path, used: &Path, now: SystemTime) -> io::Result<()> {
    fs::create_dir_all(used)?;
    let mark = File::options().append(true).create(true).open(used.join(MARK))?;
    mark.set_modified(now)?;
    let mut others: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(state_dir)? {
        let path = entry?.path();
        let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if is_ours && path.is_dir() && path != used {
            let mark = fs::metadata(path.join(MARK)).and_then(|mark| mark.modified());
            others.push((mark.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    others.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in others.drain(..).skip(REGISTRIES_MAX - 1) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Registries of one user on one machine; each needs a few kilobytes.
const REGISTRIES_MAX: usize = 32;
/// The beginning of every name that [`RegistryIdentity::folder_name`] gives.
const PREFIX: &str = "consul+";
/// The file's time is that of the last start, its content the name of the cluster.
const MARK: &str = "cluster";
/// The next start knows a cluster that was made anew while the gateway ran by its name.
const ASK_EVERY: Duration = Duration::from_mins(5);
const ASK_AGAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use millgate_registry::{Status, WatchTarget, testing};

    use super::*;

    fn config(address: &str) -> ClientConfig {
        ClientConfig::new(address)
    }

    fn loaded(kept: &Kept) -> Option<usize> {
        let store = LastKnownGood::open(kept.folder().unwrap()).unwrap();
        store.load(&WatchTarget::service("web")).map(|instances| instances.len())
    }

    #[test]
    fn what_is_kept_of_one_registry_is_not_found_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |address: &str| {
            let registry = RegistryIdentity::of(&config(address)).unwrap();
            Kept::new(Some(dir.path().to_owned()), Some(registry))
        };
        let save = |kept: &mut Kept, instances: usize| {
            let list: Vec<_> =
                (0..instances).map(|n| testing::instance(&n.to_string(), Status::Passing)).collect();
            kept.save(ServiceUpdate {
                target: WatchTarget::service("web"),
                instances: Arc::from(list),
                only_side_kinds: false,
                answered_at: tokio::time::Instant::now(),
            });
            // Dropping it writes what waits.
            kept.saver = None;
        };
        let mut one = begin("a:8500");
        save(&mut one, 1);
        let mut other = begin("b:8500");
        assert_eq!((loaded(&one), loaded(&other)), (Some(1), None));
        save(&mut other, 2);
        assert_eq!((loaded(&one), loaded(&other)), (Some(1), Some(2)));
        // By a reload.
        assert_eq!(one.use_registry(&config("b:8500")), Change::Another);
        assert_eq!(loaded(&one), Some(2));
        let with_another_agent =
            ClientConfig { further_addresses: vec!["c:8500".to_owned()], ..config("b:8500") };
        assert_eq!(one.use_registry(&with_another_agent), Change::Like);
        assert_eq!(one.use_registry(&with_another_agent), Change::Same);
    }

    #[test]
    fn another_cluster_at_the_same_address_is_noticed_at_the_first_word_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || {
            let registry = RegistryIdentity::of(&config("a:8500")).unwrap();
            Kept::new(Some(dir.path().to_owned()), Some(registry))
        };
        let meet = |kept: &mut Kept, cluster: &str| kept.meet(cluster.to_owned());
        let mut first = begin();
        assert!(!meet(&mut first, "one"), "nothing is known of it");
        first.forget_unused(SystemTime::now());
        let mut second = begin();
        assert!(!meet(&mut second, "one"));
        assert!(!meet(&mut second, "two"), "it was made anew while this gateway ran");
        let mut third = begin();
        assert!(!meet(&mut third, "two"));
        assert!(meet(&mut begin(), "three"));
    }

    #[test]
    fn of_many_registries_the_state_of_those_goes_that_were_not_started_with_for_longest() {
        let dir = tempfile::tempdir().unwrap();
        let folder_of = |n: usize| {
            let registry = RegistryIdentity::of(&config(&format!("consul-{n}:8500"))).unwrap();
            folder(dir.path(), &registry)
        };
        let start = SystemTime::now();
        for n in 0..REGISTRIES_MAX {
            let at = folder_of(n);
            fs::create_dir_all(&at).unwrap();
            let mark = File::create(at.join(MARK)).unwrap();
            mark.set_modified(start - Duration::from_mins(u64::try_from(REGISTRIES_MAX - n).unwrap()))
                .unwrap();
        }
        fs::write(dir.path().join("notes.txt"), "of another program").unwrap();
        forget_unused(dir.path(), &folder_of(0), start).unwrap();
        assert!(folder_of(0).exists() && folder_of(1).exists(), "the limit is not passed");
        forget_unused(dir.path(), &folder_of(REGISTRIES_MAX), start).unwrap();
        assert!(folder_of(0).exists() && !folder_of(1).exists() && folder_of(2).exists());
        assert!(dir.path().join("notes.txt").exists());
    }
}
