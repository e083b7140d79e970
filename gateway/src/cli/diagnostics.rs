//! Standard error for a process that serves: every line goes through a bounded queue to a thread. So a pipe whose reader has
//! stopped holds up neither a worker nor the end of the process.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use tracing::Level;

use super::line::line;

/// Lines in the queue; a line of the log has some 200 bytes.
const QUEUE_LINES_MAX: usize = 4096;
/// At the end of the process, the wait for lines that are still in the queue.
const PATIENCE: Duration = Duration::from_millis(500);

enum Message {
    Text(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Writes the rest of the queue when it is dropped, for at most [`PATIENCE`].
#[must_use = "dropping it waits for what was said so far"]
pub struct InBackground;

/// Starts the thread. From now on nothing in this process waits for standard error.
pub(super) fn in_background() -> InBackground {
    let (queue, messages) = sync_channel(QUEUE_LINES_MAX);
    let thread = std::thread::Builder::new().name("diagnostics".into()).spawn(move || write_all(&messages));
    if thread.is_ok() {
        let _ = QUEUE.set(queue);
    }
    InBackground
}

impl Drop for InBackground {
    fn drop(&mut self) {
        let Some(queue) = QUEUE.get() else { return };
        let (done, is_done) = sync_channel(1);
        // If the queue is full, standard error is not read, and a wait would be in vain.
        if queue.try_send(Message::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(PATIENCE);
        }
    }
}

fn write_all(messages: &Receiver<Message>) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::Text(text) => {
                let mut out = io::stderr();
                // If standard error cannot be written, there is no other place for this line.
                let _ = out.write_all(&text);
                let lost = LOST.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let words =
                        format_args!("{lost} lines of diagnostics were lost: standard error was not read");
                    let _ = out.write_all(line(Level::WARN, words).as_bytes());
                }
            }
            Message::Flush(done) => _ = done.try_send(()),
        }
    }
}

/// Writes a text in one piece, as the log's lines are written.
pub(super) fn write(text: &str) {
    let _ = Diagnostics.write_all(text.as_bytes());
}

/// Standard error, through the queue once it is started.
pub(super) struct Diagnostics;

impl Write for Diagnostics {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let Some(queue) = QUEUE.get() else { return io::stderr().write(text) };
        if queue.try_send(Message::Text(text.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
