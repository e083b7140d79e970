//! The registry: where it is, how it is spoken with, how far its answers are trusted.

use std::{fmt, path::PathBuf, time::Duration};

use millgate_registry::TlsOptions;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulSettings {
    /// `http://host:port` or `https://host:port`.
    pub address: String,
    /// Asked when another agent fails, and for a share of the services from the beginning.
    pub further_addresses: Vec<String>,
    pub tls: TlsOptions,
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub consistency: Consistency,
    /// A `stale` answer that is older is checked with the leader.
    pub max_stale: Duration,
    /// Longest wait of a blocking query.
    pub wait: Duration,
    /// Blocking queries at one agent at once, over cleartext.
    pub max_watches: usize,
    pub flap_damping: bool,
    /// How long instances stay in use that a registry in trouble, or one without its memory, took away; zero: they do not.
    pub doubt: Duration,
    /// `/readyz` says 503 when the registry has not answered for a service for this long; `None` = it does not.
    pub unready_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    #[default]
    Stale,
    Default,
    Consistent,
}

/// A secret from the file: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }
    /// The secret itself. Only for the place that sends or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
