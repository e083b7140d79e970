//! Who may use a route, and how often: asked in the order of what the answers cost.
//!
//! Limits whose key needs no identity (address, route, service, header) come first, since a signature costs a hundred times
//! as much: they bound how many a stranger can have checked. A request that authentication refuses has been charged to them.
//! Then come the token, what the route requires of it, and the limits whose key it holds.

use std::rc::Rc;

use http::{HeaderValue, request::Parts};

use crate::{
    control::event::Signal,
    error::{Error, RateLimited},
    exchange::Exchange,
    metrics::Rare,
    policy::{
        jwt::{self, BadPlacement, JwtRejection, RejectionCode, Verified},
        limit_key,
        rate_limit::{Quota, RateLimit},
    },
    snapshot::{AuthProvider, LocalRoute, LocalSnapshot, Route},
    worker::WorkerState,
};

/// Ready values of `RateLimit-Policy` and `RateLimit`.
pub(crate) type QuotaFields = (HeaderValue, HeaderValue);

/// Lets the request pass, with what the client is told of its quota, and keeps its identity in the exchange.
pub(crate) fn check(
    snapshot: &LocalSnapshot,
    route: &LocalRoute,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Option<QuotaFields>, Error> {
    let mut tightest = Tightest::default();
    let compiled = route.shared();
    if compiled.limits.is_empty() && compiled.auth.is_empty() {
        return Ok(None);
    }
    charge(route, false, parts, exchange, &mut tightest)?;
    if let Some((provider, identity)) = authenticate(snapshot, compiled, parts, exchange)? {
        let identity = &**exchange.identity.insert(identity);
        if compiled.requirement.check(identity).is_err() {
            return Err(insufficient(exchange.worker(), provider, compiled));
        }
    }
    charge(route, true, parts, exchange, &mut tightest)?;
    Ok(tightest.0.map(|(_, quota, limit, policy)| (policy.clone(), limit.state_value(&quota))))
}

/// The limit with the least left, of equal ones the first in the file, and its `RateLimit-Policy`.
#[derive(Default)]
struct Tightest<'a>(Option<(usize, Quota, &'a RateLimit, &'a HeaderValue)>);

/// Each limit that needs an identity, or each that does not, must let the request pass.
fn charge<'a>(
    route: &'a LocalRoute,
    with_identity: bool,
    parts: &Parts,
    exchange: &Exchange,
    tightest: &mut Tightest<'a>,
) -> Result<(), Error> {
    let identity = exchange.identity.as_deref();
    let limits = route.shared().limits.iter().zip(&route.policies).enumerate();
    for (at, (limit, policy)) in limits.filter(|(_, (limit, _))| limit.needs_identity() == with_identity) {
        let key = limit_key::of(limit, exchange.client, identity, &parts.headers);
        match limit.check(key, exchange.started) {
            Ok(quota) => {
                let is_tighter = |(other, known, ..): &(usize, Quota, _, _)| {
                    (quota.remaining, at) < (known.remaining, *other)
                };
                if tightest.0.as_ref().is_none_or(is_tighter) {
                    tightest.0 = Some((at, quota, limit, policy));
                }
            }
            Err(limited) => {
                exchange.worker().metrics.count(Rare::RateLimited, &route.shared().name, limit.name());
                return Err(Error::RateLimited(Box::new(RateLimited {
                    policy: policy.clone(),
                    state: limit.refusal_value(&limited),
                    violated: Box::from(limit.name()),
                    retry_after: limited.retry_after,
                })));
            }
        }
    }
    Ok(())
}

/// The first of the route's providers that accepts the token, and the claims. `None`: the route is open.
fn authenticate<'a>(
    snapshot: &'a LocalSnapshot,
    route: &Route,
    parts: &Parts,
    exchange: &Exchange,
) -> Result<Option<(&'a str, Rc<Verified>)>, Error> {
    let mut worst = Error::TokenMissing;
    let (table, worker) = (&snapshot.shared.table, exchange.worker());
    let found = |provider: &AuthProvider| {
        let found = jwt::find_token(&parts.headers, parts.uri.query(), provider.jwt.sources())
            .and_then(jwt::Found::any);
        found.map_err(|placement| misplaced(worker, provider, placement))
    };
    // What is not asked of the provider that accepts a token is not verified, and would reach the service all the same.
    if route.auth.len() > 1 {
        let mut first = None;
        for provider in route.auth.iter().filter_map(|&index| table.auth.get(index)) {
            let Some(token) = found(provider)? else { continue };
            if *first.get_or_insert(token) != token {
                return Err(misplaced(worker, provider, BadPlacement::Repeated));
            }
        }
    }
    for &index in &route.auth {
        let Some(provider) = table.auth.get(index) else { continue };
        let Some(token) = found(provider)? else { continue };
        let rejection = match verify(snapshot, index, token, exchange) {
            Ok(verified) => return Ok(Some((&provider.name, verified))),
            Err(rejection) => rejection,
        };
        worker.metrics.count(Rare::AuthFailure, &provider.name, rejection.reason());
        if matches!(rejection, JwtRejection::UnknownKey { .. }) {
            worker.signal(Signal::UnknownKey { provider: provider.name.clone() });
        }
        worst = token_error(&rejection);
    }
    if route.auth.is_empty() { Ok(None) } else { Err(worst) }
}

fn misplaced(worker: &WorkerState, provider: &AuthProvider, placement: BadPlacement) -> Error {
    worker.metrics.count(Rare::AuthFailure, &provider.name, placement.reason());
    Error::TokenPlacement
}

/// One look into the worker's cache of verified tokens; the signature is checked only at first sight.
fn verify(
    snapshot: &LocalSnapshot,
    index: usize,
    token: &str,
    exchange: &Exchange,
) -> Result<Rc<Verified>, JwtRejection> {
    let worker = exchange.worker();
    let now = worker.clock.unix(exchange.started).as_secs();
    if let Some(known) = worker.tokens.borrow_mut().get(index, token, now) {
        worker.token_hits.set(worker.token_hits.get() + 1);
        return Ok(known);
    }
    let shared = &snapshot.shared;
    let provider = shared.table.auth.get(index).ok_or(JwtRejection::KeysUnavailable)?;
    let keys = shared.keys.get(index).and_then(Option::as_deref);
    let mut tokens = worker.tokens.borrow_mut();
    let last_header = tokens.last_header(index).ok_or(JwtRejection::KeysUnavailable)?;
    let verified = Rc::new(provider.jwt.check(keys, token, now, last_header)?);
    worker.token_misses.set(worker.token_misses.get() + 1);
    tokens.insert(index, token, Rc::clone(&verified), now);
    Ok(verified)
}

fn token_error(rejection: &JwtRejection) -> Error {
    match rejection.code() {
        RejectionCode::KeysUnavailable => Error::KeysUnavailable,
        RejectionCode::Expired => Error::TokenExpired,
        RejectionCode::Invalid => Error::TokenInvalid,
    }
}

fn insufficient(worker: &WorkerState, provider: &str, route: &Route) -> Error {
    worker.metrics.count(Rare::AuthFailure, provider, "insufficient_scope");
    Error::InsufficientScope { scope: route.requirement.scope_value() }
}
