//! The settings of a [`Client`](crate::Client), from code or from the environment variables that Consul's own tools read.

use std::fmt;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::http::TlsOptions;

/// Settings of a [`Client`](crate::Client): the addresses of Consul's agents, the ACL token, the datacenter, and TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The address of an agent: `http://host:port`, `https://host:port`, or `host:port` (which means `http`).
    pub address: String,
    /// The ACL token. It is sent only as the header `X-Consul-Token`.
    pub token: Option<String>,
    /// A file with the ACL token; it takes precedence over `token`. It is read again when it changed (it is looked at every
    /// 10 s) and whenever Consul answers 403, so that a rotated token needs no restart.
    pub token_file: Option<PathBuf>,
    /// The datacenter of all calls that do not name one; `None` means the agent's own.
    pub datacenter: Option<String>,
    /// TLS settings for `https`. The files are read again when they change.
    pub tls: TlsOptions,
    /// Addresses of further agents, written as `address` is. The client begins with a random agent, and moves on when a call
    /// fails.
    pub further_addresses: Vec<String>,
    /// The most blocking queries that may wait at one agent at once over cleartext, where each occupies a connection.
    pub blocking_queries_max: usize,
}

impl ClientConfig {
    /// Settings for one address, without a token.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            token: None,
            token_file: None,
            datacenter: None,
            tls: TlsOptions::default(),
            further_addresses: Vec::new(),
            blocking_queries_max: BLOCKING_QUERIES_MAX,
        }
    }

    /// Reads `CONSUL_HTTP_ADDR`, `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE`, `CONSUL_HTTP_SSL`, `CONSUL_CACERT`,
    /// `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY` and `CONSUL_TLS_SERVER_NAME`, as the `consul` command does. Empty
    /// variables count as absent. `CONSUL_HTTP_SSL_VERIFY=false` is ignored: name the certificate authority instead.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// As [`ClientConfig::from_env`], with variables that `lookup` returns.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let ssl = value("CONSUL_HTTP_SSL");
        let ssl = ssl.is_some_and(|ssl| matches!(ssl.to_ascii_lowercase().as_str(), "1" | "t" | "true"));
        let address = match value("CONSUL_HTTP_ADDR") {
            Some(address) if ssl && !address.contains("://") => format!("https://{address}"),
            Some(address) => address,
            None if ssl => DEFAULT_ADDRESS.replacen("http:", "https:", 1),
            None => DEFAULT_ADDRESS.to_owned(),
        };
        Self {
            token: value("CONSUL_HTTP_TOKEN"),
            token_file: value("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from),
            tls: TlsOptions {
                ca_file: value("CONSUL_CACERT").map(PathBuf::from),
                cert_file: value("CONSUL_CLIENT_CERT").map(PathBuf::from),
                key_file: value("CONSUL_CLIENT_KEY").map(PathBuf::from),
                server_name: value("CONSUL_TLS_SERVER_NAME"),
            },
            ..Self::new(address)
        }
    }

    /// The addresses as prefixes of URLs, without a slash at the end.
    pub(crate) fn base_urls(&self) -> Result<Vec<String>, ClientError> {
        std::iter::once(&self.address)
            .chain(&self.further_addresses)
            .map(|address| base_url(address))
            .collect()
    }
}

fn base_url(address: &str) -> Result<String, ClientError> {
    let refused = |why: &str| {
        // A password must not end up in a log.
        let shown = address.rsplit_once('@').map_or(address.to_owned(), |(_, host)| format!("…@{host}"));
        ClientError::Config(format!(
            "address `{shown}`: {why}; write http://127.0.0.1:8500, https://consul.example:8501 or host:port"
        ))
    };
    let address = address.trim().trim_end_matches('/');
    if address.starts_with("unix:") {
        return Err(refused("unix sockets are not supported"));
    }
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let uri: http::Uri = url.parse().map_err(|_| refused("it is not an address"))?;
    let authority = uri.authority().ok_or_else(|| refused("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refused("user and password are not supported"));
    }
    if authority.host().is_empty() {
        return Err(refused("it names no host"));
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(url),
        _ => Err(refused("the scheme must be http or https")),
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self::new(DEFAULT_ADDRESS)
    }
}

/// Written by hand, so that the token never reaches a log.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "[redacted]"))
            .field("token_file", &self.token_file)
            .field("datacenter", &self.datacenter)
            .field("tls", &self.tls)
            .field("further_addresses", &self.further_addresses)
            .field("blocking_queries_max", &self.blocking_queries_max)
            .finish()
    }
}

/// The address of a local agent.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8500";

/// Half of what an agent admits from one address by default, so that the machine's other clients get through.
const BLOCKING_QUERIES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_scheme_is_plain_http() {
        for (address, url) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://consul:8500/", "http://consul:8500"),
            ("https://consul:8501", "https://consul:8501"),
            ("[::1]:8500", "http://[::1]:8500"),
        ] {
            assert_eq!(ClientConfig::new(address).base_urls().unwrap(), [url]);
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_with_examples() {
        for address in ["", "unix:///run/consul.sock", "ftp://consul", "http://u:p@consul:8500", "a b"] {
            let error = ClientConfig::new(address).base_urls().unwrap_err().to_string();
            assert!(error.contains("write http://127.0.0.1:8500"), "{address}: {error}");
        }
    }

    #[test]
    fn the_environment_of_the_consul_command_is_understood() {
        let config = ClientConfig::from_lookup(|name| match name {
            "CONSUL_HTTP_ADDR" => Some("consul.test:8501".to_owned()),
            "CONSUL_HTTP_SSL" => Some("true".to_owned()),
            "CONSUL_HTTP_TOKEN" => Some("s3cret".to_owned()),
            "CONSUL_CACERT" => Some(String::new()),
            _ => None,
        });
        assert_eq!(config.address, "https://consul.test:8501");
        assert_eq!(config.token.as_deref(), Some("s3cret"));
        assert_eq!(config.tls.ca_file, None);
    }

    #[test]
    fn the_token_is_not_shown() {
        let config = ClientConfig { token: Some("s3cret".to_owned()), ..ClientConfig::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
