//! The number of fields in an HTTP/2 header block, counted as the block passes and without decoding it (RFC 7541 §6).
//!
//! A byte of a block can be a whole field, which costs h2 and the header map 70 bytes and some time. The library limits
//! bytes, not fields, and decodes all blocks of a read before the gateway sees the first request.

/// Counts the fields over the frames of one block.
#[derive(Debug)]
pub(crate) struct FieldCount {
    fields: u32,
    at: At,
}

/// The meaning of the block's next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Field,
    /// The rest of an index or of a size. This number of strings follows.
    Number {
        strings: u8,
    },
    Length {
        strings: u8,
    },
    /// The rest of a string's length.
    LongLength {
        bytes: u32,
        shift: u8,
        strings: u8,
    },
    String {
        left: u32,
        strings: u8,
    },
}

impl FieldCount {
    pub(crate) const fn new() -> Self {
        Self { fields: 0, at: At::Field }
    }

    /// The next bytes of the block.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let At::String { left, strings } = self.at {
                let skipped = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = bytes.get(skipped..).unwrap_or_default();
                let left = left.saturating_sub(u32::try_from(skipped).unwrap_or(u32::MAX));
                self.at = string(left, strings);
                continue;
            }
            bytes = rest;
            self.at = match self.at {
                At::Field => self.begin(byte),
                At::Number { strings } if byte & 0x80 != 0 => At::Number { strings },
                At::Number { strings } => strings_left(strings),
                At::Length { strings } => match byte & 0x7f {
                    0x7f => At::LongLength { bytes: 0x7f, shift: 0, strings },
                    length => string(length.into(), strings),
                },
                At::LongLength { bytes, shift, strings } => {
                    let more = u32::from(byte & 0x7f).checked_shl(shift.into()).unwrap_or(u32::MAX);
                    let bytes = bytes.saturating_add(more);
                    if byte & 0x80 != 0 {
                        At::LongLength { bytes, shift: shift.saturating_add(7), strings }
                    } else {
                        string(bytes, strings)
                    }
                }
                At::String { .. } => self.at,
            };
        }
    }

    /// Ends the block and returns its number of fields. The next block begins.
    pub(crate) fn end(&mut self) -> u32 {
        std::mem::replace(self, Self::new()).fields
    }

    fn begin(&mut self, byte: u8) -> At {
        let (prefix, is_field, has_value) = match byte {
            0x80.. => (0x7f, true, false),
            0x40.. => (0x3f, true, true),
            // A new size of the dynamic table.
            0x20.. => (0x1f, false, false),
            _ => (0x0f, true, true),
        };
        self.fields = self.fields.saturating_add(is_field.into());
        let strings = match byte & prefix {
            _ if !has_value => 0,
            0 => 2,
            _ => 1,
        };
        if byte & prefix == prefix { At::Number { strings } } else { strings_left(strings) }
    }
}

const fn strings_left(strings: u8) -> At {
    if strings == 0 { At::Field } else { At::Length { strings } }
}

const fn string(left: u32, strings: u8) -> At {
    if left == 0 { strings_left(strings.saturating_sub(1)) } else { At::String { left, strings } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(block: &[u8], cut: usize) -> u32 {
        let mut count = FieldCount::new();
        block.chunks(cut.max(1)).for_each(|piece| count.pass(piece));
        count.end()
    }

    #[test]
    fn each_kind_of_field_counts_once_however_the_block_is_cut() {
        let long = [&[0x00, 0x7f, 0x01][..], &[b'n'; 128], &[0x7f, 0x81, 0x01], &[b'v'; 256]].concat();
        let rows: [(&[u8], u32); 9] = [
            (&[], 0),
            (&[0x82, 0x86, 0x84, 0xbe], 4),
            // An index of two bytes and more.
            (&[0xff, 0x80, 0x01, 0x82], 2),
            (&[0x40, 1, b'x', 1, b'a'], 1),
            (&[0x41, 2, b'g', b'w', 0x0f, 0x10, 0, 0x10, 0, 0], 3),
            (&[0x7f, 0x00, 0x81, 0xff], 1),
            (&[0x3f, 0xe1, 0x1f, 0x20, 0x82], 1),
            (&long, 1),
            (&[0x00, 0x00, 0x00, 0x82], 2),
        ];
        for (block, fields) in rows {
            for cut in 1..=block.len().max(1) {
                assert_eq!(count(block, cut), fields, "{block:x?} cut into {cut}");
            }
        }
    }

    #[test]
    fn a_block_that_breaks_off_leaves_nothing_to_the_next() {
        let mut count = FieldCount::new();
        count.pass(&[0x40, 0x7f, 0xff]);
        assert_eq!(count.end(), 1);
        count.pass(&[0x82, 0x82]);
        assert_eq!(count.end(), 2);
    }

    #[test]
    fn lengths_past_any_number_end_nowhere() {
        let mut block = vec![0x40, 0x7f];
        block.extend([0xff; 20]);
        block.extend([0x01, b'x']);
        assert_eq!(count(&block, 3), 1);
    }
}
