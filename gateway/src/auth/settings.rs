//! `auth.<name>`: a provider as written, and its settings after the checks.
//!
//! This module has the parts that all kinds of providers share: a name, the places of the credential in a request, the
//! claims that become header fields, and the number of remembered identities. The rest belongs to the kind
//! ([`super::CredentialKind`]), which follows from the field that has the provider's keys.

use std::{path::PathBuf, str::FromStr as _};

use http::HeaderName;

use super::{FORWARD, Keys, KindSettings, KindWritten, PROVIDER};
use crate::{
    headers::settable as header,
    message::names,
    syntax::{
        claims::claim_name,
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, key, named_entries, one_or_many, value},
        hidden::Hidden,
        tree::{At, Node, Value},
        units::{Invalid, count},
    },
};

/// A provider as written: every field is optional, and places are kept.
#[derive(Debug)]
pub(crate) struct Written {
    pub(super) kind: KindWritten,
    from: Option<Vec<At<CredentialSource>>>,
    forward: Vec<(String, HeaderName)>,
    separators: Vec<(HeaderName, char)>,
    cache_max: Option<usize>,
    hidden: Hidden,
}

/// The settings of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    pub name: String,
    /// The settings that only this kind of provider has.
    pub kind: KindSettings,
    pub keys: KeySource,
    /// The places to search for the credential, in order.
    pub from: Vec<CredentialSource>,
    /// Claims and the header fields in which they are forwarded. The same fields from the client are always removed.
    pub forward: Vec<(String, HeaderName)>,
    /// For each header field, the separator between the texts of a list, where it is not a space.
    pub separators: Vec<(HeaderName, char)>,
    /// The largest number of identities that each worker remembers; 0: none.
    pub cache_max: usize,
    /// The variables in `keys` and `issuer`, which are hidden wherever these are shown.
    pub hidden: Hidden,
    pub span: Span,
}

impl ProviderSettings {
    /// Whether both mean the same, wherever they are in the file.
    pub fn same_as(&self, other: &Self) -> bool {
        *self == Self { span: self.span, ..other.clone() }
    }

    /// The separator between the texts of a list in this header field.
    pub fn separator(&self, header: &HeaderName) -> char {
        self.separators.iter().find(|(name, _)| name == header).map_or(' ', |(_, separator)| *separator)
    }
}

/// The source of a provider's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// OIDC discovery: the URL of the JWKS is in `<issuer>/.well-known/openid-configuration`.
    Issuer(String),
    JwksUrl(String),
    /// A file, which is read again when it changes.
    File(PathBuf, &'static FileFormat),
    /// The TLS listener, which has verified the credential before the provider sees it.
    Listener,
}

impl KeySource {
    /// Whether the keys are fetched from a URL, in the background.
    pub fn is_fetched(&self) -> bool {
        matches!(self, Self::Issuer(_) | Self::JwksUrl(_))
    }
}

/// The format of the keys in a file.
#[derive(Debug)]
pub struct FileFormat {
    /// The field of the provider that has the name of such a file.
    pub field: &'static str,
    /// The kind of file, for messages.
    pub what: &'static str,
    /// Reads the content. The error describes what is wrong, without the name of the file.
    pub parse: fn(&[u8]) -> Result<Keys, String>,
}

impl PartialEq for FileFormat {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field
    }
}

impl Eq for FileFormat {}

/// A place of a credential in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// `Authorization: Bearer …`
    Bearer,
    Cookie(String),
    Header(HeaderName),
    Query(String),
    /// A member of `Sec-WebSocket-Protocol` that begins with this prefix. A browser can set no other field of a WebSocket.
    Subprotocol(String),
}

/// Reads a file that is named in the configuration. An error is reported, and the file is watched from then on.
pub(crate) type FileReader<'a> =
    dyn FnMut(&At<String>, &str, &mut Diagnostics) -> Option<(PathBuf, Vec<u8>)> + 'a;

