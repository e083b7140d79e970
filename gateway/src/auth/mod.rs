//! Who sends a request: providers check credentials, and every kind of credential becomes one [`Identity`].
//!
//! The list below is all that the rest of the gateway knows of the kinds of providers. A kind is one file or folder and
//! one line: what it reads from `auth.<name>`, how its keys are written, and one verb, [`CredentialKind::check`]. Where a credential
//! stands in a request ([`credentials`]), which claims become header fields ([`claims`]), what a worker remembers
//! ([`cache`]), how a request waits for newer keys ([`desk`]), and what the client learns of a refusal ([`rejection`]) is
//! common to all kinds.
//!
//! Everything here is pure but for the cells of a worker: reading files and fetching keys is the control plane's part.

pub mod api_key;
pub mod cache;
pub(crate) mod claim_path;
pub(crate) mod claims;
pub mod credentials;
pub mod desk;
pub(crate) mod doubts;
pub mod jwt;
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
use crate::syntax::{
    diagnostics::{Diagnostic, Diagnostics, Span, code},
    fields::{Fields, Known},
    tree::At,
};

/// Fields of a provider, of whatever kind.
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
pub(crate) static FORWARD: Known =
    Known { what: "a claim of `forward`", prefix: "forward.", fields: &["header", "separator"], later: &[] };

/// What the gateway knows of the client of a request, because a provider vouches for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Name of the provider: a subject is one of its provider's.
    pub provider: Arc<str>,
    /// `sub`.
    pub subject: Option<Box<str>>,
    /// The words of `scope` and `scp`.
    pub scopes: Box<[Box<str>]>,
    /// `role` and `roles`.
    pub roles: Box<[Box<str>]>,
    /// The first second, since 1970, in which the credential is not valid any more.
    pub valid_until: u64,
    /// Header fields for the upstream request, made from the claims that the provider forwards.
    pub forward: Vec<(HeaderName, HeaderValue)>,
    /// The claims that limits, requirements and header values name.
    pub claims: BTreeMap<Box<str>, Value>,
}

impl Identity {
    /// Is the credential still valid at `now`, seconds since 1970? RFC 7519 §4.1.4: "on or after" its end it is not.
    pub fn is_valid_at(&self, now: u64) -> bool {
        now < self.valid_until
    }

    /// Of a subject and nothing else.
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
    /// Its own fields as they are written.
    type Written: fmt::Debug;
    /// The same with defaults, checked.
    type Settings: fmt::Debug + Clone + PartialEq + Eq;
    /// What credentials are checked against. It comes from a [`KeySource`], and may be replaced at any time.
    type Keys: KeyList;

    const WORDS: &'static CredentialWords;
    /// The fields that hold keys, or say where they are: a provider with one of them is of this kind.
    const KEY_FIELDS: &'static [&'static str];
    /// Its further own fields.
    const FIELDS: &'static [&'static str];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written;
    fn resolve(
        written: &Self::Written,
        name: &At<String>,
        files: &mut FileReader<'_>,
        sink: &mut Diagnostics,
    ) -> (Self::Settings, KeySource);
    /// Where credentials of this kind stand unless `from` says otherwise.
    fn default_sources() -> Vec<CredentialSource>;
    /// `kept`: claims that an identity keeps.
    ///
    /// # Errors
    /// The provider could accept nothing.
    fn compile(
        settings: &ProviderSettings,
        own: &Self::Settings,
        kept: Vec<Box<str>>,
    ) -> Result<Self, String>;
    /// Whether a credential is worth a check. `issuer`: what the credential says of its issuer, which is not verified.
    fn fit(&self, issuer: Option<&str>) -> Fit;
    /// `keys`: `None` until they were first loaded.
    ///
    /// # Errors
    /// The credential is not valid, or nothing is known of it yet.
    fn check(
        &self,
        keys: Option<&Self::Keys>,
        credential: &str,
        with: Check<'_>,
    ) -> Result<Identity, AuthRejection>;
    /// With variables as they are written; `None`: it has none, or takes any.
    fn shown_issuer(&self) -> Option<&str> {
        None
    }
}

/// What is there for one check.
pub(crate) struct Check<'a> {
    /// Seconds since 1970.
    pub(crate) now: u64,
    /// Newer keys can be asked for.
    pub(crate) has_newer_keys: bool,
    pub(crate) last_header: &'a mut LastHeader,
}

/// Whether a provider is to be asked about a credential: first those that it names, then those that take any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Named,
    Any,
    Other,
}

