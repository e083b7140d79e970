//! The wait for a response, once it is longer than [`LOOK`]: what it proves about the endpoint, and whether it
//! goes on.
//!
//! A request that waits far longer than the service's requests usually do is a witness against its endpoint, as long as that
//! endpoint has answered nothing at all since it got the request. Enough witnesses eject it before the first of them times
//! out, if another endpoint has answered meanwhile: where all are slow, or one kind of request is, nothing is concluded. A
//! request that could be sent again elsewhere waits there for half of its time at most. No request that is answered within
//! [`LOOK`] comes here.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    task::Context,
    time::{Duration, Instant},
};

use super::verdict::{Verdict, usual};
use crate::{
    snapshot::LocalCluster,
    upstream::timer::{Timer, Wait},
    worker::WorkerState,
};

/// One wait.
pub(super) struct Silence<'a> {
    pub(super) cluster: &'a LocalCluster,
    pub(super) verdict: &'a RefCell<Verdict>,
    pub(super) worker: &'a WorkerState,
    /// The longest wait for an endpoint that answers nothing; `None`: the request could not be sent again.
    pub(super) half: Option<Duration>,
}

impl Silence<'_> {
    /// `sending`'s output; `None`: the wait is over, or is not worth going on with. `wait` is the attempt's own end, `asked`: since
    /// when the endpoint has had the request.
    pub(super) async fn bound<F: Future<Output = Result<T, E>>, T, E>(
        &self,
        timer: &mut Timer,
        mut sending: Pin<&mut F>,
        wait: impl Fn(&Context<'_>) -> Wait,
        asked: impl Fn() -> Instant,
    ) -> Option<F::Output> {
        let (mut is_counted, mut next) = (false, self.worker.clock.now());
        // The endpoint was out for its silence while this request waited. That it answers others again gives this one no
        // answer.
        let (mut was_silent, mut silences) = (false, None);
        loop {
            let is_over = Cell::new(false);
            let up_to_next = |cx: &Context<'_>| {
                let own = wait(cx);
                is_over.set(own.at_most(next) == own);
                own.at_most(next)
            };
            if let Some(sent) = timer.bound(up_to_next, sending.as_mut()).await {
                let now = self.worker.clock.now();
                // The endpoint has had the request for less than that where the client was slow.
                if sent.is_ok() && now.saturating_duration_since(asked()) >= LOOK {
                    self.verdict.borrow().witness.answers_after_all(now, self.worker);
                }
                return Some(sent);
            }
            let now = self.worker.clock.now();
            let waited = now.saturating_duration_since(asked());
            {
                let verdict = self.verdict.borrow();
                let before = *silences.get_or_insert_with(|| verdict.witness.silences());
                was_silent |= verdict.witness.is_silent() || verdict.witness.silences() != before;
            }
            if is_over.get() || (was_silent && self.half.is_some_and(|half| waited >= half)) {
                return None;
            }
            if waited >= unusual(self.cluster) {
                self.verdict.borrow().witness.waits((asked(), !is_counted), now, self.worker);
                is_counted = true;
            }
            next = now + LOOK;
        }
    }
}

/// What is far longer than requests to this service wait. Where nothing is usual yet, no wait is unusual.
fn unusual(cluster: &LocalCluster) -> Duration {
    usual(cluster).map_or(Duration::MAX, |usual| (usual * UNUSUAL_TIMES).max(LOOK))
}

/// No wait is looked at earlier or more often: an endpoint may collect garbage.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A wait of so many times what is usual is none of the usual ones.
const UNUSUAL_TIMES: u32 = 10;
