//! The rate limits of one request, which is charged to all of them or to none.
//!
//! A request that one limit refuses must not be charged to the others: otherwise one address that is limited would use up
//! the limit that a route has for all clients. So all limits are looked at first and then charged, and the order of the list
//! changes nothing. Looking and charging are two steps, and workers share the counters: if another worker takes the last
//! request in between, the charges are given back.
//!
//! There are two stages. Limits whose key needs no identity are checked before authentication ([`Stage::Anyone`]) and stay
//! charged when authentication fails, which bounds guessing. A limit that refuses in the second stage gives the charges of
//! the first stage back. Cost: a limit that is alone in its stage is charged without a look.

use std::{net::IpAddr, ops::Deref, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};

use super::{
    limit_key,
    rate_limit::{LimitKey, Limited, Quota, RateLimit},
};
use crate::auth::Identity;

/// One worker's handle to a rate limit, with a copy of its header value.
#[derive(Debug)]
pub struct LocalLimit {
    shared: Arc<RateLimit>,
    /// The worker's own copy of the `RateLimit-Policy` value.
    pub policy: HeaderValue,
}

impl LocalLimit {
    /// One worker's handle to a limit. `policy` is the worker's own `RateLimit-Policy` value.
    pub fn new(shared: &Arc<RateLimit>, policy: HeaderValue) -> Self {
        Self { shared: Arc::clone(shared), policy }
    }
}

impl Deref for LocalLimit {
    type Target = RateLimit;

    fn deref(&self) -> &RateLimit {
        &self.shared
    }
}

/// When a limit can be checked: before or after authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The limit's key needs no identity.
    Anyone,
    /// The limit's key comes from the verified identity.
    Identified,
}

/// The check of one request against the limits of its route.
#[derive(Debug)]
pub struct LimitCheck<'a> {
    limits: &'a [LocalLimit],
    client: IpAddr,
    headers: &'a HeaderMap,
    now: Instant,
    /// The charged limit with the fewest requests left, with its index and quota. Of equal limits, it is the first in the
    /// file.
    tightest: Option<(usize, &'a LocalLimit, Quota)>,
}

/// The limit that refuses the request. If several do, it is the one that refuses for the longest time.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    pub limit: &'a LocalLimit,
    pub limited: Limited,
}

impl<'a> LimitCheck<'a> {
    /// The check of a request from `client` that arrived at `now`.
    pub fn new(limits: &'a [LocalLimit], client: IpAddr, headers: &'a HeaderMap, now: Instant) -> Self {
        Self { limits, client, headers, now, tightest: None }
    }

