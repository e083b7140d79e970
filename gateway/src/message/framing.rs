//! How the content of a message is delimited.

/// How the header section of a request delimits the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The request has no content.
    None,
    /// The content has exactly this many bytes.
    Length(u64),
    /// The content comes in HTTP/1.1 chunks, and its length is not known.
    Chunked,
    /// HTTP/2 without Content-Length: only the stream shows whether the request has content.
    Unstated,
}

impl Framing {
    /// Resolves [`Self::Unstated`]. `end_of_stream`: the stream ended with the header section.
    #[must_use]
    pub fn resolve(self, end_of_stream: bool) -> Self {
        match self {
            Self::Unstated if end_of_stream => Self::None,
            Self::Unstated => Self::Chunked,
            stated => stated,
        }
    }
}

/// Reads `1*DIGIT` (RFC 9110 §8.6) that fits in 64 bits. `u64::from_str` alone would accept a plus sign.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
