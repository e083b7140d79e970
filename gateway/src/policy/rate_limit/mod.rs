//! Rate limiting: at most `requests` per `period` for each key, bursts up to `burst`.
//!
//! The algorithm is GCRA (ITU-T I.371) by governor, with eight bytes of state per key, behind a store of our own. At
//! most `limits.rate_keys` keys are tracked over all limits together ([`KeyBudget`]). Past that, new keys share one
//! overflow cell per limit, so memory is bounded and every request is limited. A tracked key stays tracked until it is
//! back to full, so a flood of new keys cannot free a limited key. At the limit the gateway refuses (429 with
//! `Retry-After`) and never queues.
//!
//! Cells are shared by all workers: one look-up under a shard's read lock and one compare-and-swap per
//! request. Units: nanoseconds since the budget was made; headers carry whole seconds, rounded up. Header
//! fields: draft-ietf-httpapi-ratelimit-headers (`RateLimit-Policy`, `RateLimit`), RFC 9110 §10.2.3
//! (`Retry-After`).

mod kept;
pub(crate) mod rate;
mod spec;

use std::{
    convert::Infallible,
    fmt::Write,
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::{DashMap, Entry};
use governor::{
    NotUntil, Quota as GovernorQuota, RateLimiter,
    clock::Clock,
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};
use http::HeaderValue;

pub(crate) use self::kept::Limits;
pub use self::spec::{RateLimitKey, RateLimitSpec};

/// One limit of a route (or of a service, then shared by its routes).
#[derive(Debug)]
pub struct RateLimit {
    settings: RateLimitSpec,
    interval: Duration,
    /// The limiter owns its store, so it gets a shared one.
    limiter: RateLimiter<Arrival, SharedStore, Frozen, StateInformationMiddleware>,
    store: Arc<CappedStore>,
    policy_value: HeaderValue,
}

/// The requests that are left after a request that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests per period.
    pub limit: u32,
    /// Requests that may follow at once.
    pub remaining: u32,
    /// Time until all of `burst` is available again.
    pub reset: Duration,
}

/// A refusal: the key has used up its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Requests per period.
    pub limit: u32,
    /// Time until a request of this key passes.
    pub retry_after: Duration,
}

/// Why a limit cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    #[error("a rate limit needs at least one request and a burst of at least one")]
    Zero,
    #[error("more than one request per nanosecond cannot be counted")]
    TooFast,
    #[error("a burst that takes more than a hundred years to come back cannot be counted")]
    TooSlow,
    #[error("the name of a rate limit goes into a header and must be printable ASCII")]
    Name,
}

impl RateLimit {
    /// Whether both limits have the same settings.
    pub fn is_equal_to(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.settings == other.settings
    }

    /// Compiles a limit whose keys count against `budget`.
    pub fn compile(settings: &RateLimitSpec, budget: &Arc<KeyBudget>) -> Result<Self, RateLimitError> {
        let (Some(requests), Some(burst)) =
            (NonZeroU32::new(settings.requests), NonZeroU32::new(settings.burst))
        else {
            return Err(RateLimitError::Zero);
        };
        let interval = settings.period / requests.get();
        let quota = GovernorQuota::with_period(interval).ok_or(RateLimitError::TooFast)?.allow_burst(burst);
        // governor multiplies the two in 64 bits of nanoseconds (584 years).
        if interval.checked_mul(burst.get()).is_none_or(|whole| whole > BURST_LONGEST) {
            return Err(RateLimitError::TooSlow);
        }
        let store = Arc::new(CappedStore::new(Arc::clone(budget)));
        Ok(Self {
            policy_value: policy_value(settings)?,
            settings: settings.clone(),
            interval,
            limiter: RateLimiter::new(quota, SharedStore(Arc::clone(&store)), Frozen),
            store,
        })
    }

