//! `auth.<name>` as written: where keys come from, what a token must say, where it stands in the request.

use std::{str::FromStr as _, time::Duration};

use http::HeaderName;
use jsonwebtoken::Algorithm;

use super::listen::url_or;
use crate::{
    config::settings::TokenSource,
    headers::settable::settable_header,
    syntax::{
        claims::{self, Claims, claim_name},
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, choice, is_word, key, named_entries, one_or_many, some_text, value, values},
        hidden::Hidden,
        tree::{At, Node, Value},
        units::{Invalid, count, duration_in, minutes},
    },
};

#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) issuer: Option<At<String>>,
    /// The one key source besides the issuer's own.
    pub(crate) keys: Option<At<Keys>>,
    /// Something was written for the keys, right or wrong.
    pub(crate) keys_given: bool,
    pub(crate) audience: Option<At<Audience>>,
    pub(crate) require: Claims,
    pub(crate) algorithms: Option<Vec<At<Algorithm>>>,
    pub(crate) leeway: Option<Duration>,
    pub(crate) from: Option<Vec<TokenSource>>,
    pub(crate) forward: Vec<(String, HeaderName)>,
    pub(crate) separators: Vec<(HeaderName, char)>,
    pub(crate) cache_max: Option<usize>,
    pub(crate) hidden: Hidden,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Audience {
    /// `none`: tokens have no `aud`.
    Nothing,
    AnyOf(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keys {
    JwksUrl(String),
    JwksFile(String),
    PublicKeyFile(String),
    Hs256SecretFile(String),
}

impl Provider {
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &PROVIDER, sink) else { return Self::unreadable() };
        let forward = fields.get("forward").map(|node| read_forward(node, sink)).unwrap_or_default();
        let mut hidden = Hidden::default();
        for name in KEY_FIELDS.iter().chain(&["issuer"]) {
            hidden.extend(&fields.hidden(name));
        }
        let audience = fields.need("audience", "audience: my-api", sink);
        Self {
            issuer: fields.value("issuer", sink, |text| url_or(text, "https")),
            keys: read_keys(&fields, sink),
            keys_given: KEY_FIELDS
                .iter()
                .chain(&["issuer"])
                .any(|name| fields.get(name).is_some() || fields.is_misspelt(name)),
            audience: audience.map(|node| At { value: read_audience(node, sink), span: node.span }),
            require: fields.get("require").map(|node| claims::of_provider(node, sink)).unwrap_or_default(),
            algorithms: fields.values("algorithms", sink, algorithm),
            leeway: fields.plain("leeway", sink, |t| duration_in(t, Duration::ZERO..=minutes(10))),
            from: fields
                .values("from", sink, token_source)
                .map(|sources| sources.into_iter().map(|at| at.value).collect()),
            separators: forward
                .iter()
                .filter_map(|forward| Some((forward.header.clone(), forward.separator?)))
                .collect(),
            forward: forward.into_iter().map(|forward| (forward.claim, forward.header)).collect(),
            cache_max: fields.plain("cache", sink, |t| count(t, 0..=1_000_000)),
            hidden,
        }
    }

    /// Stands for a provider that could not be read at all; the error is reported.
    fn unreadable() -> Self {
        Self {
            issuer: None,
            keys: None,
            keys_given: true,
            audience: None,
            require: Claims::new(),
            algorithms: None,
            leeway: None,
            from: None,
            forward: Vec::new(),
            separators: Vec::new(),
            cache_max: None,
            hidden: Hidden::default(),
        }
    }
}

fn read_audience(node: &Node, sink: &mut Diagnostics) -> Audience {
    if is_word(node, "none") {
        return Audience::Nothing;
    }
    if one_or_many(node).is_empty() {
        sink.push(
            Diagnostic::error(code::BAD_VALUE, node.span, "`audience` is empty")
                .label("tokens made for other services would be accepted")
                .help("name this API as its tokens do: `audience: my-api`"),
        );
    }
    Audience::AnyOf(values(node, "audience", sink, some_text).into_iter().map(|at| at.value).collect())
}

