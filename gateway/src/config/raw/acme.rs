//! `acme` of a TLS listener as written: certificates that an authority issues and renews.

use std::net::IpAddr;

use crate::{
    certificate::acme::ChallengeKind,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, choice, items, some_text, values},
        tree::{At, Node},
        units::{Invalid, boolean},
    },
};

/// `listen.https.acme`.
#[derive(Debug)]
pub(crate) struct Acme {
    pub(crate) directory: Option<At<String>>,
    pub(crate) email: Option<At<String>>,
    pub(crate) terms_accepted: Option<At<bool>>,
    /// The names of each certificate, with their places.
    pub(crate) hosts: Vec<Vec<At<String>>>,
    pub(crate) challenge: Option<At<ChallengeKind>>,
    pub(crate) folder: Option<At<String>>,
    pub(crate) consul: Option<At<String>>,
    pub(crate) ca_file: Option<At<String>>,
    pub(crate) external_account: Option<ExternalAccount>,
    pub(crate) span: Span,
}

/// `external_account` of `acme`.
#[derive(Debug)]
pub(crate) struct ExternalAccount {
    pub(crate) key_id: Option<String>,
    pub(crate) hmac_key_file: Option<At<String>>,
}

impl Acme {
    pub(super) fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        let fields = Fields::of(node, &ACME, sink)?;
        let examples = [
            ("hosts", "hosts: [shop.example]"),
            ("storage", "storage: {folder: acme}"),
            ("terms_accepted", TERMS),
        ];
        for (name, example) in examples {
            fields.need(name, example, sink);
        }
        let hosts = fields.get("hosts").map(|list| read_hosts(list, sink)).unwrap_or_default();
        let storage = fields.get("storage").and_then(|node| Fields::of(node, &STORAGE, sink));
        let folder = storage.as_ref().and_then(|storage| storage.value("folder", sink, some_text));
        let consul = storage.as_ref().and_then(|storage| storage.value("consul", sink, prefix));
        if let Some(storage) = &storage
            && storage.get("folder").is_some() == storage.get("consul").is_some()
        {
            let message = "`storage` is either a folder or a prefix of keys in Consul";
            sink.push(
                Diagnostic::error(code::CONFLICT, storage.span, message)
                    .label("account, keys and certificates have one place")
                    .help("write `storage: {folder: acme}`, or `storage: {consul: millgate/acme}`"),
            );
        }
        let external_account = fields.get("external_account").and_then(|node| {
            let fields = Fields::of(node, &EXTERNAL_ACCOUNT, sink)?;
            fields.need("key_id", "key_id: kid-1", sink);
            fields.need("hmac_key_file", "hmac_key_file: acme.hmac", sink);
            Some(ExternalAccount {
                key_id: fields.plain("key_id", sink, some_text),
                hmac_key_file: fields.value("hmac_key_file", sink, some_text),
            })
        });
        Some(Self {
            directory: fields.value("directory", sink, directory),
            email: fields.value("email", sink, email),
            terms_accepted: fields.value("terms_accepted", sink, boolean),
            hosts,
            challenge: fields.value("challenge", sink, |text| {
                let words = [("tls-alpn-01", ChallengeKind::TlsAlpn01), ("http-01", ChallengeKind::Http01)];
                choice(text, &words, &["dns-01"])
            }),
            folder,
            consul,
            ca_file: fields.value("ca_file", sink, some_text),
            external_account,
            span: fields.span,
        })
    }
}

