//! The files of a data directory, and how a state is read from them.
//!
//! `log.N` holds the changes of generation N in the order in which they were made, `snapshot.N` everything that was
//! before it. The state is the highest snapshot and all logs from its number on. A new generation begins when the
//! log is large: `log.N+1` is begun, then `snapshot.N` and `log.N` are folded into `snapshot.N+1`, then they go. A
//! crash between any two of these steps leaves a directory that reads the same.
//!
//! Every file begins with a frame that names its format and version. A snapshot ends with the count of its rows.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use crate::store::journal::frame::{self, Next};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is in use by another process; give each registry a directory of its own", directory.display())]
    InUse { directory: PathBuf },
    #[error(
        "{} is damaged at byte {at}: {detail}; restore the directory from a copy, or give up what follows: \
         `truncate -s {at} {}`", path.display(), path.display()
    )]
    DamagedLog { path: PathBuf, at: usize, detail: String },
    #[error(
        "{} is damaged at byte {at}: {detail}; restore the directory from a copy, or move it away to begin empty",
        path.display()
    )]
    DamagedSnapshot { path: PathBuf, at: usize, detail: String },
    #[error("{} was written in format {found}; this release reads format {VERSION}", path.display())]
    Version { path: PathBuf, found: u64 },
    #[error("{} is missing: the files after it cannot be read alone; restore it from a copy", path.display())]
    Missing { path: PathBuf },
}

impl JournalError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// A row as it stands in a file: table, key, and the value unless it is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) table: &'a str,
    pub(crate) key: &'a RawValue,
    pub(crate) value: Option<&'a RawValue>,
}

/// A data directory, locked for this process while it lives.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// The files that make up the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generations {
    pub(crate) snapshot: Option<u64>,
    /// From the oldest that counts to the one that is written; never empty once the journal is open.
    pub(crate) logs: Vec<u64>,
}

