//! The verification of clients: authorities and lists of revoked certificates, read from files.
//!
//! With a list, each certificate of a chain needs the list of its issuer, except for the authority itself: a certificate of which
//! nothing is known is refused, and so is every certificate after the list's `nextUpdate`, as OpenSSL does for nginx and HAProxy. A
//! list that is out of date cannot say that a certificate is good; [`Validity`](super::validity::Validity) warns of its end.

use std::{path::Path, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};

use super::error::TlsError;
use crate::{
    bounded_file,
    certificate::settings::{ClientAuth, ClientSettings},
};

/// What clients are verified against.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// The hash of everything that decides whether a client is accepted.
    context: [u8; 32],
    /// Those of `Optional` and `Required`.
    verifiers: [Arc<dyn ClientCertVerifier>; 2],
}

impl Clients {
    /// Reads the files. If nothing has changed since `known` was read, that is returned.
    pub(super) fn read(
        settings: &ClientSettings,
        known: Option<&Self>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let ca = read(&settings.ca_file).map_err(|reason| authorities(&settings.ca_file, reason))?;
        let crl = settings.crl_file.as_deref();
        let crl = crl
            .map(|file| Ok((file, read(file).map_err(|reason| revocations(file, reason))?)))
            .transpose()?;
        let context = context(&ca, crl.as_ref().map(|(_, bytes)| &**bytes));
        if let Some(known) = known.filter(|known| known.context == context) {
            return Ok(known.clone());
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            let added = certificate
                .map_err(|e| e.to_string())
                .and_then(|one| roots.add(one).map_err(|e| e.to_string()));
            added.map_err(|reason| authorities(&settings.ca_file, reason))?;
        }
        if roots.is_empty() {
            return Err(authorities(&settings.ca_file, "no certificate in it".to_owned()));
        }
        let roots = Arc::new(roots);
        let lists = match &crl {
            Some((file, bytes)) => crls_of(bytes).map_err(|reason| revocations(file, reason))?,
            None => Vec::new(),
        };
        let file = crl.as_ref().map_or(&*settings.ca_file, |(file, _)| file);
        let build = |is_required: bool| {
            let mut builder =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
            if !is_required {
                builder = builder.allow_unauthenticated();
            }
            if crl.is_some() {
                builder = builder.with_crls(lists.iter().cloned()).enforce_revocation_expiration();
            }
            builder.build().map_err(|error| revocations(file, error.to_string()))
        };
        Ok(Self { context, verifiers: [build(false)?, build(true)?] })
    }

    /// The verifier for clients that are asked in this way.
    pub(super) fn verifier(of: Option<&Self>, client_auth: ClientAuth) -> Arc<dyn ClientCertVerifier> {
        match (of, client_auth) {
            (Some(Self { verifiers: [optional, _], .. }), ClientAuth::Optional) => Arc::clone(optional),
            (Some(Self { verifiers: [_, required], .. }), ClientAuth::Required) => Arc::clone(required),
            (_, ClientAuth::Off) | (None, _) => WebPkiClientVerifier::no_client_auth(),
        }
    }

    /// The hash of everything that decides whether a client is accepted that is asked in this way.
    pub(super) fn context(of: Option<&Self>, client_auth: ClientAuth) -> [u8; 32] {
        let (Some(Self { context, .. }), true) = (of, client_auth != ClientAuth::Off) else { return [0; 32] };
        let mut hash = Context::new(&SHA256);
        hash.update(context);
        hash.update(&[u8::from(client_auth == ClientAuth::Required)]);
        hash.finish().as_ref().try_into().unwrap_or_default()
    }

    /// A value that two listeners share only if they accept the same clients. Never 0.
    pub(super) fn id(&self) -> u64 {
        self.context.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)) | 1
    }
}

/// The lists of a file, which is PEM, or one list as DER.
pub(super) fn crls_of(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    match lists {
        Ok(lists) if lists.is_empty() => Err("no list in it".to_owned()),
        lists => lists.map_err(|error| error.to_string()),
    }
}

fn context(ca: &[u8], crl: Option<&[u8]>) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(&[u8::from(crl.is_some())]);
    for part in [ca, crl.unwrap_or_default()] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    // SHA-256 has 32 bytes.
    hash.finish().as_ref().try_into().unwrap_or_default()
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    bounded_file::read(file).map_err(|error| error.to_string())
}

fn authorities(file: &Path, reason: String) -> TlsError {
    TlsError::Authorities { path: file.to_owned(), reason }
}

fn revocations(file: &Path, reason: String) -> TlsError {
    TlsError::Revocations { path: file.to_owned(), reason }
}

/// The first byte of every list as DER (X.690 §8.1.2): no PEM file begins with it.
const DER_SEQUENCE: u8 = 0x30;
