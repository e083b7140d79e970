//! Header names that the gateway treats specially, and their kinds.

use http::HeaderName;

use super::prefilter::Prefilter;

pub static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
pub static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How a gateway treats a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The field ends at this hop.
    HopByHop,
    /// The field states where the message ends, or its host; the gateway writes it anew.
    Framing,
    /// The field proves the client's identity.
    Credential,
    /// A proxy states in the field where the request came from.
    Forwarding,
    /// The gateway makes the field for every request.
    Managed,
    /// Any other field, which passes unchanged.
    EndToEnd,
}

/// Makes [`Kind::of`] and its prefilter from one list of names.
macro_rules! kinds {
    (
        names: { $($kind:ident: $($name:literal)|+,)+ }
        beginnings: { $($beginning_kind:ident: $beginning:literal,)+ }
    ) => {
        impl Kind {
            /// Matches all names that may not be [`Self::EndToEnd`].
            pub(super) const PREFILTER: Prefilter = Prefilter::EMPTY
                $($(.with_name($name))+)+
                $(.with_beginning($beginning))+;

            /// The kind of a name, which is in lower case as [`HeaderName::as_str`] returns it.
            pub(crate) fn of(name: &str) -> Self {
                // Two letters show it for most names, where a comparison would read all of it.
                if !Self::PREFILTER.may_match(name) {
                    return Self::EndToEnd;
                }
                match name {
                    $($($name)|+ => Self::$kind,)+
                    $(_ if name.starts_with($beginning) => Self::$beginning_kind,)+
                    _ => Self::EndToEnd,
                }
            }
        }
    };
}

kinds! {
    names: {
        HopByHop: "connection" | "http2-settings" | "keep-alive" | "proxy" | "te" | "trailer" | "upgrade",
        Framing: "content-length" | "host" | "transfer-encoding",
        Credential: "authorization" | "cookie",
        Forwarding: "forwarded" | "x-real-ip",
        Managed: "expect" | "via" | "x-request-id",
    }
    beginnings: {
        HopByHop: "proxy-",
        Forwarding: "x-forwarded-",
    }
}

impl Kind {
    /// Whether a request that names the field in Connection is refused.
    pub(crate) fn is_protected(self) -> bool {
        matches!(self, Self::Framing | Self::Credential | Self::Forwarding)
    }
}

/// Whether a Connection option does not name a field. (`upgrade` names one, which is always removed.)
pub(crate) fn is_plain_connection_option(option: &[u8]) -> bool {
    ["keep-alive", "close", "upgrade"].iter().any(|plain| option.eq_ignore_ascii_case(plain.as_bytes()))
}
