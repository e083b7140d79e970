//! The journal, which makes the store outlive its process.
//!
//! A change is a few rows, as the tables of the store write them ([`Rows`](super::table::Rows)); it is appended to a
//! log, and counts once `fdatasync` returned. One thread writes: all changes that came while the disk was busy are written
//! as one frame, with one flush. A large log is folded into a snapshot, on another thread. `directory` knows the
//! files, `format` their content and how damage is handled.
//!
//! A write that fails (no space, a broken disk) ends the journal for good: what is on disk is then older than what
//! is in memory, so no further change is acknowledged until the process is started again. A failed fold loses no data:
//! the log grows meanwhile, and the fold is tried again.

mod directory;
mod error;
mod format;
mod frame;
mod writer;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub(crate) use directory::Directory;
pub use error::JournalError;
pub(crate) use format::Row;
use writer::Writer;

/// The version of the files' format.
const VERSION: u64 = 1;

/// Limits of the files on disk of an [`EmbeddedRegistry`](crate::EmbeddedRegistry): when a log is folded into a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct JournalLimits {
    /// Size in bytes below which a log is not folded.
    pub log_bytes: u64,
    /// A log that is smaller than this many snapshots is not folded either, so that folding costs at most as much as logging.
    pub log_per_snapshot: u64,
    /// Bytes of changes that may wait for the disk; further writes are refused.
    pub pending_bytes: usize,
    /// The pause after a failed fold; it doubles with each further failure, up to 64 times this value.
    pub fold_retry: Duration,
}

/// 4 MiB are read back in far less than a second, and are about 10,000 registrations.
impl Default for JournalLimits {
    fn default() -> Self {
        Self {
            log_bytes: 4 * 1024 * 1024,
            log_per_snapshot: 1,
            pending_bytes: 64 * 1024 * 1024,
            fold_retry: Duration::from_secs(5),
        }
    }
}

/// Why a change cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// The journal failed, and stays so until the next start.
    Failed(String),
    /// The disk is slower than the changes.
    Busy(String),
}

/// An open journal. Dropping it writes the pending changes and unlocks the directory.
#[derive(Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    pending_bytes_max: usize,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// The number of durable changes.
    durable: u64,
    failed: Option<Arc<str>>,
    sizes: JournalSizes,
}

/// The sizes of the files, and the results of folding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct JournalSizes {
    /// The bytes of all logs that are not in a snapshot.
    pub(crate) log_bytes: u64,
    pub(crate) snapshot_bytes: u64,
    /// The number of folds since the start.
    pub(crate) folds: u64,
    pub(crate) fold_failures: u64,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    rows: Vec<u8>,
    /// The number of appended changes, including those in `rows`.
    appended: u64,
    /// A fold ended, well or not.
    fold_ended: bool,
    closed: bool,
}

/// What the writer has to do next.
enum Work {
    /// Rows to write, and the number of changes so far.
    Rows(Vec<u8>, u64),
    FoldEnded,
    /// It is time for another try.
    Due,
    /// The journal is closed, and all rows are written.
    End,
}

impl Journal {
    /// Hands the rows of a directory to `take` (oldest first; a later row of a key replaces an earlier one),
    /// and starts the writer.
    pub(crate) fn open(
        directory: Directory,
        limits: JournalLimits,
        take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
    ) -> Result<Self, JournalError> {
        let log = directory.load(take)?;
        let shared = Arc::new(Shared::default());
        let (done, progress) = watch::channel(Progress::default());
        let path = directory.path().to_owned();
        let writer = Writer::new(directory, log, limits, Arc::clone(&shared), done)?;
        let writer = Builder::new()
            .name("registry-journal".to_owned())
            .spawn(move || writer.run())
            .map_err(JournalError::io(&path))?;
        let pending_bytes_max = limits.pending_bytes;
        Ok(Self { shared, progress, pending_bytes_max, writer: Mutex::new(Some(writer)) })
    }

    /// Appends the rows of one change. Call it in the order of the changes.
    pub(crate) fn append(&self, rows: &[u8]) {
        if rows.is_empty() {
            return;
        }
        let mut pending = self.shared.lock();
        if self.progress.borrow().failed.is_none() {
            pending.rows.extend_from_slice(rows);
        }
        pending.appended += 1;
        self.shared.more.notify_one();
    }

    /// `Err` if a change could not be made durable, so that the caller must not make it.
    pub(crate) fn admit(&self) -> Result<(), NotAdmitted> {
        if let Some(reason) = &self.progress.borrow().failed {
            return Err(NotAdmitted::Failed(reason.to_string()));
        }
        if self.pending_bytes() > self.pending_bytes_max {
            let text = format!("more than {} bytes of changes wait for the disk", self.pending_bytes_max);
            return Err(NotAdmitted::Busy(text));
        }
        Ok(())
    }

    /// Returns when all changes so far are durable, or with the reason why they never will be.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let appended = self.shared.lock().appended;
        let mut progress = self.progress.clone();
        let settled =
            progress.wait_for(|progress| progress.durable >= appended || progress.failed.is_some()).await;
        match settled {
            Ok(progress) if progress.durable >= appended => Ok(()),
            Ok(progress) => Err(progress.failed.as_deref().unwrap_or_default().to_owned()),
            Err(_) => Err("the journal is closed".to_owned()),
        }
    }

    pub(crate) fn sizes(&self) -> JournalSizes {
        self.progress.borrow().sizes
    }

    /// Bytes of changes that wait for the disk.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.shared.lock().rows.len()
    }
}

impl Journal {
    /// Writes the pending changes and unlocks the directory, even while other owners of the journal exist.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // Fails only if the writer panicked, which is reported already.
            let _ended = writer.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `due` is the time of the next try.
    fn next(&self, due: Option<Instant>) -> Work {
        let mut pending = self.lock();
        loop {
            if std::mem::take(&mut pending.fold_ended) {
                return Work::FoldEnded;
            }
            if !pending.rows.is_empty() {
                return Work::Rows(std::mem::take(&mut pending.rows), pending.appended);
            }
            if pending.closed {
                return Work::End;
            }
            pending = match due.map(|due| due.saturating_duration_since(Instant::now())) {
                None => self.more.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Work::Due,
                Some(left) => self.more.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

#[cfg(test)]
mod tests;
