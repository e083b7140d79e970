//! Why an exchange of the control plane's HTTP client failed.

use std::time::Duration;

/// Why an [`HttpClient`](crate::HttpClient) has no complete answer to return.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// The URL cannot be used: it is not absolute, or its scheme is neither `http` nor `https`.
    #[error("invalid URL `{url}`: {detail}")]
    InvalidUrl {
        /// The URL as the caller gave it.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The connection could not be made: it was refused, the peer is unreachable, its name is unknown, or the TLS
    /// handshake failed.
    #[error("{0}")]
    Connect(String),
    /// The whole exchange took longer than its deadline, which is the value.
    #[error("no complete answer within {}", rounded(*.0))]
    Timeout(Duration),
    /// The connection broke before the answer was complete.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The body of the answer is larger than the caller allows.
    #[error("the answer is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The files that TLS needs cannot be read or used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Rounds to milliseconds: a deadline of ten seconds of which some microseconds were used is shown as ten seconds.
fn rounded(duration: Duration) -> humantime::FormattedDuration {
    let millis = (duration + Duration::from_micros(500)).as_millis();
    humantime::format_duration(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}
