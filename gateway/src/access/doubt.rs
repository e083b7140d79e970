//! A token that no known key verifies and that could be good: its issuer may have a newer key.
//!
//! "Cannot know yet" is not "refused". The request asks for a fetch of the keys and waits, at most [`WAIT_MAX`] and never longer
//! than the route gives its service, until a fetch is over that began after it had asked. Only what those keys do not verify either
//! gets 401. Where the issuer does not answer, or too many wait already ([`WAITING_MAX`], half of that for strangers), it gets 503
//! with `Retry-After`. A token that is already in the worker's cache, or that a known key verifies, never comes here.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{look_again, verify_by};
use crate::{
    key_desk::{Asker, End, Question},
    metrics::Rare,
    policy::{
        jwt::{JwtRejection, Regulars, Verified},
        rate_limit::LimitKey,
    },
    request::exchange::Exchange,
    snapshot::{LocalSnapshot, Route},
};

/// A worker's requests that wait for keys, and the clients that it trusts to have a reason.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    waiting: Cell<usize>,
    pub(super) regulars: RefCell<Regulars>,
}

/// Waits until it is known whether the keys of provider `index` verify the token.
pub(super) async fn settle(
    snapshot: &LocalSnapshot,
    route: &Route,
    index: usize,
    token: &str,
    exchange: &Exchange,
) -> Result<Rc<Verified>, JwtRejection> {
    let doubts = &exchange.worker().doubts;
    let is_regular = doubts.regulars.borrow().knows(LimitKey::of_ip(exchange.client));
    let asker = if is_regular { Asker::Regular } else { Asker::Stranger };
    let held = snapshot.shared.keys.get(index);
    let question = held.and_then(|held| held.desk.as_ref()).and_then(|desk| desk.ask(asker));
    let (settled, result) = match (question, Place::take(doubts, asker)) {
        (None, _) => (Err(JwtRejection::KeysUnavailable), "no_answer"),
        (_, None) => (Err(JwtRejection::KeysUnavailable), "crowded"),
        (Some(question), Some(_place)) => {
            let limit = WAIT_MAX.min(route.policies.timeout.total());
            let answer = answer(snapshot, index, token, question, exchange);
            match tokio::time::timeout(limit, answer).await {
                Err(_) => (Err(JwtRejection::KeysUnavailable), "timeout"),
                Ok(Err(JwtRejection::KeysUnavailable)) => (Err(JwtRejection::KeysUnavailable), "no_answer"),
                Ok(Err(rejection)) => (Err(rejection), "refused"),
                Ok(Ok(verified)) => (Ok(verified), "passed"),
            }
        }
    };
    let provider = snapshot.shared.table.auth.get(index).map_or("", |provider| &*provider.name);
    exchange.worker().metrics.count(Rare::KeyWait, provider, result);
    settled
}

/// Looks again after each fetch that ends, until one has an answer.
async fn answer(
    asked_with: &LocalSnapshot,
    index: usize,
    token: &str,
    mut question: Question<'_>,
    exchange: &Exchange,
) -> Result<Rc<Verified>, JwtRejection> {
    loop {
        let end = question.end().await;
        let snapshot = exchange.worker().snapshot();
        let index = same_provider(asked_with, index, &snapshot).ok_or(JwtRejection::KeysUnavailable)?;
        if let Some(known) = look_again(index, token, exchange) {
            return Ok(known);
        }
        match verify_by(&snapshot, index, token, exchange) {
            Ok(verified) => return Ok(verified),
            Err(refused) if end == End::Newer || !refused.is_doubtful => return Err(refused.rejection),
            Err(_) if end == End::Failed => return Err(JwtRejection::KeysUnavailable),
            Err(_) => question.insist(),
        }
    }
}

/// Where the provider is after a reload. `None`: it is gone, or has its keys from elsewhere.
fn same_provider(before: &LocalSnapshot, index: usize, after: &LocalSnapshot) -> Option<usize> {
    let (before, after) = (&before.shared, &after.shared);
    if Arc::ptr_eq(&before.table, &after.table) {
        return Some(index);
    }
    let (name, desk) = (&before.table.auth.get(index)?.name, before.keys.get(index)?.desk.as_ref()?);
    let now = after.table.auth.iter().position(|provider| provider.name == *name)?;
    let is_same = after.keys.get(now)?.desk.as_ref().is_some_and(|known| Arc::ptr_eq(known, desk));
    is_same.then_some(now)
}

/// A place of one that waits, given back by its drop.
struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    /// `None`: there is none left for such an asker.
    fn take(doubts: &'a Doubts, asker: Asker) -> Option<Self> {
        let max = match asker {
            Asker::Regular => WAITING_MAX,
            Asker::Stranger => WAITING_MAX / 2,
        };
        let waiting = doubts.waiting.get();
        (waiting < max).then(|| {
            doubts.waiting.set(waiting + 1);
            Self(&doubts.waiting)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// As long as a fetch may take. It is one more wait for a client that has a token; for an issuer that is slow it is enough.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Of each worker. What waits is a request's head and its connection, some kilobytes each.
const WAITING_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_leave_half_of_the_places_to_regulars_and_each_place_comes_back() {
        let doubts = Doubts::default();
        let strangers: Vec<_> =
            (0..WAITING_MAX).map_while(|_| Place::take(&doubts, Asker::Stranger)).collect();
        assert_eq!(strangers.len(), WAITING_MAX / 2);
        let regulars: Vec<_> = (0..WAITING_MAX).map_while(|_| Place::take(&doubts, Asker::Regular)).collect();
        assert_eq!(regulars.len(), WAITING_MAX / 2);
        drop((strangers, regulars));
        assert_eq!(doubts.waiting.get(), 0);
    }
}
