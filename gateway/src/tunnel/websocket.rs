//! WebSocket (RFC 6455), as far as a gateway needs it: the handshake's keys, the heads of frames, and the frame that closes.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// The name of the protocol in `Upgrade` and in `:protocol`.
pub(crate) const NAME: &str = "websocket";

/// A key for a handshake that the gateway begins itself, from 16 random bytes (RFC 6455 §4.1).
pub(crate) fn key(random: [u8; KEY_BYTES]) -> String {
    BASE64.encode(random)
}

/// Whether this is the base64 form of 16 bytes (RFC 6455 §4.2.1).
pub(crate) fn is_key(key: &[u8]) -> bool {
    BASE64.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
}

/// The value of `Sec-WebSocket-Accept` that proves that a server has read this key (RFC 6455 §4.2.2).
pub(crate) fn accept(key: &[u8]) -> String {
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SUFFIX].concat()))
}

const KEY_BYTES: usize = 16;
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The Close frame of a server that goes away (RFC 6455 §7.4.1, 1001), as a server sends it.
pub(crate) const GOING_AWAY: [u8; 4] = [FIN | CLOSE, 2, 0x03, 0xe9];

/// The same as a client sends it. Its mask is 0: a mask protects intermediaries from content that an attacker chooses (RFC 6455
/// §10.3), and this content is fixed.
pub(crate) const GOING_AWAY_MASKED: [u8; 8] = [FIN | CLOSE, MASKED | 2, 0, 0, 0, 0, 0x03, 0xe9];

const FIN: u8 = 0x80;
const CLOSE: u8 = 0x8;
const MASKED: u8 = 0x80;

/// Finds the ends of frames in one direction of a tunnel (RFC 6455 §5.2). It reads the heads of frames and skips what they
/// carry, so that a frame of the gateway can go between two frames.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    filled: u8,
    /// Bytes of the frame that have not passed yet, behind its head.
    left: u64,
    /// A Close frame has passed, and no frame may follow it (RFC 6455 §5.5.1).
    is_closed: bool,
}

impl Frames {
    /// The next bytes of this direction.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.pass_to_end(bytes) {
            bytes = bytes.get(end..).unwrap_or_default();
        }
    }

    /// The next bytes of this direction, up to the end of a frame. Returns how many these are. `None`: no frame ends here, and all
    /// bytes have passed.
    pub(crate) fn pass_to_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.left > 0 {
                let skipped = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= skipped as u64;
                rest = rest.get(skipped..).unwrap_or_default();
            } else {
                rest = self.pass_head(rest);
            }
            if self.is_between() {
                return Some(bytes.len() - rest.len());
            }
        }
        None
    }

    /// Takes what belongs to the head of a frame, or to its first two bytes. Returns the rest.
    fn pass_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let filled = usize::from(self.filled);
        let taken = bytes.len().min(self.wanted().saturating_sub(filled));
        let (piece, rest) = bytes.split_at(taken);
        if let Some(space) = self.head.get_mut(filled..filled + taken) {
            space.copy_from_slice(piece);
        }
        self.filled = u8::try_from(filled + taken).unwrap_or(u8::MAX);
        if usize::from(self.filled) == self.wanted() {
            self.left = self.payload();
            let [first, ..] = self.head;
            self.is_closed |= first & 0x0f == CLOSE;
            self.filled = 0;
        }
        rest
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_between(&self) -> bool {
        self.left == 0 && self.filled == 0
    }

    /// Whether a Close frame has passed.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Bytes of the head, as far as the bytes so far determine it.
    fn wanted(&self) -> usize {
        let [_, second, ..] = self.head;
        if self.filled < 2 {
            return 2;
        }
        let length = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED != 0 { 4 } else { 0 }
    }

    /// Bytes behind the head. The highest bit must be 0 (RFC 6455 §5.2); with it, the number only is larger.
    fn payload(&self) -> u64 {
        let [_, second, extended @ ..] = &self.head;
        match second & !MASKED {
            126 => extended.first_chunk().copied().map_or(0, u16::from_be_bytes).into(),
            127 => extended.first_chunk().copied().map_or(0, u64::from_be_bytes),
            short => short.into(),
        }
    }
}

const HEAD_BYTES_MAX: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standard_is_accepted_as_there() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(is_key(key([7; 16]).as_bytes()));
        for no_key in [&b""[..], b"AAAA", b"dGhlIHNhbXBsZSBub25jZQ", b"dGhlIHNhbXBsZSBub25jZQ== ", b"\xff"] {
            assert!(!is_key(no_key), "{no_key:?}");
        }
    }

    fn frame(first: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![first];
        match payload {
            0..126 => bytes.push(mask | u8::try_from(payload).unwrap()),
            126..=0xffff => {
                bytes.push(mask + 126);
                bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask + 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![9; payload + if masked { 4 } else { 0 }]);
        bytes
    }

    #[test]
    fn frames_of_each_length_end_where_they_end_however_they_are_cut() {
        let payloads = [0, 1, 125, 126, 127, 300, 65_535, 65_536];
        let all: Vec<_> =
            payloads.iter().flat_map(|&bytes| [frame(0x82, true, bytes), frame(1, false, bytes)]).collect();
        let ends: Vec<usize> = all
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        let stream = all.concat();
        for cut in [1, 2, 3, 7, 13, 14, 100, 4096, stream.len()] {
            let (mut frames, mut at) = (Frames::default(), 0);
            for piece in stream.chunks(cut) {
                frames.pass(piece);
                at += piece.len();
                assert_eq!(frames.is_between(), ends.contains(&at), "cut into {cut}, at {at}");
            }
            assert!(!frames.is_closed());
        }
    }

    #[test]
    fn a_close_frame_is_noticed_and_those_of_the_gateway_are_whole_frames() {
        for close in [&GOING_AWAY[..], &GOING_AWAY_MASKED] {
            let mut frames = Frames::default();
            frames.pass(&frame(0x81, true, 200));
            assert!(!frames.is_closed());
            frames.pass(close);
            assert!(frames.is_closed() && frames.is_between());
        }
        let mut frames = Frames::default();
        frames.pass(&frame(0x89, false, 8));
        assert!(!frames.is_closed(), "a ping closes nothing");
    }

    #[test]
    fn a_length_past_any_message_ends_nowhere() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.pass(&vec![0; 100_000]);
        assert!(!frames.is_between());
    }
}
