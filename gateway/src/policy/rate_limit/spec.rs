//! The settings of one rate limit: its rate, its burst and its key.

use std::{fmt, time::Duration};

use http::HeaderName;

use crate::syntax::diagnostics::Span;

/// The settings of one limit: at most `requests` per `period` for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitSpec {
    /// Name in `RateLimit-Policy`: `default`, or made from the key (`ip`, `user`, …).
    pub name: String,
    pub requests: u32,
    pub period: Duration,
    /// Requests that may come at once.
    pub burst: u32,
    pub key: RateLimitKey,
    /// The place of the limit in the file.
    pub span: Span,
}

/// The limit as it is written in the file: `100/s burst 200 per user`.
impl fmt::Display for RateLimitSpec {
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

/// The part of a request by which a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// The client's address; IPv6 by /64.
    Ip,
    /// The subject of the verified identity.
    User,
    /// One bucket for the route.
    Route,
    /// One bucket for the service.
    Service,
    /// A claim of the verified identity.
    Claim(String),
    /// A header field of the request.
    Header(HeaderName),
}
