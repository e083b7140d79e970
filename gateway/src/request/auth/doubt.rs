//! A credential that no known key verifies and that could be valid: its issuer may have a newer key.
//!
//! A key that is not known yet is not a refusal. The request triggers a fetch of the keys and waits, at most [`WAIT_MAX`] and never longer
//! than the route gives its service, until a fetch is over that began after its own trigger. Only what those keys do not verify either
//! gets 401. Where the issuer does not answer, or too many requests wait already ([`Doubts`]), the request gets 503 with
//! `Retry-After`. A credential that a worker remembers, or that a known key verifies, never comes here.
//!
//! [`Doubts`]: crate::auth::doubts::Doubts

use std::{rc::Rc, time::Duration};

use super::{Exchange, client_of, unix_seconds, verify_by};
use crate::{
    auth::{
        Identity,
        desk::{Asker, End, Question},
        doubts::WaitingPlace,
        provider::LocalProvider,
        rejection::{AuthRejection, Told},
    },
    metrics::Rare,
    snapshot::Route,
};

/// Waits until the keys of this provider either verify or refuse the credential, or [`WAIT_MAX`] is over.
pub(super) async fn settle(
    route: &Route,
    provider: &LocalProvider,
    credential: &str,
    exchange: &Exchange,
) -> Result<Rc<Identity>, AuthRejection> {
    let doubts = &exchange.worker().doubts;
    let is_regular = doubts.regulars.borrow().knows(client_of(exchange));
    let asker = if is_regular { Asker::Regular } else { Asker::Stranger };
    let question = provider.desk().and_then(|desk| desk.ask(asker));
    let (settled, result) = match (question, WaitingPlace::take(doubts, asker)) {
        (None, _) => (Err(AuthRejection::unavailable()), "no_answer"),
        (_, None) => (Err(AuthRejection::unavailable()), "crowded"),
        (Some(question), Some(_place)) => {
            let limit = WAIT_MAX.min(route.policies.timeout.total());
            match tokio::time::timeout(limit, answer(provider, credential, question, exchange)).await {
                Err(_) => (Err(AuthRejection::unavailable()), "timeout"),
                Ok(Err(rejection)) if rejection.told == Told::Unavailable => (Err(rejection), "no_answer"),
                Ok(Err(rejection)) => (Err(rejection), "refused"),
                Ok(Ok(identity)) => (Ok(identity), "passed"),
            }
        }
    };
    exchange.worker().metrics.count(Rare::KeyWait, provider.name(), result);
    settled
}

/// Checks the credential again after each fetch that ends, until the result is final.
async fn answer(
    asked: &LocalProvider,
    credential: &str,
    mut question: Question<'_>,
    exchange: &Exchange,
) -> Result<Rc<Identity>, AuthRejection> {
    loop {
        let end = question.end().await;
        let snapshot = exchange.worker().snapshot();
        // After a reload the provider may be gone, or may get its keys from another source.
        let provider = snapshot.providers.iter().find(|provider| provider.is_same_as(asked));
        let provider = provider.ok_or_else(AuthRejection::unavailable)?;
        // Many requests may wait with the same credential, and another one may have verified it.
        if let Some(known) = provider.known(credential, unix_seconds(exchange)) {
            return Ok(known);
        }
        match verify_by(provider, credential, exchange) {
            Ok(identity) => return Ok(identity),
            Err(rejection) if end == End::Newer || !rejection.is_doubtful => return Err(rejection),
            Err(_) if end == End::Failed => return Err(AuthRejection::unavailable()),
            Err(_) => question.insist(),
        }
    }
}

/// The longest wait, which is as long as a fetch may take. It is enough for a slow issuer, and bounds the wait of a client with any
/// token.
const WAIT_MAX: Duration = Duration::from_secs(10);
