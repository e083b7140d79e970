//! Tokens that were verified a moment ago: one map per provider and worker.
//!
//! A token is found by all of its bytes; a hash only finds the place, and of two tokens with one hash the later is
//! remembered. Only success is remembered, and only until
//! the second in which verification would say no. When keys or settings change, the
//! worker begins a new one. When a map is full, CLOCK (Corbató, 1968: second chance) makes room: a hand passes
//! over the places, spares what was used since it last came by, and takes the first that was not or whose
//! time is over; it moves at most [`HAND_STEPS_MAX`] places, so an insertion is O(1). Limits: `cache_max`
//! tokens for each provider.

use std::{collections::HashMap, hash::BuildHasher, rc::Rc};

use super::{LastHeader, Verified};

/// A worker's verified tokens.
#[derive(Debug, Default)]
pub struct TokenCache {
    providers: Vec<Clock>,
}

impl TokenCache {
    /// One limit for each provider, in the providers' order. A limit of 0 remembers nothing.
    pub fn new(limits: impl IntoIterator<Item = usize>) -> Self {
        Self { providers: limits.into_iter().map(Clock::new).collect() }
    }

    /// What verification of this very token by this provider said, if it would say so again at `now` (seconds
    /// since 1970).
    pub fn get(&mut self, provider: usize, token: &str, now: u64) -> Option<Rc<Verified>> {
        self.providers.get_mut(provider)?.get(token, now)
    }

    /// Remembers a token that `provider` has verified at `now`.
    pub fn insert(&mut self, provider: usize, token: &str, verified: Rc<Verified>, now: u64) {
        if let Some(clock) = self.providers.get_mut(provider) {
            clock.insert(token, verified, now);
        }
    }

    /// The header that a token of this provider had last.
    pub fn last_header(&mut self, provider: usize) -> Option<&mut LastHeader> {
        self.providers.get_mut(provider).map(|clock| &mut clock.last_header)
    }

