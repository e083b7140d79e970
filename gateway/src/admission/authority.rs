//! Which host a request is for: Host, `:authority` and an absolute-form target must all say the same one.
//!
//! Grammar: a name of letters, digits, `-`, `_` and `.`, or an address, with an optional port. RFC 3986 §3.2.2
//! allows more in a name (percent-encoding, sub-delimiters); no real host needs it, and parsers disagree about it.

use std::{net::Ipv6Addr, rc::Rc};

use http::{HeaderValue, Uri, Version, header, request::Parts};

use super::{Arrival, Refusal, Scheme};

/// Host and port of a request, as every later step reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// As the client wrote it.
    written: Box<[u8]>,
    /// That decided which port is the default one.
    scheme: Scheme,
    host_line: HeaderValue,
    host_bytes: usize,
    port: Option<u16>,
    port_text: HeaderValue,
}

impl Authority {
    /// Reads one authority as a client wrote it.
    pub(crate) fn parse(written: &[u8], scheme: Scheme) -> Result<Self, Refusal> {
        Written::parse(written)?.settle(scheme)
    }

    /// Host to route by: lower case, without port and root dot; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        // The authority is ASCII by construction; an empty host matches no configured one.
        let host = self.host_line.as_bytes().get(..self.host_bytes).unwrap_or_default();
        std::str::from_utf8(host).unwrap_or_default()
    }

    /// `Host` for the upstream: [`Self::host`] with the port, unless that is the scheme's default.
    pub fn host_line(&self) -> &HeaderValue {
        &self.host_line
    }

    /// `None` is the scheme's default.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The port that the client used, also where it is the default one.
    pub fn port_text(&self) -> &HeaderValue {
        &self.port_text
    }

    /// Whether a request of this version has the canonical `Host` line already.
    pub(crate) fn is_the_host_line(&self, version: Version) -> bool {
        version <= Version::HTTP_11 && *self.written == *self.host_line.as_bytes()
    }
}

/// The authority of a request. `last` is that of the connection's last request: nearly always it is the same one, and
/// then nothing is parsed or allocated.
pub(super) fn check(
    parts: &Parts,
    scheme: Scheme,
    last: Option<&Rc<Authority>>,
) -> Result<Rc<Authority>, Refusal> {
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = lines.next().map(HeaderValue::as_bytes);
    if lines.next().is_some() {
        return Err(Refusal::HostRepeated);
    }
    // HTTP/2 `:authority`, or an absolute-form target.
    let target = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let written = match (line, target) {
        (Some(line), Some(target)) => {
            if !Written::parse(line)?.is_same(&Written::parse(target)?, scheme) {
                return Err(Refusal::AuthorityMismatch);
            }
            line
        }
        (Some(line), None) => line,
        // RFC 9113 §8.3.1: `:authority` stands for Host. In HTTP/1.1, RFC 9112 §3.2 demands Host all the same.
        (None, Some(target)) if parts.version > Version::HTTP_11 => target,
        (None, Some(target)) => {
            Written::parse(target)?;
            return Err(Refusal::HostMissing);
        }
        (None, None) => return Err(Refusal::HostMissing),
    };
    match last {
        Some(last) if *last.written == *written && last.scheme == scheme => Ok(Rc::clone(last)),
        _ => Authority::parse(written, scheme).map(Rc::new),
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

struct Written<'a> {
    /// As received, without the root dot.
    host: &'a str,
    port: Option<u16>,
    whole: &'a [u8],
}

impl<'a> Written<'a> {
    fn parse(whole: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(whole).map_err(|_| Refusal::HostInvalid)?;
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                address.parse::<Ipv6Addr>().map_err(|_| Refusal::HostInvalid)?;
                let port = match rest {
                    "" => None,
                    _ => Some(rest.strip_prefix(':').ok_or(Refusal::HostInvalid)?),
                };
                (&text[..address.len() + 2], port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (check_name(host)?, Some(port)),
                None => (check_name(text)?, None),
            },
        };
        let port = port.map(parse_port).transpose()?.flatten();
        Ok(Self { host, port, whole })
    }

    fn is_same(&self, other: &Self, scheme: Scheme) -> bool {
        let port = |authority: &Self| authority.port.unwrap_or(scheme.default_port());
        self.host.eq_ignore_ascii_case(other.host) && port(self) == port(other)
    }

    /// The one form that is compared, routed and forwarded.
    fn settle(&self, scheme: Scheme) -> Result<Authority, Refusal> {
        let port = self.port.filter(|&port| port != scheme.default_port());
        let mut text = self.host.to_ascii_lowercase();
        if let Some(port) = port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        Ok(Authority {
            written: self.whole.into(),
            scheme,
            host_line: HeaderValue::try_from(text).map_err(|_| Refusal::HostInvalid)?,
            host_bytes: self.host.len(),
            port,
            port_text: HeaderValue::from(port.unwrap_or(scheme.default_port())),
        })
    }
}

/// The name without its root dot.
fn check_name(name: &str) -> Result<&str, Refusal> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let valid = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(is_name_byte)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..");
    if valid { Ok(name) } else { Err(Refusal::HostInvalid) }
}

/// RFC 3986 §3.2.3 allows an empty port, which means the default one.
fn parse_port(digits: &str) -> Result<Option<u16>, Refusal> {
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > PORT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::HostInvalid);
    }
    digits.parse().map(Some).map_err(|_| Refusal::HostInvalid)
}

/// RFC 1035 §2.3.4, in text form without the root dot.
const NAME_BYTES_MAX: usize = 253;

const PORT_DIGITS_MAX: usize = 5;
