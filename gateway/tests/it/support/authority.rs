//! A certificate authority for one test.

use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, PublicKeyData, RevokedCertParams, SanType,
    SignatureAlgorithm,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Certified {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        millgate::auth::jwt::install_crypto_provider();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than that of its certificates: OpenSSL takes those for self-signed otherwise.
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Makes a certificate for a host name or an address.
    pub(crate) fn certify(&self, name: &str) -> Certified {
        self.certify_with(name, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// As [`Self::certify`], with a key of this kind.
    pub(crate) fn certify_with(&self, name: &str, algorithm: &'static SignatureAlgorithm) -> Certified {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        self.sign(&params, &key)
    }

    /// Certifies a client with this common name, these further names, and a serial number by which it can be revoked.
    pub(crate) fn certify_client(&self, name: &str, alternatives: Vec<SanType>, serial: u64) -> Certified {
        self.certify_client_until(name, alternatives, serial, std::time::Duration::from_secs(4_000_000_000))
    }

    /// As [`Self::certify_client`], with an end since 1970.
    pub(crate) fn certify_client_until(
        &self,
        name: &str,
        alternatives: Vec<SanType>,
        serial: u64,
        until: std::time::Duration,
    ) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, "partners");
        params.subject_alt_names = alternatives;
        params.serial_number = Some(serial.into());
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + until;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, &KeyPair::generate().unwrap())
    }

    /// The list of these revoked serial numbers, which ends at this time since 1970.
    pub(crate) fn revoke(&self, serials: &[u64], until: std::time::Duration) -> String {
        let begin = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: begin,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: begin,
            next_update: rcgen::date_time_ymd(1970, 1, 1) + until,
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// Certifies a key that somebody else has. The certificate and this authority's, as PEM.
    pub(crate) fn issue(&self, params: &CertificateParams, key: &impl PublicKeyData) -> String {
        format!("{}{}", params.signed_by(key, &self.0).unwrap().pem(), self.pem())
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Certified {
        let cert = params.signed_by(key, &self.0).unwrap();
        Certified { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// The configuration of a server that proves the name `name`.
    pub(crate) fn server(&self, name: &str) -> ServerConfig {
        let (chain, key) = self.certify(name).der();
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()
    }

    /// The configuration of a client that trusts this authority and offers these protocols (ALPN).
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// As [`Self::server`], for a server that accepts only clients that this authority has certified.
    pub(crate) fn server_that_asks(&self, name: &str) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let (chain, key) = self.certify(name).der();
        ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap()
    }
}

impl Certified {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let cert = CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap();
        (vec![cert], PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

/// A client that takes every certificate, and offers these protocols (ALPN).
pub(crate) fn blind_client(protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = blind(Blind::default(), rustls::ALL_VERSIONS);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A client that takes every certificate, and keeps the OCSP response that comes with it.
pub(crate) fn blind_client_that_keeps(response: Arc<Mutex<Vec<u8>>>) -> Arc<ClientConfig> {
    let blind = Blind { schemes: None, response: Some(response) };
    Arc::new(self::blind(blind, rustls::ALL_VERSIONS))
}

/// A client that takes every certificate, offers these protocols, and shows this certificate.
pub(crate) fn blind_client_with(protocols: &[&[u8]], own: &Certified) -> Arc<ClientConfig> {
    let (chain, key) = own.der();
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind::default()))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A client that takes every certificate, and knows these versions only.
pub(crate) fn blind_client_of(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    Arc::new(blind(Blind::default(), versions))
}

/// A client that takes every certificate with a key for RSA, as old clients are.
pub(crate) fn blind_client_of_rsa() -> Arc<ClientConfig> {
    let schemes = vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
    Arc::new(blind(Blind { schemes: Some(schemes), response: None }, rustls::ALL_VERSIONS))
}

fn blind(blind: Blind, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(blind))
        .with_no_client_auth()
}

/// Takes every certificate.
#[derive(Debug, Default)]
struct Blind {
    /// `None`: every scheme of signatures.
    schemes: Option<Vec<SignatureScheme>>,
    /// Where the OCSP response is kept.
    response: Option<Arc<Mutex<Vec<u8>>>>,
}

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(kept) = &self.response {
            *kept.lock().unwrap() = response.to_vec();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = || aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes();
        self.schemes.clone().unwrap_or_else(all)
    }
}
