//! The end of serving: readiness goes first, then the listeners, then the requests in flight.
//!
//! The drain runs beside the loop, so that instances are followed and metrics are exact until the last request is answered.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::handshakes;
use crate::{
    config::settings::DrainSettings,
    worker::{Command, Drained},
};

/// Added to the drain's own timeout; after it, the loop gives up on a worker.
pub(super) const SLACK: Duration = Duration::from_secs(5);

/// A worker that does not refuse handshakes within this time is stuck, and the others stop without it.
const REFUSAL: Duration = Duration::from_secs(1);

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
    let refuse = |done| Command::RefuseHandshakes { kept: Arc::clone(&kept), done };
    let ports: Vec<u16> = ask_all(&workers, REFUSAL, refuse).await.into_iter().flatten().flatten().collect();
    if !ports.is_empty() {
        handshakes::end(&ports.into()).await;
    }
    let timeout = settings.timeout;
    let drain = |done| Command::Drain { timeout, kept: Arc::clone(&kept), done };
    let drained = ask_all(&workers, timeout + SLACK, drain).await;
    drained.into_iter().map(|drained| drained.unwrap_or(Drained { cut: 1 }).cut).sum()
}

/// Sends a command to every worker, and gathers the answers; `None`: the worker gave none within `time`. There is one deadline for all
/// of them, so that several stuck ones cost no more than one.
async fn ask_all<T>(
    workers: &[mpsc::Sender<Command>],
    time: Duration,
    command: impl Fn(oneshot::Sender<T>) -> Command,
) -> Vec<Option<T>> {
    let deadline = tokio::time::Instant::now() + time;
    let mut replies = Vec::new();
    for worker in workers {
        let (done, reply) = oneshot::channel();
        // The reply of a command that was not sent is an error at once.
        let _ = tokio::time::timeout_at(deadline, worker.send(command(done))).await;
        replies.push(reply);
    }
    let mut answers = Vec::new();
    for reply in replies {
        answers.push(tokio::time::timeout_at(deadline, reply).await.ok().and_then(Result::ok));
    }
    answers
}
