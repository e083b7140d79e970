//! Every built-in default, in one place. `docs/DEFAULTS.md` gives the reason for each.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use http::StatusCode;
use jsonwebtoken::Algorithm;

use crate::{
    config::settings::{
        AccessLogFormat, AccessLogSettings, BreakerSettings, DrainSettings, FailureKinds, Http2Settings,
        OutlierSettings, PoolSettings,
    },
    policy::concurrency::ShareSettings,
};

pub(crate) struct Defaults {
    pub(crate) workers: usize,
    pub(crate) listen: ListenDefaults,
    pub(crate) consul_address: &'static str,
    pub(crate) consul_wait: Duration,
    pub(crate) consul_max_stale: Duration,
    pub(crate) consul_max_watches: usize,
    pub(crate) consul_doubt: Duration,
    pub(crate) auth: AuthDefaults,
    pub(crate) breaker: BreakerSettings,
    pub(crate) outlier: OutlierSettings,
    pub(crate) max_inflight: u32,
    pub(crate) shares: ShareSettings,
    pub(crate) pool: PoolSettings,
    pub(crate) access_log: AccessLogSettings,
    pub(crate) drain: DrainSettings,
    pub(crate) rate_keys_max: usize,
}

pub(crate) struct ListenDefaults {
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) untrusted_headers: [&'static str; UNTRUSTED_HEADERS.len()],
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_headers: usize,
    pub(crate) max_header_bytes: usize,
    pub(crate) max_streams: u32,
    pub(crate) http2: Http2Settings,
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
                untrusted_headers: UNTRUSTED_HEADERS,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_mins(1),
                max_headers: 100,
                max_header_bytes: 64 * 1024,
                max_streams: 128,
                http2: Http2Settings { frames_per_second: Some(1000), resets: Some(256) },
            },
            consul_address: "http://127.0.0.1:8500",
            consul_wait: Duration::from_mins(1),
            consul_max_stale: Duration::from_secs(10),
            consul_max_watches: 100,
            consul_doubt: Duration::from_secs(30),
            auth: AuthDefaults {
                leeway: Duration::from_secs(30),
                cache_max: 10_000,
                asymmetric: [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
            },
            breaker: breaker(),
            outlier: outlier(),
            max_inflight: 1024,
            shares: ShareSettings { per_connection: Some(125), per_client: None, uploads: Some(750) },
            pool: PoolSettings {
                idle_max: 256,
                idle: Duration::from_mins(1),
                max_age: Duration::from_mins(10),
            },
            access_log: AccessLogSettings {
                format: AccessLogFormat::Json,
                file: None,
                file_span: crate::config::Span::default(),
                sample_per_mille: 1000,
                refusals_per_second: 100,
            },
            drain: DrainSettings { notice: Duration::ZERO, timeout: Duration::from_secs(30) },
            rate_keys_max: 1_000_000,
        }
    }
}

fn breaker() -> BreakerSettings {
    BreakerSettings {
        error_ratio: 0.5,
        requests_min: 20,
        window: Duration::from_secs(10),
        open: Duration::from_secs(10),
        probes: 3,
        count: FailureKinds {
            connect: true,
            reset: true,
            timeout: true,
            statuses: vec![
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ],
        },
        max_by_status: 0.5,
    }
}

fn outlier() -> OutlierSettings {
    OutlierSettings {
        connect_failures: Some(3),
        gateway_failures: Some(5),
        unanswered: Some(5),
        pause: Duration::from_secs(5),
        max: 0.5,
        panic: 0.5,
    }
}

/// Names that proxies write and services believe; docs/DEFAULTS.md says what each kind does.
const UNTRUSTED_HEADERS: [&str; 106] = [
    // Another path, host or method than the one that was authorised.
    "x-original-*",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-http-host-override",
    "script-name",
    "path-info",
    "x-script-name",
    "x-middleware-subrequest*",
    "x-middleware-rewrite",
    "x-middleware-redirect",
    "x-middleware-next",
    "x-middleware-skip",
    "x-middleware-override-headers",
    "x-middleware-set-cookie",
    "x-invoke-*",
    "x-matched-path",
    "x-now-route-matches",
    // Who the client is by its certificate.
    "client-cert",
    "client-cert-chain",
    "cert-chain-*",
    "x-client-cert*",
    "x-client-verify*",
    "x-client-dn*",
    "x-client-s-dn*",
    "x-client-i-dn*",
    "x-client-subject*",
    "x-client-issuer*",
    "ssl-client-*",
    "tls-client-*",
    "x-ssl-*",
    "x-tls-client-*",
    "x-arr-*",
    "x-amzn-mtls-*",
    "cf-client-cert-*",
    "x-proxiedentit*",
    // Who the client is by the word of a proxy that asked.
    "remote-*",
    "x-remote-*",
    "x-proxy-*",
    "impersonate-*",
    "x-authenticated-*",
    "x-auth-request-*",
    "x-webauth-*",
    "x-authentik-*",
    "x-pomerium-*",
    "x-vouch-*",
    "x-consumer-*",
    "x-credential-*",
    "x-anonymous-consumer",
    "x-userinfo",
    "x-jwt-assertion",
    "oidc-*",
    "shib-*",
    "iv-*",
    "sm-*",
    "oam-*",
    "osso-*",
    "$ws*",
    "teleport-*",
    "tailscale-*",
    "l5d-*",
    "cf-access-*",
    "x-amzn-oidc-*",
    "x-amzn-request-context",
    "x-amzn-lambda-context",
    "x-apigateway-*",
    "x-endpoint-api-*",
    "x-ms-client-principal*",
    "x-ms-token-*",
    "x-goog-authenticated-user-*",
    "x-goog-iap-*",
    "x-appengine-*",
    "x-cloudtasks-*",
    "x-cloudscheduler*",
    // Where the client is, and by which scheme it came.
    "true-client-ip",
    "cf-connecting-*",
    "cf-pseudo-ipv4",
    "cf-ipcountry",
    "cf-visitor",
    "cloudfront-*",
    "client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "fastly-client-*",
    "fly-client-ip",
    "fly-forwarded-*",
    "do-connecting-ip",
    "incap-client-ip",
    "x-akamai-*",
    "x-azure-*",
    "x-envoy-*",
    "x-nf-client-*",
    "x-sucuri-*",
    "x-vercel-*",
    "x-forwarded",
    "forwarded-for",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-weblogic-*",
    "wl-proxy-*",
    "front-end-https",
    "x-scheme",
    "x-url-scheme",
    // Which file the service is to send.
    "x-sendfile-type",
    "x-accel-*",
];
