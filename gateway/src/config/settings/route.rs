//! Routes: their matches, their policies and their services.

use std::sync::Arc;

use http::Method;

use crate::{
    policy,
    router::{HeaderCondition, HostPattern, RouteMatch},
    syntax::{diagnostics::Span, hidden::OfRoute},
};

/// The settings of one route.
#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// Unique name, from the file or made from methods, host and path.
    pub name: String,
    /// Empty = any method.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// The pattern as written, with valid syntax: `/users/**`, `/users/{id}`.
    pub path: String,
    /// Conditions that a request must all meet.
    pub headers: Vec<HeaderCondition>,
    /// Names of the listeners through which a request may come, sorted; empty = any listener.
    pub listeners: Vec<Arc<str>>,
    /// Overrides "most specific first"; higher wins.
    pub priority: i32,
    /// Index into `Settings::services`; with a `split`, it is the first part that has a share. `None`: the route has a
    /// `redirect` and no service.
    pub service: Option<usize>,
    /// Parts of the service (indexes into `Settings::services`) and their shares; empty = no split.
    pub split: Vec<(usize, u32)>,
    /// The policies as written, with all layers merged. Routes without policies of their own share one value.
    pub policies: Arc<policy::Written>,
    /// The service that declared the route, as in `consul:dc1/orders`; `None`: the route is from the file.
    pub origin: Option<String>,
    /// Environment variables in the match, whose values are not shown.
    pub hidden: OfRoute,
    /// The place of the route's `path` value.
    pub span: Span,
}

impl RouteSettings {
    /// The match for the router.
    pub fn to_match(&self) -> RouteMatch {
        RouteMatch {
            name: self.name.clone(),
            methods: self.methods.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            spelling: self.policies.spelling,
            headers: self.headers.clone(),
            listeners: self.listeners.clone(),
            priority: self.priority,
        }
    }

    /// The matches of all routes, in their order.
    pub fn matches(routes: &[Self]) -> Vec<RouteMatch> {
        routes.iter().map(Self::to_match).collect()
    }
}
