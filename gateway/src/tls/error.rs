//! Files of TLS listeners that cannot be used.

use std::path::PathBuf;

use crate::syntax::diagnostics::Span;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {reason}; expected a PEM file with the certificate chain, leaf first", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{}: {reason}; expected a PEM file with one private key (PKCS#8, PKCS#1 or SEC1)", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("{} does not fit {}: {reason}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf, reason: String },
    #[error("{}: {reason}; expected a PEM file with the certificates of authorities", path.display())]
    Authorities { path: PathBuf, reason: String },
    #[error("{}: {reason}; expected lists of revoked certificates (CRL), PEM or DER", path.display())]
    Revocations { path: PathBuf, reason: String },
    #[error("{}: {reason}; `openssl rand -base64 32` makes a key", path.display())]
    Tickets { path: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Files of a listener that cannot be used.
#[derive(Debug)]
pub struct UnusableTls {
    pub error: TlsError,
    /// The place in the configuration that names the files.
    pub span: Span,
    /// The certificate or list of which the old content stays in use.
    pub file: PathBuf,
}
