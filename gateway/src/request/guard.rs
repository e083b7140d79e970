//! What holds for a request whatever happens in it: a panic ends that request only, and the end of the drain ends it at once.

use std::{
    cell::Cell,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use super::error::Error;

/// A panic inside one request.
pub(super) struct Panicked;

/// Runs a request's future so that a panic ends that request only; the worker and its other requests go on. One that has no
/// answer when the drain's time is over gets one from the gateway.
pub(super) fn guarded<T>(
    is_out_of_time: &Cell<bool>,
    mut future: Pin<&mut impl Future<Output = Result<T, Error>>>,
) -> impl Future<Output = Result<Result<T, Error>, Panicked>> {
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        if is_out_of_time.get() {
            return Poll::Ready(Ok(Err(Error::DrainTimeout)));
        }
        // Unwind safety: after a panic the future is never polled again, and what it borrowed is plain data.
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_own_future_only() {
        let in_time = Cell::new(false);
        let caught = guarded::<()>(&in_time, pin!(async { panic!("on purpose") })).await;
        assert!(caught.is_err());
        assert!(matches!(guarded(&in_time, pin!(async { Ok(7) })).await, Ok(Ok(7))));
    }
}
