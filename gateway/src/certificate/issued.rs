//! What ACME has brought to the listeners: certificates, and what answers the questions of an authority that is about to verify a host.
//!
//! The control loop makes these values, and replaces them whole.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rustls::sign::CertifiedKey;

use super::{acme::ChallengeKind, names::CertifiedNames, settings::AcmeSettings, validation::Validation};

/// A certificate that an authority has issued, with its key.
#[derive(Debug)]
pub struct Issued {
    pub id: Arc<str>,
    pub key: Arc<CertifiedKey>,
    pub names: Arc<CertifiedNames>,
    /// Validity of the chain, as wall time since the Unix epoch.
    pub not_before: Duration,
    pub not_after: Duration,
}

/// What ACME has brought so far.
#[derive(Debug, Clone, Default)]
pub struct AcmeState {
    /// By their ids. `None` for an id: it is still awaited.
    pub issued: HashMap<Arc<str>, Arc<Issued>>,
    /// Bodies by the tokens of pending challenges. `None`: none is pending, and no request is looked at.
    pub answers: Option<Arc<HttpAnswers>>,
    /// `None`: no challenge is pending, and no handshake is looked at.
    pub validation: Option<Arc<Validation>>,
}

/// The answers to pending HTTP challenges, by token.
pub type HttpAnswers = HashMap<Box<str>, Bytes>;

/// What one authority has brought.
#[derive(Debug, Clone, Default)]
pub struct AcmePart {
    pub issued: HashMap<Arc<str>, Arc<Issued>>,
    pub answers: HttpAnswers,
    /// Certificates for pending handshakes, by host.
    pub handshakes: HashMap<Box<str>, Arc<CertifiedKey>>,
}

/// The part of [`AcmeState`] that one listener presents.
#[derive(Debug, Clone, Default)]
pub struct ListenerAcme {
    pub issued: Vec<Arc<Issued>>,
    /// Names of certificates that are still awaited.
    pub awaited: Vec<Box<str>>,
    pub validation: Option<Arc<Validation>>,
}

impl ListenerAcme {
    pub fn of(settings: Option<&AcmeSettings>, state: &AcmeState) -> Self {
        let Some(settings) = settings else { return Self::default() };
        let mut own = Self::default();
        for wanted in &settings.certificates {
            match state.issued.get(&wanted.id) {
                Some(issued) => own.issued.push(Arc::clone(issued)),
                None => own.awaited.extend(wanted.names.iter().cloned()),
            }
        }
        if settings.authority.challenge == ChallengeKind::TlsAlpn01 {
            own.validation.clone_from(&state.validation);
        }
        own
    }

    /// Whether both are the same: not only equal.
    pub fn is_same(&self, other: &Self) -> bool {
        let issued = self.issued.iter().zip(&other.issued);
        self.issued.len() == other.issued.len()
            && issued.into_iter().all(|(one, other)| Arc::ptr_eq(one, other))
            && self.awaited == other.awaited
            && self.validation.as_ref().map(Arc::as_ptr) == other.validation.as_ref().map(Arc::as_ptr)
    }
}
