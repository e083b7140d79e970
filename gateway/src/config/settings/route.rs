//! Routes: what they match, which clients may use them, and what happens to their requests.

use std::sync::Arc;

use http::Method;

use crate::{
    policy,
    router::{HeaderCondition, HostPattern, RouteMatch},
    syntax::{diagnostics::Span, hidden::OfRoute},
};

#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// Unique; from the file, or made from methods, host and path.
    pub name: String,
    /// Empty = any method.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// As written: `/users/**`, `/users/{id}`. Syntax is checked.
    pub path: String,
    /// Every condition must hold.
    pub headers: Vec<HeaderCondition>,
    /// Overrides "most specific first"; higher wins.
    pub priority: i32,
    /// Index into `Settings::services`; where there is a `split`, of its first part that has a share. `None`: there is a
    /// `redirect`, and no service.
    pub service: Option<usize>,
    /// Parts of the service (indexes into `Settings::services`) and their shares; empty = no split.
    pub split: Vec<(usize, u32)>,
    /// As they are written, all layers over each other. Routes without policies of their own have them in common.
    pub policies: Arc<policy::Written>,
    /// The service that declared it, as in `consul:dc1/orders`; `None`: the file.
    pub origin: Option<String>,
    /// Variables in what it matches, for wherever it is shown.
    pub hidden: OfRoute,
    /// Where the route stands (its `path:` value).
    pub span: Span,
}

impl RouteSettings {
    /// What the router knows of it.
    pub fn to_match(&self) -> RouteMatch {
        RouteMatch {
            name: self.name.clone(),
            methods: self.methods.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            spelling: self.policies.spelling,
            headers: self.headers.clone(),
            priority: self.priority,
        }
    }

    /// Of all routes, in their order.
    pub fn matches(routes: &[Self]) -> Vec<RouteMatch> {
        routes.iter().map(Self::to_match).collect()
    }
}
