//! The settings of `listen`: addresses, and how large and how slow the messages of clients may be. Plain data for every room
//! that serves a connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{admission::Scheme, certificate::settings::TlsSettings, proxy_protocol::ProxyProtocol};

/// The section `listen` of a configuration, with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// Cleartext listeners. They serve HTTP/1.1, and HTTP/2 with prior knowledge.
    pub http: Vec<HttpSettings>,
    /// Names of cleartext listeners that redirect every client to `https`, with the port there. The others serve requests.
    pub redirects: Vec<(Arc<str>, u16)>,
    /// TLS listeners.
    pub https: Vec<HttpsSettings>,
    /// The admin listener. `None`: `off`.
    pub admin: Option<SocketAddr>,
    /// The names under which the admin listener answers, in addition to its address.
    pub admin_hosts: Vec<String>,
    /// The networks of peers whose forwarding fields are trusted.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Names of header fields in lower case, or beginnings of names with `*` after them. Such fields are removed unless a
    /// trusted proxy sends them.
    pub untrusted_headers: Vec<String>,
    /// The longest time from the first byte of a request head to its end.
    pub header_timeout: Duration,
    /// The longest time that a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// The largest number of header lines of a request.
    pub max_headers: usize,
    /// The largest header section of a request, in bytes.
    pub max_header_bytes: usize,
    /// The largest number of client connections, over all workers. `None`: as many as there are files for.
    pub max_connections: Option<usize>,
    /// The largest number of concurrent streams of an HTTP/2 connection.
    pub max_streams: u32,
    /// The number of requests after which a connection ends. `None`: it has no limit.
    pub max_requests_per_connection: Option<u32>,
    pub http2: Http2Settings,
}

impl ListenSettings {
    /// The port of `https` to which this listener redirects every client. `None`: it serves requests itself.
    pub fn redirect_of(&self, listener: &str) -> Option<u16> {
        // Compared only in a configuration that redirects at all.
        self.redirects.iter().find(|(name, _)| **name == *listener).map(|(_, port)| *port)
    }
}

/// A listener as its connections know it. It stays as it is until the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name in routes, logs and metrics.
    pub name: Arc<str>,
    pub scheme: Scheme,
    /// Whether connections begin with the address of their client.
    pub proxy_protocol: ProxyProtocol,
}

#[cfg(any(test, feature = "testing"))]
impl Listener {
    /// A cleartext listener with the default name, for tests and benches.
    pub(crate) fn cleartext() -> std::rc::Rc<Self> {
        std::rc::Rc::new(Self {
            name: "http".into(),
            scheme: Scheme::Http,
            proxy_protocol: ProxyProtocol::Off,
        })
    }
}

/// Limits of what an HTTP/2 client may send without advancing a request. `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Settings {
    /// The largest number of control frames per second: frames that are neither a request nor content.
    pub frames_per_second: Option<u32>,
    /// The largest number of requests that a client may reset, beyond half of all its requests.
    pub resets: Option<u32>,
}

/// One address of a cleartext listener. Addresses of one listener have one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    pub name: Arc<str>,
    pub proxy_protocol: ProxyProtocol,
    pub bind: SocketAddr,
}

/// A TLS listener of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsSettings {
    pub name: Arc<str>,
    pub proxy_protocol: ProxyProtocol,
    pub bind: SocketAddr,
    pub tls: TlsSettings,
}