impl Written {
    /// Reads the value of `auth.<name>`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &PROVIDER, sink) else { return Self::unreadable() };
        let forward = fields.get("forward").map(|node| read_forward(node, sink)).unwrap_or_default();
        let mut hidden = Hidden::default();
        for name in KindWritten::key_fields() {
            hidden.extend(&fields.hidden(name));
        }
        Self {
            kind: KindWritten::read(&fields, sink),
            from: read_sources(&fields, sink),
            separators: forward
                .iter()
                .filter_map(|forward| Some((forward.header.clone(), forward.separator?)))
                .collect(),
            forward: forward.into_iter().map(|forward| (forward.claim, forward.header)).collect(),
            cache_max: fields.plain("cache", sink, |t| count(t, 0..=1_000_000)),
            hidden,
        }
    }

    /// Header fields of `from`, or of its default, with their places.
    pub(crate) fn header_sources<'a>(
        &'a self,
        resolved: &'a ProviderSettings,
    ) -> impl Iterator<Item = (&'a HeaderName, Span)> {
        let written = self.from.as_deref().unwrap_or_default();
        resolved.from.iter().enumerate().filter_map(|(at, source)| match source {
            CredentialSource::Header(name) => {
                Some((name, written.get(at).map_or(resolved.span, |at| at.span)))
            }
            CredentialSource::Bearer
            | CredentialSource::Cookie(_)
            | CredentialSource::Query(_)
            | CredentialSource::Subprotocol(_) => None,
        })
    }

    /// Replaces a provider that could not be read at all. The error is reported.
    fn unreadable() -> Self {
        Self {
            kind: KindWritten::unreadable(),
            from: None,
            forward: Vec::new(),
            separators: Vec::new(),
            cache_max: None,
            hidden: Hidden::default(),
        }
    }

    /// The settings, with defaults filled in and files read.
    pub(crate) fn resolve(
        &self,
        name: &At<String>,
        files: &mut FileReader<'_>,
        sink: &mut Diagnostics,
    ) -> ProviderSettings {
        let (kind, keys) = self.kind.resolve(name, files, sink);
        ProviderSettings {
            name: name.value.clone(),
            from: match &self.from {
                Some(from) => from.iter().map(|at| at.value.clone()).collect(),
                None => kind.default_sources(),
            },
            kind,
            keys,
            forward: self.forward.clone(),
            separators: self.separators.clone(),
            cache_max: self.cache_max.unwrap_or(CACHE_MAX),
            hidden: self.hidden.clone(),
            span: name.span,
        }
    }
}

fn read_sources(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<Vec<At<CredentialSource>>> {
    let sources = fields.values("from", sink, credential_source)?;
    if let Some(node) = fields.get("from").filter(|node| one_or_many(node).is_empty()) {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, node.span, "`from` names no place")
                .label("no request could have a credential")
                .help("name one, such as `from: [header:X-Api-Key]`, or leave `from` out"),
        );
    }
    Some(sources)
}

fn credential_source(text: &str) -> Result<CredentialSource, Invalid> {
    let expected = "`bearer`, `cookie:NAME`, `header:NAME`, `query:NAME` or `subprotocol:PREFIX`";
    let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
    match text.split_once(':') {
        None if text == "bearer" => Ok(CredentialSource::Bearer),
        Some(("subprotocol", "")) => {
            Err(refuse("the prefix is missing").help("write `subprotocol:bearer.`, for example"))
        }
        Some((_, "")) => Err(refuse("the name is missing")),
        Some(("cookie", name)) => Ok(CredentialSource::Cookie(name.to_owned())),
        Some(("query", name)) => Ok(CredentialSource::Query(name.to_owned())),
        // A subprotocol is a token, and a field name is one.
        Some(("subprotocol", prefix)) => HeaderName::from_str(prefix)
            .map(|_| CredentialSource::Subprotocol(prefix.to_owned()))
            .map_err(|_| refuse("no subprotocol can begin with this")),
        Some(("header", name)) => {
            let name = HeaderName::from_str(name).map_err(|_| refuse("this is not a header name"))?;
            match names::Kind::of(name.as_str()) {
                names::Kind::HopByHop | names::Kind::Framing => {
                    Err(refuse("this header is about the connection or the length"))
                }
                _ => Ok(CredentialSource::Header(name)),
            }
        }
        _ => Err(refuse("not one of them")),
    }
}

struct Forward {
    claim: String,
    header: HeaderName,
    separator: Option<char>,
}

/// Reads entries of the form `claim: Header` or `claim: {header: Header, separator: ","}`.
fn read_forward(node: &Node, sink: &mut Diagnostics) -> Vec<Forward> {
    let mut all: Vec<Forward> = Vec::new();
    for entry in named_entries(node, "`forward`", sink) {
        let (header, separator) = match &entry.value.value {
            Value::Map(_) => {
                let Some(fields) = Fields::of(&entry.value, &FORWARD, sink) else { continue };
                let separator = fields.plain("separator", sink, separator);
                let header = fields.need("header", "header: X-Groups", sink);
                (header, separator)
            }
            _ => (Some(&entry.value), None),
        };
        let header = header.and_then(|node| value(node, "forward", sink, header::identity_header));
        let Some(header) = header else { continue };
        if let Some(Forward { claim, .. }) = all.iter().find(|known| known.header == header.value) {
            sink.push(
                Diagnostic::error(code::CONFLICT, header.span, "two claims are forwarded as one header")
                    .label(format!("`{claim}` has this header already")),
            );
        }
        let Some(claim) = key(&entry.key, "a key of `forward`", sink, claim_name) else { continue };
        all.push(Forward { claim, header: header.value, separator });
    }
    all
}

/// Reads one character that is not part of a percent-encoding.
fn separator(text: &str) -> Result<char, Invalid> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if c == ' ' || (c.is_ascii_punctuation() && c != '%') => Ok(c),
        _ => {
            Err(Invalid::new(code::BAD_VALUE, "one punctuation mark other than `%`, such as `,`", "not one"))
        }
    }
}

/// A verified credential takes some hundred bytes, and few gateways have ten thousand clients.
const CACHE_MAX: usize = 10_000;
