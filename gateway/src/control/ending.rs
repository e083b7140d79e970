//! The end of a gateway: every wait for a thread, a worker or a disk has a deadline.

use std::{thread::JoinHandle, time::Duration};

use tokio::time::Instant;

use super::drain;
use crate::config::settings::DrainSettings;

/// For threads that write something after the drain: the access log and the last known instances. Without a limit, a pipe without
/// a reader or a disk that hangs would stop the end for ever.
const THREADS_END: Duration = Duration::from_secs(3);
/// Time between two looks at whether the threads have ended.
const LOOK: Duration = Duration::from_millis(5);

/// The longest time that the control plane may take to drain.
pub fn drain_patience(settings: &DrainSettings) -> Duration {
    // All workers have one deadline, and the control plane needs a moment to report.
    settings.notice + settings.timeout + 2 * drain::SLACK
}

/// Waits until the threads have ended, at most for [`THREADS_END`]; those that are left end with the process. `true`: all have
/// ended.
pub async fn join(threads: Vec<JoinHandle<()>>) -> bool {
    let deadline = Instant::now() + THREADS_END;
    while !threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    let (ended, left): (Vec<_>, Vec<_>) = threads.into_iter().partition(JoinHandle::is_finished);
    // A thread that panicked has logged it.
    for thread in ended {
        let _ = thread.join();
    }
    for thread in &left {
        let thread = thread.thread().name().unwrap_or("?");
        tracing::warn!(thread, "does not end; what it still had to write is lost");
    }
    left.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_never_ends_is_left_behind() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let stuck = std::thread::spawn(move || _ = wait.recv());
        assert!(!join(vec![std::thread::spawn(|| {}), stuck]).await);
        drop(end);
    }
}
