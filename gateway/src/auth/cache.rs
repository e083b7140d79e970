//! Credentials that were found valid lately: one map per provider and worker.
//!
//! A credential is compared with all of its bytes; a hash only finds its place, and of two credentials with one hash the
//! later one is remembered. Only success is remembered, and only until the second in which the check would refuse it. When
//! keys or settings change, the worker begins a new map. When a map is full, CLOCK (Corbató, 1968: second chance) makes
//! room: a hand moves over the places, spares one that was used since the hand last passed, and replaces the first one that
//! was not used or has expired. It moves at most [`HAND_STEPS_MAX`] places, so an insertion is O(1). Limit: `cache` of the
//! provider.

use std::{collections::HashMap, hash::BuildHasher, rc::Rc};

use super::{Identity, jwt::LastHeader};

/// The identities that a worker remembers of one provider.
#[derive(Debug)]
pub struct IdentityCache {
    max: usize,
    places: Vec<Place>,
    /// The index of each place by hash, so that a place can be replaced without reading its credential, which was not used
    /// for long.
    index: HashMap<u64, usize, foldhash::fast::RandomState>,
    /// Seeded at random, because clients choose credentials.
    hasher: foldhash::quality::RandomState,
    hand: usize,
    /// The header of the last token of this provider.
    pub(super) last_header: LastHeader,
}

#[derive(Debug)]
struct Place {
    hash: u64,
    token: Box<str>,
    verified: Rc<Identity>,
    was_used: bool,
}

impl IdentityCache {
    /// With a limit of 0 nothing is remembered.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            places: Vec::new(),
            index: HashMap::default(),
            hasher: foldhash::quality::RandomState::default(),
            hand: 0,
            last_header: LastHeader::default(),
        }
    }

    /// The identity of this exact credential from an earlier check, if it is valid at `now` (seconds since 1970).
    pub fn get(&mut self, token: &str, now: u64) -> Option<Rc<Identity>> {
        let place = self.places.get_mut(*self.index.get(&self.hasher.hash_one(token))?)?;
        if *place.token != *token {
            return None;
        }
        place.was_used = true;
        place.verified.is_valid_at(now).then(|| Rc::clone(&place.verified))
    }

    /// Remembers a credential that was found valid at `now`.
    pub fn insert(&mut self, token: &str, verified: Rc<Identity>, now: u64) {
        if self.max == 0 || !verified.is_valid_at(now) {
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

    /// The place to replace. The map must be full.
    fn victim(&mut self, now: u64) -> usize {
        for _ in 1..HAND_STEPS_MAX {
            let at = self.step();
            let place = &mut self.places[at];
            if !place.was_used || !place.verified.is_valid_at(now) {
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

/// The largest number of places that one insertion checks.
const HAND_STEPS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(valid_until: u64) -> Rc<Identity> {
        Rc::new(Identity { valid_until, ..Identity::of("main", None) })
    }

    #[test]
    fn a_token_is_remembered_up_to_its_last_second() {
        let mut cache = IdentityCache::new(10);
        let entry = verified(100);
        cache.insert("a.b.c", Rc::clone(&entry), 50);
        assert!(Rc::ptr_eq(&cache.get("a.b.c", 99).unwrap(), &entry));
        assert_eq!(cache.get("a.b.c", 100), None);
        cache.insert("late", verified(100), 100);
        assert_eq!(cache.places.len(), 1, "what holds no more is not remembered");
    }

    #[test]
    fn only_the_very_same_bytes_are_found() {
        let mut cache = IdentityCache::new(10);
        cache.insert("a.b.c", verified(100), 0);
        for token in ["a.b.C", "a.b.c ", "a.b.", ""] {
            assert_eq!(cache.get(token, 0), None, "{token:?}");
        }
    }

    #[test]
    fn a_full_cache_spares_what_was_used_since_the_hand_came_by() {
        let mut cache = IdentityCache::new(3);
        for token in ["a", "b", "c"] {
            cache.insert(token, verified(100), 0);
        }
        cache.get("a", 0).unwrap();
        cache.insert("d", verified(100), 0);
        assert_eq!(cache.places.len(), 3);
        assert_eq!(cache.get("b", 0), None, "the first that was not used");
        for token in ["a", "c", "d"] {
            assert!(cache.get(token, 0).is_some(), "{token}");
        }
    }

    #[test]
    fn a_token_whose_time_is_over_makes_room_first() {
        let mut cache = IdentityCache::new(2);
        cache.insert("short", verified(10), 0);
        cache.insert("long", verified(100), 0);
        cache.get("short", 0).unwrap();
        cache.insert("new", verified(100), 10);
        assert!(cache.get("long", 10).is_some() && cache.get("new", 10).is_some());
    }

    #[test]
    fn room_is_made_when_every_place_is_in_use() {
        let mut cache = IdentityCache::new(100);
        for round in 0..1_000 {
            let token = round.to_string();
            cache.insert(&token, verified(100), 0);
            assert!(cache.get(&token, 0).is_some());
        }
        assert_eq!(cache.places.len(), 100);
        assert_eq!(cache.index.len(), 100);
        assert!(cache.index.iter().all(|(hash, &at)| cache.places[at].hash == *hash));
    }

    #[test]
    fn a_token_that_is_verified_again_replaces_its_entry() {
        let mut cache = IdentityCache::new(2);
        cache.insert("a", verified(10), 0);
        cache.insert("a", verified(20), 0);
        assert_eq!((cache.places.len(), cache.get("a", 15).unwrap().valid_until), (1, 20));
    }

    #[test]
    fn a_limit_of_zero_remembers_nothing() {
        let mut cache = IdentityCache::new(0);
        cache.insert("a", verified(10), 0);
        assert_eq!(cache.places.len(), 0);
    }

    #[test]
    fn of_two_tokens_with_one_hash_none_is_taken_for_the_other() {
        let mut cache = IdentityCache::new(10);
        cache.insert("a.b.c", verified(10), 0);
        let hash = cache.hasher.hash_one("x.y.z");
        cache.index = [(hash, 0)].into_iter().collect();
        cache.places[0].hash = hash;
        assert_eq!(cache.get("x.y.z", 0), None);
        cache.insert("x.y.z", verified(20), 0);
        assert_eq!((cache.places.len(), cache.get("x.y.z", 0).unwrap().valid_until), (1, 20));
        assert_eq!(cache.get("a.b.c", 0), None, "the later one is remembered");
    }
}
