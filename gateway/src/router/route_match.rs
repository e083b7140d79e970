//! What a route matches.

use http::{HeaderName, HeaderValue, Method};

use super::reading::Spelling;

/// All that the router knows of a route.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// For the text of a conflict.
    pub name: String,
    /// Empty = any method.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// As written: `/users/**`, `/users/{id}`. Its syntax is checked.
    pub path: String,
    pub spelling: Spelling,
    /// Each condition must be met.
    pub headers: Vec<HeaderCondition>,
    /// Overrides "most specific first"; higher wins.
    pub priority: i32,
}

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
