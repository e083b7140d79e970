//! One provider: compiled, with its keys, and with what one worker remembers of it.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use http::request::Parts;

use super::{
    Authenticator, Check, CredentialWords, Fit, Identity, Keys,
    cache::IdentityCache,
    credentials::{BadPlacement, Found, find_credential},
    desk::KeyDesk,
    rejection::AuthRejection,
    settings::{CredentialSource, ProviderSettings},
};

/// A provider as the configuration says, without its keys, which come and go.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: Arc<str>,
    pub authenticator: Authenticator,
    /// Where its credentials stand in a request, in order.
    pub sources: Box<[CredentialSource]>,
    /// Identities that each worker remembers.
    pub cache_max: usize,
}

impl Provider {
    /// `kept`: claims that an identity keeps.
    ///
    /// # Errors
    /// The provider could accept nothing.
    pub fn compile(settings: &ProviderSettings, kept: Vec<Box<str>>) -> Result<Self, String> {
        Ok(Self {
            name: Arc::from(settings.name.as_str()),
            authenticator: Authenticator::compile(settings, kept)?,
            sources: settings.from.as_slice().into(),
            cache_max: settings.cache_max,
        })
    }
}

/// The keys of a provider at one time.
#[derive(Debug, Clone, Default)]
pub struct HeldKeys {
    /// `None` until they were read or fetched.
    pub set: Option<Arc<Keys>>,
    /// Where a request asks for newer ones; `None`: they are in a file, which a reload reads.
    pub desk: Option<Arc<KeyDesk>>,
}

/// A worker's view of one provider. When keys or settings change, the worker begins a new one, without what the old one
/// remembers.
#[derive(Debug)]
pub struct LocalProvider {
    shared: Arc<Provider>,
    keys: HeldKeys,
    cache: RefCell<IdentityCache>,
}

impl LocalProvider {
    pub fn new(shared: Arc<Provider>, keys: HeldKeys) -> Self {
        Self { cache: RefCell::new(IdentityCache::new(shared.cache_max)), shared, keys }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    pub fn sources(&self) -> &[CredentialSource] {
        &self.shared.sources
    }

    pub fn words(&self) -> &'static CredentialWords {
        self.shared.authenticator.words()
    }

    /// In `WWW-Authenticate`: that of the header field where the credential is expected, or else that of the kind.
    pub fn scheme(&self) -> &'static str {
        if self.sources().contains(&CredentialSource::Bearer) { "Bearer" } else { self.words().scheme }
    }

    /// Looks into each place of this provider.
    ///
    /// # Errors
    /// Something that is not a credential stands there, or there are several.
    pub fn find<'a>(&self, parts: &'a Parts) -> Result<Found<'a>, BadPlacement> {
        find_credential(&parts.headers, parts.uri.query(), self.sources(), self.words().has_claims)
    }

    pub fn fit(&self, issuer: Option<&str>) -> Fit {
        self.shared.authenticator.fit(issuer)
    }

    pub fn desk(&self) -> Option<&Arc<KeyDesk>> {
        self.keys.desk.as_ref()
    }

    /// Does the other one ask for keys at the same place? Then it is this provider after a change of its keys.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let is_same_desk = |own| other.desk().is_some_and(|desk| Arc::ptr_eq(own, desk));
        self.name() == other.name() && self.desk().is_some_and(is_same_desk)
    }

    /// What a check of this very credential said lately, if it would say so again at `now` (seconds since 1970).
    pub fn known(&self, credential: &str, now: u64) -> Option<Rc<Identity>> {
        self.cache.borrow_mut().get(credential, now)
    }

    /// Checks the credential, and remembers the identity.
    ///
    /// # Errors
    /// The credential is not valid, or nothing is known of it yet.
    pub fn check(&self, credential: &str, now: u64) -> Result<Rc<Identity>, AuthRejection> {
        let mut cache = self.cache.borrow_mut();
        let with =
            Check { now, has_newer_keys: self.keys.desk.is_some(), last_header: &mut cache.last_header };
        let identity =
            Rc::new(self.shared.authenticator.check(self.keys.set.as_deref(), credential, with)?);
        cache.insert(credential, Rc::clone(&identity), now);
        Ok(identity)
    }
}
