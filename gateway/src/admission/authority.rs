//! Which host a request is for: Host, `:authority` and an absolute-form target must all say the same one.
//!
//! Grammar: a name of letters, digits, `-`, `_` and `.`, or an address, with an optional port. RFC 3986 §3.2.2
//! allows more in a name (percent-encoding, sub-delimiters); no real host needs it, and parsers disagree about it.

use std::net::Ipv6Addr;

use http::{HeaderValue, header, request::Parts};

use super::{Refusal, Scheme};

/// Host field for the upstream, length of its host part, and port unless it is the scheme's default.
pub(super) fn check(parts: &Parts, scheme: Scheme) -> Result<(HeaderValue, usize, Option<u16>), Refusal> {
    if parts.uri.scheme_str().is_some_and(|target_scheme| target_scheme != scheme.as_str()) {
        return Err(Refusal::SchemeMismatch);
    }
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Refusal::HostRepeated);
    }
    let host = line.map(|line| Authority::parse(line.as_bytes())).transpose()?;
    // HTTP/2 `:authority`, or an absolute-form target.
    let target = match parts.uri.authority() {
        Some(authority) => Some(Authority::parse(authority.as_str().as_bytes())?),
        None => None,
    };
    let authority = match (host, target) {
        (Some(host), Some(target)) if !host.is_same(&target, scheme) => {
            return Err(Refusal::AuthorityMismatch);
        }
        (Some(host), _) => host,
        // RFC 9113 §8.3.1: `:authority` stands for Host. In HTTP/1.1, RFC 9112 §3.2 demands Host all the same.
        (None, Some(target)) if parts.version > http::Version::HTTP_11 => target,
        (None, _) => return Err(Refusal::HostMissing),
    };
    let port = authority.port.filter(|&port| port != scheme.default_port());
    let value = match line {
        Some(line) if authority.is_canonical(port) => line.clone(),
        _ => HeaderValue::try_from(authority.to_canonical(port)).map_err(|_| Refusal::HostInvalid)?,
    };
    Ok((value, authority.host.len(), port))
}

struct Authority<'a> {
    /// As received, without the root dot.
    host: &'a str,
    port: Option<u16>,
    /// Bytes of the whole as received.
    written_bytes: usize,
}

impl<'a> Authority<'a> {
    fn parse(written: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(written).map_err(|_| Refusal::HostInvalid)?;
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
        Ok(Self { host, port, written_bytes: written.len() })
    }

    fn is_same(&self, other: &Self, scheme: Scheme) -> bool {
        let port = |authority: &Self| authority.port.unwrap_or(scheme.default_port());
        self.host.eq_ignore_ascii_case(other.host) && port(self) == port(other)
    }

    /// Whether what was received is, byte by byte, what [`Self::to_canonical`] would write.
    fn is_canonical(&self, port: Option<u16>) -> bool {
        let port_bytes = port.map_or(0, |port| 2 + port.checked_ilog10().unwrap_or(0) as usize);
        self.written_bytes == self.host.len() + port_bytes
            && !self.host.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    fn to_canonical(&self, port: Option<u16>) -> String {
        let mut text = self.host.to_ascii_lowercase();
        if let Some(port) = port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        text
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
