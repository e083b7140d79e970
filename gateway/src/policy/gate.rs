//! What a route requires of a client, and which of two routes requires more.
//!
//! `check` compares routes as they are written and the request path compares compiled ones, so both borrow their parts for this one
//! comparison.

use super::{
    clients::{ClientRule, imply},
    require::Requirement,
};

/// The client's address, its credential, and what the credential must contain. Limits are not part of it: many routes have their
/// own. `P`: what names a provider.
#[derive(Debug)]
pub(crate) struct Gate<'a, P> {
    pub(crate) clients: &'a [ClientRule],
    /// Empty: a credential is not required.
    pub(crate) auth: &'a [P],
    pub(crate) require: &'a Requirement,
}

impl<P: PartialEq> Gate<'_, P> {
    /// Every request that passes this gate would pass `other`.
    pub(crate) fn is_as_strict_as(&self, other: &Self) -> bool {
        let is_known =
            || !self.auth.is_empty() && self.auth.iter().all(|provider| other.auth.contains(provider));
        (other.auth.is_empty() || is_known())
            && other.clients.iter().all(|rule| imply(self.clients, rule))
            && self.require.implies(other.require)
    }

    /// The requests that pass this gate are a part of those that pass `other`, and not all of them.
    pub(crate) fn is_stricter_than(&self, other: &Self) -> bool {
        self.is_as_strict_as(other) && !other.is_as_strict_as(self)
    }
}
