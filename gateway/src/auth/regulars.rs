//! Clients that have shown a good token lately. One of these with a token that no known key verifies is a sign of new keys; a
//! stranger with such a token is most often only that.
//!
//! A table of fixed size ([`PLACES`]) and one place for each address, so that a flood of addresses costs no memory. Two addresses
//! with one place push each other out. It decides how soon keys are fetched, and never whether a token is good.

use std::hash::{BuildHasher, Hash};

/// A worker's table.
#[derive(Debug, Default)]
pub(crate) struct Regulars {
    /// Seeded at random: senders choose addresses.
    hasher: foldhash::quality::RandomState,
    /// Empty until the first is learned.
    places: Vec<u64>,
}

impl Regulars {
    /// A token of this client was verified. `client`: its address, as limits count it.
    pub(crate) fn learn(&mut self, client: impl Hash) {
        if self.places.is_empty() {
            self.places.resize(PLACES, 0);
        }
        let (place, mark) = self.place(client);
        if let Some(place) = self.places.get_mut(place) {
            *place = mark;
        }
    }

    pub(crate) fn knows(&self, client: impl Hash) -> bool {
        let (place, mark) = self.place(client);
        self.places.get(place) == Some(&mark)
    }

    fn place(&self, client: impl Hash) -> (usize, u64) {
        let hash = self.hasher.hash_one(client);
        // Truncation is the point: the low bits choose the place. 0 is an empty one.
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