    /// Tokens remembered.
    pub fn len(&self) -> usize {
        self.providers.iter().map(|clock| clock.places.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
struct Clock {
    max: usize,
    places: Vec<Place>,
    /// By hash: who makes room is found without reading a token that was in use long ago.
    index: HashMap<u64, usize, foldhash::fast::RandomState>,
    /// Seeded at random: senders choose tokens.
    hasher: foldhash::quality::RandomState,
    hand: usize,
    last_header: LastHeader,
}

#[derive(Debug)]
struct Place {
    hash: u64,
    token: Box<str>,
    verified: Rc<Verified>,
    was_used: bool,
}

impl Clock {
    fn new(max: usize) -> Self {
        Self {
            max,
            places: Vec::new(),
            index: HashMap::default(),
            hasher: foldhash::quality::RandomState::default(),
            hand: 0,
            last_header: LastHeader::default(),
        }
    }

    fn get(&mut self, token: &str, now: u64) -> Option<Rc<Verified>> {
        let place = self.places.get_mut(*self.index.get(&self.hasher.hash_one(token))?)?;
        if *place.token != *token {
            return None;
        }
        place.was_used = true;
        place.verified.holds_at(now).then(|| Rc::clone(&place.verified))
    }

    fn insert(&mut self, token: &str, verified: Rc<Verified>, now: u64) {
        if self.max == 0 || !verified.holds_at(now) {
            return;
        }
        let hash = self.hasher.hash_one(token);
        let place = Place { hash, token: token.into(), verified, was_used: false };
        if let Some(known) = self.index.get(&hash).and_then(|&at| self.places.get_mut(at)) {
            *known = place;
            return;
        }
        let at = if self.places.len() < self.max {
            self.places.push(place);
            self.places.len() - 1
        } else {
            let at = self.victim(now);
            let old = std::mem::replace(&mut self.places[at], place);
            self.index.remove(&old.hash);
            at
        };
        self.index.insert(hash, at);
    }

    /// The place to give away; only for a full map.
    fn victim(&mut self, now: u64) -> usize {
        for _ in 1..HAND_STEPS_MAX {
            let at = self.step();
            let place = &mut self.places[at];
            if !place.was_used || !place.verified.holds_at(now) {
                return at;
            }
            place.was_used = false;
        }
        self.step()
    }

    fn step(&mut self) -> usize {
        let at = self.hand;
        self.hand = (at + 1) % self.places.len();
        at
    }
}

/// Places that one insertion looks at.
const HAND_STEPS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn verified(over_at: u64) -> Rc<Verified> {
        Rc::new(Verified {
            provider: "main".into(),
            subject: None,
            scopes: Box::default(),
            roles: Box::default(),
            exp: over_at,
            over_at,
            forward: vec![],
            claims: BTreeMap::new(),
        })
    }

    #[test]
    fn a_token_is_remembered_up_to_its_last_second() {
        let mut cache = TokenCache::new([10]);
        let entry = verified(100);
        cache.insert(0, "a.b.c", Rc::clone(&entry), 50);
        assert!(Rc::ptr_eq(&cache.get(0, "a.b.c", 99).unwrap(), &entry));
        assert_eq!(cache.get(0, "a.b.c", 100), None);
        cache.insert(0, "late", verified(100), 100);
        assert_eq!(cache.len(), 1, "what holds no more is not remembered");
    }

    #[test]
    fn only_the_very_same_bytes_for_the_same_provider_are_found() {
        let mut cache = TokenCache::new([10, 10]);
        cache.insert(0, "a.b.c", verified(100), 0);
        for (provider, token) in
            [(0, "a.b.C"), (0, "a.b.c "), (0, "a.b."), (0, ""), (1, "a.b.c"), (7, "a.b.c")]
        {
            assert_eq!(cache.get(provider, token, 0), None, "{provider} {token:?}");
        }
        cache.insert(7, "a.b.c", verified(100), 0);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_full_cache_spares_what_was_used_since_the_hand_came_by() {
        let mut cache = TokenCache::new([3]);
        for token in ["a", "b", "c"] {
            cache.insert(0, token, verified(100), 0);
        }
        cache.get(0, "a", 0).unwrap();
        cache.insert(0, "d", verified(100), 0);
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.get(0, "b", 0), None, "the first that was not used");
        for token in ["a", "c", "d"] {
            assert!(cache.get(0, token, 0).is_some(), "{token}");
        }
    }

    #[test]
    fn a_token_whose_time_is_over_makes_room_first() {
        let mut cache = TokenCache::new([2]);
        cache.insert(0, "short", verified(10), 0);
        cache.insert(0, "long", verified(100), 0);
        cache.get(0, "short", 0).unwrap();
        cache.insert(0, "new", verified(100), 10);
        assert!(cache.get(0, "long", 10).is_some() && cache.get(0, "new", 10).is_some());
    }

    #[test]
    fn room_is_made_when_every_place_is_in_use() {
        let mut cache = TokenCache::new([100]);
        for round in 0..1_000 {
            let token = round.to_string();
            cache.insert(0, &token, verified(100), 0);
            assert!(cache.get(0, &token, 0).is_some());
        }
        assert_eq!(cache.len(), 100);
        let clock = &cache.providers[0];
        assert_eq!(clock.index.len(), 100);
        assert!(clock.index.iter().all(|(hash, &at)| clock.places[at].hash == *hash));
    }

    #[test]
    fn a_token_that_is_verified_again_replaces_its_entry() {
        let mut cache = TokenCache::new([2]);
        cache.insert(0, "a", verified(10), 0);
        cache.insert(0, "a", verified(20), 0);
        assert_eq!((cache.len(), cache.get(0, "a", 15).unwrap().over_at), (1, 20));
    }

    #[test]
    fn a_limit_of_zero_remembers_nothing() {
        let mut cache = TokenCache::new([2, 0]);
        cache.insert(0, "a", verified(10), 0);
        cache.insert(1, "a", verified(10), 0);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn of_two_tokens_with_one_hash_none_is_taken_for_the_other() {
        let mut cache = TokenCache::new([10]);
        cache.insert(0, "a.b.c", verified(10), 0);
        let clock = &mut cache.providers[0];
        let hash = clock.hasher.hash_one("x.y.z");
        clock.index = [(hash, 0)].into_iter().collect();
        clock.places[0].hash = hash;
        assert_eq!(cache.get(0, "x.y.z", 0), None);
        cache.insert(0, "x.y.z", verified(20), 0);
        assert_eq!((cache.len(), cache.get(0, "x.y.z", 0).unwrap().over_at), (1, 20));
        assert_eq!(cache.get(0, "a.b.c", 0), None, "the later one is remembered");
    }
}
