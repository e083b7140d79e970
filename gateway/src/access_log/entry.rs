//! What a line of the access log contains about one request.

use std::{
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use http::Version;

use crate::policy::clients::ClientDenied;

/// One request that is over.
pub struct LogEntry<'a> {
    pub request_id: &'a str,
    pub client: IpAddr,
    /// The same as text, where there is one already.
    pub client_text: Option<&'a [u8]>,
    pub method: &'a str,
    pub host: Option<&'a str>,
    pub path: &'a str,
    pub version: Version,
    pub is_tls: bool,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub started: Instant,
    pub duration: Duration,
    /// `None`: no attempt was answered.
    pub upstream: Option<Duration>,
    /// Until the response head, without what [`Self::upstream`] took.
    pub overhead: Duration,
    /// The route, and the service that it names.
    pub route: Option<(&'a str, &'a str)>,
    pub subset: Option<&'a str>,
    pub instance: Option<&'a str>,
    pub attempts: u32,
    /// Empty where the first attempt was a good one.
    pub tried: &'a [OneAttempt],
    /// `sub` of the verified token, and the provider that verified it.
    pub user: Option<&'a str>,
    pub provider: Option<&'a str>,
    /// Which address may not use the route.
    pub denied: Option<&'a ClientDenied>,
    /// Why the token was refused, and the claim that it is about.
    pub auth_failure: Option<(&'static str, Option<&'a str>)>,
    /// What went wrong, in a word; `-`: nothing did.
    pub flag: &'static str,
}

/// An attempt that is over.
#[derive(Debug)]
pub struct OneAttempt {
    pub instance: Rc<str>,
    pub outcome: Outcome,
    pub began: Instant,
    pub took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16),
    /// In the word of the error table.
    Failed(&'static str),
}
