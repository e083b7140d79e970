//! The certificate of the connection as a credential.
//!
//! It decides only if the request itself has none: a token says more about a request than the connection does, and a wrong token is
//! refused although the connection has a good certificate.

use std::rc::Rc;

use super::{Error, Exchange, Identity, LocalSnapshot, Route, accepted, failed, unix_seconds};
use crate::auth::provider::LocalProvider;

/// Whether a certificate, or its absence, decides about a request without another credential. `has_foreign`: the request has a cookie
/// of another program, which counts as a wrong credential unless the connection has a certificate.
pub(super) fn decides(
    snapshot: &LocalSnapshot,
    route: &Route,
    exchange: &Exchange,
    has_foreign: bool,
) -> bool {
    snapshot.providers_of(route).any(LocalProvider::takes_certificates)
        && (!has_foreign || exchange.connection().certificate().is_some())
}

/// The identity of the connection's certificate, by the first provider of the route that accepts it.
pub(super) fn identify(
    snapshot: &LocalSnapshot,
    route: &Route,
    exchange: &Exchange,
) -> Result<Rc<Identity>, Error> {
    let accepted = accepted(snapshot, route, None);
    let connection = exchange.connection();
    let Some(certificate) = connection.certificate() else {
        return Err(if accepted.has_challenge() {
            Error::TokenMissing(accepted)
        } else {
            Error::Certificate { is_there: false }
        });
    };
    let facts = certificate.facts().ok_or(Error::Certificate { is_there: true })?;
    let now = unix_seconds(exchange);
    let mut most = None;
    for provider in snapshot.providers_of(route).filter(|provider| provider.takes_certificates()) {
        match provider.identify(facts, now) {
            Ok(identity) => return Ok(identity),
            Err(rejection) => most = most.or(Some((provider, rejection))),
        }
    }
    if let Some((provider, rejection)) = most {
        failed(exchange, provider.name(), rejection.reason, rejection.claim);
    }
    // A client that can send a token instead learns how.
    Err(if accepted.has_challenge() {
        Error::TokenMissing(accepted)
    } else {
        Error::Certificate { is_there: true }
    })
}
