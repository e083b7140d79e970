//! The journal: what makes the store outlive its process.
//!
//! A change is a few rows, as the tables of the store write them ([`Rows`](super::table::Rows)); it is appended to a
//! log, and counts once `fdatasync` returned. One thread writes: whatever came while the disk was busy goes out as
//! one frame, with one flush. When the log has grown large it is folded into a snapshot, off that thread. What the
//! files look like, and what is done about damage, is in `files`.
//!
//! A write that fails (no space, a broken disk) ends the journal for good: what is on disk is then older than what
//! is in memory, so nothing more is acknowledged until the process is started again.

mod files;
mod frame;

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use tokio::sync::watch;
use tracing::{error, info, warn};

pub use files::JournalError;
pub(crate) use files::{Directory, Row};
use files::{Generations, Log};

/// How large a log grows before it is folded away.
#[derive(Debug, Clone, Copy)]
pub struct JournalLimits {
    /// A smaller log is never folded.
    pub log_bytes: u64,
    /// Neither is one that is smaller than this many snapshots, so that folding costs at most as much as logging did.
    pub log_per_snapshot: u64,
    /// Changes that wait for the disk; past it, writes are refused.
    pub pending_bytes: usize,
}

/// 4 MiB are read back in far less than a second, and are about 10,000 registrations.
impl Default for JournalLimits {
    fn default() -> Self {
        Self { log_bytes: 4 * 1024 * 1024, log_per_snapshot: 1, pending_bytes: 64 * 1024 * 1024 }
    }
}

/// An open journal. Dropping it writes what is pending and unlocks the directory.
#[derive(Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    pending_bytes_max: usize,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// How many changes are durable.
    durable: u64,
    failed: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    rows: Vec<u8>,
    /// How many changes were appended, those in `rows` included.
    appended: u64,
    closed: bool,
}

impl Journal {
    /// Hands the rows of a directory to `take` (oldest first; a later row of a key replaces an earlier one),
    /// and starts the writer.
    pub(crate) fn open(
        directory: Directory,
        limits: JournalLimits,
        take: &mut dyn FnMut(Row<'_>) -> Result<(), String>,
    ) -> Result<Self, JournalError> {
        let mut generations = directory.generations()?;
        let log = directory.load(&mut generations, take)?;
        let shared = Arc::new(Shared::default());
        let (done, progress) = watch::channel(Progress::default());
        let path = directory.path().to_owned();
        let writer = Writer {
            snapshot_bytes: directory.snapshot_bytes(&generations),
            directory: Arc::new(directory),
            generations,
            log,
            limits,
            shared: Arc::clone(&shared),
            done,
            folding: None,
        };
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

    /// `Err` with the reason if a change could not be made durable: do not make it.
    pub(crate) fn admit(&self) -> Result<(), String> {
        if let Some(reason) = &self.progress.borrow().failed {
            return Err(reason.to_string());
        }
        if self.shared.lock().rows.len() > self.pending_bytes_max {
            return Err(format!("more than {} bytes of changes wait for the disk", self.pending_bytes_max));
        }
        Ok(())
    }

    /// Returns when everything appended so far is durable, or with the reason why it never will be.
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
}

impl Journal {
    /// Writes what is pending and unlocks the directory, whoever still holds the journal.
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

    /// Waits for changes; `None` once the journal is closed and nothing is left.
    fn next(&self) -> Option<(Vec<u8>, u64)> {
        let mut pending = self.lock();
        loop {
            if !pending.rows.is_empty() {
                return Some((std::mem::take(&mut pending.rows), pending.appended));
            }
            if pending.closed {
                return None;
            }
            pending = self.more.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Writer {
    directory: Arc<Directory>,
    generations: Generations,
    snapshot_bytes: u64,
    log: Log,
    limits: JournalLimits,
    shared: Arc<Shared>,
    done: watch::Sender<Progress>,
    folding: Option<JoinHandle<Result<Generations, JournalError>>>,
}

impl Writer {
    fn run(mut self) {
        let mut frame = Vec::new();
        while let Some((rows, appended)) = self.shared.next() {
            frame.clear();
            frame::write(&mut frame, &rows);
            let written = self.log.file.write_all(&frame).and_then(|()| self.log.file.sync_data());
            if let Err(error) = written {
                return self.fail(&JournalError::io(&self.log.path)(error));
            }
            self.log.bytes += u64::try_from(frame.len()).unwrap_or(u64::MAX);
            self.done.send_modify(|progress| progress.durable = appended);
            if let Err(error) = self.fold_if_large() {
                return self.fail(&error);
            }
        }
        if let Some(folding) = self.folding.take() {
            let _folded = folding.join();
        }
    }

    fn fail(&self, error: &JournalError) {
        error!("the registry's journal failed; writes are refused until it is started again: {error}");
        let reason =
            format!("the registry cannot write its journal: {error}; start it again once that is mended");
        self.done.send_modify(|progress| progress.failed = Some(reason.into()));
        // Whoever still appends finds it failed; nothing may pile up.
        self.shared.lock().rows = Vec::new();
    }

    fn fold_if_large(&mut self) -> Result<(), JournalError> {
        if let Some(folding) = self.folding.take_if(|folding| folding.is_finished()) {
            match folding.join() {
                Ok(Ok(folded)) => {
                    // The log that is written has not changed meanwhile: folds do not overlap.
                    self.generations = folded;
                    self.snapshot_bytes = self.directory.snapshot_bytes(&self.generations);
                    info!(bytes = self.snapshot_bytes, "the registry's log was folded into a snapshot");
                }
                // Everything is still in the logs; the next fold takes them all.
                Ok(Err(error)) => warn!("the registry's log stays long: {error}"),
                Err(_) => warn!("the registry's log stays long: the fold panicked"),
            }
        }
        let limit =
            self.limits.log_bytes.max(self.snapshot_bytes.saturating_mul(self.limits.log_per_snapshot));
        if self.folding.is_some() || self.log.bytes < limit {
            return Ok(());
        }
        let number = self.generations.logs.last().map_or(1, |last| last + 1);
        self.log = self.directory.begin_log(number)?;
        self.generations.logs.push(number);
        let (directory, generations) = (Arc::clone(&self.directory), self.generations.clone());
        let folding = Builder::new()
            .name("registry-fold".to_owned())
            .spawn(move || directory.fold(&generations))
            .map_err(JournalError::io(self.directory.path()))?;
        self.folding = Some(folding);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