/// The log that is written.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: &'a str,
    version: u64,
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
                // Held a moment longer by a process that is ending, or by one that it is just starting.
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

    /// Finds the files that count and removes the others, which a crash left behind.
    pub(crate) fn generations(&self) -> Result<Generations, JournalError> {
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

    /// Hands every row of the state to `take`, oldest first, and opens the last log for more. What is unfinished at
    /// its end is cut off.
    pub(crate) fn load(
        &self,
        generations: &mut Generations,
        take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
    ) -> Result<Log, JournalError> {
        if let Some(snapshot) = generations.snapshot {
            self.load_snapshot(snapshot, take)?;
        }
        if generations.logs.is_empty() {
            let first = generations.snapshot.unwrap_or(1);
            generations.logs.push(first);
            return self.begin_log(first);
        }
        let last = generations.logs.len() - 1;
        let mut end = 0;
        for (position, log) in generations.logs.iter().enumerate() {
            end = self.load_log(*log, position == last, take)?;
        }
        let number = generations.logs.last().copied().unwrap_or(1);
        if end == 0 {
            // Not even its header was finished.
            return self.begin_log(number);
        }
        let path = self.log_path(number);
        let file = OpenOptions::new().append(true).open(&path).map_err(JournalError::io(&path))?;
        Ok(Log { file, path, bytes: u64::try_from(end).unwrap_or(u64::MAX) })
    }

    /// A new log with nothing but its header, durable before it is used.
    pub(crate) fn begin_log(&self, number: u64) -> Result<Log, JournalError> {
        let path = self.log_path(number);
        let bytes = header()?;
        let begin = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(FILE_MODE).open(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            self.sync()?;
            Ok(file)
        };
        let file = begin().map_err(JournalError::io(&path))?;
        Ok(Log { file, path, bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX) })
    }

    /// Folds the snapshot and all logs but the last into the snapshot that belongs to the last log.
    pub(crate) fn fold(&self, generations: &Generations) -> Result<Generations, JournalError> {
        let Some((current, old)) = generations.logs.split_last() else { return Ok(generations.clone()) };
        let mut rows: BTreeMap<(String, String), Box<RawValue>> = BTreeMap::new();
        let mut take = |row: Row<'_>| {
            let key = (row.table.to_owned(), row.key.get().to_owned());
            match row.value {
                Some(value) => rows.insert(key, value.to_owned()),
                None => rows.remove(&key),
            };
            Ok(())
        };
        if let Some(snapshot) = generations.snapshot {
            self.load_snapshot(snapshot, &mut take)?;
        }
        for log in old {
            self.load_log(*log, false, &mut take)?;
        }
        self.write_snapshot(*current, &rows)?;
        if let Some(snapshot) = generations.snapshot {
            self.remove(&self.snapshot_path(snapshot))?;
        }
        for log in old {
            self.remove(&self.log_path(*log))?;
        }
        Ok(Generations { snapshot: Some(*current), logs: vec![*current] })
    }

    pub(crate) fn snapshot_bytes(&self, generations: &Generations) -> u64 {
        let path = generations.snapshot.map(|number| self.snapshot_path(number));
        path.and_then(|path| fs::metadata(path).ok()).map_or(0, |metadata| metadata.len())
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

    fn write_snapshot(
        &self,
        number: u64,
        rows: &BTreeMap<(String, String), Box<RawValue>>,
    ) -> Result<(), JournalError> {
        let header = header()?;
        self.replace(&self.snapshot_path(number), |file| {
            let mut out = header;
            let mut payload = Vec::new();
            for ((table, key), row) in rows {
                let table = serde_json::to_string(table)?;
                payload.extend_from_slice(format!("[{table},{key},{row}]\n").as_bytes());
                if payload.len() >= SNAPSHOT_FRAME_BYTES {
                    frame::write(&mut out, &payload);
                    file.write_all(&out)?;
                    out.clear();
                    payload.clear();
                }
            }
            if !payload.is_empty() {
                frame::write(&mut out, &payload);
            }
            frame::write(&mut out, format!("[{END:?},{}]\n", rows.len()).as_bytes());
            file.write_all(&out)
        })
    }

    fn load_snapshot(
        &self,
        number: u64,
        take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
    ) -> Result<(), JournalError> {
        let path = self.snapshot_path(number);
        let bytes = fs::read(&path).map_err(JournalError::io(&path))?;
        let damaged = |at, detail: &str| JournalError::DamagedSnapshot {
            path: path.clone(),
            at,
            detail: detail.to_owned(),
        };
        let (mut at, mut rows, mut announced) = (0, 0, None);
        loop {
            match frame::read(&bytes, at) {
                Next::End => break,
                Next::Torn | Next::Damaged => return Err(damaged(at, "a checksum does not match")),
                Next::Frame { payload, end } => {
                    if at == 0 {
                        check_header(&path, payload)?;
                    } else {
                        for line in lines(payload) {
                            if let Ok((END, count)) = serde_json::from_slice::<(&str, u64)>(line) {
                                announced = Some(count);
                                continue;
                            }
                            rows += 1;
                            read_row(line).and_then(&mut *take).map_err(|detail| damaged(at, &detail))?;
                        }
                    }
                    at = end;
                }
            }
        }
        if announced == Some(rows) { Ok(()) } else { Err(damaged(at, "its end is missing")) }
    }

    /// Returns how many bytes of it are good.
    fn load_log(
        &self,
        number: u64,
        last: bool,
        take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
    ) -> Result<usize, JournalError> {
        let path = self.log_path(number);
        let bytes = fs::read(&path).map_err(JournalError::io(&path))?;
        let damaged =
            |at, detail: &str| JournalError::DamagedLog { path: path.clone(), at, detail: detail.to_owned() };
        let mut at = 0;
        loop {
            match frame::read(&bytes, at) {
                Next::End => return Ok(at),
                Next::Torn if last => {
                    cut(&path, at, bytes.len() - at)?;
                    return Ok(at);
                }
                Next::Torn => return Err(damaged(at, "it ends within a record, and later logs exist")),
                Next::Damaged => {
                    return Err(damaged(at, "a checksum does not match, and good records follow"));
                }
                Next::Frame { payload, end } => {
                    if at == 0 {
                        check_header(&path, payload)?;
                    } else {
                        for line in lines(payload) {
                            read_row(line).and_then(&mut *take).map_err(|detail| damaged(at, &detail))?;
                        }
                    }
                    at = end;
                }
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
        replace().map_err(JournalError::io(path))
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

fn cut(path: &Path, at: usize, bytes: usize) -> Result<(), JournalError> {
    warn!(
        file = %path.display(),
        "the last {bytes} bytes are an unfinished record, which nobody was told about; cut off at byte {at}"
    );
    let file = OpenOptions::new().write(true).open(path).map_err(JournalError::io(path))?;
    let cut = file.set_len(u64::try_from(at).unwrap_or(u64::MAX)).and_then(|()| file.sync_all());
    cut.map_err(JournalError::io(path))
}

fn header() -> Result<Vec<u8>, JournalError> {
    let header = serde_json::to_vec(&Header { format: FORMAT, version: VERSION });
    let header = header.map_err(|error| JournalError::Io { path: PathBuf::new(), source: error.into() })?;
    let mut bytes = Vec::new();
    frame::write(&mut bytes, &header);
    Ok(bytes)
}

fn check_header(path: &Path, payload: &[u8]) -> Result<(), JournalError> {
    match serde_json::from_slice::<Header<'_>>(payload) {
        Ok(Header { format: FORMAT, version: VERSION }) => Ok(()),
        Ok(Header { format: FORMAT, version: found }) => {
            Err(JournalError::Version { path: path.to_owned(), found })
        }
        _ => Err(JournalError::DamagedSnapshot {
            path: path.to_owned(),
            at: 0,
            detail: "it is no file of a registry".to_owned(),
        }),
    }
}

fn lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn read_row(line: &[u8]) -> Result<Row<'_>, String> {
    let parts: Vec<&RawValue> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let (table, key, value) = match parts[..] {
        [table, key] => (table, key, None),
        [table, key, value] => (table, key, Some(value)),
        _ => return Err("a row has two or three parts".to_owned()),
    };
    let table = serde_json::from_str(table.get()).map_err(|error| error.to_string())?;
    Ok(Row { table, key, value })
}

const FORMAT: &str = "millgate-registry";
const VERSION: u64 = 1;
const OWNER_ONLY: u32 = 0o700;
/// The directory may have been there before, and be open to others.
const FILE_MODE: u32 = 0o600;
/// Half a second in all.
const LOCK_ATTEMPTS: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// No table is called so.
const END: &str = "end";
/// Large enough that frames cost nothing, small enough that one is never much memory.
const SNAPSHOT_FRAME_BYTES: usize = 256 * 1024;
