//! The chunked transfer coding of a response, undone in place (RFC 9112 §7.1).
//!
//! [`Chunks`] is pure: it takes the bytes of one read after the other, cut anywhere, and moves the content in them together.
//! It is as strict as the grammar, and stricter than it in two places: a size has at most 16 digits, so that it cannot
//! overflow, and a control character in an extension is refused. Lines end with CR LF. Extensions are read, limited and dropped
//! (RFC 9112 §7.1.1); trailers are limited and kept (§7.1.2).

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Where a chunked content stands between two reads.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    /// Of the chunk: its size while that is read, then what is left of its data.
    left: u64,
    size_digits: u8,
    /// Blanks behind the size of this chunk.
    blanks: usize,
    /// Bytes of chunk lines that are not a size, of the whole content.
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_lines: usize,
    /// The trailer lines, and the empty line behind them. Without trailers it has no memory.
    trailers: Vec<u8>,
    /// What came behind content of the same read is not chunks.
    fault: Option<ChunkFault>,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// White space after the size. No digit may follow it.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer line, or of the empty line that ends the message.
    Line,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// What one read held.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undone {
    /// Where in the read all of its content is now.
    pub(super) content: Range<usize>,
    /// Bytes of the read that belong to this message. Fewer than were given only if the message is over.
    pub(super) used: usize,
}

/// Why bytes are not chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkFault {
    Size,
    LineEnd,
    /// A control character, or all of them together are too long.
    Extension,
    /// Not a valid field, or too many of them.
    Trailer,
}

impl ChunkFault {
    /// For the log.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::Size => "a chunk's size is not a hexadecimal number of at most 16 digits",
            Self::LineEnd => "a line of a chunk does not end where it should",
            Self::Extension => {
                "chunk extensions have control characters, or more bytes than 16 KiB, or 256 blanks in one line"
            }
            Self::Trailer => "the trailer section is not valid, or too long",
        }
    }
}

