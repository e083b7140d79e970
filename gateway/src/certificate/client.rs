//! The certificate with which a client has proved its identity in the handshake.
//!
//! rustls has verified the chain. The leaf is parsed when the first request of the connection needs its facts, and never again.
//! Texts of a certificate are written by whoever its authority certifies, so a distinguished name is written with the escapes of
//! RFC 4514: two different names never have one text.

use std::{cell::OnceCell, fmt::Write as _, net::IpAddr, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::oid2abbrev,
    oid_registry::{self, OidRegistry},
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// The verified certificate of a client, with the chain that it sent.
#[derive(Debug)]
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    facts: OnceCell<Option<CertificateFacts>>,
    fields: OnceCell<Option<CertificateFields>>,
}

/// The facts of a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The SHA-256 hash of the certificate, in lower-case hexadecimal digits.
    pub fingerprint: Box<str>,
    /// The subject as RFC 4514 writes it; empty if there is none.
    pub subject: Box<str>,
    /// The last common name of the subject.
    pub common_name: Option<Box<str>>,
    /// DNS names of the certificate (subjectAltName), in lower case.
    pub dns: Vec<Box<str>>,
    pub uris: Vec<Box<str>>,
    pub emails: Vec<Box<str>>,
    pub addresses: Vec<IpAddr>,
    /// The last second in which the certificate is valid, since 1970.
    pub not_after: u64,
    /// All of these as an object, which is read like the claims of a token.
    pub claims: Map<String, Value>,
}

/// The header fields of RFC 9440.
#[derive(Debug)]
pub struct CertificateFields {
    /// `Client-Cert`
    pub certificate: HeaderValue,
    /// `Client-Cert-Chain`: the certificates between the client's and the authority. `None`: the client sent none.
    pub chain: Option<HeaderValue>,
}

impl ClientCertificate {
    /// `chain` is what rustls has verified, the client's own certificate first.
    pub fn new(chain: &[CertificateDer<'_>]) -> Self {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { chain, facts: OnceCell::new(), fields: OnceCell::new() }
    }

    /// The facts. `None`: the certificate cannot be read, although rustls has verified it.
    pub fn facts(&self) -> Option<&CertificateFacts> {
        self.facts.get_or_init(|| CertificateFacts::of(self.chain.first()?)).as_ref()
    }

    /// The header fields for services.
    pub fn fields(&self) -> Option<&CertificateFields> {
        self.fields.get_or_init(|| CertificateFields::of(&self.chain)).as_ref()
    }
}

impl CertificateFields {
    fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        // RFC 8941 §3.3.5: a byte sequence.
        let item = |certificate: &CertificateDer<'_>| format!(":{}:", STANDARD.encode(certificate));
        let (leaf, others) = chain.split_first()?;
        let others: Vec<String> = others.iter().map(item).collect();
        let chain = Some(others.join(", ")).filter(|chain| !chain.is_empty());
        Some(Self {
            certificate: HeaderValue::try_from(item(leaf)).ok()?,
            chain: chain.and_then(|chain| HeaderValue::try_from(chain).ok()),
        })
    }
}

