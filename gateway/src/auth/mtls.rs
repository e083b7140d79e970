//! `mtls`: clients that prove their identity with a certificate in the TLS handshake (RFC 8446 §4.4.2).
//!
//! The listener verifies the chain (`listen.https.client_ca_file`); a provider decides which of the verified certificates it accepts,
//! and what of them is the subject. The facts of a certificate become an identity in the same way as the claims of a token, so
//! `require`, `forward` and limits `per user` use them. The credential is the connection's: no field of a request is read, and a
//! request with a token as well is decided by the token.
//!
//! Units: seconds since 1970. Limits: [`ENTRIES_MAX`] entries of each list; identities are remembered like those of tokens (`cache`).

use std::sync::Arc;

use serde_json::Value;

use super::{
    Check, CredentialKind, CredentialWords, Fit, Identity, KeyList,
    claims::{ClaimFault, Payload, Projection},
    rejection::{AuthRejection, Told},
    settings::{CredentialSource, FileReader, KeySource, ProviderSettings},
};
use crate::{
    certificate::client::CertificateFacts,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, choice, is_word, some_text},
        tree::At,
        units::Invalid,
    },
};

/// The fields of `mtls`.
pub(crate) static MTLS: Known = Known {
    what: "`mtls`",
    prefix: "mtls.",
    fields: &["names", "subjects", "fingerprints", "subject"],
    later: &[],
};

/// The compiled form of a provider of certificates.
#[derive(Debug, Clone)]
pub struct Mtls {
    provider: Arc<str>,
    accepted: MtlsSettings,
    projection: Projection,
}

/// `mtls` as written, checked.
#[derive(Debug)]
pub(crate) struct Written(MtlsSettings);

/// The certificates that a provider accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MtlsSettings {
    /// Every certificate that the listener has verified.
    any: bool,
    names: Vec<NamePattern>,
    /// Distinguished names, as RFC 4514 writes them.
    subjects: Vec<String>,
    /// SHA-256 hashes in lower-case hexadecimal digits.
    fingerprints: Vec<String>,
    subject: SubjectFrom,
}

/// A name of a certificate (subjectAltName), or many.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NamePattern {
    Dns(String),
    /// `*.` and this name: one more label.
    DnsBelow(String),
    Uri(String),
    /// `/*` at the end: everything below this path. The text ends with the slash.
    UriBelow(String),
    Email(String),
}

/// The fact of a certificate that is the identity's subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SubjectFrom {
    /// The first URI, otherwise the first DNS name, otherwise the distinguished name, as Envoy does.
    #[default]
    Auto,
    Uri,
    Dns,
    Email,
    CommonName,
    DistinguishedName,
    Fingerprint,
}

/// The keys are those of the listener's authorities.
#[derive(Debug, Clone, PartialEq)]
pub struct NoKeys;

impl KeyList for NoKeys {
    fn len(&self) -> usize {
        0
    }

    fn names(&self) -> Vec<Option<&str>> {
        Vec::new()
    }
}

impl CredentialKind for Mtls {
    type Written = Written;
    type Settings = MtlsSettings;
    type Keys = NoKeys;

