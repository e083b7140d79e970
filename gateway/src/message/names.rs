//! Header names that the gateway treats specially, and what each of them is.

use http::HeaderName;

use super::prefilter::Prefilter;

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

/// What a field is to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ends at this hop.
    HopByHop,
    /// States where the message ends or which host it is for; the gateway writes it anew.
    Framing,
    /// Proves the client's identity.
    Credential,
    /// A proxy's word about where the request came from.
    Forwarding,
    /// Made by the gateway for every request.
    Managed,
    /// All other fields: they pass unchanged.
    EndToEnd,
}

/// The one list of names: what [`Kind::of`] compares with, and what its prefilter knows.
macro_rules! kinds {
    (
        names: { $($kind:ident: $($name:literal)|+,)+ }
        beginnings: { $($beginning_kind:ident: $beginning:literal,)+ }
    ) => {
        impl Kind {
            /// What may be a name that is not [`Self::EndToEnd`].
            pub(super) const PREFILTER: Prefilter = Prefilter::EMPTY
                $($(.with_name($name))+)+
                $(.with_beginning($beginning))+;

            /// `name` is in lower case, as [`HeaderName::as_str`] gives it.
            pub(crate) fn of(name: &str) -> Self {
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
    /// Whether naming it in Connection is refused.
    pub(crate) fn is_protected(self) -> bool {
        matches!(self, Self::Framing | Self::Credential | Self::Forwarding)
    }
}

/// Connection options that name no field. (`upgrade` names one, but its removal is certain anyway.)
pub(crate) fn is_plain_connection_option(option: &[u8]) -> bool {
    ["keep-alive", "close", "upgrade"].iter().any(|plain| option.eq_ignore_ascii_case(plain.as_bytes()))
}
