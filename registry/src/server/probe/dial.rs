//! Connections of checks, and Go's messages when a connection cannot be made.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, ClientConfig, Error};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::TlsOptions;

/// Why a connection could not be made.
#[derive(Debug)]
pub(super) enum DialError {
    /// The error in Go's words.
    Failed(String),
    Timeout,
}

impl DialError {
    /// The message of a check of a bare address.
    pub(super) fn text(self, address: &str) -> String {
        match self {
            Self::Failed(text) => text,
            Self::Timeout => format!("dial tcp {address}: i/o timeout"),
        }
    }
}

pub(super) async fn within<T>(
    timeout: Duration,
    dialing: impl Future<Output = Result<T, String>>,
) -> Result<T, DialError> {
    match tokio::time::timeout(timeout, dialing).await {
        Ok(result) => result.map_err(DialError::Failed),
        Err(_) => Err(DialError::Timeout),
    }
}

/// Connects to `host:port`. A name with several addresses is tried address by address.
pub(super) async fn tcp(address: &str) -> Result<TcpStream, String> {
    let (host, port) = split(address).map_err(|text| format!("dial tcp: address {text}"))?;
    let addresses: Vec<SocketAddr> = match host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => match tokio::net::lookup_host((host, port)).await {
            Ok(addresses) => addresses.collect(),
            Err(_) => Vec::new(),
        },
    };
    let mut failure = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A failure only delays small packets.
                let _nodelay = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failure = format!("dial tcp {address}: connect: {}", words(&error)),
        }
    }
    Err(failure)
}

/// A connection in cleartext, or with TLS after its handshake.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Makes a TLS handshake; the certificate must be valid for `name`.
pub(super) async fn tls(
    stream: TcpStream,
    name: &str,
    skip_verify: bool,
    alpn: &[&[u8]],
) -> Result<Box<dyn Stream>, String> {
    let mut config = if skip_verify { unverified()? } else { verified().await? };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(tls_words(&error)),
    }
}

/// `host:port` without brackets, or Go's message about the address.
pub(super) fn split(address: &str) -> Result<(&str, u16), String> {
    let missing = || format!("{address}: missing port in address");
    let (host, port) = address.rsplit_once(':').ok_or_else(missing)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(missing)?,
        None if host.contains(':') => return Err(format!("{address}: too many colons in address")),
        None => host,
    };
    let port = port.parse().map_err(|_| format!("{port}: invalid port"))?;
    Ok((host, port))
}

pub(super) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

fn tls_words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidMessage(_)) => NO_TLS.to_owned(),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        Some(other) => format!("tls: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => words(error),
    }
}

async fn verified() -> Result<ClientConfig, String> {
    // Reading the system's store is file access.
    let config = tokio::task::spawn_blocking(|| TlsOptions::default().client_config()).await;
    config.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Accepts any certificate, for checks with `TLSSkipVerify`.
fn unverified() -> Result<ClientConfig, String> {
    TlsOptions::default().client_config_without_proof().map_err(|error| error.to_string())
}

pub(super) const NO_TLS: &str = "tls: first record does not look like a TLS handshake";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_and_refused_as_go_does() {
        for (address, expected) in [
            ("127.0.0.1:80", Ok(("127.0.0.1", 80))),
            ("[::1]:80", Ok(("::1", 80))),
            ("name:1", Ok(("name", 1))),
            ("127.0.0.1", Err("127.0.0.1: missing port in address")),
            ("127.0.0.1:99999", Err("99999: invalid port")),
            ("::1:80", Err("::1:80: too many colons in address")),
        ] {
            assert_eq!(split(address), expected.map_err(str::to_owned), "{address}");
        }
    }
}
