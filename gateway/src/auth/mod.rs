//! Authentication: providers check credentials, and every kind of credential becomes an [`Identity`].
//!
//! The list in `authenticators!` in this file is all that the rest of the gateway uses of the kinds of providers. A kind is one file
//! or folder and one line of the list: the fields that it reads from `auth.<name>`, the format of its keys, and one verb,
//! [`CredentialKind::check`]. All kinds share the places of credentials in a request ([`credentials`]), the claims that
//! become header fields ([`claims`]), the memory of a worker ([`cache`]), the wait of a request for newer keys ([`desk`]),
//! and the client's view of a refusal ([`rejection`]).
//!
//! Everything here is pure, except for the cells of a worker. The control plane reads files and fetches keys.

pub mod api_key;
pub mod cache;
pub(crate) mod claim_path;
pub(crate) mod claims;
pub mod credentials;
pub mod desk;
pub(crate) mod doubts;
pub mod jwt;
pub(crate) mod mtls;
pub mod provider;
pub(crate) mod regulars;
pub mod rejection;
pub mod settings;

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use self::{
    jwt::{LastHeader, Skipped},
    rejection::AuthRejection,
    settings::{CredentialSource, FileReader, KeySource, ProviderSettings},
};
use crate::{
    certificate::client::CertificateFacts,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known},
        tree::At,
    },
};

/// The fields of a provider, of all kinds.
pub(crate) static PROVIDER: Known = Known {
    what: "an auth provider",
    prefix: "",
    fields: &[
        "issuer",
        "jwks",
        "jwks_file",
        "public_key_file",
        "hs256_secret_file",
        "api_keys_file",
        "mtls",
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
/// The fields of a claim of `forward` that is written as a map.
pub(crate) static FORWARD: Known =
    Known { what: "a claim of `forward`", prefix: "forward.", fields: &["header", "separator"], later: &[] };

/// The facts about the client of a request for which a provider vouches.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The name of the provider. Subjects of different providers are different clients.
    pub provider: Arc<str>,
    /// The claim `sub`.
    pub subject: Option<Box<str>>,
    /// The words of the claims `scope` and `scp`.
    pub scopes: Box<[Box<str>]>,
    /// The texts of the claims `role` and `roles`.
    pub roles: Box<[Box<str>]>,
    /// The first second since 1970 in which the credential is no longer valid.
    pub valid_until: u64,
    /// Header fields for the upstream request, made from the claims that the provider forwards.
    pub forward: Vec<(HeaderName, HeaderValue)>,
    /// The claims that limits, requirements and header values use.
    pub claims: BTreeMap<Box<str>, Value>,
}

impl Identity {
    /// Whether the credential is still valid at `now`, in seconds since 1970. It is not valid "on or after" its end (RFC
    /// 7519 §4.1.4).
    pub fn is_valid_at(&self, now: u64) -> bool {
        now < self.valid_until
    }

    /// An identity that has only a subject.
    #[cfg(test)]
    pub(crate) fn of(provider: &str, subject: Option<&str>) -> Self {
        Self {
            provider: provider.into(),
            subject: subject.map(Into::into),
            scopes: Box::default(),
            roles: Box::default(),
            valid_until: 0,
            forward: Vec::new(),
            claims: BTreeMap::new(),
        }
    }
}

/// One kind of provider.
pub(crate) trait CredentialKind: Sized {
    /// The provider's own fields as written.
    type Written: fmt::Debug;
    /// The same fields with defaults, checked.
    type Settings: fmt::Debug + Clone + PartialEq + Eq;
    /// The keys against which credentials are checked. They come from a [`KeySource`], and may be replaced at any time.
    type Keys: KeyList;

    const WORDS: &'static CredentialWords;
    /// The fields that contain keys, or the place of keys. A provider with one of them is of this kind.
    const KEY_FIELDS: &'static [&'static str];
    /// The further fields of this kind.
    const FIELDS: &'static [&'static str];
    /// The credential is the certificate of the connection, not a text of the request.
    const TAKES_CERTIFICATES: bool = false;

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written;
    fn resolve(
        written: &Self::Written,
        name: &At<String>,
        files: &mut FileReader<'_>,
        sink: &mut Diagnostics,
    ) -> (Self::Settings, KeySource);
    /// The places of such credentials in a request where `from` is not written.
    fn default_sources() -> Vec<CredentialSource>;
    /// Compiles a provider. `kept` are the claims that an identity keeps.
    ///
    /// # Errors
    /// The provider could not accept any credential.
    fn compile(
        settings: &ProviderSettings,
        own: &Self::Settings,
        kept: Vec<Box<str>>,
    ) -> Result<Self, String>;
    /// Whether this provider may check a credential. `issuer` is the issuer that the credential claims; it is not verified.
    fn fit(&self, issuer: Option<&str>) -> Fit;
    /// Checks a credential. `keys` is `None` until keys were loaded for the first time.
    ///
    /// # Errors
    /// The credential is not valid, or it cannot be decided because there are no keys yet.
    fn check(
        &self,
        keys: Option<&Self::Keys>,
        credential: &str,
        with: Check<'_>,
    ) -> Result<Identity, AuthRejection>;
    /// Checks the verified certificate of a connection, at `now` in seconds since 1970.
    ///
    /// # Errors
    /// The provider does not accept it.
    fn check_certificate(&self, _: &CertificateFacts, _: u64) -> Result<Identity, AuthRejection> {
        Err(AuthRejection::of_no_provider())
    }
    /// The issuer, with variables as they are written. `None`: the kind has no issuer, or the provider accepts any.
    fn shown_issuer(&self) -> Option<&str> {
        None
    }
}

