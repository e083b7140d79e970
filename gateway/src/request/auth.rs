//! Authentication and rate limits of a route, checked in the order of their cost.
//!
//! Limits whose key needs no identity (address, route, service, header) come first: they bound the number of signatures that an
//! unauthenticated client can have checked, and a signature costs a hundred times as much as a limit. A request that authentication
//! refuses has been charged to these limits. Then follow the credential, the requirements of the route, and the limits whose key
//! comes from the identity. A request that a limit refuses is charged to none of them ([`LimitCheck`]).
//!
//! If a route has several providers, the worker first looks for one that has verified this very credential lately. Then come the
//! providers of the issuer that the token names. A token that no known key verifies may be signed with a newer key: see [`doubt`].

mod certificate;
mod doubt;

use std::rc::Rc;

use http::{HeaderValue, request::Parts};

use super::{
    error::{Error, RateLimited},
    exchange::{AuthFailure, Exchange},
};
use crate::{
    auth::{
        Fit, Identity,
        credentials::{BadPlacement, Found},
        jwt,
        provider::LocalProvider,
        rejection::{AcceptedKinds, AuthRejection, Told},
    },
    metrics::Rare,
    policy::{
        limit_check::{self, LimitCheck, Stage},
        rate_limit::LimitKey,
        require::InsufficientScope,
    },
    snapshot::{LocalRoute, LocalSnapshot, Route},
};

/// Ready values of `RateLimit-Policy` and `RateLimit`.
pub(crate) type QuotaFields = (HeaderValue, HeaderValue);

/// The identity of the client, if the route requires one, and the quota fields of the response.
///
/// # Errors
/// The request may not pass.
pub(crate) async fn check(
    snapshot: &LocalSnapshot,
    route: &LocalRoute,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<(Option<Rc<Identity>>, Option<QuotaFields>), Error> {
    let policies = &route.shared().policies;
    if route.limits.is_empty() && policies.auth.is_empty() {
        return Ok((None, None));
    }
    let mut limits =
        LimitCheck::new(&route.limits, exchange.request.client, &parts.headers, exchange.request.started);
    limits.check(Stage::Anyone, None).map_err(|refused| limited(route, exchange, &refused))?;
    let mut identity = None;
    if !policies.auth.is_empty() {
        let proved = authenticate(snapshot, route.shared(), parts, exchange).await?;
        exchange.identified(&proved);
        if let Err(missing) = policies.require.check(&proved) {
            return Err(insufficient(snapshot, route.shared(), exchange, &proved, missing));
        }
        identity = Some(proved);
    }
    let verdict = limits.check(Stage::Identified, identity.as_deref());
    verdict.map_err(|refused| limited(route, exchange, &refused))?;
    let quota = limits.tightest().map(|(limit, quota)| (limit.policy.clone(), limit.state_value(&quota)));
    Ok((identity, quota))
}

/// Counts the refusal by a limit and returns it as an error.
fn limited(route: &LocalRoute, exchange: &Exchange, refused: &limit_check::Refused<'_>) -> Error {
    let limit_check::Refused { limit, limited } = refused;
    exchange.worker().metrics.count(Rare::RateLimited, &route.shared().name, limit.name());
    Error::RateLimited(Box::new(RateLimited {
        policy: limit.policy.clone(),
        state: limit.refusal_value(limited),
        violated: Box::from(limit.name()),
        retry_after: limited.retry_after,
    }))
}

/// The identity of the client, verified by one of the route's providers.
async fn authenticate(
    snapshot: &LocalSnapshot,
    route: &Route,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Rc<Identity>, Error> {
    let credential = match look(snapshot, route, parts, exchange)? {
        Seen::Known(identity) => return Ok(identity),
        Seen::New(credential) => credential,
        Seen::Certificate => return certificate::identify(snapshot, route, exchange),
        Seen::Nothing => return Err(Error::TokenMissing(accepted(snapshot, route, None))),
    };
    let (provider, mut rejection) = match verify(snapshot, route, credential, parts, exchange) {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    if let Some(provider) = provider
        && rejection.is_doubtful
    {
        // Boxed: the wait is rare, and its state would be large in every request's future.
        let settled = Box::pin(doubt::settle(route, provider, credential, exchange)).await;
        exchange.waited(exchange.worker().clock.now());
        match settled {
            Ok(identity) => return Ok(identity),
            Err(settled) => rejection = settled,
        }
    }
    failed(exchange, provider.map_or("", |provider| provider.name()), rejection.reason, rejection.claim);
    let accepted = accepted(snapshot, route, provider);
    Err(match rejection.told {
        Told::Unavailable => Error::KeysUnavailable,
        Told::Expired => Error::TokenExpired(accepted),
        Told::Invalid => Error::TokenInvalid(accepted),
    })
}

/// The credential of a request.
enum Seen<'a> {
    /// The worker has verified it lately, and has its identity.
    Known(Rc<Identity>),
    /// The worker has not verified it lately.
    New(&'a str),
    /// The request has no credential, and the route accepts certificates: that of the connection decides, if it has one.
    Certificate,
    /// The request has no credential.
    Nothing,
}

/// Searches each place in which a provider of the route expects its credential, and the credentials that the worker has cached.
fn look<'a>(
    snapshot: &LocalSnapshot,
    route: &Route,
    parts: &'a Parts,
    exchange: &Exchange,
) -> Result<Seen<'a>, Error> {
    let now = unix_seconds(exchange);
    let misplaced = |provider: &LocalProvider, placement: BadPlacement| {
        failed(exchange, provider.name(), placement.reason(), None);
        Error::TokenPlacement(accepted(snapshot, route, Some(provider)), placement)
    };
    let (mut all, mut known, mut first) = (Found::default(), None, None);
    for provider in snapshot.providers_of(route) {
        let found = provider.find(parts);
        // A credential for another provider than the accepting one would not be verified, and would still reach the service.
        let merged = found.and_then(|found| all.merge(found).map(|()| found.credential));
        let credential = merged.map_err(|placement| misplaced(provider, placement))?;
        if known.is_none() {
            known = credential.and_then(|credential| provider.known(credential, now));
        }
        first = first.or(Some(provider));
    }
    if let Some(known) = known {
        let hits = &exchange.worker().token_hits;
        hits.set(hits.get() + 1);
        return Ok(Seen::Known(known));
    }
    if all.credential.is_none() && certificate::decides(snapshot, route, exchange, all.foreign.is_some()) {
        return Ok(Seen::Certificate);
    }
    match (all.any(), first) {
        (Ok(credential), _) => Ok(credential.map_or(Seen::Nothing, Seen::New)),
        (Err(placement), Some(first)) => Err(misplaced(first, placement)),
        (Err(_), None) => Err(Error::Internal),
    }
}

/// Counts the reason for which a credential is refused, and keeps it for the log. The response does not contain it.
fn failed(exchange: &Exchange, provider: &str, reason: &'static str, claim: Option<Box<str>>) {
    exchange.auth_failed(AuthFailure { reason, claim });
    exchange.worker().metrics.count(Rare::AuthFailure, provider, reason);
}

/// The first provider that accepts the credential, of those that its issuer names and then of those that take any; or the
/// most specific rejection, with its provider.
fn verify<'s>(
    snapshot: &'s LocalSnapshot,
    route: &Route,
    credential: &str,
    parts: &Parts,
    exchange: &Exchange,
) -> Result<Rc<Identity>, (Option<&'s LocalProvider>, AuthRejection)> {
    let mut providers = snapshot.providers_of(route);
    if let (Some(only), None) = (providers.next(), providers.next()) {
        return verify_by(only, credential, exchange).map_err(|rejection| (Some(only), rejection));
    }
    let issuer = jwt::issuer_of(credential);
    let mut most: Option<(&LocalProvider, AuthRejection)> = None;
    for fit in [Fit::Named, Fit::Any] {
        for provider in snapshot.providers_of(route) {
            let is_there = || provider.find(parts).and_then(Found::any) == Ok(Some(credential));
            if provider.fit(issuer.as_deref()) != fit || !is_there() {
                continue;
            }
            match verify_by(provider, credential, exchange) {
                Ok(identity) => return Ok(identity),
                Err(rejection) if most.as_ref().is_none_or(|(_, most)| rejection.rank() > most.rank()) => {
                    most = Some((provider, rejection));
                }
                Err(_) => {}
            }
        }
    }
    Err(most.map_or_else(
        || {
            let holds_it =
                |provider: &&LocalProvider| provider.find(parts).and_then(Found::any) == Ok(Some(credential));
            (snapshot.providers_of(route).find(holds_it), AuthRejection::of_no_provider())
        },
        |(provider, rejection)| (Some(provider), rejection),
    ))
}

