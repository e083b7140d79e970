//! Memory that many connections have freed at once goes back to the system.
//!
//! When ten thousand clients fall silent, or leave, they free nearly all of their buffers within a moment. mimalloc gives pages back a second
//! after they are free, but it looks at that only in the course of further allocations, and a gateway without requests makes hardly any:
//! it would keep 19 KiB for each idle client instead of 5, for as long as all of them stay idle. So a worker that has become quiet makes
//! as many allocations as mimalloc's next look takes (its option `generic_collect`). With another allocator they have no effect.

use std::{cell::Cell, hint::black_box};

/// The connections that have freed their buffers since memory was last given back.
#[derive(Debug, Default)]
pub(crate) struct FreedMemory {
    connections: Cell<u32>,
    /// Their number at the last sweep, and for how many sweeps it has stayed the same.
    seen: Cell<(u32, u32)>,
}

impl FreedMemory {
    /// A connection was closed, or gave up its buffers.
    pub(crate) fn of_connection(&self) {
        self.connections.set(self.connections.get().saturating_add(1));
    }

    /// Gives memory back if many connections have freed theirs and no other one has done so for a while. Called once a second. Returns
    /// whether it did.
    pub(crate) fn second_passed(&self) -> bool {
        let connections = self.connections.get();
        let (seen, sweeps) = self.seen.get();
        if connections < CONNECTIONS_MIN || connections != seen {
            self.seen.set((connections, 0));
            return false;
        }
        self.seen.set((seen, sweeps + 1));
        let is_due = sweeps + 1 >= QUIET_SWEEPS;
        if is_due {
            self.connections.set(0);
            for _ in 0..ALLOCATIONS {
                drop(black_box(Vec::<u8>::with_capacity(ALLOCATION_BYTES)));
            }
        }
        is_due
    }
}

/// Below this, some megabytes are at stake.
const CONNECTIONS_MIN: u32 = 256;
/// mimalloc waits for a second (`purge_delay`), and sweeps are a second apart.
const QUIET_SWEEPS: u32 = 2;
/// `generic_collect`, of which every thousandth counts. They take about a millisecond.
const ALLOCATIONS: u32 = 12_000;
/// Larger than 1 KiB: mimalloc counts no smaller ones.
const ALLOCATION_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_when_many_connections_have_fallen_silent() {
        let freed = FreedMemory::default();
        let sweeps = |number: usize| (0..number).filter(|_| freed.second_passed()).count();
        (1..CONNECTIONS_MIN).for_each(|_| freed.of_connection());
        assert_eq!(sweeps(10), 0, "too few");
        freed.of_connection();
        assert_eq!(sweeps(2), 0);
        freed.of_connection();
        assert_eq!(sweeps(2), 0, "another one has come meanwhile");
        assert_eq!(sweeps(10), 1);
    }
}
