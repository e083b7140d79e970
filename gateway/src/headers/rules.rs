//! Rules of a route for the fields of a message.

use http::{HeaderName, HeaderValue};

use super::MadeField;

/// Rules for one direction: remove, then set, then add.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderRules {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
    /// Of `set` and `add`, with something of the request in their values.
    pub made: Vec<MadeField>,
}

impl HeaderRules {
    pub fn is_empty(&self) -> bool {
        let Self { set, add, remove, made } = self;
        set.is_empty() && add.is_empty() && remove.is_empty() && made.is_empty()
    }
}
