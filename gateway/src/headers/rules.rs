//! Rules of a route for the fields of a message.

use http::{HeaderName, HeaderValue};

use super::MadeField;

/// Rules for one direction: remove, then set, then add.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderRules {
    /// Fields that replace the values that are there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are added to the values that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are removed.
    pub remove: Vec<HeaderName>,
    /// Fields of `set` and `add` whose values contain facts of the request.
    pub made: Vec<MadeField>,
}

impl HeaderRules {
    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        let Self { set, add, remove, made } = self;
        set.is_empty() && add.is_empty() && remove.is_empty() && made.is_empty()
    }
}
