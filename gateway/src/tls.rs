//! TLS with clients and services: rustls with aws-lc-rs, TLS 1.2 and 1.3. By ALPN, listeners accept `h2` and `http/1.1`, and
//! connections to services offer `http/1.1`.

pub mod validity;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use millgate_registry::HttpError;
use rustls::{ClientConfig, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{bounded_file, upstream::tls::UpstreamTls};

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {reason}; expected a PEM file with the certificate chain, leaf first", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{}: {reason}; expected a PEM file with one private key (PKCS#8, PKCS#1 or SEC1)", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("{} does not fit {}: {reason}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf, reason: String },
}

/// What a listener for TLS serves with.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// The content of both files before they were read ([`pair_fingerprint`]).
    pub fingerprint: u64,
}

/// Reads a certificate chain and its key, and makes the TLS configuration of a listener.
///
/// # Errors
/// A file is missing or is not PEM, or the key does not belong to the certificate.
pub fn server_tls(cert_file: &Path, key_file: &Path) -> Result<ServerTls, TlsError> {
    let fingerprint = pair_fingerprint(cert_file, key_file);
    Ok(ServerTls { config: server_config(cert_file, key_file)?, fingerprint })
}

/// Changes with the content of a certificate or its key.
pub fn pair_fingerprint(cert_file: &Path, key_file: &Path) -> u64 {
    bounded_file::content_fingerprint(&[cert_file.to_owned(), key_file.to_owned()])
}

fn server_config(cert_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let certificate = |reason: String| TlsError::Certificate { path: cert_file.into(), reason };
    let bytes = bounded_file::read(cert_file).map_err(|error| certificate(error.to_string()))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(certificate("no certificate in it".into()));
    }
    let unusable = |reason: String| TlsError::Key { path: key_file.into(), reason };
    let bytes = bounded_file::read(key_file).map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
    let mismatch = |error: rustls::Error| TlsError::Mismatch {
        cert: cert_file.into(),
        key: key_file.into(),
        reason: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_pair_that_fits_is_served_with_both_protocols() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write(&dir, "cert.pem", &made.cert.pem());
        let key = write(&dir, "key.pem", &made.signing_key.serialize_pem());
        let config = server_config(&cert, &key).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write(&dir, "cert.pem", &one.cert.pem());
        let key = write(&dir, "key.pem", &other.signing_key.serialize_pem());
        let error = server_config(&cert, &key).unwrap_err().to_string();
        assert!(error.contains("key.pem does not fit") && error.contains("cert.pem"), "{error}");
    }

    #[test]
    fn a_missing_file_and_an_empty_one_say_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let empty = write(&dir, "empty.pem", "");
        let error = server_config(&dir.path().join("none.pem"), &empty).unwrap_err().to_string();
        assert!(error.contains("none.pem") && error.contains("PEM"), "{error}");
        let error = server_config(&empty, &empty).unwrap_err().to_string();
        assert!(error.contains("no certificate in it"), "{error}");
    }
}
