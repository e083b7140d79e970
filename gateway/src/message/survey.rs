//! One pass over a request's header section, so that later steps do not look for fields that are missing.
//!
//! A look-up in a header map hashes the name; a request would need a dozen of them, nearly all in vain. The survey
//! reads each line once and keeps a bit for every kind of field that some step looks for. A bit only shows
//! that the request has such a field: the step reads the field from the map itself.

use http::{HeaderMap, HeaderName};

use super::{
    guarded::{GuardedNames, Verdict},
    names::Kind,
};

/// The kinds of fields that the header section of a request contains, and its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    found: u16,
    /// Bytes of all names and values.
    pub bytes: usize,
}

/// A kind of field that some step looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Found {
    Connection = 1,
    ContentLength = 1 << 1,
    TransferEncoding = 1 << 2,
    Expect = 1 << 3,
    Via = 1 << 4,
    /// A field that ends at this hop from any sender, or looks like a field that only the gateway writes.
    Dropped = 1 << 5,
    /// A field in which a proxy describes earlier hops. It stays only if that proxy is trusted.
    Forwarding = 1 << 6,
    /// Another field that only trusted peers may send.
    Untrusted = 1 << 7,
    /// A field that carries an identity to the service.
    Identity = 1 << 8,
    Upgrade = 1 << 9,
    Te = 1 << 10,
    Trailer = 1 << 11,
}

impl Survey {
    /// Surveys the header section of a request.
    pub fn of(headers: &HeaderMap, names: &GuardedNames) -> Self {
        let mut survey = Self::default();
        for (name, value) in headers {
            survey.bytes += name.as_str().len() + value.len();
            survey.found |= found(name, names);
        }
        survey
    }

    /// Whether the request has a field of this kind.
    pub(crate) fn has(self, what: Found) -> bool {
        self.found & what as u16 != 0
    }

    /// Whether the request has fields that [`remove_claimed`](crate::headers::remove_claimed) removes.
    pub(crate) fn has_claimed(self, peer_is_trusted: bool) -> bool {
        self.has(Found::Identity) || (self.has(Found::Untrusted) && !peer_is_trusted)
    }

    /// Whether some field is not sent to the service.
    pub(crate) fn has_dropped(self, peer_is_trusted: bool) -> bool {
        self.has(Found::Dropped) || (self.has(Found::Forwarding) && !peer_is_trusted)
    }
}

fn found(name: &HeaderName, names: &GuardedNames) -> u16 {
    let name = name.as_str();
    if !names.may_know(name) {
        return 0;
    }
    let dropped = Found::Dropped as u16;
    // An identity field may be of another kind as well, so both bits are set.
    let identity = if names.is_identity(name) { Found::Identity as u16 | dropped } else { 0 };
    identity
        | match Kind::of(name) {
            Kind::HopByHop if name == "connection" => Found::Connection as u16 | dropped,
            Kind::HopByHop if name == "upgrade" => Found::Upgrade as u16 | dropped,
            Kind::HopByHop if name == "te" => Found::Te as u16 | dropped,
            Kind::HopByHop if name == "trailer" => Found::Trailer as u16 | dropped,
            Kind::Framing if name == "content-length" => Found::ContentLength as u16,
            Kind::Framing if name == "transfer-encoding" => Found::TransferEncoding as u16 | dropped,
            Kind::Managed if name == "via" => Found::Via as u16,
            Kind::Managed if name == "expect" => Found::Expect as u16 | dropped,
            Kind::HopByHop | Kind::Managed => dropped,
            Kind::Forwarding => Found::Forwarding as u16,
            Kind::Framing | Kind::Credential => 0,
            Kind::EndToEnd => match names.verdict(name) {
                Verdict::Passes => 0,
                Verdict::Untrusted => Found::Untrusted as u16,
                Verdict::LooksLikeAnother => dropped,
            },
        }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::message::ConfiguredNames;

    #[test]
    fn no_name_of_which_something_is_known_is_hidden_by_the_first_look() {
        let names = GuardedNames::compile(ConfiguredNames {
            identity: vec![HeaderName::from_static("x-user-id")],
            untrusted: ["Client-Cert", "cf-*", "X-Original-URL"].map(str::to_owned).to_vec(),
            ..ConfiguredNames::default()
        });
        for known in [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy",
            "te",
            "trailer",
            "upgrade",
            "transfer-encoding",
            "content-length",
            "host",
            "authorization",
            "cookie",
            "forwarded",
            "x-real-ip",
            "expect",
            "via",
            "x-request-id",
            "proxy-authorization",
            "x-forwarded-for",
            "x-forwarded-",
            "x-user-id",
            "client-cert",
            "cf-connecting-ip",
            "x-original-url",
        ] {
            assert!(names.may_know(known), "{known}");
            for byte in "!#$%&'*+.^_`|~".chars() {
                let look_alike = known.replace('-', &byte.to_string());
                assert!(names.may_know(&look_alike), "{look_alike}");
            }
        }
        assert!(!names.may_know("accept-language") && !names.may_know("user-agent"));
    }

    #[test]
    fn a_field_that_carries_an_identity_is_still_what_it_is_otherwise() {
        let mut headers = HeaderMap::new();
        headers.insert("expect", HeaderValue::from_static("100-continue"));
        let guarding = |names: &[&'static str]| {
            let identity = names.iter().map(|name| HeaderName::from_static(name)).collect();
            GuardedNames::compile(ConfiguredNames { identity, ..ConfiguredNames::default() })
        };
        let survey = Survey::of(&headers, &guarding(&["expect"]));
        assert!(survey.has(Found::Expect) && survey.has(Found::Dropped));
        assert!(!Survey::of(&headers, &guarding(&["expect"])).has(Found::Via));
    }
}
