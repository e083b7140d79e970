//! The end of serving: readiness goes first, then the listeners, then the requests in flight.
//!
//! The drain runs beside the loop, so that instances are followed and metrics are exact until the last request is answered.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::{
    config::settings::DrainSettings,
    worker::{Command, Drained},
};

/// Added to the drain's own timeout; after it, the loop gives up on a worker.
pub(super) const SLACK: Duration = Duration::from_secs(5);

/// A drain under way, and the channel for its result.
pub(super) struct Drain {
    work: Pin<Box<dyn Future<Output = usize>>>,
    done: oneshot::Sender<usize>,
}

impl Drain {
    pub(super) fn begin(
        workers: Vec<mpsc::Sender<Command>>,
        settings: DrainSettings,
        kept: Arc<[SocketAddr]>,
        done: oneshot::Sender<usize>,
    ) -> Self {
        Self { work: Box::pin(drain(workers, settings, kept)), done }
    }

    /// Waits until the drain is over and sends its result. Without a drain it never returns.
    pub(super) async fn finish(drain: &mut Option<Self>) {
        let Some(Self { work, .. }) = drain else { return std::future::pending().await };
        let cut = work.await;
        if let Some(Self { done, .. }) = drain.take() {
            let _ = done.send(cut);
        }
    }
}

/// The number of connections that were cut.
async fn drain(
    workers: Vec<mpsc::Sender<Command>>,
    settings: DrainSettings,
    kept: Arc<[SocketAddr]>,
) -> usize {
    if !settings.notice.is_zero() {
        for worker in &workers {
            // A worker that takes no command closes its connections at the drain.
            let _ = worker.try_send(Command::Retire(settings.notice));
        }
        tokio::time::sleep(settings.notice).await;
    }
    let timeout = settings.timeout;
    // One deadline for all workers, so that several stuck ones cost no more than one.
    let deadline = tokio::time::Instant::now() + timeout + SLACK;
    let mut replies = Vec::new();
    for worker in &workers {
        let (done, reply) = oneshot::channel();
        let sending = worker.send(Command::Drain { timeout, kept: Arc::clone(&kept), done });
        if let Ok(Ok(())) = tokio::time::timeout_at(deadline, sending).await {
            replies.push(reply);
        }
    }
    let mut cut = 0;
    for reply in replies {
        let drained = tokio::time::timeout_at(deadline, reply).await;
        cut += drained.ok().and_then(Result::ok).unwrap_or(Drained { cut: 1 }).cut;
    }
    cut
}
