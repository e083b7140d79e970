//! Upgrades: other protocols to which a client wants to change its connection (RFC 9110 §7.8), or a stream of it (RFC 8441).
//!
//! A server may ignore `Upgrade`, and a client that only prefers a newer HTTP, or TLS, then goes on without: `curl --http2` and
//! Java's HttpClient send `h2c` with every first request. A client that wants anything else, such as `websocket`, cannot use
//! the answer to a plain request, and its service would treat the request as one.

use h2::ext::Protocol;
use http::{Version, header, request::Parts};

use crate::headers::list_members;

/// The protocols that the client asks for, in its order.
pub(crate) fn asked_protocols(parts: &Parts) -> impl Iterator<Item = &[u8]> {
    // `Upgrade` must be ignored in HTTP/1.0, and if it is not in `Connection`, because then it belongs to an earlier hop
    // (RFC 9110 §7.8).
    let is_asked = parts.version == Version::HTTP_11
        && list_members(&parts.headers, &header::CONNECTION)
            .any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let listed = is_asked.then(|| list_members(&parts.headers, &header::UPGRADE));
    let extended = parts.extensions.get::<Protocol>().map(|protocol| protocol.as_str().as_bytes());
    listed.into_iter().flatten().chain(extended)
}

/// Whether `name` or `name/version` is only another way to transmit the same request. Names are compared without case, as every
/// implementation does.
pub(crate) fn is_other_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    OTHER_HTTP.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Whether a request of HTTP/2 is an extended CONNECT (RFC 8441 §4).
pub(crate) fn is_extended_connect(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2 && parts.extensions.get::<Protocol>().is_some()
}

/// RFC 7540 §3.2, RFC 2817. A client does not depend on any of them.
const OTHER_HTTP: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];
