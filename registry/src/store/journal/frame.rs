//! The framing of journal files: an incomplete frame does not count.
//!
//! A frame is `mark (4 bytes) · length (u32, little endian) · CRC-32/iSCSI of the payload (u32) · payload`. What one
//! `fdatasync` makes durable is one frame, so only the last frame of a file can be unfinished; a bad frame that is
//! followed by a good one is damage.

use crc::{CRC_32_ISCSI, Crc};

/// Appends a frame with `payload` to `file`.
pub(crate) fn write(file: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    file.extend_from_slice(&MARK);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&CRC.checksum(payload).to_le_bytes());
    file.extend_from_slice(payload);
}

/// The content of a place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    Frame {
        payload: &'a [u8],
        /// The beginning of the next frame.
        end: usize,
    },
    /// The end of the file.
    End,
    /// Unfinished: no complete frame begins here or behind.
    Torn,
    /// No complete frame begins here, but one does behind, so this one was complete once.
    Damaged,
}

pub(crate) fn read(file: &[u8], at: usize) -> Next<'_> {
    if at >= file.len() {
        return Next::End;
    }
    if let Some((payload, end)) = whole(file, at) {
        return Next::Frame { payload, end };
    }
    let behind = file.get(at + 1..).unwrap_or_default();
    let marks = behind.windows(MARK.len()).enumerate().filter(|(_, bytes)| *bytes == MARK);
    let mut starts = marks.map(|(offset, _)| at + 1 + offset);
    if starts.any(|start| whole(file, start).is_some()) { Next::Damaged } else { Next::Torn }
}

fn whole(file: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = file.get(at..at.checked_add(HEAD_BYTES)?)?;
    let word = |from: usize| head.get(from..from + 4)?.try_into().ok().map(u32::from_le_bytes);
    if head.get(..4)? != MARK {
        return None;
    }
    let start = at + HEAD_BYTES;
    let end = start.checked_add(usize::try_from(word(4)?).ok()?)?;
    let payload = file.get(start..end)?;
    (CRC.checksum(payload) == word(8)?).then_some((payload, end))
}

/// Not UTF-8, so it occurs in no payload.
const MARK: [u8; 4] = [0xF5, b'M', b'g', 0xF6];
const HEAD_BYTES: usize = 12;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[cfg(test)]
mod tests {
    use super::*;

    fn file(payloads: &[&str]) -> Vec<u8> {
        let mut file = Vec::new();
        for payload in payloads {
            write(&mut file, payload.as_bytes());
        }
        file
    }

    #[test]
    fn frames_are_read_back_in_order() {
        let file = file(&["one", "", "three"]);
        let (mut at, mut read_back) = (0, Vec::new());
        while let Next::Frame { payload, end } = read(&file, at) {
            read_back.push(payload);
            at = end;
        }
        assert_eq!(read_back, [b"one".as_slice(), b"", b"three"]);
        assert_eq!(read(&file, at), Next::End);
    }

    #[test]
    fn a_last_frame_that_is_cut_anywhere_is_torn() {
        let whole = file(&["one", "two"]);
        let second = file(&["one"]).len();
        for cut in second + 1..whole.len() {
            assert_eq!(read(&whole[..cut], second), Next::Torn, "cut at {cut}");
        }
        assert_eq!(read(&whole[..second], second), Next::End);
    }

    #[test]
    fn any_flipped_byte_is_noticed_and_is_damage_if_a_good_frame_follows() {
        let whole = file(&["one", "two"]);
        let second = file(&["one"]).len();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            let (from, expected) = if at < second { (0, Next::Damaged) } else { (second, Next::Torn) };
            assert_eq!(read(&flipped, from), expected, "byte {at}");
        }
    }
}