    /// Counts a request of this key, if it may pass.
    pub fn check(&self, key: LimitKey, now: Instant) -> Result<Quota, Limited> {
        let arrival = Arrival { key, now_ns: self.store.budget.nanos(now), is_look: false };
        match self.limiter.check_key(&arrival) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.settings.burst.saturating_sub(remaining);
                Ok(Quota { limit: self.settings.requests, remaining, reset: self.interval * used })
            }
            Err(refusal) => Err(self.limited(&refusal)),
        }
    }

    /// Whether a request of this key would pass. Nothing is counted, and a key that is not tracked does not become
    /// tracked.
    pub fn look(&self, key: LimitKey, now: Instant) -> Result<(), Limited> {
        let arrival = Arrival { key, now_ns: self.store.budget.nanos(now), is_look: true };
        self.limiter.check_key(&arrival).map(|_| ()).map_err(|refusal| self.limited(&refusal))
    }

    /// Takes back one request of this key that [`Self::check`] has counted.
    pub fn give_back(&self, key: LimitKey) {
        self.store.give_back(key, self.interval);
    }

    fn limited(&self, refusal: &NotUntil<Nanos>) -> Limited {
        Limited {
            limit: self.settings.requests,
            // Time stands still at zero for governor: see `Frozen`.
            retry_after: refusal.wait_time_from(Nanos::new(0)),
        }
    }

    /// Whether `settings` would compile to this limit. If so, a reload keeps the limit with all its counts.
    pub fn matches(&self, settings: &RateLimitSpec) -> bool {
        let (mine, other) = (&self.settings, settings);
        (&mine.name, mine.requests, mine.period, mine.burst, &mine.key)
            == (&other.name, other.requests, other.period, other.burst, &other.key)
    }

    /// The settings from which the limit was compiled.
    pub(crate) fn spec(&self) -> &RateLimitSpec {
        &self.settings
    }

    /// The part of a request from which its key is made.
    pub fn key_source(&self) -> &RateLimitKey {
        &self.settings.key
    }

    /// Whether the key comes from the identity, so that the limit is checked after authentication.
    pub fn needs_identity(&self) -> bool {
        matches!(self.settings.key, RateLimitKey::User | RateLimitKey::Claim(_))
    }

    /// The limit's name in headers and problem documents.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The key of a text such as a subject, a claim or a header's value.
    pub fn key_of(&self, bytes: &[u8]) -> LimitKey {
        self.store.budget.key_of(bytes)
    }

    /// The key of a text that is unambiguous only together with its source, such as a subject of one of several
    /// providers.
    pub fn key_within(&self, source: &str, text: &[u8]) -> LimitKey {
        self.store.budget.key_within(source, text)
    }

    /// Stops tracking keys that are back to full, and returns their number. The control thread calls this every few
    /// seconds; it locks one shard at a time.
    pub fn sweep(&self, now: Instant) -> usize {
        self.store.sweep(self.store.budget.nanos(now))
    }

    /// Keys that are tracked now.
    pub fn keys(&self) -> usize {
        self.store.cells.len()
    }

    /// The value of `RateLimit-Policy`, such as `"user";q=100;w=1`. Each of several limits has a line of its own.
    pub fn policy_value(&self) -> &HeaderValue {
        &self.policy_value
    }

    /// The value of `RateLimit`, such as `"user";r=42;t=1`: requests left, and seconds until all are available again.
    pub fn state_value(&self, quota: &Quota) -> HeaderValue {
        self.state(quota.remaining, quota.reset)
    }

    /// The value of `RateLimit` in a refusal, such as `"user";r=0;t=1`; `t` agrees with `Retry-After`.
    pub fn refusal_value(&self, limited: &Limited) -> HeaderValue {
        self.state(0, limited.retry_after.max(Duration::from_secs(1)))
    }

    fn state(&self, remaining: u32, reset: Duration) -> HeaderValue {
        let mut text = String::with_capacity(self.settings.name.len() + 32);
        push_name(&mut text, &self.settings.name);
        // Writing into a String cannot fail.
        let _ = write!(text, ";r={remaining};t={}", seconds_up(reset));
        // This cannot fail either: `compile` refused names that are not valid in a header value.
        let value = HeaderValue::try_from(text).unwrap_or_else(|_| self.policy_value.clone());
        crate::message::never_indexed(value)
    }
}