/// A list of names is a list of certificates, each with one name; a list inside it is one certificate with several names.
fn read_hosts(list: &Node, sink: &mut Diagnostics) -> Vec<Vec<At<String>>> {
    let all = items(list, "`listen.https.acme.hosts`", sink);
    if all.is_empty() {
        sink.push(
            Diagnostic::error(code::MISSING_FIELD, list.span, "`listen.https.acme.hosts` has no entry")
                .label("there is nothing to certify")
                .help("write `hosts: [shop.example, [a.example, b.example]]`: two certificates, the second with two names"),
        );
    }
    if all.len() > CERTIFICATES_MAX {
        let message = format!("`listen.https.acme.hosts` has more than {CERTIFICATES_MAX} entries");
        let help = "one certificate may have many names: write them as a list in the list";
        sink.push(Diagnostic::error(code::OUT_OF_RANGE, list.span, message).help(help));
    }
    let mut read = Vec::new();
    for item in all.iter().take(CERTIFICATES_MAX) {
        let names = values(item, "listen.https.acme.hosts", sink, host);
        if names.len() > NAMES_MAX {
            let message = format!("a certificate has at most {NAMES_MAX} names");
            let help = "write the names as several certificates";
            sink.push(Diagnostic::error(code::OUT_OF_RANGE, item.span, message).help(help));
        }
        read.extend(Some(names).filter(|names| !names.is_empty()));
    }
    read
}

/// A DNS name in lower case that an authority can verify by a connection.
fn host(text: &str) -> Result<String, Invalid> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if text.starts_with("*.") {
        return Err(Invalid::new(code::NOT_SUPPORTED, "a name without a wildcard", "an authority verifies a wildcard in the DNS only (dns-01)")
            .help("list the names, or order this certificate with another client and name its files in `certificates`"));
    }
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return Err(Invalid::new(code::BAD_VALUE, "a DNS name", "an address is not certified here")
            .help("write the name by which clients know this host"));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    if is_name {
        return Ok(text);
    }
    Err(Invalid::new(code::BAD_VALUE, "a DNS name such as shop.example", "this is not one")
        .help("a name has letters, digits, `-` and dots; other letters are written as `xn--…` (RFC 5891)"))
}

fn directory(text: &str) -> Result<String, Invalid> {
    match text {
        "production" => Ok(PRODUCTION.to_owned()),
        "staging" => Ok(STAGING.to_owned()),
        url if url.parse::<http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some()) => {
            Ok(url.to_owned())
        }
        _ => Err(Invalid::new(code::BAD_VALUE, "`production`, `staging`, or a URL that begins with https://", "this is not one")
            .help("`production` and `staging` are those of Let's Encrypt; keys and orders never go over cleartext (RFC 8555 §6.1)")),
    }
}

fn email(text: &str) -> Result<String, Invalid> {
    let is_one = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    if is_one && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '?' | ':'))
    {
        return Ok(text.to_owned());
    }
    Err(Invalid::new(code::BAD_VALUE, "an e-mail address", "this is not one"))
}

/// The beginning of keys: whole segments, and not the whole store.
fn prefix(text: &str) -> Result<String, Invalid> {
    let text = text.trim_end_matches('/');
    let is_good = |segment: &str| !segment.is_empty() && segment != ".." && segment.trim() == segment;
    if text.split('/').all(is_good) && text.len() <= 200 {
        return Ok(text.to_owned());
    }
    Err(Invalid::new(code::BAD_VALUE, "the beginning of keys such as millgate/acme", "this is not one")
        .help("keys of Consul have no slash at their beginning, and no segment that is empty or `..`"))
}

const TERMS: &str = "terms_accepted: true";
/// The directories of Let's Encrypt.
pub(crate) const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// Orders go one after the other, a few seconds each; and all certificates are one read of Consul, of about 1 MiB then.
pub(crate) const CERTIFICATES_MAX: usize = 128;
/// What Let's Encrypt certifies at most.
pub(crate) const NAMES_MAX: usize = 100;

pub(crate) static ACME: Known = Known {
    what: "`listen.https.acme`",
    prefix: "listen.https.acme.",
    fields: &[
        "directory",
        "email",
        "terms_accepted",
        "hosts",
        "challenge",
        "storage",
        "ca_file",
        "external_account",
    ],
    later: &[],
};
pub(crate) static STORAGE: Known = Known {
    what: "`storage`",
    prefix: "listen.https.acme.storage.",
    fields: &["folder", "consul"],
    later: &[],
};
pub(crate) static EXTERNAL_ACCOUNT: Known = Known {
    what: "`external_account`",
    prefix: "listen.https.acme.external_account.",
    fields: &["key_id", "hmac_key_file"],
    later: &[],
};
