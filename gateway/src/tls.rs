//! TLS with clients ([`server`]) and services: rustls with aws-lc-rs, TLS 1.2 and 1.3. By ALPN, listeners accept `h2` and `http/1.1`,
//! and connections to services offer `http/1.1`.

pub mod acme_report;
mod clients;
pub mod error;
pub mod server;
mod tickets;
pub mod validity;

use std::sync::Arc;

use millgate_registry::HttpError;
use rustls::ClientConfig;

use crate::upstream::tls::UpstreamTls;

/// Makes the TLS configuration for connections to a service. It reads the authorities that verify the service's certificate
/// and the client certificate, which takes milliseconds of file access.
///
/// # Errors
/// A file cannot be read or used, or no authority would be trusted; the text is one sentence.
pub fn client_config(tls: &UpstreamTls) -> Result<Arc<ClientConfig>, String> {
    let config =
        if tls.insecure { tls.files.client_config_without_proof() } else { tls.files.client_config() };
    let mut config = config.map_err(|error| match error {
        HttpError::Tls(reason) => reason,
        error => error.to_string(),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
