//! Who may use a route, and how often: checked in the order of what the answers cost.
//!
//! Limits whose key needs no identity (address, route, service, header) come first, since a signature costs a hundred times
//! as much: they bound how many a stranger can have checked. A request that authentication refuses has been charged to them.
//! Then come the credential, what the route requires of it, and the limits whose key it holds. A request that a limit refuses is
//! charged to none of them ([`LimitCheck`]).
//!
//! Of several providers, those come first that have verified this very credential lately, then the ones that a token names as
//! its issuer. A token that no known key verifies may be signed with a newer key: see [`doubt`].

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

/// The refusal by a limit, counted.
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

/// The identity of the client, which one of the route's providers vouches for.
async fn authenticate(
    snapshot: &LocalSnapshot,
    route: &Route,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Rc<Identity>, Error> {
    let credential = match look(snapshot, route, parts, exchange)? {
        Seen::Known(identity) => return Ok(identity),
        Seen::New(credential) => credential,
        Seen::Nothing => return Err(Error::TokenMissing(accepted(snapshot, route, None))),
    };
    let (provider, mut rejection) = match verify(snapshot, route, credential, parts, exchange) {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    if let Some(provider) = provider
        && rejection.is_doubtful
    {
        // Boxed: it is rare, and large beside what every request carries.
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

/// A request's credential, as it is found.
enum Seen<'a> {
    /// Verified lately.
    Known(Rc<Identity>),
    New(&'a str),
    Nothing,
}

/// Looks at each place where a provider of the route expects its credential, and at what the worker remembers.
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
        // What another provider than the accepting one expects is not verified, and would reach the service all the same.
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
    match (all.any(), first) {
        (Ok(credential), _) => Ok(credential.map_or(Seen::Nothing, Seen::New)),
        (Err(placement), Some(first)) => Err(misplaced(first, placement)),
        (Err(_), None) => Err(Error::Internal),
    }
}

/// Counts why a credential is refused, and keeps it for the log: the client learns less.
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

/// The credential is checked, and what was verified is remembered.
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

/// The client, as limits count it.
fn client_of(exchange: &Exchange) -> LimitKey {
    LimitKey::of_ip(exchange.request.client)
}

fn unix_seconds(exchange: &Exchange) -> u64 {
    exchange.worker().clock.unix(exchange.request.started).as_secs()
}

/// The kinds of credentials that the route accepts, for the challenge; that of `refused` first.
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
