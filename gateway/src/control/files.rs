//! Notices when a file of the configuration may have changed.
//!
//! Watches the folders, not the files: editors replace files, Kubernetes swaps a symlink. An event only means "read again and
//! compare", so the kind of event that a platform reports does not matter. File systems without events (NFS, some overlays) are
//! covered by a look every [`POLL`].

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::event::Event;
use crate::{bounded_file::content_fingerprint, clock};

/// Time between two looks that no event caused, for file systems without events.
const POLL: Duration = Duration::from_secs(5);
/// A save is several events. The watch waits until none came for this time.
const SETTLE: Duration = Duration::from_millis(50);
/// The longest such wait: another program may write to the folder all the time.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// Watches `files` until dropped.
pub struct FileWatch {
    files: Arc<[PathBuf]>,
    /// The fingerprint of what was last read or reported.
    known: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl FileWatch {
    /// Sends [`Event::FilesChanged`] whenever the content of one of `files` changes. `known` is the
    /// [`loaded_fingerprint`](crate::bounded_file::loaded_fingerprint) of what is in use, so a change between reading and
    /// watching is seen, too.
    pub fn start(files: Vec<PathBuf>, known: u64, events: mpsc::Sender<Event>) -> Self {
        let files: Arc<[PathBuf]> = files.into();
        let known = Arc::new(AtomicU64::new(known));
        let task = tokio::spawn(watch(Arc::clone(&files), Arc::clone(&known), events));
        Self { files, known, task }
    }

    /// Takes the present content of the files as known: the caller reads it now, so no event is needed.
    pub fn learn(&self) {
        self.known.store(content_fingerprint(&self.files), Ordering::Relaxed);
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(files: Arc<[PathBuf]>, known: Arc<AtomicU64>, events: mpsc::Sender<Event>) {
    // One slot is enough: a second hint before the first is handled adds nothing.
    let (hint, mut hints) = mpsc::channel::<()>(1);
    let watcher = watch_folders(&files, hint);
    if let Err(error) = &watcher {
        let cure = cure(error);
        tracing::warn!(%error, cure, "file events are not available; looking every {} s instead", POLL.as_secs());
    }
    loop {
        let (looked_at, seen) = (Arc::clone(&files), clock::now());
        // It fails only when the runtime ends, and this task with it.
        let Ok(now) = tokio::task::spawn_blocking(move || content_fingerprint(&looked_at)).await else {
            return;
        };
        let is_news = known.swap(now, Ordering::Relaxed) != now;
        if is_news && events.send(Event::FilesChanged(seen)).await.is_err() {
            return;
        }
        tokio::select! {
            hint = hints.recv(), if watcher.is_ok() => {
                if hint.is_none() { return; }
                settle(&mut hints).await;
            }
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Waits until no more hints come, the watcher is gone, or [`SETTLE_MAX`] is over.
async fn settle(hints: &mut mpsc::Receiver<()>) {
    let quiet = async { while let Ok(Some(())) = tokio::time::timeout(SETTLE, hints.recv()).await {} };
    let _ = tokio::time::timeout(SETTLE_MAX, quiet).await;
}

fn watch_folders(files: &[PathBuf], hint: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| {
        if may_be_change(&event) {
            let _ = hint.try_send(());
        }
    })?;
    let folders: BTreeSet<&Path> = files.iter().map(|file| folder(file)).collect();
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            let every = POLL.as_secs();
            let cure = cure(&error);
            tracing::warn!(folder = %folder.display(), %error, cure, "no events from this folder; looking every {every} s");
        }
    }
    Ok(watcher)
}

/// The setting to raise, where the error is a limit of inotify. Its own text speaks of open files or of disk space, which is
/// misleading.
fn cure(error: &notify::Error) -> Option<&'static str> {
    let by_code = |code| match code {
        EMFILE => {
            Some("raise fs.inotify.max_user_instances (sysctl), or else the process's limit of open files")
        }
        ENOSPC => Some("raise fs.inotify.max_user_watches (sysctl)"),
        _ => None,
    };
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => by_code(ENOSPC),
        notify::ErrorKind::Io(error) => by_code(error.raw_os_error()?),
        _ => None,
    }
}

/// Error numbers of Linux; inotify uses them for its own limits.
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// Whether an event may mean a change. Reading a file is an event as well: without this filter, each look would cause the next
/// one.
fn may_be_change(event: &notify::Result<notify::Event>) -> bool {
    event.as_ref().map_or(true, |event| !event.kind.is_access())
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded_file::loaded_fingerprint;

    async fn changed(events: &mut mpsc::Receiver<Event>) -> bool {
        let next = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
        matches!(next, Ok(Some(Event::FilesChanged(_))))
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("routes.yaml");
        std::fs::write(&file, "one").unwrap();
        let (events, mut received) = mpsc::channel(4);
        let files = vec![file.clone()];
        let _watch = FileWatch::start(files.clone(), loaded_fingerprint(&files, "one"), events);
        let other = dir.path().join("new");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert!(changed(&mut received).await);
    }

    #[tokio::test]
    async fn what_was_read_in_another_way_is_no_news_and_what_comes_later_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("routes.yaml");
        std::fs::write(&file, "one").unwrap();
        let files = vec![file.clone()];
        let watch = |channel: mpsc::Sender<Event>| {
            FileWatch::start(files.clone(), loaded_fingerprint(&files, "one"), channel)
        };
        let ((events, mut received), (other_events, mut other)) = (mpsc::channel(4), mpsc::channel(4));
        let (watched, _other_watch) = (watch(events), watch(other_events));
        std::fs::write(&file, "two").unwrap();
        watched.learn();
        // The other one hears of it, so this one has had its time.
        assert!(changed(&mut other).await);
        assert!(received.try_recv().is_err());
        std::fs::write(&file, "one").unwrap();
        assert!(changed(&mut received).await, "as it was at first, which is not what was read");
    }