impl CertificateFacts {
    /// Reads a certificate.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let (mut dns, mut uris, mut emails, mut addresses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let alternatives = certificate.subject_alternative_name().ok()?;
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase().into()),
                GeneralName::URI(uri) => uris.push(Box::from(*uri)),
                GeneralName::RFC822Name(email) => emails.push(Box::from(*email)),
                GeneralName::IPAddress(bytes) => {
                    let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
                }
                _ => {}
            }
        }
        let texts = |oid| {
            let attributes = certificate.subject().iter_by_oid(&oid);
            attributes.filter_map(|one| one.as_str().ok()).map(str::to_owned).collect::<Vec<_>>()
        };
        let fingerprint = hex(digest(&SHA256, der).as_ref());
        let (subject, issuer) = (rfc4514(certificate.subject()), rfc4514(certificate.issuer()));
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let common_names = texts(oid_registry::OID_X509_COMMON_NAME);
        let claims = json!({
            "subject": subject,
            "issuer": issuer,
            "serial": hex(certificate.raw_serial()),
            "fingerprint": fingerprint,
            "dns": dns,
            "uri": uris,
            "email": emails,
            "ip": addresses,
            "o": texts(oid_registry::OID_X509_ORGANIZATION_NAME),
            "ou": texts(oid_registry::OID_X509_ORGANIZATIONAL_UNIT),
        });
        let Value::Object(mut claims) = claims else { return None };
        if let Some(name) = common_names.last() {
            claims.insert("cn".to_owned(), json!(name));
        }
        Some(Self {
            fingerprint: fingerprint.into(),
            subject: subject.into(),
            common_name: common_names.last().map(|name| name.as_str().into()),
            dns,
            uris,
            emails,
            addresses,
            not_after,
            claims,
        })
    }
}

/// A distinguished name as text, the most specific part first (RFC 4514 §2).
pub fn rfc4514(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in name.iter_rdn() {
        let attributes: Vec<String> = part.iter().map(attribute).collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let (Ok(name), Ok(text)) = (oid2abbrev(oid, &REGISTRY), attribute.as_str()) else {
        // RFC 4514 §2.4: a value that is no text is written as its bytes.
        return format!("{oid}=#{}", hex(attribute.as_slice()));
    };
    let mut written = format!("{name}=");
    let last = text.char_indices().next_back().map_or(0, |(at, _)| at);
    for (at, c) in text.char_indices() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => written.extend(['\\', c]),
            '#' if at == 0 => written.push_str("\\#"),
            ' ' if at == 0 || at == last => written.push_str("\\ "),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing into a String cannot fail.
                    let _ = write!(written, "\\{byte:02X}");
                }
            }
            c => written.push(c),
        }
    }
    written
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The short names of attributes.
static REGISTRY: LazyLock<OidRegistry<'static>> = LazyLock::new(|| OidRegistry::default().with_x509());

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn facts(names: &[(DnType, &str)], alternatives: Vec<SanType>) -> CertificateFacts {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in names {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.subject_alt_names = alternatives;
        CertificateFacts::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    #[test]
    fn the_facts_are_those_that_were_certified() {
        let uri = "spiffe://shop.example/ns/prod/orders";
        let facts = facts(
            &[(DnType::OrganizationName, "Shop"), (DnType::CommonName, "orders")],
            vec![
                SanType::DnsName("Orders.Shop.example".try_into().unwrap()),
                SanType::URI(uri.try_into().unwrap()),
                SanType::Rfc822Name("ops@shop.example".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 7].into()),
            ],
        );
        assert_eq!(&*facts.subject, "CN=orders,O=Shop");
        assert_eq!(facts.common_name.as_deref(), Some("orders"));
        assert_eq!((&*facts.dns[0], &*facts.uris[0]), ("orders.shop.example", uri));
        let claims = &facts.claims;
        assert_eq!(claims["ip"], json!(["192.0.2.7"]));
        assert_eq!((&claims["cn"], &claims["o"]), (&json!("orders"), &json!(["Shop"])));
        assert_eq!(claims["fingerprint"].as_str().unwrap().len(), 64);
    }

    /// Otherwise the holder of the second name could pass for the first.
    #[test]
    fn two_names_never_have_one_text() {
        let one = facts(&[(DnType::OrganizationName, "Shop"), (DnType::CommonName, "admin")], vec![]);
        let other = facts(&[(DnType::CommonName, "admin,O=Shop")], vec![]);
        assert_eq!(&*one.subject, "CN=admin,O=Shop");
        assert_eq!(&*other.subject, "CN=admin\\,O\\=Shop");
        let odd = facts(&[(DnType::CommonName, " #a\u{0}\n+ ")], vec![]);
        assert_eq!(&*odd.subject, "CN=\\ #a\\00\\0A\\+\\ ");
    }
}
