//! HTTP/2 streams as tasks that the worker can end.
//!
//! hyper polls a response's body only while its client grants it a window, and has no timeout for that. So each stream's
//! task is wrapped: when the exchange stands still ([`Activity`]), the task ends, which resets the stream and gives back
//! everything that the exchange holds, whatever hyper was waiting for.
//!
//! A stream whose request was answered before its body was read stays for a while, with nothing but that body
//! ([`linger`](super::linger)).

use std::{
    cell::RefCell,
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::rt::Executor;

use super::{
    ConnectionContext,
    linger::{Lingering, linger_on_stream},
};
use crate::body::Activity;

/// The streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    connection: Rc<ConnectionContext>,
    /// Of the stream that hyper has just announced; the next task is its own.
    next: Rc<RefCell<Option<Rc<Activity>>>>,
    lingering: Rc<Lingering>,
}

impl Streams {
    pub(super) fn new(connection: Rc<ConnectionContext>) -> Self {
        Self { connection, next: Rc::default(), lingering: Rc::default() }
    }

    pub(super) fn connection(&self) -> &Rc<ConnectionContext> {
        &self.connection
    }

    /// hyper has a request, and will hand its task to [`Executor::execute`] next.
    pub(super) fn begin(&self) -> Rc<Activity> {
        let activity = Activity::new(None);
        *self.next.borrow_mut() = Some(Rc::clone(&activity));
        activity
    }
}

impl<F: Future<Output: 'static> + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let worker = &self.connection.worker;
        let Some(activity) = self.next.borrow_mut().take() else {
            tokio::task::spawn_local(future);
            return;
        };
        let watch = worker.activities.watch(&activity, worker.clock.coarse());
        let (connection, lingering) = (Rc::clone(&self.connection), Rc::clone(&self.lingering));
        tokio::task::spawn_local(async move {
            let _watch = watch;
            {
                // Gone before the stream lingers, with all that it holds.
                let mut future = pin!(future);
                until_stalled(&activity, |cx| future.as_mut().poll(cx).map(|_| ())).await;
            }
            let rest = |_: &mut Context<'_>| match activity.ended() {
                Some(_) => Poll::Ready(None),
                None => activity.poll_rest(),
            };
            if let Some(Some(rest)) = until_stalled(&activity, rest).await {
                // Boxed: most streams have no such rest.
                let mut lingering = Box::pin(linger_on_stream(rest, lingering, connection));
                until_stalled(&activity, |cx| lingering.as_mut().poll(cx)).await;
            }
        });
    }
}

/// `None`: the client does not take its response.
async fn until_stalled<T>(
    activity: &Activity,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    std::future::poll_fn(|cx| {
        activity.remember_task(cx);
        if activity.is_stalled() {
            return Poll::Ready(None);
        }
        poll(cx).map(Some)
    })
    .await
}
