//! The settings of TLS on one listener, with defaults filled in. Plain data.

use std::path::PathBuf;

use super::acme::{AcmeAuthority, Wanted};
use crate::syntax::diagnostics::Span;

/// TLS of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificates from files, in the order of the file. At least one, unless there is `acme`.
    pub certificates: Vec<CertificateSettings>,
    /// The certificates that an authority issues. They come after those from files.
    pub acme: Option<AcmeSettings>,
    pub unknown_names: UnknownNames,
    pub min_version: TlsVersion,
    /// `None`: no client is asked for a certificate.
    pub clients: Option<ClientSettings>,
    /// The keys of session tickets, which gateways share. `None`: each process makes its own.
    pub ticket_keys_file: Option<PathBuf>,
    pub span: Span,
}

/// `acme` of a TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    pub authority: AcmeAuthority,
    /// At least one.
    pub certificates: Vec<Wanted>,
    /// Whether clients that ask for these names prove who they are.
    pub client_auth: ClientAuth,
    pub span: Span,
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSettings {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// An OCSP response about the certificate.
    pub ocsp_file: Option<PathBuf>,
    /// Whether clients without a name, or with one of no certificate, get this certificate.
    pub is_default: bool,
    /// Whether clients that ask for its names prove who they are.
    pub client_auth: ClientAuth,
    pub span: Span,
}

/// Whether a client proves who it is with a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientAuth {
    /// It is not asked.
    #[default]
    Off,
    /// It is asked, and gets a connection without a certificate, too.
    Optional,
    /// Without a certificate it gets no connection.
    Required,
}

/// What clients are verified against, and what services get of their certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// The authorities whose certificates clients may have.
    pub ca_file: PathBuf,
    pub crl_file: Option<PathBuf>,
    pub field: CertificateField,
}

/// What services get of a client's certificate (RFC 9440).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateField {
    #[default]
    Off,
    /// `Client-Cert`
    Certificate,
    /// `Client-Cert` and `Client-Cert-Chain`
    Chain,
}

/// The answer to a client that names no host, or one of no certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownNames {
    /// It gets the default certificate.
    #[default]
    Default,
    /// The handshake fails.
    Refuse,
}

/// The lowest version of TLS that a listener accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}