fn policy_value(settings: &RateLimitSpec) -> Result<HeaderValue, RateLimitError> {
    if !settings.name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(RateLimitError::Name);
    }
    let mut text = String::new();
    push_name(&mut text, &settings.name);
    let _ = write!(text, ";q={};w={}", settings.requests, seconds_up(settings.period).max(1));
    HeaderValue::try_from(text).map_err(|_| RateLimitError::Name)
}

/// Writes a structured-field string (RFC 9651 §4.1.6).
fn push_name(text: &mut String, name: &str) {
    text.push('"');
    for char in name.chars() {
        if matches!(char, '"' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
    text.push('"');
}

fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The key of requests that are counted together.
///
/// The key of an address is the address. A text is hashed to 128 bits with two independently keyed SipHash-1-3:
/// a client cannot search for a text that shares another text's bucket, and among a million keys the probability of
/// an accidental collision is 1.5 · 10⁻²⁷ (n²/2¹²⁹).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitKey(u128);

impl LimitKey {
    /// The key of a bucket that all requests of a route or a service share.
    pub const SHARED: Self = Self(0);

    /// The key of an address. IPv4 counts by address and IPv6 by /64, since one customer has at least a /64.
    pub fn of_ip(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits() >> 64 << 64),
        }
    }
}

/// The number of keys that all limits together may track. A process has one budget.
#[derive(Debug)]
pub struct KeyBudget {
    /// Most tracked keys; a reload may change it.
    max: AtomicUsize,
    /// Tracked keys. A place is taken before its key is inserted, so this is never raised above `max`.
    used: AtomicUsize,
    overflowed: AtomicU64,
    hashers: [RandomState; 2],
    /// The instant from which nanoseconds are counted.
    base: Instant,
}

impl KeyBudget {
    /// A budget of `max` keys. Nanoseconds are counted from `now`.
    pub fn new(max: usize, now: Instant) -> Self {
        Self {
            max: AtomicUsize::new(max),
            used: AtomicUsize::new(0),
            overflowed: AtomicU64::new(0),
            hashers: [RandomState::new(), RandomState::new()],
            base: now,
        }
    }

    /// Keys that all limits track together.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Most keys that all limits may track together.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the most tracked keys. Keys past a lower maximum stay tracked until they are swept.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Number of requests that were counted in an overflow cell.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn key_of(&self, bytes: &[u8]) -> LimitKey {
        let [high, low] = &self.hashers;
        // The hash covers nothing but the bytes, so their length need not be hashed.
        let hash = |keyed: &RandomState| {
            let mut hasher = keyed.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        LimitKey(u128::from(hash(high)) << 64 | u128::from(hash(low)))
    }

    fn key_within(&self, source: &str, text: &[u8]) -> LimitKey {
        // Clients choose the text, so its hash needs a secret key. The configuration fixes the sources, whose hash
        // needs none.
        let LimitKey(key) = self.key_of(text);
        let salt =
            source.bytes().fold(FNV_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        LimitKey(key ^ (u128::from(salt) << 64 | u128::from(salt.rotate_left(32))))
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base).as_nanos();
        // Half of the range leaves room to add a burst.
        u64::try_from(since).unwrap_or(u64::MAX).min(u64::MAX / 2)
    }

    fn reserve(&self) -> bool {
        let max = self.max();
        let reserved = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| (used < max).then_some(used + 1));
        if reserved.is_err() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        reserved.is_ok()
    }

    fn release(&self, keys: usize) {
        self.used.fetch_sub(keys, Ordering::AcqRel);
    }
}

/// A request as governor's key: the key of the limit, and the time of the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Arrival {
    key: LimitKey,
    now_ns: u64,
    /// The request is only looked at, and does not change a cell.
    is_look: bool,
}

/// A clock that always shows zero. governor reads its clock in each check, but our callers pass `now`. GCRA only
/// compares times, so the store shifts the cells instead: they contain absolute times, and governor gets them relative
/// to the arrival.
#[derive(Debug)]
struct Frozen;

