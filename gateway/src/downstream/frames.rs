//! The heads of HTTP/2 frames (RFC 9113 §4.1) in a byte stream, in whatever pieces it comes, and the number of fields of
//! each header block.

use super::fields::FieldCount;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    /// Type of the frame, one of [`kind`] or another.
    pub(crate) kind: u8,
    /// Flags of the frame, whose meaning depends on the type.
    pub(crate) flags: u8,
    /// Number of the stream; 0 is the connection.
    pub(crate) stream: u32,
    /// Length of the payload in bytes.
    pub(crate) bytes: u32,
    /// The first bytes of the payload, in the types that [`prefix_bytes`] lists.
    prefix: [u8; PREFIX_BYTES_MAX],
}

impl FrameHead {
    /// Length in bytes of the content of a DATA frame, without padding.
    pub(crate) fn content_bytes(&self) -> u32 {
        let padding = if self.is_padded() { 1 + u32::from(self.prefix[0]) } else { 0 };
        self.bytes.saturating_sub(padding)
    }

    /// Length in bytes of a header block in this frame, behind the prefix and before the padding.
    fn block_bytes(&self) -> u32 {
        let behind = self.bytes.saturating_sub(prefix_bytes(self.kind, self.flags, self.bytes));
        match self.kind {
            kind::HEADERS if self.flags & PADDED != 0 => behind.saturating_sub(self.prefix[0].into()),
            kind::HEADERS | kind::CONTINUATION => behind,
            _ => 0,
        }
    }

    /// Whether a header block ends with this frame.
    fn ends_block(&self) -> bool {
        matches!(self.kind, kind::HEADERS | kind::CONTINUATION) && self.flags & END_HEADERS != 0
    }

    /// The code of RST_STREAM or GOAWAY.
    pub(crate) fn error_code(&self) -> Option<u32> {
        let [.., a, b, c, d] = self.prefix;
        match self.kind {
            kind::RST_STREAM => self.prefix.first_chunk().copied().map(u32::from_be_bytes),
            kind::GOAWAY => Some(u32::from_be_bytes([a, b, c, d])),
            _ => None,
        }
    }

    fn is_padded(&self) -> bool {
        self.kind == kind::DATA && self.flags & PADDED != 0
    }
}

/// Types of frames (RFC 9113 §6) that are read here.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const CONTINUATION: u8 = 9;
}

const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The parts that [`FrameScan::pass`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Frame(&'a FrameHead),
    /// The end of a header block, with its number of fields.
    Block {
        fields: u32,
    },
}

/// Finds frame heads in one direction of a connection. It keeps at most 17 bytes of a head, and skips payloads.
#[derive(Debug)]
pub(crate) struct FrameScan {
    head: [u8; HEAD_BYTES + PREFIX_BYTES_MAX],
    filled: u8,
    /// Bytes of the frame's payload that have not passed yet.
    left: u32,
    /// Bytes of these that belong to a header block.
    block_left: u32,
    /// Whether a header block ends with them.
    ends_block: bool,
    counts_fields: bool,
    fields: FieldCount,
}

impl FrameScan {
    /// A scan for frame heads and for the ends of header blocks.
    pub(crate) const fn new() -> Self {
        Self { counts_fields: true, ..Self::of_heads() }
    }

    /// A scan for frame heads alone. The gateway's own header blocks are not counted.
    pub(crate) const fn of_heads() -> Self {
        Self {
            counts_fields: false,
            head: [0; HEAD_BYTES + PREFIX_BYTES_MAX],
            filled: 0,
            left: 0,
            block_left: 0,
            ends_block: false,
            fields: FieldCount::new(),
        }
    }

    /// Reads the next bytes of the stream. `each` gets the heads and the ends of blocks that they complete.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Found<'_>)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                let (piece, rest) = bytes.split_at(skipped);
                self.pass_payload(piece);
                bytes = rest;
                self.end_payload(&mut each);
                continue;
            }
            let filled = usize::from(self.filled);
            let taken = bytes.len().min(self.wanted().saturating_sub(filled));
            let (piece, rest) = bytes.split_at(taken);
            if let Some(space) = self.head.get_mut(filled..filled + taken) {
                space.copy_from_slice(piece);
            }
            bytes = rest;
            self.filled = u8::try_from(filled + taken).unwrap_or(u8::MAX);
            if usize::from(self.filled) == self.wanted() {
                let head = self.parse();
                self.left = head.bytes.saturating_sub(prefix_bytes(head.kind, head.flags, head.bytes));
                self.filled = 0;
                if self.counts_fields {
                    self.block_left = head.block_bytes();
                    self.ends_block = head.ends_block();
                }
                each(Found::Frame(&head));
                self.end_payload(&mut each);
            }
        }
    }

    fn pass_payload(&mut self, piece: &[u8]) {
        let bytes = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_sub(bytes);
        if self.block_left > 0 {
            let block = piece.len().min(usize::try_from(self.block_left).unwrap_or(usize::MAX));
            self.fields.pass(piece.get(..block).unwrap_or_default());
            self.block_left = self.block_left.saturating_sub(bytes);
        }
    }

    fn end_payload(&mut self, each: &mut impl FnMut(Found<'_>)) {
        if self.left == 0 && std::mem::take(&mut self.ends_block) {
            each(Found::Block { fields: self.fields.end() });
        }
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.left == 0 && self.filled == 0
    }

    /// Number of bytes of head and prefix, as far as the bytes so far determine it.
    fn wanted(&self) -> usize {
        if usize::from(self.filled) < HEAD_BYTES {
            return HEAD_BYTES;
        }
        let head = self.parse();
        HEAD_BYTES + usize::try_from(prefix_bytes(head.kind, head.flags, head.bytes)).unwrap_or(0)
    }

    fn parse(&self) -> FrameHead {
        let [a, b, c, kind, flags, s0, s1, s2, s3, prefix @ ..] = self.head;
        FrameHead {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & !(1 << 31),
            bytes: u32::from_be_bytes([0, a, b, c]),
            prefix,
        }
    }
}

