//! What a route matches.

use http::{HeaderName, HeaderValue};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostPattern {
    #[default]
    Any,
    /// Lower case, without port.
    Exact(String),
    /// `*.shop.example` is kept as `.shop.example`: one or more labels in front.
    Suffix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    pub name: HeaderName,
    /// `None`: the header must be present.
    pub value: Option<HeaderValue>,
}
