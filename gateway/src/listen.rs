//! How the gateway listens, as the configuration says: addresses, and how long and how large what clients send may be. Plain data,
//! for every room that serves a connection.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::syntax::diagnostics::Span;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// Cleartext listeners: HTTP/1.1, and HTTP/2 with prior knowledge.
    pub http: Vec<SocketAddr>,
    /// The port of `https` to which they send every client; `None`: they serve.
    pub https_redirect: Option<u16>,
    pub https: Option<HttpsSettings>,
    /// `None` is `off`.
    pub admin: Option<SocketAddr>,
    /// Names under which the admin listener answers, beside its address.
    pub admin_hosts: Vec<String>,
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Names, or beginnings of names with `*` after them, in lower case: removed unless a trusted proxy sends them.
    pub untrusted_headers: Vec<String>,
    /// First byte to end of headers.
    pub header_timeout: Duration,
    /// Keep-alive between requests.
    pub idle_timeout: Duration,
    pub max_headers: usize,
    pub max_header_bytes: usize,
    /// Client connections, over all workers; `None`: as many as there are files for.
    pub max_connections: Option<usize>,
    /// HTTP/2 concurrent streams of one connection.
    pub max_streams: u32,
    /// Requests after which a connection ends; `None`: it does not.
    pub max_requests_per_connection: Option<u32>,
    pub http2: Http2Settings,
}

/// What an HTTP/2 client may ask for that is no progress; `None` = any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Settings {
    /// Frames of a second that are neither a request nor content.
    pub frames_per_second: Option<u32>,
    /// Requests that are taken back, beyond half of all.
    pub resets: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsSettings {
    pub bind: SocketAddr,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub span: Span,
}
