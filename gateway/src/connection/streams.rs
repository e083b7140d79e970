//! HTTP/2 streams as tasks that the worker can end.
//!
//! hyper polls a response's body only while its client grants it a window, and has no timeout for that. So each stream's
//! task is wrapped: when the exchange stands still ([`Activity`]), the task ends, which resets the stream and gives back
//! everything that the exchange holds, whatever hyper was waiting for.

use std::{cell::RefCell, future::Future, pin::pin, rc::Rc, task::Poll};

use hyper::rt::Executor;

use super::ConnectionContext;
use crate::body::Activity;

/// The streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    connection: Rc<ConnectionContext>,
    /// Of the stream that hyper has just announced; the next task is its own.
    next: Rc<RefCell<Option<Rc<Activity>>>>,
}

impl Streams {
    pub(super) fn new(connection: Rc<ConnectionContext>) -> Self {
        Self { connection, next: Rc::default() }
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
        tokio::task::spawn_local(async move {
            let _watch = watch;
            let mut future = pin!(future);
            std::future::poll_fn(|cx| {
                activity.remember_task(cx);
                if activity.is_stalled() {
                    return Poll::Ready(());
                }
                future.as_mut().poll(cx).map(|_| ())
            })
            .await;
        });
    }
}