    const WORDS: &'static CredentialWords = &CredentialWords {
        // RFC 9110 §11.1 has no scheme for certificates, so such a provider adds no challenge.
        scheme: "",
        has_claims: false,
        credential: "client certificate",
        wanted: "a client certificate",
        plural: "client certificates",
    };
    const KEY_FIELDS: &'static [&'static str] = &["mtls"];
    const FIELDS: &'static [&'static str] = &[];
    const TAKES_CERTIFICATES: bool = true;

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        if let Some(from) = fields.get("from") {
            let message = "a provider of client certificates has no `from`";
            let label = "the certificate comes with the connection, not with the request";
            sink.push(Diagnostic::error(code::CONFLICT, from.span, message).label(label).help("remove it"));
        }
        let Some(node) = fields.get("mtls") else { return Written(MtlsSettings::default()) };
        if is_word(node, "any") {
            return Written(MtlsSettings { any: true, ..MtlsSettings::default() });
        }
        let Some(own) = Fields::of(node, &MTLS, sink) else { return Written(MtlsSettings::default()) };
        let values =
            |list: Option<Vec<At<String>>>| list.unwrap_or_default().into_iter().map(|at| at.value).collect();
        let names = own.values("names", sink, name_pattern).unwrap_or_default();
        let settings = MtlsSettings {
            any: false,
            names: names.into_iter().map(|at| at.value).collect(),
            subjects: values(own.values("subjects", sink, some_text)),
            fingerprints: values(own.values("fingerprints", sink, fingerprint)),
            subject: own.plain("subject", sink, |text| choice(text, SUBJECTS, &[])).unwrap_or_default(),
        };
        let lists = [settings.names.len(), settings.subjects.len(), settings.fingerprints.len()];
        if lists.iter().any(|len| *len > ENTRIES_MAX) {
            let message = format!("a list of `mtls` has more than {ENTRIES_MAX} entries");
            let help = "write `*.partners.example` or `spiffe://example/ns/*` for many, or give them an authority of their own";
            sink.push(Diagnostic::error(code::OUT_OF_RANGE, node.span, message).help(help));
        }
        let says_nothing = ["names", "subjects", "fingerprints"].iter().all(|name| own.get(name).is_none());
        if says_nothing || lists == [0; 3] && !sink.has_errors() {
            sink.push(
                Diagnostic::error(code::MISSING_FIELD, node.span, "`mtls` names no certificate")
                    .label("nothing says which clients it accepts")
                    .help("add `names: [partner.example]`, or write `mtls: any` for every certificate of `client_ca_file`"),
            );
        }
        Written(settings)
    }

    fn resolve(
        Written(settings): &Written,
        _: &At<String>,
        _: &mut FileReader<'_>,
        _: &mut Diagnostics,
    ) -> (MtlsSettings, KeySource) {
        (settings.clone(), KeySource::Listener)
    }

    fn default_sources() -> Vec<CredentialSource> {
        Vec::new()
    }

    fn compile(settings: &ProviderSettings, own: &MtlsSettings, kept: Vec<Box<str>>) -> Result<Self, String> {
        Ok(Self {
            provider: Arc::from(settings.name.as_str()),
            accepted: own.clone(),
            projection: Projection::new(settings, kept, &[]),
        })
    }

    fn fit(&self, _: Option<&str>) -> Fit {
        Fit::Other
    }

    /// No text of a request is a certificate.
    fn check(&self, _: Option<&NoKeys>, _: &str, _: Check<'_>) -> Result<Identity, AuthRejection> {
        Err(refused("not_a_certificate", None, Told::Invalid))
    }

    fn check_certificate(&self, facts: &CertificateFacts, now: u64) -> Result<Identity, AuthRejection> {
        // A connection may last longer than its certificate.
        if now > facts.not_after {
            return Err(refused("expired", None, Told::Expired));
        }
        if !self.accepted.accept(facts) {
            return Err(refused("unknown_certificate", None, Told::Invalid));
        }
        let subject = self.accepted.subject.of(facts);
        let subject = subject.ok_or_else(|| refused("no_subject", None, Told::Invalid))?;
        self.identity(facts, subject).map_err(|fault| match fault {
            ClaimFault::Malformed => refused("malformed", None, Told::Invalid),
            ClaimFault::NotForwardable(claim) => refused("not_forwardable", Some(claim), Told::Invalid),
        })
    }
}

impl Mtls {
    fn identity(&self, facts: &CertificateFacts, subject: Box<str>) -> Result<Identity, ClaimFault> {
        let mut claims = facts.claims.clone();
        claims.insert("sub".to_owned(), Value::from(&*subject));
        let payload = Payload::new(Value::Object(claims).to_string().into_bytes());
        let mut claims = payload.claims()?;
        self.projection.complete(&payload, &mut claims)?;
        self.projection.identity(&self.provider, Some(subject), claims, facts.not_after.saturating_add(1))
    }
}

impl MtlsSettings {
    fn accept(&self, facts: &CertificateFacts) -> bool {
        self.any
            || self.names.iter().any(|name| name.matches(facts))
            || self.subjects.iter().any(|subject| **subject == *facts.subject)
            || self.fingerprints.iter().any(|fingerprint| **fingerprint == *facts.fingerprint)
    }
}

impl NamePattern {
    fn matches(&self, facts: &CertificateFacts) -> bool {
        let is_below = |name: &str, parent: &str| {
            name.split_once('.').is_some_and(|(first, rest)| {
                // A certificate with a wildcard of its own is no client.
                !first.is_empty() && first != "*" && rest == parent
            })
        };
        match self {
            Self::Dns(name) => facts.dns.iter().any(|known| **known == **name),
            Self::DnsBelow(parent) => facts.dns.iter().any(|known| is_below(known, parent)),
            Self::Uri(uri) => facts.uris.iter().any(|known| **known == **uri),
            Self::UriBelow(start) => {
                facts.uris.iter().any(|known| known.len() > start.len() && known.starts_with(start.as_str()))
            }
            Self::Email(email) => facts.emails.iter().any(|known| **known == **email),
        }
    }
}

impl SubjectFrom {
    fn of(self, facts: &CertificateFacts) -> Option<Box<str>> {
        let some = |text: &str| Some(Box::from(text)).filter(|_| !text.is_empty());
        match self {
            Self::Auto => facts.uris.first().or(facts.dns.first()).cloned().or_else(|| some(&facts.subject)),
            Self::Uri => facts.uris.first().cloned(),
            Self::Dns => facts.dns.first().cloned(),
            Self::Email => facts.emails.first().cloned(),
            Self::CommonName => facts.common_name.clone(),
            Self::DistinguishedName => some(&facts.subject),
            Self::Fingerprint => Some(facts.fingerprint.clone()),
        }
    }
}

