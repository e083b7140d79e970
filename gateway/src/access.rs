//! Who may use a route, and how often: asked in the order of what the answers cost.
//!
//! Limits whose key needs no identity (address, route, service, header) come first, since a signature costs a hundred times
//! as much: they bound how many a stranger can have checked. A request that authentication refuses has been charged to them.
//! Then come the token, what the route requires of it, and the limits whose key it holds. A request that a limit refuses is
//! charged to none of them ([`LimitCheck`]).
//!
//! Of several providers, those are asked first that have verified this very token lately, then the ones that its `iss` names. What
//! their keys do not verify may be signed with a newer key: see [`doubt`].

pub(crate) mod doubt;

use std::rc::Rc;

use http::{HeaderValue, request::Parts};

use crate::{
    metrics::Rare,
    policy::{
        jwt::{self, BadPlacement, Found, JwtRejection, RejectionCode, Verified},
        limit_check::{self, LimitCheck, Stage},
        rate_limit::LimitKey,
        require::{InsufficientScope, Requirement},
    },
    request::{
        error::{Error, RateLimited},
        exchange::{AuthFailure, Exchange},
    },
    snapshot::{AuthProvider, LocalRoute, LocalSnapshot, Route},
};

/// Ready values of `RateLimit-Policy` and `RateLimit`.
pub(crate) type QuotaFields = (HeaderValue, HeaderValue);

/// Lets the request pass, with what the client is told of its quota, and keeps its identity in the exchange.
pub(crate) async fn check(
    snapshot: &LocalSnapshot,
    route: &LocalRoute,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Option<QuotaFields>, Error> {
    let compiled = &route.shared().policies;
    if compiled.rate_limit.is_empty() && compiled.auth.is_empty() {
        return Ok(None);
    }
    let mut limits = LimitCheck::new(&compiled.rate_limit, exchange.client, &parts.headers, exchange.started);
    limits.check(Stage::Anyone, None).map_err(|refused| limited(route, exchange, &refused))?;
    if !compiled.auth.is_empty() {
        exchange.identity = Some(authenticate(snapshot, route.shared(), parts, exchange).await?);
        if let Some(identity) = &exchange.identity
            && let Err(missing) = compiled.require.check(identity)
        {
            return Err(insufficient(exchange, &identity.provider, &compiled.require, missing));
        }
    }
    let identity = exchange.identity.as_deref();
    limits.check(Stage::Identified, identity).map_err(|refused| limited(route, exchange, &refused))?;
    Ok(limits.tightest().and_then(|(at, quota)| {
        let (limit, policy) = compiled.rate_limit.get(at).zip(route.limit_policies.get(at))?;
        Some((policy.clone(), limit.state_value(&quota)))
    }))
}

/// The refusal by a limit, counted.
fn limited(route: &LocalRoute, exchange: &Exchange, refused: &limit_check::Refused) -> Error {
    let limit = route.shared().policies.rate_limit.get(refused.at).zip(route.limit_policies.get(refused.at));
    let Some((limit, policy)) = limit else { return Error::Internal };
    exchange.worker().metrics.count(Rare::RateLimited, &route.shared().name, limit.name());
    Error::RateLimited(Box::new(RateLimited {
        policy: policy.clone(),
        state: limit.refusal_value(&refused.limited),
        violated: Box::from(limit.name()),
        retry_after: refused.limited.retry_after,
    }))
}

/// The claims of the request's token, which one of the route's providers vouches for.
async fn authenticate(
    snapshot: &LocalSnapshot,
    route: &Route,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Rc<Verified>, Error> {
    let token = match look(snapshot, route, parts, exchange)? {
        Seen::Known(verified) => return Ok(verified),
        Seen::New(token) => token,
        Seen::Nothing => return Err(Error::TokenMissing),
    };
    let refused = match verify(snapshot, route, token, parts, exchange) {
        Ok(verified) => return Ok(verified),
        Err(refused) => refused,
    };
    let Refused { index, mut rejection, is_doubtful } = refused;
    if is_doubtful {
        // Boxed: it is rare, and large beside what every request carries.
        let settled = Box::pin(doubt::settle(snapshot, route, index, token, exchange)).await;
        exchange.ready = exchange.worker().clock.now();
        match settled {
            Ok(verified) => return Ok(verified),
            Err(settled) => rejection = settled,
        }
    }
    let provider = snapshot.shared.table.auth.get(index).map_or("", |provider| &*provider.name);
    failed(exchange, provider, rejection.reason(), rejection.claim());
    Err(token_error(&rejection))
}

/// A request's token, as it is found.
enum Seen<'a> {
    /// Verified lately.
    Known(Rc<Verified>),
    New(&'a str),
    Nothing,
}

/// Looks at each place where a provider of the route expects the token, and into the worker's cache.
fn look<'a>(
    snapshot: &LocalSnapshot,
    route: &Route,
    parts: &'a Parts,
    exchange: &Exchange,
) -> Result<Seen<'a>, Error> {
    let (table, worker) = (&snapshot.shared.table, exchange.worker());
    let now = unix_seconds(exchange);
    let (mut all, mut known) = (Found::default(), None);
    for &index in &route.policies.auth {
        let Some(provider) = table.auth.get(index) else { continue };
        let found = find(provider, parts);
        // What is not asked of the provider that accepts a token is not verified, and would reach the service all the same.
        let merged = found.and_then(|found| all.merge(found).map(|()| found.token));
        let token = merged.map_err(|placement| misplaced(exchange, provider, placement))?;
        if known.is_none() {
            known = token.and_then(|token| worker.tokens.borrow_mut().get(index, token, now));
        }
    }
    if let Some(known) = known {
        worker.token_hits.set(worker.token_hits.get() + 1);
        return Ok(Seen::Known(known));
    }
    match (all.any(), route.policies.auth.first().and_then(|&index| table.auth.get(index))) {
        (Ok(token), _) => Ok(token.map_or(Seen::Nothing, Seen::New)),
        (Err(placement), Some(first)) => Err(misplaced(exchange, first, placement)),
        (Err(_), None) => Err(Error::TokenPlacement),
    }
}

