//! Which host a request is for: Host, `:authority` and an absolute-form target must all say the same one.

use std::rc::Rc;

use http::{HeaderValue, Uri, Version, header, request::Parts};

use super::{Arrival, Refusal};
use crate::message::{Authority, HostAndPort, Scheme};

/// The authority of a request. `last` is that of the connection's last request: nearly always it is the same one, and
/// then nothing is parsed or allocated.
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
    // HTTP/2 `:authority`, or an absolute-form target.
    let target = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let written = match (line, target) {
        (Some(line), Some(target)) => {
            if !read(line)?.is_same(&read(target)?, scheme) {
                return Err(Refusal::AuthorityMismatch);
            }
            line
        }
        (Some(line), None) => line,
        // RFC 9113 §8.3.1: `:authority` stands for Host. In HTTP/1.1, RFC 9112 §3.2 demands Host all the same.
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

/// The scheme that the request was made for. One that is not the listener's is a statement about an earlier hop, as
/// `X-Forwarded-Proto` is: believed of a trusted proxy that ended TLS, refused from anything else. (h2 does not pass
/// `:scheme` on without `:authority`; then it is the listener's.)
pub(super) fn check_scheme(target: &Uri, arrival: Arrival) -> Result<Scheme, Refusal> {
    let Some(stated) = target.scheme_str() else { return Ok(arrival.scheme) };
    let stated = Scheme::parse(stated).ok_or(Refusal::SchemeMismatch)?;
    if stated == arrival.scheme || arrival.peer_is_trusted {
        Ok(stated)
    } else {
        Err(Refusal::SchemeMismatch)
    }
}