/// Checks the credential; the provider caches the verified identity.
fn verify_by(
    provider: &LocalProvider,
    credential: &str,
    exchange: &Exchange,
) -> Result<Rc<Identity>, AuthRejection> {
    let identity = provider.check(credential, unix_seconds(exchange))?;
    let worker = exchange.worker();
    worker.token_misses.set(worker.token_misses.get() + 1);
    worker.doubts.regulars.borrow_mut().learn(client_of(exchange));
    Ok(identity)
}

/// The client's address as the key of a limit.
fn client_of(exchange: &Exchange) -> LimitKey {
    LimitKey::of_ip(exchange.request.client)
}

fn unix_seconds(exchange: &Exchange) -> u64 {
    exchange.worker().clock.unix(exchange.request.started).as_secs()
}

/// The kinds of credentials that the route accepts, for the challenge. The kind of `refused` comes first.
fn accepted(snapshot: &LocalSnapshot, route: &Route, refused: Option<&LocalProvider>) -> AcceptedKinds {
    let named = |provider: &LocalProvider| (provider.scheme(), provider.words());
    AcceptedKinds::new(refused.into_iter().chain(snapshot.providers_of(route)).map(named))
}

fn insufficient(
    snapshot: &LocalSnapshot,
    route: &Route,
    exchange: &Exchange,
    identity: &Identity,
    missing: InsufficientScope<'_>,
) -> Error {
    failed(exchange, &identity.provider, "insufficient_scope", Some(missing.what().into()));
    let provider = snapshot.providers_of(route).find(|provider| *provider.name() == identity.provider);
    let scope = route.policies.require.scope_value();
    Error::InsufficientScope { accepted: accepted(snapshot, route, provider), scope }
}
