//! Bodies in flight: streamed both ways, and one place that says how each of them ends.
//!
//! [`Upload`] reads the client's body under a size limit and an idle timeout, and holds its first bytes for a retry;
//! [`RequestBody`] carries it to an endpoint, once for each attempt. [`ResponseBody`] carries the answer back, and owns
//! what must live exactly as long as the response: the pooled connection, the in-flight guards and the
//! [`Exchange`](crate::exchange::Exchange). Dropping any of them at any point is right: an unfinished upstream
//! connection is closed, never pooled. Trailers are not forwarded (RFC 9110 §6.5.1 allows it).

mod kept;
mod request;
mod response;
mod upload;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

pub use self::{
    request::RequestBody,
    response::ResponseBody,
    upload::{Upload, UploadLimits},
};
use crate::clock;

/// Why a body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body is larger than the route accepts")]
    TooLarge,
    #[error("no byte arrived within the idle timeout")]
    Idle,
    #[error("the peer sent a broken body")]
    Broken,
    /// The client reset its request, or closed the connection, before the end of its body.
    #[error("the client is gone")]
    Gone,
    /// Another attempt sends the body now.
    #[error("this attempt was given up")]
    Replaced,
}

/// Expires when nothing has moved for `after`. The timer is made at the first pause, so a body that is there
/// at once costs none.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl IdleTimer {
    pub(crate) fn new(after: Duration) -> Self {
        Self { after, sleep: None, running: false }
    }

    fn progress(&mut self) {
        self.running = false;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.after;
        let sleep = self.sleep.get_or_insert_with(|| {
            self.running = true;
            Box::pin(tokio::time::sleep(after))
        });
        if !self.running {
            self.running = true;
            // Moving the end of a timer that runs costs no lock; making a new one would.
            sleep.as_mut().reset(clock::timer_end(after));
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_idle_timer_counts_from_the_last_progress() {
        let mut timer = IdleTimer::new(Duration::from_secs(10));
        let began = tokio::time::Instant::now();
        let mut pauses = 0;
        std::future::poll_fn(|cx| {
            if pauses == 0 {
                pauses += 1;
                assert!(timer.poll_expired(cx).is_pending());
                timer.progress();
            }
            timer.poll_expired(cx)
        })
        .await;
        assert!(began.elapsed() >= Duration::from_secs(10));
    }
}
