//! The thread that writes: rows to the log, and logs that are large to the fold.
//!
//! A fold runs on a thread of its own, so that writing goes on; two never overlap. A failed fold is tried again after a
//! pause that doubles; the log grows meanwhile, and no data is lost.

use std::io::Write;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::store::journal::directory::{Directory, Log};
use crate::store::journal::{JournalError, JournalLimits, Progress, Shared, Work, frame};

pub(super) struct Writer {
    directory: Arc<Directory>,
    log: Log,
    /// The bytes of the earlier logs that are not in a snapshot yet.
    older_bytes: u64,
    snapshot_bytes: u64,
    limits: JournalLimits,
    shared: Arc<Shared>,
    done: watch::Sender<Progress>,
    folding: Option<JoinHandle<Result<(), JournalError>>>,
    /// Folds that failed in a row.
    failures: u32,
    retry_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        directory: Directory,
        log: Log,
        limits: JournalLimits,
        shared: Arc<Shared>,
        done: watch::Sender<Progress>,
    ) -> Result<Self, JournalError> {
        let (snapshot_bytes, older_bytes) = directory.sizes()?;
        let directory = Arc::new(directory);
        let (folding, failures, retry_at) = (None, 0, None);
        let writer = Self {
            directory,
            log,
            older_bytes,
            snapshot_bytes,
            limits,
            shared,
            done,
            folding,
            failures,
            retry_at,
        };
        writer.publish(|_| {});
        Ok(writer)
    }

    pub(super) fn run(mut self) {
        let mut frame = Vec::new();
        loop {
            match self.shared.next(self.retry_at) {
                Work::Rows(rows, appended) => {
                    frame.clear();
                    frame::write(&mut frame, &rows);
                    let written = self.log.file.write_all(&frame).and_then(|()| self.log.file.sync_data());
                    if let Err(error) = written {
                        return self.fail(&JournalError::io(&self.log.path)(error));
                    }
                    self.log.bytes += u64::try_from(frame.len()).unwrap_or(u64::MAX);
                    self.publish(|progress| progress.durable = appended);
                }
                Work::FoldEnded => self.end_fold(),
                Work::Due => self.retry_at = None,
                Work::End => break,
            }
            if let Err(error) = self.fold_if_large() {
                self.postpone(&error);
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
        self.publish(|progress| progress.failed = Some(reason.into()));
        // Later appends find the journal failed, and their rows must not pile up.
        self.shared.lock().rows = Vec::new();
    }

    fn fold_if_large(&mut self) -> Result<(), JournalError> {
        if self.folding.is_some() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        let limit =
            self.limits.log_bytes.max(self.snapshot_bytes.saturating_mul(self.limits.log_per_snapshot));
        if self.log.bytes >= limit {
            let next = self.directory.begin_log(self.log.number + 1)?;
            self.older_bytes += self.log.bytes;
            self.log = next;
        }
        if self.older_bytes == 0 {
            return Ok(());
        }
        let directory = Arc::clone(&self.directory);
        let ended = Ended(Arc::clone(&self.shared));
        let folding = Builder::new()
            .name("registry-fold".to_owned())
            .spawn(move || {
                let _ended = ended;
                directory.fold()
            })
            .map_err(JournalError::io(self.directory.path()))?;
        self.folding = Some(folding);
        Ok(())
    }

    fn end_fold(&mut self) {
        let Some(folding) = self.folding.take() else { return };
        // It panicked, which is reported already; it counts as not tried.
        let folded = folding.join().unwrap_or_else(|_| {
            let panicked = std::io::Error::other("the fold panicked");
            Err(JournalError::io(self.directory.path())(panicked))
        });
        match folded.and_then(|()| self.directory.sizes()) {
            Ok((snapshot_bytes, older_bytes)) => {
                (self.snapshot_bytes, self.older_bytes) = (snapshot_bytes, older_bytes);
                let failures = std::mem::take(&mut self.failures);
                info!(bytes = snapshot_bytes, failures, "the registry's log was folded into a snapshot");
                self.publish(|progress| progress.sizes.folds += 1);
            }
            // All rows are still in the logs; the next fold takes them all.
            Err(error) => self.postpone(&error),
        }
    }

    /// Logs the failure once, however often the fold is tried.
    fn postpone(&mut self, error: &JournalError) {
        let pause = self.limits.fold_retry.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + pause);
        self.publish(|progress| progress.sizes.fold_failures += 1);
        match self.failures {
            1 => warn!(
                bytes = self.older_bytes + self.log.bytes,
                "the registry's log cannot be folded, so it grows; no data is lost, and the registry tries \
                 again: {error}"
            ),
            failures => debug!(failures, ?pause, "the registry's log cannot be folded: {error}"),
        }
    }

    /// Publishes the progress, with the sizes of the files, to those that wait for it.
    fn publish(&self, change: impl FnOnce(&mut Progress)) {
        self.done.send_modify(|progress| {
            progress.sizes.log_bytes = self.older_bytes + self.log.bytes;
            progress.sizes.snapshot_bytes = self.snapshot_bytes;
            change(progress);
        });
    }
}

/// Wakes the writer when the fold's thread ends, for any reason.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().fold_ended = true;
        self.0.more.notify_one();
    }
}

/// With the default of 5 s: a bit more than 5 minutes.
const DOUBLINGS_MAX: u32 = 6;
