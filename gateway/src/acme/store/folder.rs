//! A folder with one file for each value. It is made with mode 0700, its files with 0600. A file is written beside and renamed, so that
//! it is whole whenever the machine stops.
//!
//! Several gateways may share it. The lock is one of the system (`flock`), which ends with the process that has it. Changes of others
//! are looked for twice a second, by names, sizes and times: a folder on another machine has no events.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Items, LOCK, VALUE_BYTES_MAX};
use crate::bounded_file;

/// The folder, and how it looked when it was read.
pub(in crate::acme) struct Folder {
    path: Arc<Path>,
    seen: Vec<Stamp>,
    /// Its mode was looked at.
    is_known: bool,
}

/// Name, inode, length, and time of change in nanoseconds.
type Stamp = (OsString, u64, u64, i128);

/// Held until it is dropped.
pub(in crate::acme) struct FolderLock(
    #[expect(dead_code, reason = "the system's lock ends with the open file")] File,
);

impl Folder {
    pub(in crate::acme) fn new(path: &Path) -> Self {
        Self { path: path.into(), seen: Vec::new(), is_known: false }
    }

    pub(in crate::acme) async fn read(&mut self) -> Result<Items, String> {
        if !std::mem::replace(&mut self.is_known, true) {
            self.with(warn_of_readers).await?;
        }
        let (items, seen) = self.with(read).await?;
        self.seen = seen;
        Ok(items)
    }

    pub(super) async fn changed(&mut self) -> Result<Items, String> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.with(stamps).await? != self.seen {
                return self.read().await;
            }
        }
    }

    pub(in crate::acme) async fn put(&self, name: &str, value: Vec<u8>) -> Result<(), String> {
        let name = name.to_owned();
        self.with(move |folder| write(folder, &name, &value)).await
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), String> {
        let name = name.to_owned();
        self.with(move |folder| match fs::remove_file(folder.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    pub(super) async fn lock(&self) -> Result<Option<FolderLock>, String> {
        self.with(|folder| {
            let file = own().create(true).truncate(false).open(folder.join(LOCK))?;
            match file.try_lock() {
                Ok(()) => Ok(Some(FolderLock(file))),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        })
        .await
    }

    /// Files are read on a thread that may wait for a disk.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let path = Arc::clone(&self.path);
        let shown = path.display().to_string();
        let done = tokio::task::spawn_blocking(move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            work(&path)
        });
        let done = done.await.map_err(|error| error.to_string())?;
        done.map_err(|error| format!("the folder {shown} cannot be used: {error}"))
    }
}

/// A folder that somebody else has made is left as it is.
fn warn_of_readers(folder: &Path) -> io::Result<()> {
    let mode = fs::metadata(folder)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let folder = folder.display();
        tracing::warn!(%folder, "others may enter this folder, which has private keys: its mode is {mode:o}; `chmod 700` it");
    }
    Ok(())
}

fn stamps(folder: &Path) -> io::Result<Vec<Stamp>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_value(&name) {
            continue;
        }
        let Ok(about) = entry.metadata() else { continue };
        let time = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
        all.push((name, about.ino(), about.len(), time));
    }
    all.sort_unstable();
    all.truncate(FILES_MAX);
    Ok(all)
}

fn read(folder: &Path) -> io::Result<(Items, Vec<Stamp>)> {
    // Before the files: what changes from here on is found by the next look.
    let seen = stamps(folder)?;
    let mut items = Items::new();
    for (name, ..) in &seen {
        let path = folder.join(name);
        let bytes = match bounded_file::read(&path) {
            Ok(bytes) if bytes.len() <= VALUE_BYTES_MAX => bytes,
            // Removed since the look, or not a value of this program.
            _ => continue,
        };
        items.insert(name.to_string_lossy().into_owned(), bytes.into());
    }
    Ok((items, seen))
}

fn write(folder: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let beside: PathBuf = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = (|| {
        let mut file = own().create_new(true).open(&beside)?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&beside, folder.join(name))?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn own() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Not the lock, nothing that is being written, and nothing that others keep in the folder.
fn is_value(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| !name.starts_with('.') && ENDS.iter().any(|end| name.ends_with(end)))
}

const ENDS: [&str; 2] = [".pem", ".json"];

/// Below the time for which an order waits until every gateway answers its challenges.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Three for each certificate of eight listeners.
const FILES_MAX: usize = 3 * 8 * 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_one_gateway_writes_another_finds_and_only_the_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/acme");
        let (one, mut other) = (Folder::new(&path), Folder::new(&path));
        assert!(other.read().await.unwrap().is_empty());
        one.put("a.pem", b"key".to_vec()).await.unwrap();
        let found = tokio::time::timeout(Duration::from_secs(5), other.changed()).await.unwrap().unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("a.pem".to_owned(), "key".into())]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("a.pem"))), (0o700, 0o600));
        std::fs::write(path.join("notes.txt"), "of somebody else").unwrap();
        assert_eq!(other.read().await.unwrap().len(), 1);
        one.remove("a.pem").await.unwrap();
        one.remove("a.pem").await.unwrap();
        assert!(other.read().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_of_two_gateways_has_the_lock_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Folder::new(dir.path()), Folder::new(dir.path()));
        let lock = one.lock().await.unwrap().unwrap();
        assert!(other.lock().await.unwrap().is_none());
        drop(lock);
        assert!(other.lock().await.unwrap().is_some());
    }
}
