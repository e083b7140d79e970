//! What a client needs for TLS: trusted authorities, its own certificate, the name to expect. Certificates and keys are in
//! files that may be replaced at any time, so that a rotated certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::{ConfigBuilder, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::http::any_certificate::AnyCertificate;
use crate::http::{HttpError, Stamp, stamp};

/// TLS settings of a client: trusted authorities, its own certificate, and the name that the server must prove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// A PEM file with certificate authorities that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that this client presents; only together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of that certificate; only together with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate must carry; `None` means the host of the URL.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// The stamps of the three files; they change when a file is replaced.
    pub(crate) fn stamps(&self) -> [Stamp; 3] {
        [&self.ca_file, &self.cert_file, &self.key_file].map(|path| path.as_deref().and_then(stamp))
    }

    /// Reads all files that are named, so that a mistake is reported at the start and not at the first call.
    pub(crate) fn check(&self) -> Result<(), HttpError> {
        self.extra_roots()?;
        self.identity().map(drop)
    }

    /// Builds the settings of rustls, which verify the server. Reads the system's certificate store, which takes milliseconds of
    /// file access, so it should run on a blocking thread.
    ///
    /// # Errors
    /// A file cannot be read or used, or no certificate authority would be trusted.
    pub fn client_config(&self) -> Result<rustls::ClientConfig, HttpError> {
        let mut roots = rustls::RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        // A store with one unreadable certificate among a hundred is still a store.
        roots.add_parsable_certificates(native.certs);
        roots.add_parsable_certificates(self.extra_roots()?);
        if roots.is_empty() {
            let detail =
                native.errors.first().map_or_else(|| "the store is empty".to_owned(), ToString::to_string);
            return Err(HttpError::Tls(format!(
                "no trusted certificate authority: {detail}; install the system's CA certificates or name a CA file"
            )));
        }
        self.with_identity(builder()?.with_root_certificates(roots))
    }

    /// As [`TlsOptions::client_config`], but accepts any certificate: the connection is encrypted, and the identity of the
    /// server is not proved. It protects from a listener on the line, not from an attacker in the server's place.
    ///
    /// # Errors
    /// The files of the client's own certificate cannot be read or used.
    pub fn client_config_without_proof(&self) -> Result<rustls::ClientConfig, HttpError> {
        let verifier = Arc::new(AnyCertificate(provider()));
        self.with_identity(builder()?.dangerous().with_custom_certificate_verifier(verifier))
    }

    fn with_identity(
        &self,
        builder: ConfigBuilder<rustls::ClientConfig, WantsClientCert>,
    ) -> Result<rustls::ClientConfig, HttpError> {
        match self.identity()? {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| HttpError::Tls(format!("client certificate: {error}"))),
        }
    }

    fn extra_roots(&self) -> Result<Vec<CertificateDer<'static>>, HttpError> {
        self.ca_file.as_deref().map_or_else(|| Ok(Vec::new()), |path| certificates("CA file", path))
    }

    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, HttpError> {
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let chain = certificates("certificate file", cert)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| HttpError::Tls(format!("key file `{}`: {error}", key.display())))?;
                Ok(Some((chain, key)))
            }
            (Some(_), None) => Err(HttpError::Tls("a client certificate without its key file".to_owned())),
            (None, Some(_)) => Err(HttpError::Tls("a key file without a client certificate".to_owned())),
        }
    }
}

fn builder() -> Result<ConfigBuilder<rustls::ClientConfig, WantsVerifier>, HttpError> {
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Tls(error.to_string()))
}

/// Passed explicitly: a process-wide default would depend on which crates are linked.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let failed = |detail: String| HttpError::Tls(format!("{what} `{}`: {detail}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    Ok(certificates)
}
