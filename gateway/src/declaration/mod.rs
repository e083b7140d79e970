//! Declarations: with a tag in the registry, a service declares a route, and how the instances with the tag are treated.
//!
//! Every owner of a service may write tags, so a declaration is a request, not an order: [`tags`] reads it, [`allow`]
//! checks it against the operator's lists, and [`standing`] ranks it by the service's instances. This room is pure.

pub mod allow;
pub mod standing;
pub mod tags;

use std::fmt;

use http::Method;

use crate::{
    policy,
    router::HostPattern,
    upstream::{
        settings::{HttpVersion, SHARE_UNITS},
        tls::UpstreamTls,
    },
};

/// One route as a tag declares it. Its text ([`fmt::Display`]) is the native form of the tag, without the prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// Any method matches if it is empty.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// A pattern as in the file: `/orders/**`.
    pub path: String,
    /// A layer of policies over those of the file.
    pub policies: policy::Written,
    /// Share of the route's requests that each instance with the tag gets, in units of 1 / [`SHARE_UNITS`]; `None`:
    /// the instance gets its part of the rest.
    pub weight: Option<u32>,
    /// TLS settings for each instance with the tag; `None`: those of the service.
    pub tls: Option<UpstreamTls>,
    /// Version of HTTP for each instance with the tag; `None`: that of the service.
    pub version: Option<HttpVersion>,
}

impl Declaration {
    /// The match as a text: `GET shop.example/orders/**`.
    pub fn condition(&self) -> String {
        let methods: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
        let space = if methods.is_empty() { "" } else { " " };
        let host = match &self.host {
            HostPattern::Any => String::new(),
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        };
        format!("{}{space}{host}{}", methods.join(","), self.path)
    }

    /// The same route without the treatment of the instances with the tag.
    #[must_use]
    pub fn of_all_instances(&self) -> Self {
        Self { weight: None, tls: None, version: None, ..self.clone() }
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.condition())?;
        self.policies.write_options(f)?;
        if let Some(weight) = self.weight {
            write!(f, " weight={}.{:04}", weight / SHARE_UNITS, weight % SHARE_UNITS)?;
        }
        match (&self.tls, self.version) {
            (Some(_), Some(HttpVersion::Http2)) => f.write_str(" proto=h2"),
            (Some(_), Some(HttpVersion::Grpc)) => f.write_str(" proto=grpcs"),
            (Some(_), _) => f.write_str(" proto=https"),
            (None, Some(HttpVersion::Http2)) => f.write_str(" proto=h2c"),
            (None, Some(HttpVersion::Grpc)) => f.write_str(" proto=grpc"),
            (None, _) => Ok(()),
        }?;
        if self.tls.as_ref().is_some_and(|tls| tls.insecure) {
            f.write_str(" tlsskipverify=true")?;
        }
        Ok(())
    }
}

/// Why a declared route is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The tag cannot be read.
    Invalid,
    /// The tag requires something that the gateway cannot do, or that a tag may not decide.
    Unsupported,
    /// An allow-list with its host and path is missing.
    NotAllowed,
    /// The file's routes match all of its requests first.
    StaticRoute,
    /// Another declared route in the table matches the same requests.
    Conflict,
    /// A limit on the number of declared routes is reached.
    TooMany,
}

impl Reason {
    /// All reasons, in the order of the variants.
    pub const ALL: [Self; 6] = [
        Self::Invalid,
        Self::Unsupported,
        Self::NotAllowed,
        Self::StaticRoute,
        Self::Conflict,
        Self::TooMany,
    ];

    /// The stable word in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::NotAllowed => "not_allowed",
            Self::StaticRoute => "static_route",
            Self::Conflict => "conflict",
            Self::TooMany => "too_many",
        }
    }
}

/// Why a declaration was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// One sentence for the owner of the service.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its reason and one sentence for the owner of the service.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
