//! How the content of a message is delimited.

/// As the header section of a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No content.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// HTTP/1.1 chunks; the length is not known.
    Chunked,
    /// HTTP/2 without Content-Length: only the stream shows whether there is content.
    Unstated,
}

impl Framing {
    /// Settles [`Self::Unstated`], given whether the body had ended when the header section was complete.
    #[must_use]
    pub fn resolve(self, end_of_stream: bool) -> Self {
        match self {
            Self::Unstated if end_of_stream => Self::None,
            Self::Unstated => Self::Chunked,
            stated => stated,
        }
    }
}

/// `1*DIGIT` (RFC 9110 §8.6) that fits in 64 bits. `u64::from_str` alone would take a plus sign.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
