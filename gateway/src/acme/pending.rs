//! The challenges of an order under way, as they stand in the storage, and what answers them.

use std::time::Duration;

use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};

use crate::certificate::{acme::ChallengeKind, issued::AcmePart};

/// The challenges of one order.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Wall time in seconds since 1970, after which nobody answers: the order is over, whatever became of its gateway.
    pub(super) until: u64,
    pub(super) kind: Option<PendingKind>,
    pub(super) challenges: Vec<Challenge>,
}

/// The kind of all challenges of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PendingKind {
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[serde(rename = "http-01")]
    Http01,
}

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Challenge {
    pub(super) host: String,
    pub(super) token: String,
    pub(super) key_authorization: String,
}

impl From<ChallengeKind> for PendingKind {
    fn from(kind: ChallengeKind) -> Self {
        match kind {
            ChallengeKind::TlsAlpn01 => Self::TlsAlpn01,
            ChallengeKind::Http01 => Self::Http01,
        }
    }
}

impl Pending {
    /// Adds what answers these challenges. `now` is wall time since 1970.
    pub(super) fn answer(&self, now: Duration, part: &mut AcmePart) {
        if self.until <= now.as_secs() {
            return;
        }
        for challenge in self.challenges.iter().take(CHALLENGES_MAX) {
            match self.kind {
                Some(PendingKind::Http01) => {
                    let body = Bytes::from(challenge.key_authorization.clone());
                    part.answers.insert(challenge.token.as_str().into(), body);
                }
                Some(PendingKind::TlsAlpn01) => {
                    if let Some(key) = certificate(challenge) {
                        part.handshakes.insert(challenge.host.as_str().into(), key.into());
                    }
                }
                None => {}
            }
        }
    }
}

/// The certificate of RFC 8737 §3: self-signed, for this host alone, with the digest in a critical extension.
fn certificate(challenge: &Challenge) -> Option<CertifiedKey> {
    let digest = aws_lc_rs_digest(&challenge.key_authorization);
    let mut params = CertificateParams::new([challenge.host.clone()]).ok()?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let key = KeyPair::generate().ok()?;
    let made = params.self_signed(&key).ok()?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
    // Without rustls' look at the certificate, which knows no critical extension of this kind.
    let key = aws_lc_rs::sign::any_supported_type(&key).ok()?;
    Some(CertifiedKey::new(vec![made.der().clone()], key))
}

fn aws_lc_rs_digest(text: &str) -> Vec<u8> {
    use ::aws_lc_rs::digest::{SHA256, digest};
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

/// As many as one certificate may have names.
const CHALLENGES_MAX: usize = 100;