/// How a kind of credential is called.
#[derive(Debug, PartialEq, Eq)]
pub struct CredentialWords {
    /// In `WWW-Authenticate` (RFC 9110 §11.1).
    pub scheme: &'static str,
    /// The credential has claims that others can read, so a cookie without them is not one.
    pub has_claims: bool,
    pub credential: &'static str,
    pub wanted: &'static str,
    pub plural: &'static str,
}

/// The keys of a provider, as people and tools see them.
pub(crate) trait KeyList: fmt::Debug + Clone + PartialEq {
    fn len(&self) -> usize;
    /// `None`: a key without a name.
    fn names(&self) -> Vec<Option<&str>>;
    /// Members of the source that cannot be used.
    fn skipped(&self) -> &[Skipped] {
        &[]
    }
    /// The public part, for a gateway that starts while the issuer is away. `None`: there is none.
    fn to_jwks(&self) -> Option<Value> {
        None
    }
}

/// The closed types over all kinds, and what is derived from the list.
macro_rules! authenticators {
    ($($name:ident($kind:ty, keys: $keys:ty, settings: $settings:ty, written: $written:ty)),+ $(,)?) => {
        /// What checks the credentials of one provider.
        #[derive(Debug, Clone)]
        pub enum Authenticator { $($name($kind)),+ }

        /// What they are checked against.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Keys { $($name($keys)),+ }

        /// What only one kind of provider has.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum KindSettings { $($name($settings)),+ }

        /// The same as it is written.
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
            /// The provider could accept nothing.
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

            pub(crate) fn fit(&self, issuer: Option<&str>) -> Fit {
                match self { $(Self::$name(kind) => kind.fit(issuer)),+ }
            }

            pub(crate) fn shown_issuer(&self) -> Option<&str> {
                match self { $(Self::$name(kind) => kind.shown_issuer()),+ }
            }

            /// # Errors
            /// The credential is not valid, or nothing is known of it yet.
            pub(crate) fn check(
                &self,
                keys: Option<&Keys>,
                credential: &str,
                with: Check<'_>,
            ) -> Result<Identity, AuthRejection> {
                match (self, keys) {
                    $((Self::$name(kind), Some(Keys::$name(keys))) => kind.check(Some(keys), credential, with),)+
                    // Keys of another kind are as good as none; a provider's source gives its own kind only.
                    $((Self::$name(kind), _) => kind.check(None, credential, with),)+
                }
            }
        }

        impl Keys {
            pub fn len(&self) -> usize {
                match self { $(Self::$name(keys) => KeyList::len(keys)),+ }
            }

            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            pub fn names(&self) -> Vec<Option<&str>> {
                match self { $(Self::$name(keys) => KeyList::names(keys)),+ }
            }

            pub fn skipped(&self) -> &[Skipped] {
                match self { $(Self::$name(keys) => KeyList::skipped(keys)),+ }
            }

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
}

/// One kind, as a provider of it is written.
struct KindRow {
    keys: &'static [&'static str],
    others: &'static [&'static str],
    words: &'static CredentialWords,
    read: fn(&Fields<'_>, &mut Diagnostics) -> KindWritten,
}

impl KindWritten {
    /// Of all kinds: the fields that hold keys.
    fn key_fields() -> impl Iterator<Item = &'static str> {
        KINDS.iter().flat_map(|kind| kind.keys).copied()
    }

    /// The kind whose keys are named, or the first of the list.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self {
        let is_there = |name: &&str| fields.get(name).is_some() || fields.is_misspelt(name);
        // An `issuer` beside a file of API keys is the mistake, and not the file.
        let named = KINDS.iter().rfind(|kind| kind.keys.iter().any(is_there));
        let Some(kind) = named.or(KINDS.first()) else { return Self::unreadable() };
        for other in KINDS.iter().filter(|other| other.words != kind.words) {
            for name in other.keys.iter().chain(other.others).filter(|name| !kind.others.contains(name)) {
                sink.extend(fields.get(name).map(|node| field_of_another_kind(node.span, name, other.words)));
            }
        }
        (kind.read)(fields, sink)
    }

    /// Stands for a provider that could not be read at all; the error is reported.
    fn unreadable() -> Self {
        Self::Jwt(jwt::Written::unreadable())
    }
}

/// A provider has keys of one kind.
fn field_of_another_kind(span: Span, name: &str, words: &CredentialWords) -> Diagnostic {
    let message = format!("`{name}` belongs to a provider that checks {}", words.plural);
    Diagnostic::error(code::CONFLICT, span, message)
        .label("this provider has keys of another kind")
        .help("remove it, or make a second provider; a route can accept both: `auth: [main, partners]`")
}
