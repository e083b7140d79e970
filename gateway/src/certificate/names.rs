//! The DNS names and the kind of key of a certificate (RFC 5280 §4.2.1.6, §4.1.2.7), as clients compare them.
//!
//! The subject's common name does not count: no current client compares it (RFC 9525 §2). A wildcard is the whole first label
//! (`*.shop.example`), and stands for exactly one label.

use rustls::SignatureScheme;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate, der_parser::oid::Oid, extensions::GeneralName, oid_registry,
    prelude::FromDer,
};

/// The names for which a certificate is valid, in lower case, and the kind of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedNames {
    pub exact: Vec<Box<str>>,
    /// The part after `*.` of each name with a wildcard.
    pub wildcards: Vec<Box<str>>,
    pub key: KeyKind,
}

/// The kind of a certificate's key. The order is that of preference: a signature with a key that comes first is cheaper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    EcdsaP256,
    Ed25519,
    EcdsaP384,
    EcdsaP521,
    Rsa,
    Other,
}

impl CertifiedNames {
    /// The names in the first certificate of a PEM file. `None`: there is no certificate, or it cannot be read.
    pub fn of_pem(text: &[u8]) -> Option<Self> {
        Self::of_certificate(&CertificateDer::pem_slice_iter(text).next()?.ok()?)
    }

    /// The names in a certificate. `None`: it cannot be read.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Self { exact: Vec::new(), wildcards: Vec::new(), key: KeyKind::of(&certificate) };
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            let GeneralName::DNSName(name) = name else { continue };
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let (list, name) = match name.strip_prefix("*.") {
                Some(rest) => (&mut names.wildcards, rest),
                None => (&mut names.exact, &*name),
            };
            // A name that no client can ask for is left out.
            if is_host_name(name) && !list.iter().any(|known| **known == *name) {
                list.push(name.into());
            }
        }
        Some(names)
    }

    /// Whether the certificate is valid for a host, which is in lower case.
    pub fn cover(&self, host: &str) -> bool {
        let is_one = |names: &[Box<str>], name: &str| names.iter().any(|known| **known == *name);
        is_one(&self.exact, host) || parent(host).is_some_and(|parent| is_one(&self.wildcards, parent))
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty()
    }

    /// The names as a person writes them, exact ones first.
    pub fn shown(&self) -> impl Iterator<Item = String> {
        let wildcards = self.wildcards.iter().map(|rest| format!("*.{rest}"));
        self.exact.iter().map(ToString::to_string).chain(wildcards)
    }
}

impl KeyKind {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let algorithm = &certificate.public_key().algorithm;
        let curve = || algorithm.parameters.as_ref().and_then(|curve| Oid::try_from(curve.clone()).ok());
        match &algorithm.algorithm {
            oid if *oid == oid_registry::OID_PKCS1_RSAENCRYPTION => Self::Rsa,
            oid if *oid == oid_registry::OID_SIG_ED25519 => Self::Ed25519,
            oid if *oid == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY => match curve() {
                Some(curve) if curve == oid_registry::OID_EC_P256 => Self::EcdsaP256,
                Some(curve) if curve == oid_registry::OID_NIST_EC_P384 => Self::EcdsaP384,
                Some(curve) if curve == oid_registry::OID_NIST_EC_P521 => Self::EcdsaP521,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }

    /// Whether a key of this kind can make a signature of this scheme (RFC 8446 §4.2.3). It decides without a signer, which rustls
    /// would allocate for each question.
    pub fn signs(self, scheme: SignatureScheme) -> bool {
        match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => self == Self::EcdsaP256,
            SignatureScheme::ECDSA_NISTP384_SHA384 => self == Self::EcdsaP384,
            SignatureScheme::ECDSA_NISTP521_SHA512 => self == Self::EcdsaP521,
            SignatureScheme::ED25519 => self == Self::Ed25519,
            SignatureScheme::RSA_PSS_SHA256
            | SignatureScheme::RSA_PSS_SHA384
            | SignatureScheme::RSA_PSS_SHA512
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512 => self == Self::Rsa,
            _ => false,
        }
    }

    /// The word for reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521 => "ECDSA",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
            Self::Other => "other",
        }
    }
}

/// The part of a host after its first label.
pub(super) fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty())
}

fn is_host_name(name: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_name_byte)
}

/// RFC 1035 §2.3.4, in text form without the root dot.
const NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn names_of(names: &[&str], key: &KeyPair) -> CertifiedNames {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = CertificateParams::new(names).unwrap().self_signed(key).unwrap();
        CertifiedNames::of_certificate(made.der()).unwrap()
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_names_are_compared_in_any_case() {
        let names = names_of(&["Shop.Example", "*.shop.example", "192.0.2.7"], &KeyPair::generate().unwrap());
        assert_eq!(names.shown().collect::<Vec<_>>(), ["shop.example", "*.shop.example"]);
        for (host, is_covered) in [
            ("shop.example", true),
            ("www.shop.example", true),
            ("a.www.shop.example", false),
            ("example", false),
            ("192.0.2.7", false),
            ("", false),
        ] {
            assert_eq!(names.cover(host), is_covered, "{host}");
        }
    }

    #[test]
    fn the_kind_of_a_key_signs_what_keys_of_its_kind_sign() {
        for (algorithm, kind, scheme) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcdsaP256, SignatureScheme::ECDSA_NISTP256_SHA256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcdsaP384, SignatureScheme::ECDSA_NISTP384_SHA384),
            (&rcgen::PKCS_ED25519, KeyKind::Ed25519, SignatureScheme::ED25519),
            (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa, SignatureScheme::RSA_PSS_SHA256),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(names_of(&["a.example"], &key).key, kind);
            let der = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
            for other in [
                SignatureScheme::ECDSA_NISTP256_SHA256,
                SignatureScheme::ECDSA_NISTP384_SHA384,
                SignatureScheme::ED25519,
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA256,
            ] {
                assert_eq!(kind.signs(other), signer.choose_scheme(&[other]).is_some(), "{kind:?} {other:?}");
            }
            assert!(kind.signs(scheme));
        }
    }
}
