//! The wait for a response, once it is longer than [`LOOK`]: what it proves about the endpoint, and whether it
//! goes on.
//!
//! A request that waits far longer than is usual for the service is a witness against its endpoint, as long as that endpoint has
//! answered no request since it got this one. Enough witnesses eject the endpoint before the first of them times out, if another
//! endpoint has answered meanwhile: if all endpoints are slow, or one kind of request is, no endpoint is ejected. A request that
//! could be sent again to another endpoint waits there for half of its time at most. A request that is answered within [`LOOK`]
//! never comes here.

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

/// One wait for a response.
pub(super) struct Silence<'a> {
    pub(super) cluster: &'a LocalCluster,
    pub(super) verdict: &'a RefCell<Verdict>,
    pub(super) worker: &'a WorkerState,
    /// The longest wait for an endpoint that answers no request. `None`: the request could not be sent again.
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
        // The endpoint was ejected for its silence while this request waited. That it answers other requests again does not answer
        // this one.
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
                // If the client was slow, the endpoint has had the whole request for a shorter time.
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

/// A wait from which on a request is a witness against its endpoint. If no usual wait is known yet, no wait is unusual.
fn unusual(cluster: &LocalCluster) -> Duration {
    usual(cluster).map_or(Duration::MAX, |usual| (usual * UNUSUAL_TIMES).max(LOOK))
}

/// The time after which a wait is looked at, and the time between looks: a shorter pause of an endpoint may be its garbage
/// collection.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A wait of this many times the usual one is unusual.
const UNUSUAL_TIMES: u32 = 10;
