//! The fields of `auth.<name>` about tokens: the source of keys, the required claims, and the accepted algorithms.

use std::{net::IpAddr, time::Duration};

use jsonwebtoken::Algorithm;

use super::keys;
use crate::{
    auth::{
        Keys as KeySet,
        settings::{FileFormat, FileReader, KeySource},
    },
    syntax::{
        claims::{self, Claims},
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, choice, is_word, one_or_many, some_text, values},
        tree::{At, Node},
        units::{Invalid, duration_in, minutes, url_or},
    },
};

/// The fields as written.
#[derive(Debug)]
pub(crate) struct Written {
    issuer: Option<At<String>>,
    /// The key source, unless it is the issuer itself.
    keys: Option<At<Keys>>,
    /// Some key source was written, valid or not.
    keys_given: bool,
    audience: Option<At<Audience>>,
    require: Claims,
    algorithms: Option<Vec<At<Algorithm>>>,
    leeway: Option<Duration>,
}

/// The settings of a provider of tokens in addition to those of all providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    /// The required `iss`. `None`: a token may have any issuer, or none.
    pub issuer: Option<String>,
    /// The required `aud`: one of these. Empty: a token must not have one, and `require` is not empty.
    pub audience: Vec<String>,
    /// Claims that a token must have, each with its accepted texts. The claim must be one of them, or a list that
    /// contains one.
    pub require: Vec<(String, Vec<String>)>,
    /// The accepted algorithms: either HMAC or public-key ones, and never `none`.
    pub algorithms: Vec<Algorithm>,
    /// The allowed clock skew for `exp` and `nbf`.
    pub leeway: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Audience {
    /// `none`: tokens have no `aud`.
    Nothing,
    AnyOf(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Keys {
    JwksUrl(String),
    File(String, &'static FileFormat),
}

impl Written {
    pub(super) fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self {
        let audience = fields.need("audience", "audience: my-api", sink);
        Self {
            issuer: fields.value("issuer", sink, |text| url_or(text, "https")),
            keys: read_keys(fields, sink),
            keys_given: super::KEY_FIELDS
                .iter()
                .any(|name| fields.get(name).is_some() || fields.is_misspelt(name)),
            audience: audience.map(|node| At { value: read_audience(node, sink), span: node.span }),
            require: fields.get("require").map(|node| claims::of_provider(node, sink)).unwrap_or_default(),
            algorithms: fields.values("algorithms", sink, algorithm),
            leeway: fields.plain("leeway", sink, |t| duration_in(t, Duration::ZERO..=minutes(10))),
        }
    }

    /// Replaces settings that could not be read. The error is reported.
    pub(in crate::auth) fn unreadable() -> Self {
        Self {
            issuer: None,
            keys: None,
            keys_given: true,
            audience: None,
            require: Claims::new(),
            algorithms: None,
            leeway: None,
        }
    }

    pub(super) fn resolve(
        &self,
        name: &At<String>,
        files: &mut FileReader<'_>,
        sink: &mut Diagnostics,
    ) -> (JwtSettings, KeySource) {
        let is_secret = matches!(&self.keys, Some(At { value: Keys::File(_, format), .. }) if **format == HS256_SECRET_FILE);
        let fallback = if is_secret { vec![Algorithm::HS256] } else { ASYMMETRIC.to_vec() };
        if self.keys_given {
            check_algorithms(self, is_secret, sink);
        }
        let keys = key_source(self, name, files, sink);
        warn_of_clear_text(self, &keys, sink);
        let settings = JwtSettings {
            issuer: self.issuer.as_ref().map(|issuer| issuer.value.clone()),
            audience: audience(self, sink),
            require: self.require.clone(),
            algorithms: match &self.algorithms {
                Some(list) => list.iter().map(|at| at.value).collect(),
                None => fallback,
            },
            leeway: self.leeway.unwrap_or(LEEWAY),
        };
        (settings, keys)
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
    for name in ["jwks", "jwks_file", "public_key_file", "hs256_secret_file"] {
        let keys = match FORMATS.into_iter().find(|format| format.field == name) {
            None => fields.value(name, sink, |text| key_url(text).map(Keys::JwksUrl)),
            Some(format) => {
                fields.value(name, sink, |text| some_text(text).map(|text| Keys::File(text, format)))
            }
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

/// Reads a URL. The refusal of a text that looks like a file contains the field for it.
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

/// Tokens without an audience are accepted only if another claim decides for which service they are, because an
/// issuer makes tokens for every service that trusts it.
fn audience(written: &Written, sink: &mut Diagnostics) -> Vec<String> {
    let span = match &written.audience {
        Some(At { value: Audience::AnyOf(names), .. }) => return names.clone(),
        Some(At { value: Audience::Nothing, span }) => *span,
        None => return Vec::new(),
    };
    if !written.require.iter().any(|(claim, _)| !SAID_OF_EVERY_TOKEN.contains(&claim.as_str())) {
        sink.push(
            Diagnostic::error(code::NO_AUDIENCE, span, "`audience: none` needs another claim that says whom a token is for")
                .label("tokens that the issuer made for other services would be accepted")
                .help(
                    "name the clients that may use this API: `require: {claim: {client_id: [my-app]}}` (Amazon Cognito), \
                     or `azp` where the issuer writes that",
                ),
        );
    }
    Vec::new()
}

/// Warns of keys over HTTP: an attacker on the path could replace the keys and sign tokens.
fn warn_of_clear_text(written: &Written, keys: &KeySource, sink: &mut Diagnostics) {
    let (url, span) = match (keys, &written.keys, &written.issuer) {
        (KeySource::JwksUrl(url), Some(at), _) => (url, at.span),
        (KeySource::Issuer(url), _, Some(at)) => (url, at.span),
        _ => return,
    };
    let url = url.parse::<http::Uri>().ok();
    if url.is_some_and(|url| url.scheme_str() == Some("http") && !is_on_loopback(&url)) {
        sink.push(
            Diagnostic::warning(code::KEYS_IN_CLEAR_TEXT, span, "the keys are fetched in clear text")
                .label("whoever is between can replace them, and sign tokens")
                .help("use `https`, or a file (`jwks_file`)"),
        );
    }
}

fn key_source(
    written: &Written,
    name: &At<String>,
    files: &mut FileReader<'_>,
    sink: &mut Diagnostics,
) -> KeySource {
    if !written.keys_given {
        sink.push(
            Diagnostic::error(
                code::KEY_SOURCE,
                name.span,
                format!("`auth.{}` has no keys to check tokens with", name.value),
            )
            .help(
                "add one of `issuer` (a URL whose OIDC discovery document names the keys), `jwks` (a URL), \
                     `jwks_file`, `public_key_file`, `hs256_secret_file`, or `api_keys_file` for API keys",
            ),
        );
    }
    let Some(At { value: keys, span }) = &written.keys else {
        let issuer = written.issuer.as_ref().map(|issuer| issuer.value.clone());
        return KeySource::Issuer(issuer.unwrap_or_default());
    };
    let (file, format) = match keys {
        Keys::JwksUrl(url) => return KeySource::JwksUrl(url.clone()),
        Keys::File(file, format) => (file, *format),
    };
    let read = files(&At { value: file.clone(), span: *span }, format.what, sink);
    // RFC 7518 §3.2: the key must be at least as long as the hash.
    let is_weak =
        |bytes: &[u8]| *format == HS256_SECRET_FILE && bytes.trim_ascii().len() < keys::SECRET_BYTES_MIN;
    if read.as_ref().is_some_and(|(_, bytes)| is_weak(bytes)) {
        sink.push(
            Diagnostic::error(code::WEAK_SECRET, *span, "the secret is shorter than 32 bytes")
                .label("a short secret can be guessed from one token")
                .help("make one: `openssl rand -base64 48 > FILE`"),
        );
    }
    KeySource::File(read.map(|(path, _)| path).unwrap_or_default(), format)
}

/// Whether the host is an address of this machine, or `localhost`.
pub(crate) fn is_on_loopback(url: &http::Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

fn set(keys: Result<keys::KeySet, keys::KeyError>) -> Result<KeySet, String> {
    keys.map(KeySet::Jwt).map_err(|error| error.to_string())
}

/// Using a public key as an HMAC secret is the classic forgery, so one provider never accepts both families.
fn check_algorithms(written: &Written, is_secret: bool, sink: &mut Diagnostics) {
    let Some(algorithms) = &written.algorithms else { return };
    for algorithm in algorithms {
        let is_hmac = algorithm.value == Algorithm::HS256;
        if is_hmac == is_secret {
            continue;
        }
        let (message, help) = if is_hmac {
            (
                "`HS256` needs `hs256_secret_file`",
                "make a second provider for it; a route can accept both: `auth: [main, dev]`",
            )
        } else {
            ("a secret can only check `HS256`", "remove `algorithms`")
        };
        let finding = Diagnostic::error(code::ALGORITHMS, algorithm.span, message)
            .label("does not fit the keys of this provider");
        sink.push(finding.help(help));
    }
}

/// Claims that are equal in all tokens of an issuer, or in all tokens of a kind.
const SAID_OF_EVERY_TOKEN: [&str; 6] = ["iss", "exp", "nbf", "iat", "token_use", "typ"];
const ASYMMETRIC: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
const LEEWAY: Duration = Duration::from_secs(30);
const FORMATS: [&FileFormat; 3] = [&JWKS_FILE, &PUBLIC_KEY_FILE, &HS256_SECRET_FILE];
pub(super) static JWKS_FILE: FileFormat =
    FileFormat { field: "jwks_file", what: "key set", parse: |bytes| set(keys::KeySet::from_jwks(bytes)) };
static PUBLIC_KEY_FILE: FileFormat = FileFormat {
    field: "public_key_file",
    what: "public key",
    parse: |bytes| set(keys::KeySet::from_pem(bytes)),
};
static HS256_SECRET_FILE: FileFormat = FileFormat {
    field: "hs256_secret_file",
    what: "secret",
    parse: |bytes| set(keys::KeySet::from_secret(bytes)),
};
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