    #[test]
    fn what_has_no_end_is_compared_all_the_same() {
        let endless = [PathBuf::from("/dev/zero")];
        assert_eq!(content_fingerprint(&endless), content_fingerprint(&endless));
    }

    #[test]
    fn looking_at_a_file_is_no_change() {
        use notify::{
            Event, EventKind,
            event::{AccessKind, AccessMode, CreateKind, ModifyKind},
        };
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert!(!may_be_change(&Ok(Event::new(opened))));
        for kind in [EventKind::Create(CreateKind::Any), EventKind::Modify(ModifyKind::Any), EventKind::Any] {
            assert!(may_be_change(&Ok(Event::new(kind))), "{kind:?}");
        }
        assert!(may_be_change(&Err(notify::Error::generic("events were lost"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_is_always_written_to_is_looked_at_nevertheless() {
        let (hint, mut hints) = mpsc::channel(1);
        let writer = tokio::spawn(async move {
            while hint.send(()).await.is_ok() {
                tokio::time::sleep(SETTLE / 2).await;
            }
        });
        let begin = tokio::time::Instant::now();
        tokio::time::timeout(SETTLE_MAX * 2, settle(&mut hints)).await.unwrap();
        assert_eq!(begin.elapsed(), SETTLE_MAX);
        writer.abort();
        let _ = writer.await;
        tokio::time::timeout(SETTLE / 2, settle(&mut hints)).await.expect("it ends with its watcher");
    }

    #[test]
    fn a_limit_of_inotify_is_named_by_its_setting() {
        let of = |code| cure(&notify::Error::io(std::io::Error::from_raw_os_error(code)));
        assert!(of(EMFILE).unwrap().contains("fs.inotify.max_user_instances"));
        assert!(of(ENOSPC).unwrap().contains("fs.inotify.max_user_watches"));
        assert!(
            cure(&notify::Error::new(notify::ErrorKind::MaxFilesWatch)).unwrap().contains("max_user_watches")
        );
        assert_eq!(of(13), None);
    }

    #[test]
    fn the_same_bytes_written_again_are_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("routes.yaml");
        std::fs::write(&file, "one").unwrap();
        let before = content_fingerprint(std::slice::from_ref(&file));
        std::fs::write(&file, "one").unwrap();
        assert_eq!(before, content_fingerprint(std::slice::from_ref(&file)));
        std::fs::write(&file, "two").unwrap();
        assert_ne!(before, content_fingerprint(&[file]));
    }
}
