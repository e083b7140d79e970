//! Upgrades: other protocols to which a client wants to change its connection (RFC 9110 §7.8).
//!
//! No protocol is tunnelled. A server may ignore `Upgrade`, and a client that only prefers a newer HTTP, or TLS, then goes
//! on without: `curl --http2` and Java's HttpClient send `h2c` with every first request. A client that wants anything else,
//! such as `websocket`, cannot use the answer to a plain request, and its service would treat the request as one. Such a
//! request is refused.

use http::{HeaderMap, Version, header, request::Parts};

/// Whether the client cannot go on without another protocol.
pub(crate) fn needs_upgrade(parts: &Parts) -> bool {
    // `Upgrade` must be ignored in HTTP/1.0, and if it is not in `Connection`, because then it belongs to an earlier hop
    // (RFC 9110 §7.8).
    parts.version == Version::HTTP_11
        && members(&parts.headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && members(&parts.headers, &header::UPGRADE).any(|protocol| !is_optional(protocol))
}

/// The members of a list, over all of its lines.
fn members<'a>(headers: &'a HeaderMap, name: &'a header::HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// Whether `name` or `name/version` is in `OPTIONAL`. Names are compared without case, as every implementation does.
fn is_optional(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    OPTIONAL.iter().any(|optional| name.eq_ignore_ascii_case(optional))
}

/// Other ways to transmit the same request (RFC 7540 §3.2, RFC 2817). A client does not depend on any of them.
const OPTIONAL: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];
