//! Every built-in default, in one place. `docs/DEFAULTS.md` gives the reason for each.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use http::{Method, StatusCode};
use jsonwebtoken::Algorithm;

use crate::config::settings::{
    AccessLogFormat, AccessLogSettings, BreakerSettings, DrainSettings, PoolSettings, RetrySettings,
    TimeoutSettings,
};

pub(crate) struct Defaults {
    pub(crate) workers: usize,
    pub(crate) listen: ListenDefaults,
    pub(crate) consul_address: &'static str,
    pub(crate) consul_wait: Duration,
    pub(crate) consul_max_stale: Duration,
    pub(crate) consul_max_watches: usize,
    pub(crate) auth: AuthDefaults,
    pub(crate) timeout: TimeoutSettings,
    pub(crate) retry: RetrySettings,
    pub(crate) body_bytes_max: u64,
    pub(crate) breaker: BreakerSettings,
    pub(crate) max_inflight: u32,
    pub(crate) pool: PoolSettings,
    pub(crate) access_log: AccessLogSettings,
    pub(crate) drain: DrainSettings,
    pub(crate) rate_keys_max: usize,
}

pub(crate) struct ListenDefaults {
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_headers: usize,
    pub(crate) max_header_bytes: usize,
    pub(crate) max_streams: u32,
}

pub(crate) struct AuthDefaults {
    pub(crate) leeway: Duration,
    pub(crate) cache_max: usize,
    pub(crate) asymmetric: [Algorithm; 3],
}

impl Defaults {
    pub(crate) fn new() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            listen: ListenDefaults {
                http: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
                admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)),
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_mins(1),
                max_headers: 100,
                max_header_bytes: 64 * 1024,
                max_streams: 128,
            },
            consul_address: "http://127.0.0.1:8500",
            consul_wait: Duration::from_mins(1),
            consul_max_stale: Duration::from_secs(10),
            consul_max_watches: 100,
            auth: AuthDefaults {
                leeway: Duration::from_secs(30),
                cache_max: 10_000,
                asymmetric: [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
            },
            timeout: TimeoutSettings {
                total: Duration::from_secs(15),
                connect: Duration::from_secs(1),
                per_try: None,
                idle: Duration::from_mins(1),
                min_rate: Some(240),
            },
            retry: RetrySettings {
                attempts: 1,
                on_connect: true,
                on_refused: true,
                on_status: vec![StatusCode::SERVICE_UNAVAILABLE],
                methods: vec![Method::GET, Method::HEAD, Method::OPTIONS],
                budget: 0.2,
                backoff_min: Duration::from_millis(25),
                backoff_max: Duration::from_millis(250),
            },
            body_bytes_max: 10 * 1024 * 1024,
            breaker: BreakerSettings {
                error_ratio: 0.5,
                requests_min: 20,
                window: Duration::from_secs(10),
                open: Duration::from_secs(10),
                probes: 3,
            },
            max_inflight: 1024,
            pool: PoolSettings {
                idle_max: 256,
                idle: Duration::from_mins(1),
                max_age: Duration::from_mins(10),
            },
            access_log: AccessLogSettings {
                format: AccessLogFormat::Json,
                file: None,
                sample_per_mille: 1000,
            },
            drain: DrainSettings { notice: Duration::ZERO, timeout: Duration::from_secs(30) },
            rate_keys_max: 1_000_000,
        }
    }
}
