//! What a route matches.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::reading::Spelling;

/// Everything that the router uses of a route.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// The name in the text of a conflict.
    pub name: String,
    /// Empty: any method.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// The pattern as written, such as `/users/**` or `/users/{id}`. Its syntax has been checked.
    pub path: String,
    pub spelling: Spelling,
    /// All of these conditions must be met.
    pub headers: Vec<HeaderCondition>,
    /// The listeners through which a request may come, sorted and each once. Empty: any listener.
    pub listeners: Vec<Arc<str>>,
    /// Precedes all other rules of the order; a higher value wins.
    pub priority: i32,
}

/// The hosts that a route matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostPattern {
    #[default]
    Any,
    /// In lower case, without port.
    Exact(String),
    /// `*.shop.example` is kept as `.shop.example`. It matches hosts with one or more labels before that.
    Suffix(String),
}

/// A condition on a header field of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    pub name: HeaderName,
    /// The value that one line of the field must have. `None`: the field must be present.
    pub value: Option<HeaderValue>,
}