impl Clock for Frozen {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

/// Cells by key, within the budget. A cell contains the moment at which its key is back to full.
#[derive(Debug)]
struct CappedStore {
    cells: DashMap<LimitKey, InMemoryState, foldhash::fast::RandomState>,
    overflow: InMemoryState,
    budget: Arc<KeyBudget>,
}

impl CappedStore {
    fn new(budget: Arc<KeyBudget>) -> Self {
        let cells = DashMap::with_hasher_and_shard_amount(foldhash::fast::RandomState::default(), SHARDS);
        Self { cells, overflow: InMemoryState::default(), budget }
    }

    /// When the key is back to full. A key that is not tracked is full, or counts in the overflow cell if the budget
    /// is used up.
    fn full_at(&self, key: LimitKey) -> u64 {
        match self.cells.get(&key) {
            Some(cell) => full_at(&cell),
            None if self.budget.used() < self.budget.max() => 0,
            None => full_at(&self.overflow),
        }
    }

    /// Makes the key full one interval earlier. The overflow cell gets nothing back, since it is not known whether
    /// this key was counted in it: it may refuse too much, but never too little.
    fn give_back(&self, key: LimitKey, interval: Duration) {
        let interval = Nanos::from(interval);
        if let Some(cell) = self.cells.get(&key) {
            let earlier = |full_at: Option<Nanos>| {
                Ok::<_, Infallible>(((), full_at.unwrap_or_default().saturating_sub(interval)))
            };
            let Ok(()) = cell.measure_and_replace(&NotKeyed::NonKey, earlier);
        }
    }

    fn sweep(&self, now_ns: u64) -> usize {
        let mut swept = 0;
        self.cells.retain(|_, cell| {
            let is_full = full_at(cell) <= now_ns;
            swept += usize::from(is_full);
            !is_full
        });
        self.budget.release(swept);
        if swept > self.cells.len() {
            self.cells.shrink_to_fit();
        }
        swept
    }
}

impl Drop for CappedStore {
    fn drop(&mut self) {
        self.budget.release(self.cells.len());
    }
}

/// Reads a cell by an update that is refused.
fn full_at(cell: &InMemoryState) -> u64 {
    let look = cell.measure_and_replace(&NotKeyed::NonKey, |full_at| {
        Err::<((), Nanos), _>(full_at.map_or(0, Nanos::as_u64))
    });
    look.err().unwrap_or(0)
}

/// A type of our own around the `Arc`, as the orphan rule requires.
#[derive(Debug)]
struct SharedStore(Arc<CappedStore>);

impl StateStore for SharedStore {
    type Key = Arrival;

    fn measure_and_replace<T, F, E>(&self, arrival: &Arrival, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let now = Nanos::new(arrival.now_ns);
        let decide_relative = |full_at: Option<Nanos>| {
            let ahead = full_at.map(|full_at| full_at.saturating_sub(now));
            decide(ahead).map(|(verdict, ahead)| (verdict, ahead + now))
        };
        let store = &self.0;
        if arrival.is_look {
            return decide_relative(Some(Nanos::new(store.full_at(arrival.key)))).map(|(verdict, _)| verdict);
        }
        if let Some(cell) = store.cells.get(&arrival.key) {
            return cell.measure_and_replace(&NotKeyed::NonKey, decide_relative);
        }
        if !store.budget.reserve() {
            return store.overflow.measure_and_replace(&NotKeyed::NonKey, decide_relative);
        }
        match store.cells.entry(arrival.key) {
            Entry::Vacant(place) => {
                place.insert(InMemoryState::default()).measure_and_replace(&NotKeyed::NonKey, decide_relative)
            }
            // Another worker inserted the key first, so the place taken above is given back.
            Entry::Occupied(cell) => {
                store.budget.release(1);
                cell.get().measure_and_replace(&NotKeyed::NonKey, decide_relative)
            }
        }
    }
}

/// FNV-1a (draft-eastlake-fnv-17).
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
/// Shards of a limit's map. A sweep of a million keys locks each of them for about 100 µs; an empty limit takes
/// 8 KiB.
const SHARDS: usize = 64;
/// Longest time until a burst is available again: a hundred years.
const BURST_LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sfv::{BareItem, List, ListEntry, Parser};

