//! What a service declares with a tag in the registry: a route, and how the instances with the tag are treated.
//!
//! Everyone who may register a service may write a tag, so a declaration is a request, not an order: [`tags`] reads it, [`allow`]
//! checks it against the operator's lists, [`standing`] says what the service's instances mean for it. Everything in this room is pure.

pub mod allow;
pub mod standing;
pub mod tags;

use std::fmt;

use http::Method;

use crate::{
    policy,
    router::HostPattern,
    upstream::{settings::SHARE_UNITS, tls::UpstreamTls},
};

/// One route as a tag declares it. Its text ([`fmt::Display`]) is the native form of the tag, without the prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// Empty: any.
    pub methods: Vec<Method>,
    pub host: HostPattern,
    /// As in the file: `/orders/**`.
    pub path: String,
    /// One more layer of the policies of the file.
    pub policies: policy::Written,
    /// Share of the route's requests that goes to each instance with the tag, in units of 1 / [`SHARE_UNITS`]; `None`:
    /// the instance takes its part of what is left.
    pub weight: Option<u32>,
    /// How TLS is spoken with each instance that has the tag; `None`: as with the service.
    pub tls: Option<UpstreamTls>,
}

impl Declaration {
    /// What it matches, as one would say it: `GET shop.example/orders/**`.
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

    /// The same route, however the instances with the tag are treated.
    #[must_use]
    pub fn of_all_instances(&self) -> Self {
        Self { weight: None, tls: None, ..self.clone() }
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.condition())?;
        self.policies.write_options(f)?;
        if let Some(weight) = self.weight {
            write!(f, " weight={}.{:04}", weight / SHARE_UNITS, weight % SHARE_UNITS)?;
        }
        match &self.tls {
            Some(tls) if tls.insecure => f.write_str(" proto=https tlsskipverify=true"),
            Some(_) => f.write_str(" proto=https"),
            None => Ok(()),
        }
    }
}

/// Why a declared route is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The tag cannot be read.
    Invalid,
    /// It requires something that the gateway cannot do, or that a tag may not decide.
    Unsupported,
    /// No allow-list has its host and path.
    NotAllowed,
    /// The file's routes take everything that it would match.
    StaticRoute,
    /// Another declared route, which works, matches the same requests.
    Conflict,
    /// Past a limit on the number of declared routes.
    TooMany,
}

impl Reason {
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

/// A declaration that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// One sentence for the owner of the service.
    pub detail: String,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
