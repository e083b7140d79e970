//! The content of a line of the access log.

use std::{
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use http::Version;

use crate::policy::clients::ClientDenied;

/// The log entry of one request that has ended.
pub struct LogEntry<'a> {
    pub request_id: &'a str,
    pub client: IpAddr,
    /// The client's address as text, if the text exists already.
    pub client_text: Option<&'a [u8]>,
    pub method: &'a str,
    pub host: Option<&'a str>,
    pub path: &'a str,
    pub version: Version,
    pub is_tls: bool,
    pub listener: &'a str,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub started: Instant,
    pub duration: Duration,
    /// Time of the last attempt, from sending to the response head; `None`: the service has not responded.
    pub upstream: Option<Duration>,
    /// Time until the response head, without [`Self::upstream`].
    pub overhead: Duration,
    /// The route, and the service that it names.
    pub route: Option<(&'a str, &'a str)>,
    pub subset: Option<&'a str>,
    pub instance: Option<&'a str>,
    pub attempts: u32,
    /// The status of a gRPC call.
    pub grpc_status: Option<u8>,
    /// The attempts; empty if the first attempt was good.
    pub tried: &'a [OneAttempt],
    /// The subject of the verified identity. `provider` is the provider that verified it.
    pub user: Option<&'a str>,
    pub provider: Option<&'a str>,
    /// The address that may not use the route.
    pub denied: Option<&'a ClientDenied>,
    /// The reason why the credential was refused, and the claim that caused it.
    pub auth_failure: Option<(&'static str, Option<&'a str>)>,
    /// The flag of docs/ACCESS-LOG.md for how the request ended; `-`: without a problem.
    pub flag: &'static str,
}

/// One attempt that has ended.
#[derive(Debug)]
pub struct OneAttempt {
    pub instance: Rc<str>,
    pub outcome: Outcome,
    pub began: Instant,
    pub took: Duration,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The instance responded with this status.
    Answered(u16),
    /// The attempt failed with this reason of docs/ERRORS.md.
    Failed(&'static str),
}
