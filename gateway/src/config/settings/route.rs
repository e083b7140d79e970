//! Routes: what they match, who may use them, and what becomes of their requests.

use http::{HeaderName, HeaderValue, Method};

use crate::{
    admission::Oddities,
    config::{diagnostics::Span, hidden::OfRoute},
    headers::MadeField,
    policy,
    router::reading::Spelling,
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
    /// What else of the same path it takes.
    pub spelling: Spelling,
    /// What admission refuses in other paths.
    pub allow_in_path: Oddities,
    /// Every condition must hold.
    pub headers: Vec<HeaderCondition>,
    /// Overrides "most specific first"; higher wins.
    pub priority: i32,
    /// Index into `Settings::services`; where there is a `split`, of its first part that has a share. `None`: nobody is
    /// asked, since there is a `redirect`.
    pub service: Option<usize>,
    /// Parts of the service (indexes into `Settings::services`) and their shares; empty = no split.
    pub split: Vec<(usize, u32)>,
    /// As they are written, all layers over each other.
    pub policies: policy::Written,
    /// Largest request body; `None` = unlimited.
    pub body_bytes_max: Option<u64>,
    /// The endpoint is chosen when the body's end or its first bytes are there, not with the head.
    pub gathers_body: bool,
    pub rewrite: Option<RewriteSettings>,
    pub request_headers: HeaderRules,
    pub response_headers: HeaderRules,
    pub access_log: bool,
    /// The service that declared it, as in `consul:dc1/orders`; `None`: the file.
    pub origin: Option<String>,
    /// Variables in what it says, for wherever it is shown.
    pub hidden: OfRoute,
    /// Where the route stands (its `path:` value).
    pub span: Span,
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

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewriteSettings {
    /// Prefix to remove, e.g. `/api`.
    pub strip: Option<String>,
    /// Prefix to add after stripping.
    pub add: Option<String>,
    /// `None`: the service gets the `Host` that the client asked for.
    pub host: Option<UpstreamHost>,
}

/// `Host` in requests to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamHost {
    Name(HeaderValue),
    /// The instance's own address and port.
    Instance,
}

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