    use super::*;
    use crate::syntax::diagnostics::Span;

    fn settings(requests: u32, period: Duration, burst: u32) -> RateLimitSpec {
        RateLimitSpec {
            name: "user".into(),
            requests,
            period,
            burst,
            key: RateLimitKey::User,
            span: Span::default(),
        }
    }

    fn limit(
        requests: u32,
        period_ms: u64,
        burst: u32,
        keys: usize,
        now: Instant,
    ) -> (RateLimit, Arc<KeyBudget>) {
        let budget = Arc::new(KeyBudget::new(keys, now));
        let settings = settings(requests, Duration::from_millis(period_ms), burst);
        (RateLimit::compile(&settings, &budget).unwrap(), budget)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_the_next_request_waits_its_turn() {
        let now = Instant::now();
        let (limit, _budget) = limit(10, 1_000, 3, 100, now);
        for remaining in [2, 1, 0] {
            let quota = limit.check(LimitKey::SHARED, now).unwrap();
            let reset = Duration::from_millis(100) * (3 - remaining);
            assert_eq!(quota, Quota { limit: 10, remaining, reset });
        }
        let limited = limit.check(LimitKey::SHARED, now).unwrap_err();
        assert_eq!(limited, Limited { limit: 10, retry_after: Duration::from_millis(100) });
        let almost = now + Duration::from_nanos(99_999_999);
        assert_eq!(limit.check(LimitKey::SHARED, almost).unwrap_err().retry_after, Duration::from_nanos(1));
        assert!(limit.check(LimitKey::SHARED, now + Duration::from_millis(100)).is_ok());
    }

    #[test]
    fn a_look_counts_nothing_and_what_is_given_back_can_be_had_again() {
        let now = Instant::now();
        let (limit, budget) = limit(10, 1_000, 2, 100, now);
        let key = limit.key_of(b"ann");
        for _ in 0..5 {
            assert_eq!(limit.look(key, now), Ok(()));
        }
        assert_eq!((limit.keys(), budget.used()), (0, 0));
        limit.check(key, now).unwrap();
        limit.check(key, now).unwrap();
        let limited = limit.look(key, now).unwrap_err();
        assert_eq!(Err(limited), limit.check(key, now));
        limit.give_back(key);
        assert_eq!(limit.check(key, now).unwrap().remaining, 0);
        // A key never gets back more than its burst.
        for _ in 0..5 {
            limit.give_back(key);
        }
        let later = now + SECOND;
        assert_eq!([1, 0].map(|_| limit.check(key, later).unwrap().remaining), [1, 0]);
        assert!(limit.check(key, later).is_err());
    }

    #[test]
    fn keys_do_not_share_a_bucket() {
        let now = Instant::now();
        let (limit, _budget) = limit(1, 1_000, 1, 100, now);
        let (ann, bob) = (limit.key_of(b"ann"), limit.key_of(b"bob"));
        assert!(limit.check(ann, now).is_ok());
        assert!(limit.check(ann, now).is_err());
        assert!(limit.check(bob, now).is_ok());
        assert_eq!(limit.key_of(b"ann"), ann);
    }

    proptest! {
        /// The oracle is a token bucket in exact integers, another algorithm for the same limit.
        #[test]
        fn it_agrees_with_a_token_bucket(
            burst in 1_u32..6,
            steps in proptest::collection::vec(0_u64..250, 1..80),
        ) {
            const INTERVAL_MS: u64 = 100;
            let start = Instant::now();
            let (limit, _budget) = limit(10, 10 * INTERVAL_MS, burst, 10, start);
            let full = u64::from(burst) * INTERVAL_MS;
            let (mut level, mut at_ms) = (full, 0);
            for step in steps {
                at_ms += step;
                level = full.min(level + step);
                let verdict = limit.check(LimitKey::SHARED, start + Duration::from_millis(at_ms));
                if level >= INTERVAL_MS {
                    level -= INTERVAL_MS;
                    prop_assert_eq!(u64::from(verdict.unwrap().remaining), level / INTERVAL_MS);
                } else {
                    let wait = Duration::from_millis(INTERVAL_MS - level);
                    prop_assert_eq!(verdict.unwrap_err().retry_after, wait);
                }
            }
        }
    }

    #[test]
    fn ipv6_addresses_of_one_64_and_mapped_ipv4_share_a_key() {
        let key = |address: &str| LimitKey::of_ip(address.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1:2:3"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn past_the_cap_new_keys_share_one_bucket_and_tracked_keys_stay_limited() {
        let now = Instant::now();
        let (limit, budget) = limit(1, 1_000, 1, 2, now);
        let [hot, warm, third, fourth] = [1, 2, 3, 4].map(|id: u8| limit.key_of(&[id]));
        assert!(limit.check(hot, now).is_ok());
        assert!(limit.check(warm, now).is_ok());
        assert!(limit.check(third, now).is_ok(), "the first in the overflow cell");
        assert!(limit.check(fourth, now).is_err(), "it shares that cell");
        assert!(limit.check(hot, now).is_err(), "a flood of keys does not free it");
        assert_eq!((budget.used(), budget.overflowed(), limit.keys()), (2, 2, 2));
    }

    #[test]
    fn the_cap_counts_the_keys_of_all_limits() {
        let now = Instant::now();
        let budget = Arc::new(KeyBudget::new(1, now));
        let [first, second] = [1, 2].map(|n| RateLimit::compile(&settings(n, SECOND, 1), &budget).unwrap());
        assert!(first.check(first.key_of(b"a"), now).is_ok());
        assert!(second.check(second.key_of(b"a"), now).is_ok());
        assert_eq!((first.keys(), second.keys(), budget.overflowed()), (1, 0, 1));
        drop(first);
        assert_eq!(budget.used(), 0, "a limit that goes gives its keys back");
    }

    #[test]
    fn a_sweep_forgets_keys_that_are_back_to_full_and_no_others() {
        let now = Instant::now();
        let (limit, budget) = limit(10, 1_000, 5, 10, now);
        let (idle, busy) = (limit.key_of(b"idle"), limit.key_of(b"busy"));
        limit.check(idle, now).unwrap();
        for _ in 0..5 {
            limit.check(busy, now).unwrap();
        }
        assert_eq!(limit.sweep(now + Duration::from_millis(99)), 0);
        assert_eq!(limit.sweep(now + Duration::from_millis(100)), 1);
        assert_eq!((limit.keys(), budget.used()), (1, 1));
        assert_eq!(limit.check(busy, now + Duration::from_millis(100)).unwrap().remaining, 0);
        assert_eq!(limit.sweep(now + SECOND), 1);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn racing_workers_never_pass_more_than_the_burst_nor_track_more_than_the_cap() {
        let now = Instant::now();
        let (limit, budget) = limit(1, 1_000, 100, 16, now);
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..8_u32 {
                let (limit, passed) = (&limit, &passed);
                scope.spawn(move || {
                    for round in 0..500_u32 {
                        if limit.check(LimitKey::SHARED, now).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                        // All workers race for half of these keys.
                        let _ = limit.check(limit.key_of(&(round * (worker % 2)).to_be_bytes()), now);
                    }
                });
            }
        });
        assert_eq!(passed.load(Ordering::Relaxed), 100);
        assert_eq!((budget.used(), limit.keys()), (16, 16));
    }

    #[test]
    fn workers_that_race_for_a_new_key_take_one_place() {
        const WORKERS: usize = 4;
        let now = Instant::now();
        for _ in 0..100 {
            let (limit, budget) = limit(1, 1_000, 1, 1_000, now);
            let start = std::sync::Barrier::new(WORKERS);
            std::thread::scope(|scope| {
                for _ in 0..WORKERS {
                    scope.spawn(|| {
                        for id in 0..64_u8 {
                            start.wait();
                            let _ = limit.check(limit.key_of(&[id]), now);
                        }
                    });
                }
            });
            assert_eq!((budget.used(), limit.keys()), (64, 64));
        }
    }

    #[test]
    fn a_limit_survives_a_reload_exactly_when_it_means_the_same() {
        let budget = Arc::new(KeyBudget::new(1, Instant::now()));
        let mine = settings(10, SECOND, 5);
        let limit = RateLimit::compile(&mine, &budget).unwrap();
        assert!(limit.matches(&mine));
        for other in [settings(11, SECOND, 5), settings(10, SECOND * 2, 5), settings(10, SECOND, 6)] {
            assert!(!limit.matches(&other));
        }
        assert!(!limit.matches(&RateLimitSpec { key: RateLimitKey::Ip, ..mine }));
    }

    #[test]
    fn limits_that_cannot_be_counted_are_refused() {
        let budget = Arc::new(KeyBudget::new(1, Instant::now()));
        let year = SECOND * 365 * 86_400;
        for (settings, error) in [
            (settings(0, SECOND, 1), RateLimitError::Zero),
            (settings(1, SECOND, 0), RateLimitError::Zero),
            (settings(u32::MAX, SECOND, 1), RateLimitError::TooFast),
            (settings(1, year, 101), RateLimitError::TooSlow),
            (settings(1, Duration::MAX, u32::MAX), RateLimitError::TooSlow),
            (RateLimitSpec { name: "a\nb".into(), ..settings(1, SECOND, 1) }, RateLimitError::Name),
        ] {
            assert_eq!(RateLimit::compile(&settings, &budget).unwrap_err(), error);
        }
    }

    /// Name and parameters of a header's only member, read by an independent parser of structured fields.
    fn parsed(value: &HeaderValue) -> (String, Vec<(String, i64)>) {
        let list: List = Parser::new(value.as_bytes()).parse().unwrap();
        let [ListEntry::Item(item)] = &list[..] else { panic!("one item: {list:?}") };
        let BareItem::String(name) = &item.bare_item else { panic!("a string: {item:?}") };
        let number = |value: &BareItem| i64::from(value.as_integer().expect("an integer"));
        let params = item.params.iter().map(|(key, value)| (key.to_string(), number(value))).collect();
        (name.to_string(), params)
    }

    fn params<const N: usize>(params: [(&str, i64); N]) -> Vec<(String, i64)> {
        params.map(|(key, value)| (key.to_owned(), value)).to_vec()
    }

    #[test]
    fn the_headers_are_structured_fields_with_seconds_rounded_up() {
        let now = Instant::now();
        let (limit, _budget) = limit(100, 60_000, 2, 10, now);
        assert_eq!(limit.policy_value(), "\"user\";q=100;w=60");
        let quota = limit.check(LimitKey::SHARED, now).unwrap();
        let state = limit.state_value(&quota);
        assert_eq!(state, "\"user\";r=1;t=1");
        assert_eq!(parsed(&state), ("user".into(), params([("r", 1), ("t", 1)])));
        assert_eq!(parsed(limit.policy_value()), ("user".into(), params([("q", 100), ("w", 60)])));
        limit.check(LimitKey::SHARED, now).unwrap();
        let limited = limit.check(LimitKey::SHARED, now).unwrap_err();
        assert_eq!(limit.refusal_value(&limited), "\"user\";r=0;t=1");
    }

    #[test]
    fn a_name_with_quotes_is_escaped() {
        let budget = Arc::new(KeyBudget::new(1, Instant::now()));
        let settings = RateLimitSpec { name: "a\"b\\c".into(), ..settings(1, SECOND, 1) };
        let limit = RateLimit::compile(&settings, &budget).unwrap();
        assert_eq!(parsed(limit.policy_value()).0, "a\"b\\c");
    }
}
