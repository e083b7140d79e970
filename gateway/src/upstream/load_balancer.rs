//! Load balancing: which endpoint of a cluster gets the next attempt. Compiled from `Balance`.
//!
//! All schemes honour weights through one precomputed schedule, in which each endpoint has as many turns as its weight,
//! spread evenly (turn k of weight w is at (k + ½)/w of the cycle, as in the earliest-deadline-first order of packet
//! schedulers). Equal weights need no schedule. An endpoint is passed over if this request has tried it, if it is ejected,
//! or if its breaker lets no request through: a few random draws spread its share over all others instead of giving it to
//! its neighbour, and then a scan finds any endpoint that is left. While too few are left (`outlier.panic`), ejected
//! endpoints are picked like the others. A pick is O(1) as long as most endpoints can be used, and O(endpoints) when
//! hardly any can.
//!
//! - round robin: the schedule in order. Each worker has its own cursor, which starts at a random place.
//! - p2c: two draws from the schedule, of which the endpoint with fewer requests in flight per weight wins (Mitzenmacher,
//!   "The power of two choices in randomized load balancing", 2001).
//! - least: the endpoint with the fewest requests in flight per weight, among [`LEAST_SCAN_MAX`] endpoints from the
//!   schedule's next turn on. These are all endpoints of a usual cluster, and a moving sample of a larger one.
//! - peak_ewma: two draws as for p2c, of which the endpoint with the lower cost wins: its
//!   [response time](super::response_time) times one more than its requests in flight per weight (the peak EWMA of tower
//!   and linkerd). For instances that differ in speed.
//! - random: one draw.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt};

use super::{endpoint::Endpoint, health::Health};
use crate::policy::balance::Balance;

/// The balancer of one cluster, compiled for the endpoints of one snapshot.
#[derive(Debug, Clone)]
pub enum LoadBalancer {
    RoundRobin(Schedule),
    P2c(Schedule),
    Least(Schedule),
    PeakEwma(Schedule),
    Random(Schedule),
}

/// The reason that no endpoint can take an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The cluster has no endpoint.
    Empty,
    /// The breakers of all endpoints are open, or wait for their probes.
    AllBroken {
        /// The time until the first breaker may let a request through.
        retry_after: Duration,
    },
    /// This request has tried every endpoint that can be used.
    AllExcluded,
}

/// A worker's place in one cluster's schedule. It survives changes of the endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Cursor(usize);

impl Cursor {
    /// Starts at a random place, so that workers do not pick the same endpoints in the same order.
    pub fn new(rng: &mut impl Rng) -> Self {
        Self(rng.random_range(0..=u32::MAX as usize))
    }

    /// Returns this turn and moves on to the next one. [`LoadBalancer::pick`] calls it for its cursor.
    pub(crate) fn advance(&mut self) -> usize {
        let turn = self.0;
        self.0 = turn.wrapping_add(1);
        turn
    }
}

