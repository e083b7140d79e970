//! The files of a data directory, and how a state is read from them.
//!
//! `log.N` has the changes of generation N in their order, and `snapshot.N` the state
//! before them. The state is the highest snapshot and all logs from its number on. A new generation begins when the
//! log is large: `log.N+1` is begun, then `snapshot.N` and all logs before it are folded into `snapshot.N+1`, then they
//! are removed. A crash or a failure between any two of these steps leaves a directory that reads the same, and a fold that can
//! be repeated, because each fold finds its files anew.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::value::RawValue;

use crate::store::journal::error::JournalError;
use crate::store::journal::format::{self, Row};

/// A data directory, locked for this process while it lives.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// The files that make up the state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Generations {
    snapshot: Option<u64>,
    /// The logs in use, from the oldest to the one that is written; empty in a new directory only.
    logs: Vec<u64>,
}

/// The log that gets the changes.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) number: u64,
    pub(crate) bytes: u64,
}

impl Directory {
    /// Creates the directory if it is absent, for its owner alone (values may be secrets), and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        let made = DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(path);
        made.map_err(JournalError::io(path))?;
        let lock_path = path.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(&lock_path);
        let lock = lock.map_err(JournalError::io(&lock_path))?;
        let mut attempts = LOCK_ATTEMPTS;
        loop {
            attempts -= 1;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                // A process that is ending, or one that it is just starting, keeps the lock for a moment longer.
                Err(TryLockError::WouldBlock) if attempts > 0 => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(JournalError::InUse { directory: path.to_owned() });
                }
                Err(TryLockError::Error(source)) => return Err(JournalError::Io { path: lock_path, source }),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the files in use and removes the others, which a crash left behind.
    fn generations(&self) -> Result<Generations, JournalError> {
        let (mut snapshots, mut logs) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.path).map_err(JournalError::io(&self.path))? {
            let name = entry.map_err(JournalError::io(&self.path))?.file_name();
            let name = name.to_string_lossy();
            match name.split_once('.').map(|(kind, number)| (kind, number.parse::<u64>())) {
                Some(("snapshot", Ok(number))) => snapshots.push(number),
                Some(("log", Ok(number))) => logs.push(number),
                Some((_, Err(_))) if name.ends_with(".new") => self.remove(&self.path.join(&*name))?,
                _ => {}
            }
        }
        snapshots.sort_unstable();
        logs.sort_unstable();
        let snapshot = snapshots.pop();
        for old in snapshots {
            self.remove(&self.snapshot_path(old))?;
        }
        let first = snapshot.unwrap_or(1);
        for old in logs.extract_if(.., |log| *log < first) {
            self.remove(&self.log_path(old))?;
        }
        for (expected, found) in (first..).zip(&logs) {
            if expected != *found {
                let missing = if snapshot.is_none() && expected == 1 {
                    self.snapshot_path(*found)
                } else {
                    self.log_path(expected)
                };
                return Err(JournalError::Missing { path: missing });
            }
        }
        Ok(Generations { snapshot, logs })
    }

    /// Hands every row of the state to `take`, oldest first, and opens the last log for more. An unfinished end of it
    /// is cut off.
    pub(crate) fn load(
        &self,
        take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
    ) -> Result<Log, JournalError> {
        let Generations { snapshot, logs } = self.generations()?;
        if let Some(snapshot) = snapshot {
            format::read_snapshot(&self.snapshot_path(snapshot), take)?;
        }
        let Some((number, older)) = logs.split_last() else { return self.begin_log(snapshot.unwrap_or(1)) };
        for log in older {
            format::read_log(&self.log_path(*log), false, take)?;
        }
        let path = self.log_path(*number);
        let end = format::read_log(&path, true, take)?;
        if end == 0 {
            // Not even its header was finished.
            return self.begin_log(*number);
        }
        self.open_log(*number, end)
    }

    /// Begins a log that has only its header, which is durable before the log is used.
    pub(crate) fn begin_log(&self, number: u64) -> Result<Log, JournalError> {
        let path = self.log_path(number);
        let header = format::header()?;
        let begun = self.replace(&path, |file| file.write_all(&header));
        begun.and_then(|()| self.open_log(number, header.len())).inspect_err(|_| {
            // It has no rows; but the log before it may go on, and must then be the last.
            let _removed = fs::remove_file(&path);
        })
    }

    fn open_log(&self, number: u64, bytes: usize) -> Result<Log, JournalError> {
        let path = self.log_path(number);
        let file = OpenOptions::new().append(true).open(&path).map_err(JournalError::io(&path))?;
        Ok(Log { file, path, number, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) })
    }

    /// Folds the snapshot and all logs but the last into the snapshot that belongs to the last log. No other
    /// log may be begun meanwhile.
    pub(crate) fn fold(&self) -> Result<(), JournalError> {
        let Generations { snapshot, logs } = self.generations()?;
        let Some((current, old)) = logs.split_last().filter(|(_, old)| !old.is_empty()) else {
            return Ok(());
        };
        let mut rows: BTreeMap<(String, String), Box<RawValue>> = BTreeMap::new();
        let mut take = |row: Row<'_>| {
            let key = (row.table.to_owned(), row.key.get().to_owned());
            match row.value {
                Some(value) => rows.insert(key, value.to_owned()),
                None => rows.remove(&key),
            };
            Ok(())
        };
        if let Some(snapshot) = snapshot {
            format::read_snapshot(&self.snapshot_path(snapshot), &mut take)?;
        }
        for log in old {
            format::read_log(&self.log_path(*log), false, &mut take)?;
        }
        let header = format::header()?;
        self.replace(&self.snapshot_path(*current), |file| format::write_snapshot(file, header, &rows))?;
        // Removes the files that the new snapshot replaces.
        self.generations().map(drop)
    }

    /// Bytes of the snapshot, and of all logs before the last, which a fold would take.
    pub(crate) fn sizes(&self) -> Result<(u64, u64), JournalError> {
        let Generations { snapshot, logs } = self.generations()?;
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let older = logs.split_last().map_or(&[][..], |(_, older)| older);
        Ok((
            snapshot.map_or(0, |number| bytes(&self.snapshot_path(number))),
            older.iter().map(|number| bytes(&self.log_path(*number))).sum(),
        ))
    }

    /// Reads a small file, or makes it with `content` if it is absent.
    pub(crate) fn keep(&self, name: &str, content: impl FnOnce() -> String) -> Result<String, JournalError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::Io { path, source: error })
            }
            _ => {
                let content = content();
                self.replace(&path, |file| file.write_all(content.as_bytes()))?;
                Ok(content)
            }
        }
    }

    /// Writes a file beside, flushes it, and puts it in its place.
    fn replace(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), JournalError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let replace = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(FILE_MODE).open(&beside)?;
            write(&mut file)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            self.sync()
        };
        replace().map_err(|error| {
            // The file is incomplete, and perhaps the disk is full: the log needs that room.
            let _gone = fs::remove_file(&beside);
            JournalError::io(path)(error)
        })
    }

    fn remove(&self, path: &Path) -> Result<(), JournalError> {
        fs::remove_file(path).and_then(|()| self.sync()).map_err(JournalError::io(path))
    }

    /// Names in a directory are durable only when the directory is.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn log_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("log.{number}"))
    }

    fn snapshot_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("snapshot.{number}"))
    }
}

const OWNER_ONLY: u32 = 0o700;
/// The directory may have been there before, and be open to others.
const FILE_MODE: u32 = 0o600;
/// Half a second in all.
const LOCK_ATTEMPTS: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_file_is_removed_when_the_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let path = directory.snapshot_path(2);
        let full = directory.replace(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(full.is_err());
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["lock"]);
    }
}
