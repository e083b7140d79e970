//! Regulars: clients that have sent a valid token lately. If a regular sends a token that no known key verifies, there are
//! probably new keys; if another client does, the token is probably just wrong.
//!
//! It is a table of fixed size ([`PLACES`]) with one place for each address, so that a flood of addresses costs no memory.
//! Two addresses with the same place replace each other. The table decides how soon keys are fetched, and never whether a
//! token is valid.

use std::hash::{BuildHasher, Hash};

/// The regulars of one worker.
#[derive(Debug, Default)]
pub(crate) struct Regulars {
    /// Seeded at random, because clients choose addresses.
    hasher: foldhash::quality::RandomState,
    /// Empty until the first client is recorded.
    places: Vec<u64>,
}

impl Regulars {
    /// Records that a token of this client was verified. `client` is its address in the form that limits count.
    pub(crate) fn learn(&mut self, client: impl Hash) {
        if self.places.is_empty() {
            self.places.resize(PLACES, 0);
        }
        let (place, mark) = self.place(client);
        if let Some(place) = self.places.get_mut(place) {
            *place = mark;
        }
    }

    /// Whether a token of this client was verified lately.
    pub(crate) fn knows(&self, client: impl Hash) -> bool {
        let (place, mark) = self.place(client);
        self.places.get(place) == Some(&mark)
    }

    fn place(&self, client: impl Hash) -> (usize, u64) {
        let hash = self.hasher.hash_one(client);
        // Truncation is intended: the low bits choose the place. 0 marks an empty place.
        (usize::try_from(hash % PLACES as u64).unwrap_or(0), hash.max(1))
    }
}

/// 32 KiB.
const PLACES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_once_it_was_seen_and_a_flood_of_others_takes_no_more_memory() {
        let client = |n: u32| std::net::Ipv4Addr::from_bits(n);
        let mut regulars = Regulars::default();
        assert!(!regulars.knows(client(7)));
        regulars.learn(client(7));
        assert!(regulars.knows(client(7)) && !regulars.knows(client(8)));
        for other in 1000..100_000 {
            regulars.learn(client(other));
        }
        assert_eq!(regulars.places.len(), PLACES);
        assert!(regulars.knows(client(99_999)));
    }
}
