//! Protocols that a client wants to go on with on its connection (RFC 9110 §7.8).
//!
//! No protocol is tunnelled. A server may ignore `Upgrade`, and a client that would like a newer HTTP, or TLS, goes on without: `curl
//! --http2` and Java's HttpClient send `h2c` with every first request. A client that asks for anything else, such as `websocket`,
//! cannot use the answer to a plain request, and its service would take the request for one. It is refused.

use http::{HeaderMap, Version, header, request::Parts};

/// Whether the client cannot go on without another protocol.
pub(crate) fn needs_upgrade(parts: &Parts) -> bool {
    // RFC 9110 §7.8: to be ignored in HTTP/1.0, and where `Connection` does not name it: it is an earlier hop's then.
    parts.version == Version::HTTP_11
        && members(&parts.headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && members(&parts.headers, &header::UPGRADE).any(|protocol| !is_optional(protocol))
}

/// The members of a list in all of its lines.
fn members<'a>(headers: &'a HeaderMap, name: &'a header::HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// `name` or `name/version`. Names are compared without case, as every implementation does.
fn is_optional(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    OPTIONAL.iter().any(|optional| name.eq_ignore_ascii_case(optional))
}

/// Other ways to carry the same request (RFC 7540 §3.2, RFC 2817), of which the client does not depend on any.
const OPTIONAL: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];