impl LoadBalancer {
    /// Makes the balancer for `endpoints`, from their weights.
    pub fn compile(balance: Balance, endpoints: &[Endpoint]) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(Endpoint::weight).collect();
        let schedule = Schedule::compile(&weights);
        match balance {
            Balance::RoundRobin => Self::RoundRobin(schedule),
            Balance::P2c => Self::P2c(schedule),
            Balance::Least => Self::Least(schedule),
            Balance::PeakEwma => Self::PeakEwma(schedule),
            Balance::Random => Self::Random(schedule),
        }
    }

    /// Whether the endpoints' response times must be recorded. Other balancers do not pay for that.
    pub fn uses_response_times(&self) -> bool {
        matches!(self, Self::PeakEwma(_))
    }

    /// The index of the endpoint for the next attempt. `endpoints` must be those for which this was compiled; `excluded`
    /// are the indexes that this request has tried. The result may be an ejected endpoint whose pause is over; the caller
    /// then makes the attempt its probe.
    ///
    /// # Errors
    /// No endpoint can take the attempt.
    pub fn pick(
        &self,
        (endpoints, health): (&[Endpoint], Health<'_>),
        cursor: &mut Cursor,
        excluded: &[usize],
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<usize, NoEndpoint> {
        let choice = Choice { endpoints, health, excluded, now, is_panic: Cell::new(None) };
        let (schedule, first) = match self {
            _ if endpoints.is_empty() => return Err(NoEndpoint::Empty),
            Self::RoundRobin(schedule) => (schedule, choice.usable(schedule.at(cursor.advance()))),
            Self::Random(schedule) => (schedule, choice.usable(schedule.draw(rng))),
            Self::P2c(schedule) => (schedule, choice.better_of_two(schedule, rng, Choice::is_less_loaded)),
            Self::PeakEwma(schedule) => (schedule, choice.better_of_two(schedule, rng, Choice::is_cheaper)),
            Self::Least(schedule) => (schedule, choice.least_loaded_from(schedule.at(cursor.advance()))),
        };
        first
            .or_else(|| (0..DRAWS_MAX).find_map(|_| choice.usable(schedule.draw(rng))))
            .or_else(|| choice.scan_from(schedule.draw(rng)))
            .ok_or_else(|| choice.why_none())
    }
}

/// The arguments of one pick.
struct Choice<'a> {
    endpoints: &'a [Endpoint],
    health: Health<'a>,
    excluded: &'a [usize],
    now: Instant,
    /// Computed at the first endpoint that is ejected.
    is_panic: Cell<Option<bool>>,
}

impl Choice<'_> {
    fn usable(&self, index: usize) -> Option<usize> {
        let endpoint = self.endpoints.get(index)?;
        let usable = !self.excluded.contains(&index)
            && self.health.is_closed(endpoint, self.now)
            && (!self.health.is_ejected(endpoint, self.now) || self.is_panic());
        usable.then_some(index)
    }

    fn is_panic(&self) -> bool {
        self.is_panic.get().unwrap_or_else(|| {
            let is_panic = self.health.is_panic(self.endpoints, self.now);
            self.is_panic.set(Some(is_panic));
            is_panic
        })
    }

    /// Requests in flight and weight. They are compared crosswise, which compares quotients without a division.
    fn load(&self, index: usize) -> Option<(u64, u64)> {
        let endpoint = self.endpoints.get(index)?;
        Some((u64::from(endpoint.state().in_flight()), u64::from(endpoint.weight())))
    }

    /// Whether `a` is less loaded than `b`. A tie is `false`: the first draw wins, so that idle endpoints share requests
    /// by weight.
    fn is_less_loaded(&self, a: usize, b: usize) -> bool {
        match (self.load(a), self.load(b)) {
            (Some((a, a_weight)), Some((b, b_weight))) => a * b_weight < b * a_weight,
            _ => false,
        }
    }

    /// Whether a response of `a` is likely to come sooner than one of `b`. A tie is `false`, as above.
    fn is_cheaper(&self, a: usize, b: usize) -> bool {
        let cost = |index: usize| {
            let endpoint = self.endpoints.get(index)?;
            let (in_flight, weight) = (endpoint.state().in_flight(), endpoint.weight());
            let waiting = f64::from(in_flight) / f64::from(weight) + 1.0;
            Some(f64::from(endpoint.state().response_time().seconds(self.now)) * waiting)
        };
        cost(a).zip(cost(b)).is_some_and(|(a, b)| a < b)
    }

    fn better_of_two(
        &self,
        schedule: &Schedule,
        rng: &mut impl Rng,
        is_better: impl Fn(&Self, usize, usize) -> bool,
    ) -> Option<usize> {
        let count = self.endpoints.len();
        let first = schedule.draw(rng);
        let mut second = schedule.draw(rng);
        if second == first && count > 1 {
            second = (first + rng.random_range(1..count)) % count;
        }
        match (self.usable(first), self.usable(second)) {
            (Some(a), Some(b)) if is_better(self, b, a) => Some(b),
            (first, second) => first.or(second),
        }
    }

    fn least_loaded_from(&self, start: usize) -> Option<usize> {
        let count = self.endpoints.len();
        (0..count.min(LEAST_SCAN_MAX))
            .filter_map(|step| self.usable((start + step) % count))
            .reduce(|best, other| if self.is_less_loaded(other, best) { other } else { best })
    }

    fn scan_from(&self, start: usize) -> Option<usize> {
        let count = self.endpoints.len();
        (0..count).find_map(|step| self.usable((start + step) % count))
    }

    /// The reason that no endpoint was found. If no breaker lets a request through, whether or not this request has tried
    /// its endpoint, the client can wait for that. Otherwise the request has used up its endpoints.
    fn why_none(&self) -> NoEndpoint {
        let Some(breaker) = self.health.breaker else { return NoEndpoint::AllExcluded };
        let states = || self.endpoints.iter().map(|endpoint| endpoint.state().breaker());
        if states().any(|state| breaker.is_routable(state, self.now)) {
            return NoEndpoint::AllExcluded;
        }
        let retry_after = states().map(|state| breaker.retry_after(state, self.now)).min();
        NoEndpoint::AllBroken { retry_after: retry_after.unwrap_or_default() }
    }
}

