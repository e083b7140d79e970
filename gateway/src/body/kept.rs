//! The bytes of a request's body that the gateway holds: until they are sent, and for a retry as long as all of them
//! are there.
//!
//! Small pieces are copied into one buffer, large ones are kept as they came. A piece pins the buffer into which it
//! was read, of 8 KiB and more, even if the piece is only a few bytes of it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A run of bytes, from some place of the body to the last one that was read.
#[derive(Debug)]
pub(super) struct Kept {
    pieces: VecDeque<Bytes>,
    /// Small pieces that came last, behind `pieces`.
    tail: BytesMut,
    /// Place in the body of the first byte that is still held.
    start: u64,
    end: u64,
    /// If the body is longer than this, its first bytes are dropped when they are sent.
    max: u64,
    /// Whether all bytes from the first one on are held.
    is_whole: bool,
}

impl Kept {
    /// `max` is the length in bytes up to which the whole body is held for a retry.
    pub(super) fn new(max: u64) -> Self {
        Self { pieces: VecDeque::new(), tail: BytesMut::new(), start: 0, end: 0, max, is_whole: max > 0 }
    }

    /// Whether all bytes from the first one on are held.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Place in the body behind the last byte that was read.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Number of bytes that are held.
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Holds bytes of which none has been sent.
    pub(super) fn hold(&mut self, data: &Bytes) {
        self.end += data.len() as u64;
        if self.end > self.max {
            self.is_whole = false;
        }
        if data.len() < COPIED_BELOW_BYTES {
            if self.tail.capacity() - self.tail.len() < data.len() {
                self.freeze();
                self.tail.reserve(COPIED_BELOW_BYTES);
            }
            self.tail.extend_from_slice(data);
        } else {
            self.freeze();
            self.pieces.push_back(data.clone());
        }
    }

    /// Notes bytes that are sent as they come. They are held for a retry if all bytes can still be held.
    pub(super) fn pass(&mut self, data: &Bytes) {
        let end = self.end + data.len() as u64;
        if self.is_whole && end <= self.max {
            self.hold(data);
        } else {
            self.end = end;
            self.release();
            self.forget_before(end);
        }
    }

    /// No retry will follow: bytes that are sent need not be held.
    pub(super) fn release(&mut self) {
        self.is_whole = false;
    }

    /// The bytes from `at` on, or some of them. `None`: they have not been read yet.
    pub(super) fn from(&mut self, at: u64) -> Option<Bytes> {
        if at >= self.end {
            return None;
        }
        if !self.is_whole {
            self.forget_before(at);
        }
        self.freeze();
        let mut start = self.start;
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            if at < end {
                let skipped = usize::try_from(at - start).unwrap_or(piece.len());
                return Some(piece.slice(skipped.min(piece.len())..));
            }
            start = end;
        }
        None
    }

    /// Drops pieces that end at or before `at`.
    pub(super) fn forget_before(&mut self, at: u64) {
        if self.end <= at {
            self.start = self.end;
            // The memory of the list is freed, too.
            (self.pieces, self.tail) = (VecDeque::new(), BytesMut::new());
            return;
        }
        while let Some(end) = self.pieces.front().map(|piece| self.start + piece.len() as u64)
            && end <= at
        {
            self.pieces.pop_front();
            self.start = end;
        }
    }

    fn freeze(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

/// Pieces below this size in bytes are copied. It is half of hyper's smallest read buffer, so held bytes pin at most
/// twice their size.
const COPIED_BELOW_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_from(kept: &mut Kept, mut at: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = kept.from(at) {
            at += piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_came(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..6000), 0..40),
            at in 0_usize..200_000,
        ) {
            let mut kept = Kept::new(u64::MAX);
            for piece in &pieces {
                kept.hold(&Bytes::copy_from_slice(piece));
            }
            let all = pieces.concat();
            prop_assert_eq!(all_from(&mut kept, 0), all.clone());
            let at = at.min(all.len());
            prop_assert_eq!(all_from(&mut kept, at as u64), &all[at..]);
            prop_assert!(kept.is_whole());
            kept.release();
            prop_assert_eq!(all_from(&mut kept, at as u64), &all[at..]);
        }
    }

    #[test]
    fn a_retry_has_all_bytes_up_to_the_limit_and_none_past_it() {
        let mut kept = Kept::new(10);
        kept.pass(&Bytes::from_static(b"0123456"));
        assert!(kept.is_whole());
        kept.pass(&Bytes::from_static(b"789"));
        assert!(kept.is_whole(), "as many as the limit");
        assert_eq!(all_from(&mut kept, 0), b"0123456789");
        kept.pass(&Bytes::from_static(b"x"));
        assert!(!kept.is_whole() && kept.len() == 0, "one more");
        assert_eq!(kept.end(), 11);
        assert_eq!(kept.from(11), None);
    }

    #[test]
    fn unsent_bytes_past_the_limit_stay_until_they_are_sent() {
        let mut kept = Kept::new(4);
        kept.hold(&Bytes::from_static(b"01234567"));
        assert!(!kept.is_whole());
        assert_eq!(all_from(&mut kept, 0), b"01234567");
        kept.pass(&Bytes::from_static(b"8"));
        assert_eq!((kept.len(), kept.end()), (0, 9));
    }

    #[test]
    fn one_byte_pieces_share_a_buffer() {
        let mut kept = Kept::new(u64::MAX);
        for _ in 0..10_000 {
            kept.hold(&Bytes::from_static(b"x"));
        }
        assert!(kept.pieces.len() <= 3, "{}", kept.pieces.len());
        assert_eq!(all_from(&mut kept, 0).len(), 10_000);
    }
}
