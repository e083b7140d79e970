//! How often a route may be used, and when its requests are sent again.

use std::{fmt, time::Duration};

use http::{HeaderName, Method, StatusCode};

use crate::config::diagnostics::Span;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// Policy name in `RateLimit-Policy`: `default`, or made from the key (`ip`, `user`, …).
    pub name: String,
    pub requests: u32,
    pub period: Duration,
    pub burst: u32,
    pub key: RateLimitKey,
    pub span: Span,
}

/// As it would be written in the file: `100/s burst 200 per user`.
impl fmt::Display for RateLimitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.requests)?;
        match self.period.as_secs() {
            1 if self.period.subsec_nanos() == 0 => f.write_str("s")?,
            60 => f.write_str("m")?,
            3600 => f.write_str("h")?,
            86400 => f.write_str("d")?,
            _ => write!(f, "{:?}", self.period)?,
        }
        if self.burst != self.requests {
            write!(f, " burst {}", self.burst)?;
        }
        match &self.key {
            RateLimitKey::Ip => f.write_str(" per ip"),
            RateLimitKey::User => f.write_str(" per user"),
            RateLimitKey::Route => f.write_str(" per route"),
            RateLimitKey::Service => f.write_str(" per service"),
            RateLimitKey::Claim(claim) => write!(f, " per claim:{claim}"),
            RateLimitKey::Header(name) => write!(f, " per header:{name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// Client address; IPv6 by /64.
    Ip,
    /// `sub` of the verified token.
    User,
    /// One bucket for the route.
    Route,
    /// One bucket for the service.
    Service,
    Claim(String),
    Header(HeaderName),
}

#[derive(Debug, Clone, PartialEq)]
pub struct RetrySettings {
    /// Retries of requests that an endpoint may have worked on; 0 = off, which also ends attempts elsewhere after a failed
    /// connect.
    pub retries: u32,
    pub on: RetryCauses,
    pub on_status: Vec<StatusCode>,
    /// Methods that may be retried once bytes were sent.
    pub methods: Vec<Method>,
    /// Retries may add at most this share of the requests, 0.0..=1.0.
    pub budget: f32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Largest request body that is kept to be sent again; 0 = none is.
    pub body_bytes_max: usize,
}

/// Failures without a status after which there may be another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four")]
pub struct RetryCauses {
    pub connect: bool,
    /// The endpoint closed a reused connection before answering, or refused the stream.
    pub refused: bool,
    /// The endpoint broke the connection after the request was sent.
    pub reset: bool,
    /// An attempt took longer than `timeout.try`.
    pub timeout: bool,
}