/// The order of the endpoints' turns, by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The endpoints' indexes in the order of their turns. Empty if all weights are equal.
    turns: Box<[u32]>,
    endpoints: usize,
}

impl Schedule {
    fn compile(weights: &[u32]) -> Self {
        let endpoints = weights.len();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self { turns: Box::default(), endpoints };
        }
        let weights = reduced(weights);
        let mut turns: Vec<(u64, u64, u32)> = (0_u32..)
            .zip(&weights)
            .flat_map(|(index, &weight)| (0..weight).map(move |turn| (2 * turn + 1, weight, index)))
            .collect();
        // (2k + 1)/2w, compared crosswise. A stable sort keeps equal moments in the order of the endpoints.
        turns.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)));
        Self { turns: turns.into_iter().map(|turn| turn.2).collect(), endpoints }
    }

    /// The endpoint at a place of the schedule, which repeats endlessly. The cluster must not be empty.
    fn at(&self, turn: usize) -> usize {
        match self.turns.len() {
            0 => turn % self.endpoints.max(1),
            // The remainder is in range, so the fallback is never taken.
            turns => self.turns.get(turn % turns).map_or(0, |&index| index as usize),
        }
    }

    fn draw(&self, rng: &mut impl Rng) -> usize {
        self.at(rng.random_range(0..self.turns.len().max(self.endpoints).max(1)))
    }
}

