//! One `auth` provider: exactly one source of keys, algorithms that fit it, files that can be read.

use jsonwebtoken::Algorithm;

use super::{defaults::Defaults, files::Files};
use crate::{
    config::{
        raw::{
            Named,
            auth::{Audience, Keys, Provider},
        },
        settings::{AuthSettings, KeySource, TokenSource},
    },
    control::keys::is_on_loopback,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        tree::At,
    },
};

pub(super) fn resolve(
    provider: &Named<Provider>,
    defaults: &Defaults,
    files: &mut Files,
    sink: &mut Diagnostics,
) -> AuthSettings {
    let raw = &provider.value;
    let is_secret = matches!(raw.keys, Some(At { value: Keys::Hs256SecretFile(_), .. }));
    let fallback = if is_secret { vec![Algorithm::HS256] } else { defaults.auth.asymmetric.to_vec() };
    if raw.keys_given {
        check_algorithms(raw, is_secret, sink);
    }
    let keys = key_source(provider, files, sink);
    warn_of_clear_text(provider, &keys, sink);
    AuthSettings {
        name: provider.name.value.clone(),
        keys,
        issuer: raw.issuer.as_ref().map(|issuer| issuer.value.clone()),
        audience: audience(provider, sink),
        require: raw.require.clone(),
        algorithms: match &raw.algorithms {
            Some(list) => list.iter().map(|at| at.value).collect(),
            None => fallback,
        },
        leeway: raw.leeway.unwrap_or(defaults.auth.leeway),
        from: raw.from.clone().unwrap_or_else(|| vec![TokenSource::Bearer]),
        forward: raw.forward.clone(),
        separators: raw.separators.clone(),
        cache_max: raw.cache_max.unwrap_or(defaults.auth.cache_max),
        hidden: raw.hidden.clone(),
        span: provider.name.span,
    }
}

/// Tokens without an audience are accepted only where something else says whom they are for: an issuer makes them for
/// every service that trusts it.
fn audience(provider: &Named<Provider>, sink: &mut Diagnostics) -> Vec<String> {
    let raw = &provider.value;
    let span = match &raw.audience {
        Some(At { value: Audience::AnyOf(names), .. }) => return names.clone(),
        Some(At { value: Audience::Nothing, span }) => *span,
        None => return Vec::new(),
    };
    if !raw.require.iter().any(|(claim, _)| !SAID_OF_EVERY_TOKEN.contains(&claim.as_str())) {
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

/// Whoever is between could replace the keys, and sign tokens.
fn warn_of_clear_text(provider: &Named<Provider>, keys: &KeySource, sink: &mut Diagnostics) {
    let raw = &provider.value;
    let (url, span) = match (keys, &raw.keys, &raw.issuer) {
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

fn key_source(provider: &Named<Provider>, files: &mut Files, sink: &mut Diagnostics) -> KeySource {
    let raw = &provider.value;
    if !raw.keys_given {
        let name = &provider.name.value;
        sink.push(
            Diagnostic::error(
                code::KEY_SOURCE,
                provider.name.span,
                format!("`auth.{name}` has no keys to check tokens with"),
            )
            .help(
                "add one of `issuer` (a URL whose OIDC discovery document names the keys), `jwks` (a URL), \
                     `jwks_file`, `public_key_file`, `hs256_secret_file`",
            ),
        );
    }
    let Some(At { value: keys, span }) = &raw.keys else {
        let issuer = raw.issuer.as_ref().map(|issuer| issuer.value.clone());
        return KeySource::Issuer(issuer.unwrap_or_default());
    };
    let mut file = |name: &String, what: &str, sink: &mut Diagnostics| {
        files.readable(&At { value: name.clone(), span: *span }, what, sink)
    };
    match keys {
        Keys::JwksUrl(url) => KeySource::JwksUrl(url.clone()),
        Keys::JwksFile(name) => {
            KeySource::JwksFile(file(name, "key set", sink).map(|file| file.path).unwrap_or_default())
        }
        Keys::PublicKeyFile(name) => {
            KeySource::PublicKeyFile(file(name, "public key", sink).map(|file| file.path).unwrap_or_default())
        }
        Keys::Hs256SecretFile(name) => {
            let Some(file) = file(name, "secret", sink) else {
                return KeySource::Hs256SecretFile(name.into());
            };
            // RFC 7518 §3.2: a key of the same size as the hash output or larger must be used.
            if file.bytes.trim_ascii().len() < SECRET_BYTES_MIN {
                sink.push(
                    Diagnostic::error(code::WEAK_SECRET, *span, "the secret is shorter than 32 bytes")
                        .label("a short secret can be guessed from one token")
                        .help("make one: `openssl rand -base64 48 > FILE`"),
                );
            }
            KeySource::Hs256SecretFile(file.path)
        }
    }
}

/// A public key used as an HMAC secret is the classic forgery, so the two families never meet in one provider.
fn check_algorithms(raw: &Provider, is_secret: bool, sink: &mut Diagnostics) {
    let Some(algorithms) = &raw.algorithms else { return };
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

/// Claims that are alike in all tokens of an issuer, or in all of a kind.
const SAID_OF_EVERY_TOKEN: [&str; 6] = ["iss", "exp", "nbf", "iat", "token_use", "typ"];
const SECRET_BYTES_MIN: usize = 32;
