//! The thread that writes the access log, and the queue to it.
//!
//! Lines that cannot be written are lost and counted. A line that was written in part is ended before the next one, so
//! that two lines are never joined.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use crate::{clock, seldom::Seldom};

/// Buffers waiting for the writer, over all workers: 64 × 32 KiB = 2 MiB at most.
const QUEUE_CHUNKS_MAX: usize = 64;

enum Message {
    Lines(Vec<u8>),
    /// Makes the writer read [`Shared::reopen`].
    Wake,
}

#[derive(Debug, Default)]
struct Shared {
    /// Number of lines that the writer got and could not write.
    lost: AtomicU64,
    /// The file was rotated and must be opened again. It is a flag, so that it is not lost when the queue is full.
    reopen: AtomicBool,
}

/// The senders' end of the queue to the writer thread. A gateway has one queue, and each worker a clone of the sink.
#[derive(Clone)]
pub struct LogSink {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl LogSink {
    /// Opens the target and starts the writer thread.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn start(file: Option<PathBuf>) -> io::Result<(Self, JoinHandle<()>)> {
        let mut target = Target::open(file)?;
        let (queue, messages) = sync_channel(QUEUE_CHUNKS_MAX);
        let shared = Arc::new(Shared::default());
        let sink = Self { queue, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&mut target, &messages, &shared))?;
        Ok((sink, thread))
    }

    /// Makes the writer open its file again, after rotation.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // If the queue is full, its messages wake the writer anyway.
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Hands lines to the writer. Returns false if the queue is full, and the lines are lost.
    pub(super) fn write(&self, lines: Vec<u8>) -> bool {
        match self.queue.try_send(Message::Lines(lines)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Number of lines that could not be written since the last call of any worker.
    pub(super) fn take_lost(&self) -> u64 {
        // The count changes rarely, so this load mostly hits the core's own cache.
        if self.shared.lost.load(Ordering::Relaxed) == 0 {
            0
        } else {
            self.shared.lost.swap(0, Ordering::Relaxed)
        }
    }

    #[cfg(test)]
    pub(super) fn never_read() -> (Self, impl Sized) {
        let (queue, never_read) = sync_channel(1);
        (Self { queue, shared: Arc::default() }, never_read)
    }
}

struct Target {
    file: Option<PathBuf>,
    out: Box<dyn Write + Send>,
    /// The last line was written only in part.
    is_torn: bool,
}

impl Target {
    fn open(file: Option<PathBuf>) -> io::Result<Self> {
        // Not `io::stdout()`, whose buffer would keep the rest of a line that could not be written.
        let Some(path) = &file else {
            let out = Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?));
            return Ok(Self { file, out, is_torn: false });
        };
        let out = Box::new(append(path)?);
        Ok(Self { is_torn: is_torn(path), out, file })
    }

    fn reopen(&mut self) {
        let Some(path) = &self.file else { return };
        match append(path) {
            Ok(file) => {
                self.out = Box::new(file);
                self.is_torn = is_torn(path);
            }
            Err(error) => tracing::error!(%error, path = %path.display(), "access log cannot be reopened"),
        }
    }

    /// Writes whole lines. The error contains the number of lost lines.
    fn write(&mut self, lines: &[u8]) -> Result<(), (io::Error, u64)> {
        let lost = |rest: &[u8]| memchr::memchr_iter(b'\n', rest).count() as u64;
        if self.is_torn {
            self.out.write_all(b"\n").map_err(|error| (error, lost(lines)))?;
            self.is_torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), lost(rest))),
                Ok(written) => {
                    let (done, left) = rest.split_at(written.min(rest.len()));
                    self.is_torn = !done.ends_with(b"\n");
                    rest = left;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((error, lost(rest))),
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    // Opening a named pipe for writing alone waits for its reader; opening it for both does not (fifo(7)).
    let is_pipe = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    OpenOptions::new().create(true).append(true).read(is_pipe).open(path)
}

/// Whether the file ends in half a line, left by a process that was killed or a disk that was full. A file that cannot be
/// read counts as whole.
fn is_torn(path: &Path) -> bool {
    let last = || {
        let metadata = path.metadata()?;
        // A device and a pipe have no end that could be read.
        if !metadata.is_file() || metadata.len() == 0 {
            return Ok(b'\n');
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        io::Result::Ok(last[0])
    };
    last().is_ok_and(|byte| byte != b'\n')
}

/// Runs the writer thread until all senders are dropped.
fn write_all(target: &mut Target, messages: &Receiver<Message>, shared: &Shared) {
    let failures = Seldom::default();
    while let Ok(message) = messages.recv() {
        if shared.reopen.swap(false, Ordering::Acquire) {
            target.reopen();
        }
        let Message::Lines(lines) = message else { continue };
        if let Err((error, lost)) = target.write(&lines) {
            shared.lost.fetch_add(lost, Ordering::Relaxed);
            if failures.due(clock::now()).is_some() {
                tracing::error!(%error, "access log cannot be written; lines are lost until it can");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A disk with a number of free bytes, which it writes in pieces.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (content, left) = &mut *self.0.lock().unwrap();
            if *left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(*left).min(7);
            content.extend_from_slice(&bytes[..taken]);
            *left -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk {
        fn has(&self, left: usize) {
            self.0.lock().unwrap().1 = left;
        }

        fn content(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    #[test]
    fn lines_that_a_full_disk_did_not_take_are_counted_and_a_torn_one_joins_no_other() {
        let disk = Disk::default();
        let mut target = Target { file: None, out: Box::new(disk.clone()), is_torn: false };
        disk.has(14);
        let (_, lost) = target.write(b"first line\nsecond line\nthird line\n").unwrap_err();
        assert_eq!((lost, disk.content().as_str()), (2, "first line\nsec"));
        let (_, lost) = target.write(b"fourth line\n").unwrap_err();
        assert_eq!(lost, 1);
        disk.has(100);
        target.write(b"fifth line\n").unwrap();
        assert_eq!(disk.content(), "first line\nsec\nfifth line\n");
    }

    #[test]
    fn a_line_without_its_end_is_lost_too_and_a_boundary_is_not_torn() {
        let disk = Disk::default();
        let mut target = Target { file: None, out: Box::new(disk.clone()), is_torn: false };
        disk.has(3);
        assert_eq!(target.write(b"abc\ndef\n").unwrap_err().1, 2);
        disk.has(5);
        assert_eq!(target.write(b"ghi\njkl\n").unwrap_err().1, 1);
        disk.has(100);
        target.write(b"mno\n").unwrap();
        assert_eq!(disk.content(), "abc\nghi\nmno\n");
    }

    #[test]
    fn half_a_line_of_a_process_that_was_killed_is_ended_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "whole\nhal").unwrap();
        let mut target = Target::open(Some(path.clone())).unwrap();
        target.write(b"next\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nhal\nnext\n");
        // After rotation, the new file begins with a whole line.
        std::fs::rename(&path, dir.path().join("access.log.1")).unwrap();
        target.is_torn = true;
        target.reopen();
        target.write(b"first\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n");
    }
}
