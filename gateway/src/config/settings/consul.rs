//! The registry: its addresses, how it is queried, and how far its responses are trusted.

use std::{fmt, path::PathBuf, time::Duration};

use millgate_registry::TlsOptions;

/// The settings of `discovery.consul`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulSettings {
    /// `http://host:port` or `https://host:port`.
    pub address: String,
    /// Other agents. They are queried when an agent fails, and for a share of the services from the beginning.
    pub further_addresses: Vec<String>,
    pub tls: TlsOptions,
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub consistency: Consistency,
    /// A `stale` response that is older than this is checked with the leader.
    pub max_stale: Duration,
    /// Longest wait of a blocking query.
    pub wait: Duration,
    /// Most blocking queries at one agent at a time, over cleartext.
    pub max_watches: usize,
    pub flap_damping: bool,
    /// Time for which instances stay in use although a registry that is failing, or has lost its data, removed them; zero
    /// is `off`.
    pub doubt: Duration,
    /// `/readyz` returns 503 when the registry has not responded for a service for this long; `None` is `off`.
    pub unready_after: Option<Duration>,
}

/// Consul's consistency mode of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    #[default]
    Stale,
    Default,
    Consistent,
}

/// A secret from the file, which `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: String) -> Self {
        Self(value)
    }
    /// The secret itself, for the code that sends or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