/// Number of the payload's first bytes that are read or skipped: the length of padding, a priority, an error code.
fn prefix_bytes(kind: u8, flags: u8, bytes: u32) -> u32 {
    let wanted = match kind {
        kind::DATA if flags & PADDED != 0 => 1,
        kind::HEADERS => u32::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 },
        kind::RST_STREAM => 4,
        kind::GOAWAY => 8,
        _ => 0,
    };
    bytes.min(wanted)
}

const HEAD_BYTES: usize = 9;
const PREFIX_BYTES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, length[0], length[1], kind, flags, 0, 0, 0, stream][..], payload].concat()
    }

    #[test]
    fn heads_are_found_in_one_piece_in_two_and_byte_by_byte() {
        let stream = [
            frame(4, 0, 0, &[]),
            frame(kind::HEADERS, 4, 1, &[7; 300]),
            frame(kind::DATA, PADDED, 1, &[2, b'a', b'b', b'c', 0, 0]),
            frame(kind::DATA, PADDED, 1, &[0]),
            frame(kind::DATA, 0, 1, b"content"),
            frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]),
            frame(kind::RST_STREAM, 0, 3, &[]),
            frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 11, b'w', b'h', b'y']),
            frame(6, 0, 0, &[0; 8]),
        ]
        .concat();
        let all = |cut: usize| {
            let mut scan = FrameScan::new();
            let mut found = Vec::new();
            for piece in [&stream[..cut], &stream[cut..]] {
                scan.pass(piece, |part| {
                    let Found::Frame(head) = part else { return };
                    found.push((head.kind, head.stream, head.bytes, head.content_bytes()));
                });
            }
            assert!(scan.is_between_frames());
            found
        };
        let whole = all(0);
        assert_eq!(
            whole,
            [
                (4, 0, 0, 0),
                (1, 1, 300, 300),
                (0, 1, 6, 3),
                (0, 1, 1, 0),
                (0, 1, 7, 7),
                (3, 3, 4, 4),
                (3, 3, 0, 0),
                (7, 0, 11, 11),
                (6, 0, 8, 8)
            ]
        );
        for cut in 1..stream.len() {
            assert_eq!(all(cut), whole, "cut at {cut}");
        }
        let (mut scan, mut codes) = (FrameScan::new(), Vec::new());
        for byte in &stream {
            scan.pass(std::slice::from_ref(byte), |part| {
                if let Found::Frame(head) = part {
                    codes.extend(head.error_code());
                }
            });
        }
        assert_eq!(codes.first().zip(codes.last()), Some((&8, &11)));
    }

    #[test]
    fn a_scan_of_heads_finds_no_blocks() {
        let stream = [frame(kind::HEADERS, END_HEADERS, 1, &[0x82; 300]), frame(6, 0, 0, &[0; 8])].concat();
        for cut in 1..stream.len() {
            let (mut scan, mut kinds) = (FrameScan::of_heads(), Vec::new());
            for piece in stream.chunks(cut) {
                scan.pass(piece, |part| match part {
                    Found::Frame(head) => kinds.push(head.kind),
                    Found::Block { .. } => panic!("cut into {cut}"),
                });
            }
            assert_eq!(kinds, [kind::HEADERS, 6], "cut into {cut}");
        }
    }

    #[test]
    fn fields_are_counted_over_the_frames_of_a_block_without_priority_and_padding() {
        let indexed = [0x82; 300];
        let padded = [&[3, 0, 0, 0, 0, 16][..], &indexed[..7], &[0, 0, 0]].concat();
        let stream = [
            frame(kind::HEADERS, END_HEADERS, 1, &indexed),
            frame(kind::HEADERS, END_HEADERS | PADDED | PRIORITY, 3, &padded),
            frame(kind::HEADERS, 0, 5, &indexed[..10]),
            frame(kind::CONTINUATION, 0, 5, &[]),
            frame(kind::CONTINUATION, 0, 5, &indexed[..10]),
            frame(kind::CONTINUATION, END_HEADERS, 5, &indexed[..1]),
            frame(kind::HEADERS, END_HEADERS, 7, &[]),
            frame(kind::HEADERS, 0, 9, &indexed[..10]),
            frame(kind::CONTINUATION, END_HEADERS, 9, &[]),
        ]
        .concat();
        for cut in 1..stream.len() {
            let (mut scan, mut blocks) = (FrameScan::new(), Vec::new());
            for piece in stream.chunks(cut) {
                scan.pass(piece, |part| {
                    if let Found::Block { fields } = part {
                        blocks.push(fields);
                    }
                });
            }
            assert_eq!(blocks, [300, 7, 21, 0, 10], "cut into {cut}");
        }
    }
}