    /// Charges the request to all limits of this stage.
    ///
    /// # Errors
    /// A limit refuses. Then the request is not charged to any limit of any stage.
    pub fn check(&mut self, stage: Stage, identity: Option<&Identity>) -> Result<(), Refused<'a>> {
        let verdict = self.look(stage, identity).and_then(|()| self.charge(stage, identity));
        if verdict.is_err() && stage == Stage::Identified {
            self.give_back(Stage::Anyone, self.limits.len(), identity);
        }
        verdict
    }

    /// The limit with the fewest requests left, and its quota, for the response's fields.
    pub fn tightest(&self) -> Option<(&'a LocalLimit, Quota)> {
        self.tightest.map(|(_, limit, quota)| (limit, quota))
    }

    fn look(&self, stage: Stage, identity: Option<&Identity>) -> Result<(), Refused<'a>> {
        if self.of(stage).nth(1).is_none() {
            return Ok(());
        }
        let mut longest: Option<Refused<'_>> = None;
        for (_, limit) in self.of(stage) {
            if let Err(limited) = limit.look(self.key(limit, identity), self.now)
                && longest.is_none_or(|known| known.limited.retry_after < limited.retry_after)
            {
                longest = Some(Refused { limit, limited });
            }
        }
        longest.map_or(Ok(()), Err)
    }

    fn charge(&mut self, stage: Stage, identity: Option<&Identity>) -> Result<(), Refused<'a>> {
        let mut tightest = self.tightest;
        for (at, limit) in self.of(stage) {
            match limit.check(self.key(limit, identity), self.now) {
                Ok(quota) => {
                    let is_tighter = |(other, _, known): (usize, _, Quota)| {
                        (quota.remaining, at) < (known.remaining, other)
                    };
                    if tightest.is_none_or(is_tighter) {
                        tightest = Some((at, limit, quota));
                    }
                }
                Err(limited) => {
                    self.give_back(stage, at, identity);
                    return Err(Refused { limit, limited });
                }
            }
        }
        self.tightest = tightest;
        Ok(())
    }

    /// Gives back the charges of this stage's limits before `end`.
    fn give_back(&self, stage: Stage, end: usize, identity: Option<&Identity>) {
        for (_, limit) in self.of(stage).take_while(|(at, _)| *at < end) {
            limit.give_back(self.key(limit, identity));
        }
    }

    fn of(&self, stage: Stage) -> impl Iterator<Item = (usize, &'a LocalLimit)> + use<'a> {
        let limits = self.limits.iter().enumerate();
        limits.filter(move |(_, limit)| limit.needs_identity() == (stage == Stage::Identified))
    }

    fn key(&self, limit: &RateLimit, identity: Option<&Identity>) -> LimitKey {
        limit_key::of(limit, self.client, identity, self.headers)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        policy::rate_limit::{KeyBudget, RateLimitKey, RateLimitSpec},
        syntax::diagnostics::Span,
    };

    fn limits(now: Instant, keys: usize, all: &[(u32, RateLimitKey)]) -> Vec<LocalLimit> {
        let budget = Arc::new(KeyBudget::new(keys, now));
        let compile = |(burst, key): &(u32, RateLimitKey)| {
            let settings = RateLimitSpec {
                name: "test".into(),
                requests: *burst,
                period: Duration::from_hours(1),
                burst: *burst,
                key: key.clone(),
                span: Span::default(),
            };
            let limit = Arc::new(RateLimit::compile(&settings, &budget).unwrap());
            LocalLimit::new(&limit, limit.policy_value().clone())
        };
        all.iter().map(compile).collect()
    }

    fn verified(subject: &str) -> Identity {
        Identity::of("main", Some(subject))
    }

    /// Checks one request. An error is the index of the limit that refuses it.
    fn request(limits: &[LocalLimit], ip: &str, user: &str, now: Instant) -> Result<(), usize> {
        let (headers, identity) = (HeaderMap::new(), verified(user));
        let mut check = LimitCheck::new(limits, ip.parse().unwrap(), &headers, now);
        let at = |refused: Refused<'_>| {
            limits.iter().position(|limit| std::ptr::eq(limit, refused.limit)).unwrap()
        };
        check.check(Stage::Anyone, None).map_err(at)?;
        check.check(Stage::Identified, Some(&identity)).map_err(at)
    }

    fn left(limit: &RateLimit, key: LimitKey, now: Instant) -> u32 {
        let mut left = 0;
        while limit.check(key, now).is_ok() {
            left += 1;
        }
        left
    }

    use RateLimitKey::{Ip, Route, Service, User};

    #[test]
    fn a_request_that_one_limit_refuses_is_charged_to_none() {
        let now = Instant::now();
        for (all, refusing) in [
            (vec![(20, Route), (5, Ip)], 1),
            (vec![(5, Ip), (20, Route)], 0),
            (vec![(20, Route), (5, User)], 1),
            (vec![(5, User), (20, Route)], 0),
            (vec![(20, Route), (30, Service), (5, Ip), (40, User)], 2),
            (vec![(40, User), (20, Route), (30, Service), (5, Ip)], 3),
        ] {
            let limits = limits(now, 100, &all);
            let verdicts: Vec<_> = (0..40).map(|_| request(&limits, "192.0.2.1", "ann", now)).collect();
            assert_eq!(verdicts[..5], [Ok(()); 5], "{all:?}");
            assert!(verdicts[5..].iter().all(|verdict| *verdict == Err(refusing)), "{all:?}: {verdicts:?}");
            let route = limits.iter().find(|limit| *limit.key_source() == Route).unwrap();
            assert_eq!(left(route, LimitKey::SHARED, now), 15, "{all:?}");
        }
    }

    #[test]
    fn of_several_limits_that_refuse_the_one_with_the_longest_wait_is_named() {
        let now = Instant::now();
        for (all, longest) in [([(2, Route), (1, Ip)], 1), ([(1, Ip), (2, Route)], 0)] {
            let limits = limits(now, 100, &all);
            assert_eq!(request(&limits, "192.0.2.1", "ann", now), Ok(()));
            assert_eq!(request(&limits, "192.0.2.2", "ann", now), Ok(()));
            assert_eq!(request(&limits, "192.0.2.1", "ann", now), Err(longest), "{all:?}");
        }
    }

    #[test]
    fn a_refused_request_takes_no_place_for_a_key() {
        let now = Instant::now();
        let limits = limits(now, 100, &[(1, Route), (9, Ip)]);
        for host in 1..10 {
            let _ = request(&limits, &format!("192.0.2.{host}"), "ann", now);
        }
        assert_eq!((limits[0].keys(), limits[1].keys()), (1, 1));
    }

    #[test]
    fn past_the_cap_of_keys_refusals_stay_refusals() {
        let now = Instant::now();
        // The route's key takes the only place, so all addresses share a cell.
        let limits = limits(now, 1, &[(4, Route), (2, Ip)]);
        let verdicts = [1, 2, 3, 4].map(|host: u8| request(&limits, &format!("192.0.2.{host}"), "ann", now));
        assert_eq!(verdicts, [Ok(()), Ok(()), Err(1), Err(1)]);
        assert_eq!(left(&limits[0], LimitKey::SHARED, now), 2);
    }

    #[test]
    fn racing_workers_charge_all_or_nothing() {
        let now = Instant::now();
        let limits = limits(now, 100, &[(500, Route), (300, Ip), (200, User)]);
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..400 {
                        if request(&limits, "192.0.2.1", "ann", now).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        // A request may have been refused for a charge that another worker gave back later, so the last ones pass one by
        // one.
        while request(&limits, "192.0.2.1", "ann", now).is_ok() {
            passed.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(passed.load(Ordering::Relaxed), 200);
        assert_eq!(left(&limits[0], LimitKey::SHARED, now), 300);
        let address = LimitKey::of_ip("192.0.2.1".parse().unwrap());
        assert_eq!(left(&limits[1], address, now), 100);
    }

    #[test]
    fn the_quota_that_is_told_is_that_of_the_limit_with_the_least_left() {
        let now = Instant::now();
        let limits = limits(now, 100, &[(9, User), (5, Ip), (5, Route)]);
        let (headers, identity) = (HeaderMap::new(), verified("ann"));
        let mut check = LimitCheck::new(&limits, "192.0.2.1".parse().unwrap(), &headers, now);
        assert!(check.tightest().is_none());
        check.check(Stage::Anyone, None).unwrap();
        check.check(Stage::Identified, Some(&identity)).unwrap();
        let (limit, quota) = check.tightest().unwrap();
        assert!(std::ptr::eq(limit, &raw const limits[1]));
        assert_eq!(quota.remaining, 4);
    }
}