fn find<'a>(provider: &AuthProvider, parts: &'a Parts) -> Result<Found<'a>, BadPlacement> {
    jwt::find_token(&parts.headers, parts.uri.query(), provider.jwt.sources())
}

fn misplaced(exchange: &Exchange, provider: &AuthProvider, placement: BadPlacement) -> Error {
    failed(exchange, &provider.name, placement.reason(), None);
    Error::TokenPlacement
}

/// Counts why a token is refused, and keeps it for the log: the client learns less.
fn failed(exchange: &Exchange, provider: &str, reason: &'static str, claim: Option<&str>) {
    // The first stands.
    let _ = exchange.auth_failure.set(AuthFailure { reason, claim: claim.map(Into::into) });
    exchange.worker().metrics.count(Rare::AuthFailure, provider, reason);
}

/// The verdict of a provider.
struct Refused {
    index: usize,
    rejection: JwtRejection,
    /// Newer keys could let the token pass.
    is_doubtful: bool,
}

impl Refused {
    /// Of several verdicts the one that says most: not known yet, then too late, then wrong.
    fn rank(&self) -> u8 {
        match (self.is_doubtful, self.rejection.code()) {
            (true, _) | (_, RejectionCode::KeysUnavailable) => 2,
            (false, RejectionCode::Expired) => 1,
            (false, RejectionCode::Invalid) => 0,
        }
    }
}

/// The first that accepts the token, of the providers that its `iss` names and then of those that take any.
fn verify(
    snapshot: &LocalSnapshot,
    route: &Route,
    token: &str,
    parts: &Parts,
    exchange: &Exchange,
) -> Result<Rc<Verified>, Refused> {
    if let [index] = *route.policies.auth {
        return verify_by(snapshot, index, token, exchange);
    }
    let table = &snapshot.shared.table;
    let issuer = jwt::issuer_of(token);
    let mut worst: Option<Refused> = None;
    for by_name in [true, false] {
        for &index in &route.policies.auth {
            let Some(provider) = table.auth.get(index) else { continue };
            let is_asked = match provider.jwt.issuer() {
                Some(own) => by_name && issuer.as_deref() == Some(own),
                None => !by_name,
            };
            let is_there = || find(provider, parts).and_then(Found::any) == Ok(Some(token));
            if !is_asked || !is_there() {
                continue;
            }
            match verify_by(snapshot, index, token, exchange) {
                Ok(verified) => return Ok(verified),
                Err(refused) if worst.as_ref().is_none_or(|worst| refused.rank() > worst.rank()) => {
                    worst = Some(refused);
                }
                Err(_) => {}
            }
        }
    }
    let index = route.policies.auth.first().copied().unwrap_or(usize::MAX);
    let of_none = Refused { index, rejection: JwtRejection::WrongIssuer, is_doubtful: false };
    Err(worst.unwrap_or(of_none))
}

/// The signature is checked, and what was verified is remembered.
fn verify_by(
    snapshot: &LocalSnapshot,
    index: usize,
    token: &str,
    exchange: &Exchange,
) -> Result<Rc<Verified>, Refused> {
    let (shared, worker) = (&snapshot.shared, exchange.worker());
    let unavailable = || Refused { index, rejection: JwtRejection::KeysUnavailable, is_doubtful: false };
    let (provider, held) =
        shared.table.auth.get(index).zip(shared.keys.get(index)).ok_or_else(unavailable)?;
    let now = unix_seconds(exchange);
    let mut tokens = worker.tokens.borrow_mut();
    let last_header = tokens.last_header(index).ok_or_else(unavailable)?;
    match provider.jwt.check(held.set.as_deref(), token, now, last_header) {
        Ok(verified) => {
            let verified = Rc::new(verified);
            worker.token_misses.set(worker.token_misses.get() + 1);
            tokens.insert(index, token, Rc::clone(&verified), now);
            worker.doubts.regulars.borrow_mut().learn(LimitKey::of_ip(exchange.client));
            Ok(verified)
        }
        Err(rejection) => {
            let is_doubtful =
                held.desk.is_some() && provider.jwt.depends_on_keys(&rejection, token, now, last_header);
            Err(Refused { index, rejection, is_doubtful })
        }
    }
}

/// Was it verified since? Many requests may wait with one token.
fn look_again(index: usize, token: &str, exchange: &Exchange) -> Option<Rc<Verified>> {
    exchange.worker().tokens.borrow_mut().get(index, token, unix_seconds(exchange))
}

fn unix_seconds(exchange: &Exchange) -> u64 {
    exchange.worker().clock.unix(exchange.started).as_secs()
}

fn token_error(rejection: &JwtRejection) -> Error {
    match rejection.code() {
        RejectionCode::KeysUnavailable => Error::KeysUnavailable,
        RejectionCode::Expired => Error::TokenExpired,
        RejectionCode::Invalid => Error::TokenInvalid,
    }
}

fn insufficient(
    exchange: &Exchange,
    provider: &str,
    requirement: &Requirement,
    missing: InsufficientScope<'_>,
) -> Error {
    failed(exchange, provider, "insufficient_scope", Some(missing.what()));
    Error::InsufficientScope { scope: requirement.scope_value() }
}