/// The further arguments of a check.
pub(crate) struct Check<'a> {
    /// Seconds since 1970.
    pub(crate) now: u64,
    /// Whether newer keys can be fetched.
    pub(crate) has_newer_keys: bool,
    pub(crate) last_header: &'a mut LastHeader,
}

/// Whether a provider may check a credential. The providers that the credential names come first, then those that accept
/// any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Named,
    Any,
    Other,
}

/// The names of a kind of credential.
#[derive(Debug, PartialEq, Eq)]
pub struct CredentialWords {
    /// The scheme in `WWW-Authenticate` (RFC 9110 §11.1).
    pub scheme: &'static str,
    /// The credential has claims that other programs can read, so a cookie value without claims is not such a credential.
    pub has_claims: bool,
    pub credential: &'static str,
    pub wanted: &'static str,
    pub plural: &'static str,
}

/// The keys of a provider, as reports show them.
pub(crate) trait KeyList: fmt::Debug + Clone + PartialEq {
    fn len(&self) -> usize;
    /// The name of each key. `None`: a key without a name.
    fn names(&self) -> Vec<Option<&str>>;
    /// Entries of the source that cannot be used.
    fn skipped(&self) -> &[Skipped] {
        &[]
    }
    /// The public keys, for a gateway that starts while the issuer cannot be reached. `None`: the keys are not public.
    fn to_jwks(&self) -> Option<Value> {
        None
    }
}