impl Chunks {
    /// Why the content cannot be read further than to the end of what was found.
    pub(super) fn fault(&self) -> Option<ChunkFault> {
        self.fault
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// The trailers of a message that is over. `None`: there are none.
    ///
    /// # Errors
    /// They have the form of fields, but are none.
    pub(super) fn take_trailers(&mut self) -> Result<Option<Box<HeaderMap>>, ChunkFault> {
        if self.trailers.is_empty() {
            return Ok(None);
        }
        let section = std::mem::take(&mut self.trailers);
        let mut lines = [httparse::EMPTY_HEADER; TRAILER_LINES_MAX];
        let Ok(httparse::Status::Complete((_, lines))) = httparse::parse_headers(&section, &mut lines) else {
            return Err(ChunkFault::Trailer);
        };
        let mut trailers = Box::<HeaderMap>::default();
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) else {
                return Err(ChunkFault::Trailer);
            };
            trailers.append(name, value);
        }
        Ok(Some(trailers))
    }

    /// Reads on, until the bytes or the message end. What is left of `bytes` besides the content is of no use afterwards.
    ///
    /// # Errors
    /// The bytes are not chunks. The content must not be read any further. After content, the error is in [`Chunks::fault`].
    pub(super) fn undo(&mut self, bytes: &mut [u8]) -> Result<Undone, ChunkFault> {
        let mut content = 0..0;
        let mut used = 0;
        while self.state != State::End {
            if self.state == State::Data {
                let taken = (bytes.len() - used).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if taken == 0 {
                    break;
                }
                if content.is_empty() {
                    content = used..used + taken;
                } else {
                    bytes.copy_within(used..used + taken, content.end);
                    content.end += taken;
                }
                used += taken;
                self.left -= taken as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                let Some(&byte) = bytes.get(used) else { break };
                used += 1;
                match self.step(byte) {
                    Ok(state) => self.state = state,
                    Err(fault) if content.is_empty() => return Err(fault),
                    Err(fault) => {
                        self.fault = Some(fault);
                        break;
                    }
                }
            }
        }
        Ok(Undone { content, used })
    }

    /// The state after a byte that is not content.
    fn step(&mut self, byte: u8) -> Result<State, ChunkFault> {
        match (self.state, byte) {
            (State::Size, b'0'..=b'9') => self.digit(byte - b'0'),
            (State::Size, b'a'..=b'f') => self.digit(byte - b'a' + 10),
            (State::Size, b'A'..=b'F') => self.digit(byte - b'A' + 10),
            (State::Size, _) if self.size_digits == 0 => Err(ChunkFault::Size),
            (State::Size | State::Space | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size | State::Space, b' ' | b'\t') => self.blank(),
            (State::Size | State::Space, b';') => self.extension(State::Extension),
            (State::Size | State::Space, _) => Err(ChunkFault::Size),
            // A reader that takes a bare LF for the end of the line would see another message.
            (State::Extension, 0..=8 | 10..=31 | 127) => Err(ChunkFault::Extension),
            (State::Extension, _) => self.extension(State::Extension),
            (State::SizeLf, b'\n') => {
                (self.size_digits, self.blanks) = (0, 0);
                Ok(if self.left == 0 { State::Line } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            // `Data` and `End` never come here.
            (State::SizeLf | State::DataCr | State::DataLf | State::Data | State::End, _) => {
                Err(ChunkFault::LineEnd)
            }
            _ => self.trailer(byte),
        }
    }

    fn digit(&mut self, digit: u8) -> Result<State, ChunkFault> {
        if self.size_digits == SIZE_DIGITS_MAX {
            return Err(ChunkFault::Size);
        }
        self.size_digits += 1;
        self.left = (self.left << 4) | u64::from(digit);
        Ok(State::Size)
    }

    /// Blanks behind a size. Some services pad every size with them, so they are bounded for each line and not for the content.
    fn blank(&mut self) -> Result<State, ChunkFault> {
        self.blanks += 1;
        if self.blanks > LINE_BLANKS_MAX { Err(ChunkFault::Extension) } else { Ok(State::Space) }
    }

    fn extension(&mut self, next: State) -> Result<State, ChunkFault> {
        self.extension_bytes += 1;
        if self.extension_bytes >= EXTENSION_BYTES_MAX { Err(ChunkFault::Extension) } else { Ok(next) }
    }

    /// The trailer section (RFC 9112 §7.1.2): field lines as in a head, and the empty line.
    fn trailer(&mut self, byte: u8) -> Result<State, ChunkFault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes >= TRAILER_BYTES_MAX {
            return Err(ChunkFault::Trailer);
        }
        let next = match (self.state, byte) {
            (State::Line, b'\r') => Ok(State::EndLf),
            (State::Line, _) if is_token(byte) && self.trailer_lines < TRAILER_LINES_MAX => {
                self.trailer_lines += 1;
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') | (State::TrailerValue, b'\t' | 32..=126 | 128..=255) => {
                Ok(State::TrailerValue)
            }
            (State::TrailerName, _) if is_token(byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => Ok(State::Line),
            (State::EndLf, b'\n') => Ok(State::End),
            _ => Err(ChunkFault::Trailer),
        };
        if self.trailer_lines > 0 {
            self.trailers.push(byte);
        }
        next
    }
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// As many as 64 bits have. Some services write eight digits always.
const SIZE_DIGITS_MAX: u8 = 16;
/// hyper's limit.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Blanks behind the size of one chunk.
const LINE_BLANKS_MAX: usize = 256;
/// As of a head.
const TRAILER_BYTES_MAX: usize = super::response_head::RESPONSE_HEAD_BYTES_MAX;
const TRAILER_LINES_MAX: usize = super::response_head::RESPONSE_LINES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, and how many bytes are left behind the message. `None`: it is not over.
    type Read = Result<Option<(Vec<u8>, usize)>, ChunkFault>;

    /// The message in pieces that end at `cuts`.
    fn read(message: &[u8], cuts: &[usize]) -> Read {
        let mut chunks = Chunks::default();
        let mut content = Vec::new();
        let mut from = 0;
        for &to in cuts.iter().chain([&message.len()]) {
            let mut piece = message[from..to].to_vec();
            let undone = chunks.undo(&mut piece)?;
            content.extend_from_slice(&piece[undone.content]);
            if let Some(fault) = chunks.fault() {
                return Err(fault);
            }
            if chunks.is_over() {
                return Ok(Some((content, message.len() - from - undone.used)));
            }
            assert_eq!(undone.used, piece.len());
            from = to;
        }
        Ok(None)
    }

    /// The same verdict for one piece, for every cut in two, and byte by byte; every truncation is unfinished.
    fn check(message: &[u8], expected: &Read) {
        let shown = String::from_utf8_lossy(message);
        let all: Vec<usize> = (1..message.len()).collect();
        for cuts in [vec![], all.clone()].into_iter().chain(all.iter().map(|&cut| vec![cut])) {
            assert_eq!(&read(message, &cuts), expected, "{shown:?} cut at {cuts:?}");
        }
        if let Ok(Some((_, left))) = expected {
            for end in 0..message.len() - left {
                assert_eq!(read(&message[..end], &[]), Ok(None), "{shown:?} without its end at {end}");
            }
        }
    }

    #[test]
    fn chunks_are_undone_wherever_reads_are_cut() {
        for (message, content, left) in [
            (&b"0\r\n\r\n"[..], &b""[..], 0),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
            (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nHTTP", b"hello world", 4),
            (b"00000005\r\nhello\r\n000\r\n\r\n", b"hello", 0),
            (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", 0),
            (b"5;ext=1;q=\"x\"\r\nhello\r\n0;z\r\n\r\n", b"hello", 0),
            (b"5 \t;a\r\nhello\r\n0\r\n\r\n", b"hello", 0),
            (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", 0),
            (b"1\r\na\r\n0\r\nx-sum: 1\r\nY:\r\n\r\n", b"a", 0),
            (b"1\r\na\r\n0\r\nx: \xff\t\r\n\r\n\r\n", b"a", 2),
        ] {
            check(message, &Ok(Some((content.to_vec(), left))));
        }
    }

    #[test]
    fn trailers_are_kept_wherever_reads_are_cut() {
        let message = b"1\r\na\r\n0\r\nX-Sum: 1\r\ny:\r\nx-sum: \xff \r\n\r\nHTTP";
        for cut in 0..message.len() {
            let mut chunks = Chunks::default();
            let (mut first, mut second) = (message[..cut].to_vec(), message[cut..].to_vec());
            chunks.undo(&mut first).unwrap();
            chunks.undo(&mut second).unwrap();
            let trailers = chunks.take_trailers().unwrap().unwrap();
            let fields: Vec<_> =
                trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            assert_eq!(fields, [("x-sum", &b"1"[..]), ("x-sum", b"\xff"), ("y", b"")], "cut at {cut}");
            assert!(chunks.take_trailers().unwrap().is_none(), "once");
        }
        let mut without = Chunks::default();
        without.undo(&mut b"1\r\na\r\n0\r\n\r\n".to_vec()).unwrap();
        assert!(
            without.is_over()
                && without.trailers.capacity() == 0
                && without.take_trailers().unwrap().is_none()
        );
    }

    #[test]
    fn what_is_not_exactly_chunks_is_refused_wherever_reads_are_cut() {
        for (message, fault) in [
            (&b"\r\n"[..], ChunkFault::Size),
            (b" 5\r\nhello\r\n", ChunkFault::Size),
            (b";a\r\n", ChunkFault::Size),
            (b"-5\r\nhello\r\n", ChunkFault::Size),
            (b"+5\r\nhello\r\n", ChunkFault::Size),
            (b"0x5\r\nhello\r\n", ChunkFault::Size),
            (b"5_0\r\nhello\r\n", ChunkFault::Size),
            (b"5 0\r\nhello\r\n", ChunkFault::Size),
            (b"5\nhello\r\n", ChunkFault::Size),
            (b"5 \nhello\r\n", ChunkFault::Size),
            (b"FFFFFFFFFFFFFFFF0\r\nhello\r\n", ChunkFault::Size),
            (b"00000000000000005\r\nhello\r\n", ChunkFault::Size),
            (b"5\rhello\r\n", ChunkFault::LineEnd),
            (b"5;a\rX\r\nhello", ChunkFault::LineEnd),
            (b"5;\nhello\r\n", ChunkFault::Extension),
            (b"5;a\0\r\nhello\r\n", ChunkFault::Extension),
            (b"5\r\nhello\n0\r\n\r\n", ChunkFault::LineEnd),
            (b"5\r\nhello0\r\n\r\n", ChunkFault::LineEnd),
            (b"5\r\nhello\r0\r\n\r\n", ChunkFault::LineEnd),
            (b"0\r\n\n", ChunkFault::Trailer),
            (b"0\r\n\r\r", ChunkFault::Trailer),
            (b"0\r\n x: 1\r\n\r\n", ChunkFault::Trailer),
            (b"0\r\nx : 1\r\n\r\n", ChunkFault::Trailer),
            (b"0\r\n: 1\r\n\r\n", ChunkFault::Trailer),
            (b"0\r\nx\r\n\r\n", ChunkFault::Trailer),
            (b"0\r\nx: 1\n\r\n", ChunkFault::Trailer),
            (b"0\r\nx: 1\rY: 2\r\n\r\n", ChunkFault::Trailer),
            (b"0\r\nx: \0\r\n\r\n", ChunkFault::Trailer),
            (b"0\r\nx: 1\r\n y\r\n\r\n", ChunkFault::Trailer),
        ] {
            check(message, &Err(fault));
        }
    }

    #[test]
    fn extensions_and_trailers_are_limited() {
        let repeated = |parts: &[(&str, usize)]| -> Vec<u8> {
            parts.iter().flat_map(|(text, times)| text.repeat(*times).into_bytes()).collect()
        };
        for (message, is_taken) in [
            (repeated(&[("0;", 1), ("x", 16_382), ("\r\n\r\n", 1)]), true),
            (repeated(&[("0;", 1), ("x", 16_383), ("\r\n\r\n", 1)]), false),
            (repeated(&[("0", 1), (" ", 256), ("\r\n\r\n", 1)]), true),
            (repeated(&[("0", 1), (" ", 257), ("\r\n\r\n", 1)]), false),
            (repeated(&[("1        \r\nx\r\n", 5000), ("0\r\n\r\n", 1)]), true),
            // For the whole content, not for each chunk.
            (repeated(&[("1;x\r\na\r\n", 8_191), ("0\r\n\r\n", 1)]), true),
            (repeated(&[("1;x\r\na\r\n", 8_192), ("0\r\n\r\n", 1)]), false),
            (repeated(&[("0\r\n", 1), ("a:b\r\n", 100), ("\r\n", 1)]), true),
            (repeated(&[("0\r\n", 1), ("a:b\r\n", 101), ("\r\n", 1)]), false),
            (repeated(&[("0\r\na:", 1), ("b", 32_761), ("\r\n\r\n", 1)]), true),
            (repeated(&[("0\r\na:", 1), ("b", 32_762), ("\r\n\r\n", 1)]), false),
        ] {
            let read = read(&message, &[]);
            let shown = String::from_utf8_lossy(&message[..20.min(message.len())]).into_owned();
            assert_eq!(matches!(read, Ok(Some(_))), is_taken, "{shown} {} bytes: {read:?}", message.len());
        }
    }
}
