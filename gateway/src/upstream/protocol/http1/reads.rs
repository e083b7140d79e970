//! How much one read of content may take.
//!
//! Large reads make a large response cheaper: with 256 KiB, 64 MiB cost four fifths of what they cost with 32. But a client
//! that stops reading holds what was read for it. So a read is small until the client's connection has taken more than the
//! kernel keeps for a client that reads nothing ([`PROOF_BYTES`]), and no more than [`LARGE_READS_MAX`] connections of a
//! worker have had large ones.

use std::{cell::Cell, rc::Rc};

use super::{scratch::READ_BYTES, wire::Wire};

/// The reads of one connection.
pub(super) struct Reads {
    /// The worker's connections that have had large reads.
    all_large: Rc<Cell<u64>>,
    large: Option<Large>,
}

/// Counts a connection that has had large reads until it ends.
struct Large(Rc<Cell<u64>>);

impl Reads {
    pub(super) fn new(all_large: &Rc<Cell<u64>>) -> Self {
        Self { all_large: Rc::clone(all_large), large: None }
    }

    /// The client's connection has taken so many bytes of response bodies.
    pub(super) fn client_took(&mut self, bytes: u64, wire: &Wire) {
        if bytes < PROOF_BYTES {
            return;
        }
        if self.large.is_none() {
            let all = self.all_large.get();
            if all >= LARGE_READS_MAX {
                return;
            }
            self.all_large.set(all + 1);
            self.large = Some(Large(Rc::clone(&self.all_large)));
        }
        wire.read_bytes.set(LARGE_BYTES);
    }

    /// As at first: the next response may go to another client.
    pub(super) fn reset(wire: &Wire) {
        wire.read_bytes.set(READ_BYTES);
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// The largest read. Half of it costs some 10 % more for each GiB, twice of it nothing less.
const LARGE_BYTES: usize = 256 * 1024;
/// What a client's connection must have taken before reads for it are large. Linux keeps up to 4 MiB to be sent for a peer
/// that reads nothing (`tcp_wmem`), and the peer's own side keeps some; past twice that it has read.
const PROOF_BYTES: u64 = 8 * 1024 * 1024;
/// Connections of one worker that have had large reads.
const LARGE_READS_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use super::{super::wire::FailedWrite, *};

    #[test]
    fn reads_are_large_for_a_client_that_has_proved_to_read_and_on_so_many_connections() {
        let all = Rc::new(Cell::new(0));
        let connection = || (Reads::new(&all), Wire::new(tokio::io::empty(), FailedWrite::SentNothing));
        let (mut reads, wire) = connection();
        reads.client_took(PROOF_BYTES - 1, &wire);
        assert_eq!((wire.read_bytes.get(), all.get()), (READ_BYTES, 0));
        reads.client_took(PROOF_BYTES, &wire);
        reads.client_took(PROOF_BYTES + 1, &wire);
        assert_eq!((wire.read_bytes.get(), all.get()), (LARGE_BYTES, 1));

        let mut others: Vec<_> = (1..=LARGE_READS_MAX).map(|_| connection()).collect();
        for (reads, wire) in &mut others {
            reads.client_took(PROOF_BYTES, wire);
        }
        let (last_reads, last_wire) = others.last_mut().unwrap();
        assert_eq!((last_wire.read_bytes.get(), all.get()), (READ_BYTES, LARGE_READS_MAX));
        Reads::reset(&wire);
        assert_eq!(wire.read_bytes.get(), READ_BYTES);
        reads.client_took(PROOF_BYTES, &wire);
        assert_eq!(
            (wire.read_bytes.get(), all.get()),
            (LARGE_BYTES, LARGE_READS_MAX),
            "it is counted already"
        );
        drop(reads);
        last_reads.client_took(PROOF_BYTES, last_wire);
        assert_eq!((last_wire.read_bytes.get(), all.get()), (LARGE_BYTES, LARGE_READS_MAX));
        drop(others);
        assert_eq!(all.get(), 0);
    }
}
