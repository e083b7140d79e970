//! The host that a request is for: Host, `:authority` and an absolute-form target must all have the same one.

use std::rc::Rc;

use http::{HeaderValue, Uri, Version, header, request::Parts};

use super::{Arrival, Refusal};
use crate::message::{Authority, HostAndPort, Scheme};

/// The authority of a request. `last` is that of the connection's last request. Usually it is the same, and then
/// nothing is parsed or allocated.
pub(super) fn check(
    parts: &Parts,
    scheme: Scheme,
    last: Option<&Rc<Authority>>,
) -> Result<Rc<Authority>, Refusal> {
    let read = |written| HostAndPort::parse(written).ok_or(Refusal::HostInvalid);
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = lines.next().map(HeaderValue::as_bytes);
    if lines.next().is_some() {
        return Err(Refusal::HostRepeated);
    }
    // The `:authority` of HTTP/2, or an absolute-form target.
    let target = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let written = match (line, target) {
        (Some(line), Some(target)) => {
            if !read(line)?.is_same(&read(target)?, scheme) {
                return Err(Refusal::AuthorityMismatch);
            }
            line
        }
        (Some(line), None) => line,
        // `:authority` replaces Host (RFC 9113 §8.3.1). HTTP/1.1 requires Host in any case (RFC 9112 §3.2).
        (None, Some(target)) if parts.version > Version::HTTP_11 => target,
        (None, Some(target)) => {
            read(target)?;
            return Err(Refusal::HostMissing);
        }
        (None, None) => return Err(Refusal::HostMissing),
    };
    match last {
        Some(last) if last.is_of(written, scheme) => Ok(Rc::clone(last)),
        _ => Authority::parse(written, scheme).map(Rc::new).ok_or(Refusal::HostInvalid),
    }
}

/// The scheme that the request was made for. A scheme that is not the listener's is a statement about an earlier hop,
/// as `X-Forwarded-Proto` is: it is accepted from a trusted proxy that ended TLS, and refused from all other
/// peers. (h2 does not report `:scheme` without `:authority`; the scheme is the listener's then.)
pub(super) fn check_scheme(target: &Uri, arrival: Arrival) -> Result<Scheme, Refusal> {
    let Some(stated) = target.scheme_str() else { return Ok(arrival.scheme) };
    let stated = Scheme::parse(stated).ok_or(Refusal::SchemeMismatch)?;
    if stated == arrival.scheme || arrival.peer_is_trusted {
        Ok(stated)
    } else {
        Err(Refusal::SchemeMismatch)
    }
}
