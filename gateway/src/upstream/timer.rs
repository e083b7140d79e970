//! The wait for a response head, bounded by the timer of its connection.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;

/// One timer for the life of a connection. Moving the end of a running timer costs nearly nothing; making,
/// registering and removing one for each request would take a lock of the runtime's timer wheel each time.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

/// When a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Until(Instant),
    /// The end is not known yet. The task is woken when it is.
    Open,
    /// The wait has ended.
    Over,
}

impl Wait {
    /// This wait, or `latest` if that is earlier.
    #[must_use]
    pub fn at_most(self, latest: Instant) -> Self {
        match self {
            Self::Until(at) => Self::Until(at.min(latest)),
            Self::Open | Self::Over => self,
        }
    }
}

impl Timer {
    /// Waits for `future`. `None`: the wait has ended first.
    pub async fn bound<F, W>(&mut self, wait: W, mut future: F) -> Option<F::Output>
    where
        F: Future + Unpin,
        W: Fn(&Context<'_>) -> Wait,
    {
        let mut is_set = false;
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            let deadline = match wait(cx) {
                Wait::Until(deadline) => deadline,
                Wait::Open => return Poll::Pending,
                Wait::Over => return Poll::Ready(None),
            };
            let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            if !is_set {
                is_set = true;
                sleep.as_mut().reset(deadline.into());
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_bounds_each_wait_by_its_own_deadline() {
        let mut timer = Timer::default();
        let began = tokio::time::Instant::now();
        for (seconds, waits) in [(10, 3), (2, 5), (30, 1)] {
            let began = tokio::time::Instant::now();
            let deadline = began + Duration::from_secs(seconds);
            let slow = Box::pin(tokio::time::sleep(Duration::from_secs(waits)));
            let in_time = timer.bound(|_| Wait::Until(deadline.into_std()), slow).await.is_some();
            assert_eq!(in_time, waits < seconds, "{waits} of {seconds}");
            assert_eq!(began.elapsed(), Duration::from_secs(waits.min(seconds)));
        }
        assert_eq!(began.elapsed(), Duration::from_secs(6));
    }
}