fn read_keys(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<At<Keys>> {
    let mut found: Vec<(&str, At<Keys>)> = Vec::new();
    for name in KEY_FIELDS {
        let keys = match name {
            "jwks" => fields.value(name, sink, |text| key_url(text).map(Keys::JwksUrl)),
            "jwks_file" => fields.value(name, sink, |text| some_text(text).map(Keys::JwksFile)),
            "public_key_file" => fields.value(name, sink, |text| some_text(text).map(Keys::PublicKeyFile)),
            _ => fields.value(name, sink, |text| some_text(text).map(Keys::Hs256SecretFile)),
        };
        found.extend(keys.map(|keys| (name, keys)));
    }
    if let [(first, keys), (second, others), ..] = found.as_slice() {
        let message = format!("`{first}` and `{second}` exclude each other");
        sink.push(
            Diagnostic::error(code::KEY_SOURCE, others.span, message)
                .label("one provider has one source of keys")
                .related(keys.span, "the other source")
                .help("make a second provider; a route can accept both: `auth: [main, dev]`"),
        );
    }
    found.into_iter().next().map(|(_, keys)| keys)
}

/// A URL; what is rather a file has fields of its own.
fn key_url(text: &str) -> Result<String, Invalid> {
    let ends = |end: &str| text.to_ascii_lowercase().ends_with(end);
    let field = match () {
        () if text.contains("://") => None,
        () if ends(".pem") || ends(".crt") || ends(".pub") => Some("public_key_file"),
        () if ends(".json") || ends(".jwks") || ends(".jwk") || text.starts_with(['/', '.']) => {
            Some("jwks_file")
        }
        () => None,
    };
    url_or(text, "https").map_err(|invalid| match field {
        Some(field) => Invalid { label: "a file, not a URL".to_owned(), ..invalid }
            .help(format!("write `{field}: {text}`")),
        None => invalid,
    })
}

fn algorithm(text: &str) -> Result<Algorithm, Invalid> {
    if text.eq_ignore_ascii_case("none") {
        let label = "tokens without a signature are never accepted";
        return Err(Invalid::new(code::ALGORITHMS, "an algorithm that signs", label));
    }
    choice(text, &ALGORITHMS, &[])
}

fn token_source(text: &str) -> Result<TokenSource, Invalid> {
    let expected = "`bearer`, `cookie:NAME`, `header:NAME` or `query:NAME`";
    let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
    match text.split_once(':') {
        None if text == "bearer" => Ok(TokenSource::Bearer),
        Some((_, "")) => Err(refuse("the name is missing")),
        Some(("cookie", name)) => Ok(TokenSource::Cookie(name.to_owned())),
        Some(("query", name)) => Ok(TokenSource::Query(name.to_owned())),
        Some(("header", name)) => HeaderName::from_str(name)
            .map(TokenSource::Header)
            .map_err(|_| refuse("this is not a header name")),
        _ => Err(refuse("not one of them")),
    }
}

struct Forward {
    claim: String,
    header: HeaderName,
    separator: Option<char>,
}

/// `claim: Header`, or `claim: {header: Header, separator: ","}`.
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
        let header = header.and_then(|node| value(node, "forward", sink, settable_header));
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

/// One character that is no part of an encoding.
fn separator(text: &str) -> Result<char, Invalid> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if c == ' ' || (c.is_ascii_punctuation() && c != '%') => Ok(c),
        _ => {
            Err(Invalid::new(code::BAD_VALUE, "one punctuation mark other than `%`, such as `,`", "not one"))
        }
    }
}

pub(crate) static FORWARD: Known =
    Known { what: "a claim of `forward`", prefix: "forward.", fields: &["header", "separator"], later: &[] };
pub(crate) static PROVIDER: Known = Known {
    what: "an auth provider",
    prefix: "",
    fields: &[
        "issuer",
        "jwks",
        "jwks_file",
        "public_key_file",
        "hs256_secret_file",
        "audience",
        "require",
        "algorithms",
        "leeway",
        "from",
        "forward",
        "cache",
    ],
    later: &[],
};
const KEY_FIELDS: [&str; 4] = ["jwks", "jwks_file", "public_key_file", "hs256_secret_file"];
const ALGORITHMS: [(&str, Algorithm); 10] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("HS256", Algorithm::HS256),
];
