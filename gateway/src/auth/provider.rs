//! A provider in three parts: its compiled form, its keys, and what one worker remembers of it.

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
use crate::certificate::client::CertificateFacts;

/// The compiled form of a provider, without its keys, which change at other times.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: Arc<str>,
    pub authenticator: Authenticator,
    /// The places of its credentials in a request, in order.
    pub sources: Box<[CredentialSource]>,
    /// The largest number of identities that each worker remembers.
    pub cache_max: usize,
}

impl Provider {
    /// Compiles a provider. `kept` are the claims that an identity keeps.
    ///
    /// # Errors
    /// The provider could not accept any credential.
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
    /// Where requests wait for newer keys. `None`: the keys are in a file, which is read again when it changes.
    pub desk: Option<Arc<KeyDesk>>,
}

/// A worker's copy of one provider. When keys or settings change, the worker begins a new one, which remembers nothing.
#[derive(Debug)]
pub struct LocalProvider {
    shared: Arc<Provider>,
    keys: HeldKeys,
    cache: RefCell<IdentityCache>,
}

impl LocalProvider {
    /// A copy that remembers nothing yet.
    pub fn new(shared: Arc<Provider>, keys: HeldKeys) -> Self {
        Self { cache: RefCell::new(IdentityCache::new(shared.cache_max)), shared, keys }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    pub fn sources(&self) -> &[CredentialSource] {
        &self.shared.sources
    }

    /// The names of the kind of credential.
    pub fn words(&self) -> &'static CredentialWords {
        self.shared.authenticator.words()
    }

    /// The scheme in `WWW-Authenticate`: that of the header field in which the credential is expected, and otherwise
    /// that of the kind.
    pub fn scheme(&self) -> &'static str {
        if self.sources().contains(&CredentialSource::Bearer) { "Bearer" } else { self.words().scheme }
    }

    /// Searches each place of this provider.
    ///
    /// # Errors
    /// A place contains something that is not a credential, or the places contain different ones.
    pub fn find<'a>(&self, parts: &'a Parts) -> Result<Found<'a>, BadPlacement> {
        find_credential(&parts.headers, parts.uri.query(), self.sources(), self.words().has_claims)
    }

    /// Whether the credential is the certificate of the connection.
    pub fn takes_certificates(&self) -> bool {
        self.shared.authenticator.takes_certificates()
    }

    /// The identity of a verified certificate, from an earlier check of this very certificate or from a new one. `now` is in seconds
    /// since 1970.
    ///
    /// # Errors
    /// The provider does not accept the certificate.
    pub fn identify(&self, facts: &CertificateFacts, now: u64) -> Result<Rc<Identity>, AuthRejection> {
        let mut cache = self.cache.borrow_mut();
        if let Some(known) = cache.get(&facts.fingerprint, now) {
            return Ok(known);
        }
        let identity = Rc::new(self.shared.authenticator.check_certificate(facts, now)?);
        cache.insert(&facts.fingerprint, Rc::clone(&identity), now);
        Ok(identity)
    }

    /// Whether this provider may check a credential that claims this issuer.
    pub fn fit(&self, issuer: Option<&str>) -> Fit {
        self.shared.authenticator.fit(issuer)
    }

    /// Where requests wait for newer keys. `None`: the keys are not fetched.
    pub fn desk(&self) -> Option<&Arc<KeyDesk>> {
        self.keys.desk.as_ref()
    }

    /// Whether both use the same desk. Then `other` is this provider before or after a change of its keys.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let is_same_desk = |own| other.desk().is_some_and(|desk| Arc::ptr_eq(own, desk));
        self.name() == other.name() && self.desk().is_some_and(is_same_desk)
    }

    /// The identity of this exact credential from an earlier check, if a check at `now` (seconds since 1970) would
    /// return it again.
    pub fn known(&self, credential: &str, now: u64) -> Option<Rc<Identity>> {
        self.cache.borrow_mut().get(credential, now)
    }

    /// Checks the credential, and remembers its identity.
    ///
    /// # Errors
    /// The credential is not valid, or it cannot be decided because there are no keys yet.
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