/// The closed types over all kinds, and the functions that are derived from the list.
macro_rules! authenticators {
    ($($name:ident($kind:ty, keys: $keys:ty, settings: $settings:ty, written: $written:ty)),+ $(,)?) => {
        /// Checks the credentials of one provider.
        #[derive(Debug, Clone)]
        pub enum Authenticator { $($name($kind)),+ }

        /// The keys of one provider, against which credentials are checked.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Keys { $($name($keys)),+ }

        /// The settings that only one kind of provider has.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum KindSettings { $($name($settings)),+ }

        /// The same settings as written.
        #[derive(Debug)]
        pub(crate) enum KindWritten { $($name($written)),+ }

        /// How the fields of each kind are read.
        const KINDS: &[KindRow] = &[$(KindRow {
            keys: <$kind as CredentialKind>::KEY_FIELDS,
            others: <$kind as CredentialKind>::FIELDS,
            words: <$kind as CredentialKind>::WORDS,
            read: |fields, sink| KindWritten::$name(<$kind as CredentialKind>::read(fields, sink)),
        }),+];

        impl KindWritten {
            fn resolve(
                &self,
                name: &At<String>,
                files: &mut FileReader<'_>,
                sink: &mut Diagnostics,
            ) -> (KindSettings, KeySource) {
                match self {
                    $(Self::$name(written) => {
                        let (own, keys) = <$kind as CredentialKind>::resolve(written, name, files, sink);
                        (KindSettings::$name(own), keys)
                    })+
                }
            }
        }

        impl KindSettings {
            fn default_sources(&self) -> Vec<CredentialSource> {
                match self { $(Self::$name(_) => <$kind as CredentialKind>::default_sources()),+ }
            }
        }

        impl Authenticator {
            /// # Errors
            /// The provider could not accept any credential.
            pub(crate) fn compile(settings: &ProviderSettings, kept: Vec<Box<str>>) -> Result<Self, String> {
                match &settings.kind {
                    $(KindSettings::$name(own) => {
                        <$kind as CredentialKind>::compile(settings, own, kept).map(Self::$name)
                    })+
                }
            }

            pub(crate) fn words(&self) -> &'static CredentialWords {
                match self { $(Self::$name(_) => <$kind as CredentialKind>::WORDS),+ }
            }

            pub(crate) fn takes_certificates(&self) -> bool {
                match self { $(Self::$name(_) => <$kind as CredentialKind>::TAKES_CERTIFICATES),+ }
            }

            /// # Errors
            /// The provider does not accept the certificate.
            pub(crate) fn check_certificate(
                &self,
                facts: &CertificateFacts,
                now: u64,
            ) -> Result<Identity, AuthRejection> {
                match self { $(Self::$name(kind) => kind.check_certificate(facts, now)),+ }
            }

            /// Whether the provider may check a credential that claims this issuer.
            pub(crate) fn fit(&self, issuer: Option<&str>) -> Fit {
                match self { $(Self::$name(kind) => kind.fit(issuer)),+ }
            }

            pub(crate) fn shown_issuer(&self) -> Option<&str> {
                match self { $(Self::$name(kind) => kind.shown_issuer()),+ }
            }

            /// # Errors
            /// The credential is not valid, or it cannot be decided because there are no keys yet.
            pub(crate) fn check(
                &self,
                keys: Option<&Keys>,
                credential: &str,
                with: Check<'_>,
            ) -> Result<Identity, AuthRejection> {
                match (self, keys) {
                    $((Self::$name(kind), Some(Keys::$name(keys))) => kind.check(Some(keys), credential, with),)+
                    // Keys of another kind count as no keys. The source of a provider gives only keys of its own kind.
                    $((Self::$name(kind), _) => kind.check(None, credential, with),)+
                }
            }
        }

        impl Keys {
            /// The number of usable keys.
            pub fn len(&self) -> usize {
                match self { $(Self::$name(keys) => KeyList::len(keys)),+ }
            }

            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The name of each usable key. `None`: a key without a name.
            pub fn names(&self) -> Vec<Option<&str>> {
                match self { $(Self::$name(keys) => KeyList::names(keys)),+ }
            }

            /// The entries of the source that cannot be used.
            pub fn skipped(&self) -> &[Skipped] {
                match self { $(Self::$name(keys) => KeyList::skipped(keys)),+ }
            }

            /// The public keys as a JWK set. `None`: the keys are not public.
            pub fn to_jwks(&self) -> Option<Value> {
                match self { $(Self::$name(keys) => KeyList::to_jwks(keys)),+ }
            }
        }
    };
}

// The kinds of providers.
authenticators! {
    Jwt(jwt::Jwt, keys: jwt::KeySet, settings: jwt::JwtSettings, written: jwt::Written),
    ApiKey(api_key::ApiKey, keys: api_key::ApiKeys, settings: api_key::ApiKeySettings, written: api_key::Written),
    Mtls(mtls::Mtls, keys: mtls::NoKeys, settings: mtls::MtlsSettings, written: mtls::Written),
}

/// How the fields of one kind of provider are read.
struct KindRow {
    keys: &'static [&'static str],
    others: &'static [&'static str],
    words: &'static CredentialWords,
    read: fn(&Fields<'_>, &mut Diagnostics) -> KindWritten,
}

impl KindWritten {
    /// The fields of all kinds that contain keys.
    fn key_fields() -> impl Iterator<Item = &'static str> {
        KINDS.iter().flat_map(|kind| kind.keys).copied()
    }

    /// Reads a provider as the kind whose key fields are written, or as the first kind of the list.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self {
        let is_there = |name: &&str| fields.get(name).is_some() || fields.is_misspelt(name);
        // If an `issuer` is written beside a file of API keys, the error is reported for the `issuer`.
        let named = KINDS.iter().rfind(|kind| kind.keys.iter().any(is_there));
        let Some(kind) = named.or(KINDS.first()) else { return Self::unreadable() };
        for other in KINDS.iter().filter(|other| other.words != kind.words) {
            for name in other.keys.iter().chain(other.others).filter(|name| !kind.others.contains(name)) {
                sink.extend(fields.get(name).map(|node| field_of_another_kind(node.span, name, other.words)));
            }
        }
        (kind.read)(fields, sink)
    }

    /// Replaces a provider that could not be read at all. The error is reported.
    fn unreadable() -> Self {
        Self::Jwt(jwt::Written::unreadable())
    }
}

/// The finding that a provider of one kind has a field of another kind.
fn field_of_another_kind(span: Span, name: &str, words: &CredentialWords) -> Diagnostic {
    let message = format!("`{name}` belongs to a provider that checks {}", words.plural);
    Diagnostic::error(code::CONFLICT, span, message)
        .label("this provider has keys of another kind")
        .help("remove it, or make a second provider; a route can accept both: `auth: [main, partners]`")
}