fn refused(reason: &'static str, claim: Option<Box<str>>, told: Told) -> AuthRejection {
    AuthRejection { reason, claim, told, is_doubtful: false }
}

/// Reads a DNS name, a URI, or an email address; `*.` in front of a name and `/*` behind a URI stand for many.
fn name_pattern(text: &str) -> Result<NamePattern, Invalid> {
    let expected =
        "a name of a certificate, such as `partner.example`, `*.partners.example` or `spiffe://example/ns/*`";
    let refuse = |label: &str| Err(Invalid::new(code::BAD_VALUE, expected, label));
    if text.is_empty() {
        return refuse("this is empty");
    }
    if text.contains("://") {
        return match text.strip_suffix('*') {
            Some(start) if start.ends_with('/') && !start.ends_with("://") && !start.contains('*') => {
                Ok(NamePattern::UriBelow(start.to_owned()))
            }
            None if !text.contains('*') => Ok(NamePattern::Uri(text.to_owned())),
            _ => refuse("`*` can only be the last segment of a URI"),
        };
    }
    if text.contains('@') {
        return Ok(NamePattern::Email(text.to_owned()));
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let (is_below, name) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
    if name.is_empty() || !name.bytes().all(is_name_byte) {
        return refuse("not a DNS name, a URI or an email address");
    }
    let name = name.to_ascii_lowercase();
    Ok(if is_below { NamePattern::DnsBelow(name) } else { NamePattern::Dns(name) })
}

/// Reads a SHA-256 hash with or without colons, as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(text: &str) -> Result<String, Invalid> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digits.to_ascii_lowercase());
    }
    let expected = "the SHA-256 hash of a certificate, 64 hexadecimal digits";
    Err(Invalid::new(code::BAD_VALUE, expected, "not such a hash")
        .help("`openssl x509 -in client.pem -noout -fingerprint -sha256` prints it"))
}

const SUBJECTS: &[(&str, SubjectFrom)] = &[
    ("auto", SubjectFrom::Auto),
    ("uri", SubjectFrom::Uri),
    ("dns", SubjectFrom::Dns),
    ("email", SubjectFrom::Email),
    ("cn", SubjectFrom::CommonName),
    ("dn", SubjectFrom::DistinguishedName),
    ("fingerprint", SubjectFrom::Fingerprint),
];

/// More partners than this have an authority of their own.
const ENTRIES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(dns: &[&str], uris: &[&str]) -> CertificateFacts {
        let boxed = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect();
        CertificateFacts {
            fingerprint: "ab".repeat(32).into(),
            subject: "CN=orders,O=Shop".into(),
            common_name: Some("orders".into()),
            dns: boxed(dns),
            uris: boxed(uris),
            emails: vec!["ops@shop.example".into()],
            addresses: Vec::new(),
            not_after: 100,
            claims: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_name_matches_whole_and_a_pattern_matches_one_label_or_what_is_below_a_path() {
        let facts =
            facts(&["a.partners.example", "*.wild.example"], &["spiffe://shop.example/ns/prod/orders"]);
        for (pattern, is_match) in [
            ("a.partners.example", true),
            ("A.Partners.example", true),
            ("partners.example", false),
            ("*.partners.example", true),
            ("*.example", false),
            ("*.wild.example", false),
            ("spiffe://shop.example/ns/prod/orders", true),
            ("spiffe://shop.example/ns/prod/*", true),
            ("spiffe://shop.example/ns/*", true),
            ("spiffe://shop.example/ns/pro", false),
            ("spiffe://shop.example/ns/prod/orders/*", false),
            ("ops@shop.example", true),
            ("orders", false),
        ] {
            assert_eq!(name_pattern(pattern).unwrap().matches(&facts), is_match, "{pattern}");
        }
        for wrong in ["", "*", "*.", "a.*.example", "spiffe://*", "spiffe://shop/*/x", "a b"] {
            assert!(name_pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_subject_is_the_first_name_of_its_kind() {
        let all = facts(&["a.example"], &["spiffe://shop.example/x"]);
        let subject = |word: &str, facts: &CertificateFacts| {
            let from = SUBJECTS.iter().find(|(known, _)| *known == word).unwrap().1;
            from.of(facts).map(String::from)
        };
        assert_eq!(subject("auto", &all).as_deref(), Some("spiffe://shop.example/x"));
        assert_eq!(subject("auto", &facts(&["a.example"], &[])).as_deref(), Some("a.example"));
        assert_eq!(subject("auto", &facts(&[], &[])).as_deref(), Some("CN=orders,O=Shop"));
        assert_eq!(subject("dns", &facts(&[], &[])), None);
        assert_eq!(subject("cn", &all).as_deref(), Some("orders"));
    }

    #[test]
    fn a_fingerprint_is_read_as_tools_print_it() {
        let printed = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&printed).ok(), Some("ab".repeat(32)));
        assert!(fingerprint("AB:CD").is_err());
    }
}