/// The same proportions with at most about [`TURNS_MAX`] turns. The lightest endpoints keep one turn.
fn reduced(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, weight)).max(1);
    let weights = weights.iter().map(|&weight| u64::from(weight / divisor));
    let total: u64 = weights.clone().sum();
    if total <= TURNS_MAX {
        return weights.collect();
    }
    weights.map(|weight| ((weight * TURNS_MAX + total / 2) / total).max(1)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest number of endpoints that `least` compares in one pick.
pub const LEAST_SCAN_MAX: usize = 128;
/// The number of random draws before a scan.
const DRAWS_MAX: usize = 4;
/// The largest number of turns of a schedule: 256 KiB of memory, and a weight of one in 65,536 is still distinct.
const TURNS_MAX: u64 = 65_536;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::{
        super::endpoint::{EndpointKey, EndpointState, InFlight},
        *,
    };
    use crate::policy::{
        circuit_breaker::{BreakerSettings, CircuitBreaker, FailureKinds, Outcome},
        outlier::{OutlierDetector, OutlierSettings, Sign},
    };

    const ALL: [Balance; 5] =
        [Balance::RoundRobin, Balance::P2c, Balance::Least, Balance::PeakEwma, Balance::Random];

    fn endpoints(weights: &[u32], now: Instant) -> Vec<Endpoint> {
        (1_u16..)
            .zip(weights)
            .map(|(port, &weight)| {
                let address = ([10, 0, 0, 1], port).into();
                Endpoint::new(
                    EndpointKey::address(address),
                    address,
                    "users",
                    weight,
                    Arc::new(EndpointState::new(now)),
                )
            })
            .collect()
    }

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::compile(&BreakerSettings {
            error_ratio: 0.5,
            requests_min: 1,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            probes: 1,
            count: FailureKinds { connect: true, reset: true, timeout: true, statuses: Vec::new() },
            max_by_status: 0.5,
        })
    }

    fn outlier() -> OutlierDetector {
        OutlierDetector::compile(&OutlierSettings {
            connect_failures: Some(1),
            gateway_failures: Some(1),
            unanswered: None,
            pause: Duration::from_secs(5),
            max: 1.0,
            panic: 0.5,
        })
    }

    fn health() -> Health<'static> {
        static BREAKER: LazyLock<CircuitBreaker> = LazyLock::new(breaker);
        static OUTLIER: LazyLock<OutlierDetector> = LazyLock::new(outlier);
        Health { breaker: Some(&BREAKER), outlier: Some(&OUTLIER) }
    }

    fn eject(endpoint: &Endpoint, now: Instant) {
        let state = endpoint.state().outlier();
        outlier().record(state, state.began(), Sign::ConnectFailed, now, || true).unwrap();
    }

    fn trip(endpoint: &Endpoint, now: Instant) {
        let permit = breaker().check(&**endpoint.state(), now, || 1).unwrap();
        permit.record(Outcome::Failure, now, || true).unwrap();
    }

    /// How often each endpoint is picked in `picks` picks.
    fn shares(
        balance: Balance,
        endpoints: &[Endpoint],
        excluded: &[usize],
        picks: usize,
        now: Instant,
    ) -> Vec<usize> {
        let balancer = LoadBalancer::compile(balance, endpoints);
        let mut rng = SmallRng::seed_from_u64(11);
        let mut cursor = Cursor::new(&mut rng);
        let mut shares = vec![0; endpoints.len()];
        for _ in 0..picks {
            shares[balancer.pick((endpoints, health()), &mut cursor, excluded, now, &mut rng).unwrap()] += 1;
        }
        shares
    }

    proptest! {
        #[test]
        fn round_robin_is_fair_within_one(count in 1_usize..60, picks in 0_usize..500) {
            let now = Instant::now();
            let shares = shares(Balance::RoundRobin, &endpoints(&vec![3; count], now), &[], picks, now);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }

        #[test]
        fn a_whole_cycle_gives_each_endpoint_as_many_turns_as_its_weight(
            weights in proptest::collection::vec(1_u32..40, 1..12),
        ) {
            let now = Instant::now();
            let picks = weights.iter().sum::<u32>() as usize;
            let shares = shares(Balance::RoundRobin, &endpoints(&weights, now), &[], picks, now);
            prop_assert_eq!(shares, weights.iter().map(|&weight| weight as usize).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_excluded_or_open_is_never_picked(
            weights in proptest::collection::vec(1_u32..5, 2..20),
            excluded in proptest::collection::vec(0_usize..20, 0..4),
            open in proptest::collection::vec(0_usize..20, 0..6),
            seed in any::<u64>(),
        ) {
            let now = Instant::now();
            let endpoints = endpoints(&weights, now);
            let mut is_open = vec![false; endpoints.len()];
            for index in open.into_iter().filter(|&index| index < endpoints.len()) {
                if !is_open[index] {
                    trip(&endpoints[index], now);
                }
                is_open[index] = true;
            }
            let candidates = (0..endpoints.len()).filter(|i| !is_open[*i] && !excluded.contains(i)).count();
            let mut rng = SmallRng::seed_from_u64(seed);
            for balance in ALL {
                let balancer = LoadBalancer::compile(balance, &endpoints);
                let mut cursor = Cursor::new(&mut rng);
                for _ in 0..50 {
                    match balancer.pick((&endpoints, health()), &mut cursor, &excluded, now, &mut rng) {
                        Ok(index) => prop_assert!(!is_open[index] && !excluded.contains(&index)),
                        Err(NoEndpoint::Empty) => prop_assert!(false, "it is not empty"),
                        Err(NoEndpoint::AllBroken { .. }) => prop_assert!(is_open.iter().all(|&open| open)),
                        Err(NoEndpoint::AllExcluded) => prop_assert_eq!(candidates, 0),
                    }
                }
            }
        }
    }

    #[test]
    fn every_scheme_shares_idle_endpoints_by_weight() {
        let now = Instant::now();
        let endpoints = endpoints(&[1, 2, 5], now);
        for balance in ALL {
            // With three endpoints, the second draw of p2c evens the shares out a little when it hits the first.
            let shares = shares(balance, &endpoints, &[], 8_000, now);
            for (share, expected) in shares.iter().zip([1_000, 2_000, 5_000]) {
                assert!(share.abs_diff(expected) < 200, "{balance:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn peak_ewma_prefers_the_quick_one_until_it_is_busy_and_tries_the_slow_one_again() {
        let now = Instant::now();
        let endpoints = endpoints(&[1, 1], now);
        for (endpoint, millis) in endpoints.iter().zip([40, 100]) {
            endpoint.state().response_time().record(Duration::from_millis(millis), false, now);
        }
        let share_of = |now| shares(Balance::PeakEwma, &endpoints, &[], 100, now);
        assert_eq!(share_of(now), [100, 0]);
        let busy: Vec<_> = (0..2).map(|_| InFlight::begin(&**endpoints[0].state())).collect();
        assert_eq!(share_of(now), [0, 100], "3 × 40 is more than 100");
        drop(busy);
        let later = now + Duration::from_secs(12);
        endpoints[0].state().response_time().record(Duration::from_millis(40), false, later);
        assert_eq!(share_of(later), [0, 100], "100 has become 30");
    }

    #[test]
    fn turns_of_a_heavy_endpoint_are_spread_out() {
        assert_eq!(&*Schedule::compile(&[5, 1, 1]).turns, &[0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(&*Schedule::compile(&[20, 40]).turns, &[1, 0, 1], "reduced by what is common");
    }

    #[test]
    fn p2c_and_least_prefer_fewer_requests_in_flight_per_weight() {
        let now = Instant::now();
        let endpoints = endpoints(&[1, 4], now);
        let _light = InFlight::begin(&**endpoints[0].state());
        let _heavy: Vec<_> = (0..3).map(|_| InFlight::begin(&**endpoints[1].state())).collect();
        for balance in [Balance::P2c, Balance::Least] {
            assert_eq!(shares(balance, &endpoints, &[], 100, now), [0, 100], "1/1 is more than 3/4");
        }
        let _more: Vec<_> = (0..2).map(|_| InFlight::begin(&**endpoints[1].state())).collect();
        for balance in [Balance::P2c, Balance::Least] {
            assert_eq!(shares(balance, &endpoints, &[], 100, now), [100, 0], "5/4 is more than 1/1");
        }
    }

    #[test]
    fn the_share_of_a_broken_endpoint_goes_to_all_others() {
        let now = Instant::now();
        let endpoints = endpoints(&[1; 10], now);
        trip(&endpoints[4], now);
        for balance in ALL {
            let shares = shares(balance, &endpoints, &[], 9_000, now);
            assert_eq!(shares[4], 0);
            // `least` goes on from the turn of the broken endpoint, so its neighbour gets that turn while all are idle.
            // Under load, the numbers in flight even that out.
            if balance != Balance::Least {
                assert!(shares.iter().max().unwrap() < &1_200, "{balance:?}: {shares:?}");
            }
        }
    }

    /// This happens when a zone is down and its endpoints are next to each other.
    #[test]
    fn the_share_of_a_broken_row_does_not_fall_on_its_neighbour() {
        let now = Instant::now();
        let endpoints = endpoints(&[1; 10], now);
        for endpoint in &endpoints[..5] {
            trip(endpoint, now);
        }
        for balance in [Balance::RoundRobin, Balance::P2c, Balance::Random] {
            let shares = shares(balance, &endpoints, &[], 10_000, now);
            assert!(
                shares[5..].iter().all(|&share| (1_700..2_500).contains(&share)),
                "{balance:?}: {shares:?}"
            );
        }
    }

    #[test]
    fn an_endpoint_is_asked_again_once_its_breaker_allows_probes() {
        let now = Instant::now();
        let endpoints = endpoints(&[1], now);
        trip(&endpoints[0], now);
        for balance in ALL {
            let balancer = LoadBalancer::compile(balance, &endpoints);
            let mut rng = SmallRng::seed_from_u64(3);
            let mut cursor = Cursor::new(&mut rng);
            let later = now + Duration::from_secs(2);
            assert_eq!(
                balancer.pick((&endpoints, health()), &mut cursor, &[], later, &mut rng),
                Err(NoEndpoint::AllBroken { retry_after: Duration::from_secs(3) })
            );
            let later = now + Duration::from_secs(5);
            assert_eq!(balancer.pick((&endpoints, health()), &mut cursor, &[], later, &mut rng), Ok(0));
        }
    }

    #[test]
    fn an_ejected_endpoint_gets_nothing_unless_too_few_are_left() {
        let now = Instant::now();
        let endpoints = endpoints(&[1; 4], now);
        eject(&endpoints[0], now);
        eject(&endpoints[3], now);
        for balance in ALL {
            let shares = self::shares(balance, &endpoints, &[], 1_000, now);
            assert_eq!((shares[0], shares[3]), (0, 0), "{balance:?}: half of them is enough");
        }
        eject(&endpoints[1], now);
        for balance in ALL {
            let shares = self::shares(balance, &endpoints, &[], 1_000, now);
            assert!(shares.iter().all(|&share| share > 0), "{balance:?}: a quarter is not: {shares:?}");
        }
        let off = Health { outlier: None, ..health() };
        let balancer = LoadBalancer::compile(Balance::RoundRobin, &endpoints);
        let mut rng = SmallRng::seed_from_u64(3);
        let picked = balancer.pick((&endpoints, off), &mut Cursor(0), &[1, 2, 3], now, &mut rng);
        assert_eq!(picked, Ok(0), "switched off, what was ejected counts at once");
    }

    #[test]
    fn an_open_breaker_that_is_switched_off_holds_nothing_back() {
        let now = Instant::now();
        let endpoints = endpoints(&[1], now);
        trip(&endpoints[0], now);
        let balancer = LoadBalancer::compile(Balance::RoundRobin, &endpoints);
        let (mut rng, off) = (SmallRng::seed_from_u64(3), Health { breaker: None, outlier: None });
        assert_eq!(balancer.pick((&endpoints, off), &mut Cursor(0), &[], now, &mut rng), Ok(0));
    }

    #[test]
    fn an_empty_cluster_and_one_that_was_tried_are_told_apart() {
        let now = Instant::now();
        let one = endpoints(&[1], now);
        for balance in ALL {
            let mut rng = SmallRng::seed_from_u64(3);
            let mut cursor = Cursor::new(&mut rng);
            let empty = LoadBalancer::compile(balance, &[]);
            assert_eq!(empty.pick((&[], health()), &mut cursor, &[], now, &mut rng), Err(NoEndpoint::Empty));
            let balancer = LoadBalancer::compile(balance, &one);
            assert_eq!(
                balancer.pick((&one, health()), &mut cursor, &[0], now, &mut rng),
                Err(NoEndpoint::AllExcluded)
            );
        }
    }

    #[test]
    fn huge_weights_make_a_bounded_schedule_in_proportion() {
        let schedule = Schedule::compile(&[65_535, 65_521, 65_519, 1]);
        assert!(schedule.turns.len() as u64 <= TURNS_MAX + 4);
        let turns = |index| schedule.turns.iter().filter(|&&turn| turn == index).count();
        assert!(turns(0).abs_diff(turns(1)) < 20);
        assert_eq!(turns(3), 1, "the lightest keeps a turn");
    }
}
