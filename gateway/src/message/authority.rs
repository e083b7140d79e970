//! Host and port of a request, in the one form in which every later step reads them.
//!
//! Grammar: a name of letters, digits, `-`, `_` and `.`, or an address, with an optional port. RFC 3986 §3.2.2
//! allows more in a name (percent-encoding, sub-delimiters); no real host needs it, and parsers disagree about it.

use std::net::Ipv6Addr;

use http::HeaderValue;

use super::scheme::Scheme;

/// Host and port of a request, in the one form in which every later step reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The text as the client wrote it.
    written: Box<[u8]>,
    /// The scheme whose default port is left out.
    scheme: Scheme,
    host_line: HeaderValue,
    host_bytes: usize,
    port: Option<u16>,
    port_text: HeaderValue,
}

impl Authority {
    /// Reads one authority as a client wrote it. `None`: the text is not an authority.
    pub(crate) fn parse(written: &[u8], scheme: Scheme) -> Option<Self> {
        HostAndPort::parse(written)?.settle(scheme)
    }

    /// The host for routing, in lower case and without port and root dot; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        // The authority is ASCII by construction; an empty host matches no configured one.
        let host = self.host_line.as_bytes().get(..self.host_bytes).unwrap_or_default();
        std::str::from_utf8(host).unwrap_or_default()
    }

    /// `Host` for the upstream: [`Self::host`] with the port, unless it is the scheme's default.
    pub fn host_line(&self) -> &HeaderValue {
        &self.host_line
    }

    /// The port; `None` is the scheme's default.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The port that the client used, written even if it is the default one.
    pub fn port_text(&self) -> &HeaderValue {
        &self.port_text
    }

    /// Whether the authority was read from this text, for this scheme.
    pub(crate) fn is_of(&self, written: &[u8], scheme: Scheme) -> bool {
        *self.written == *written && self.scheme == scheme
    }
}

/// The parts of one authority as it is written.
pub(crate) struct HostAndPort<'a> {
    /// The host as received, without the root dot.
    host: &'a str,
    port: Option<u16>,
    whole: &'a [u8],
}

impl<'a> HostAndPort<'a> {
    /// Reads one authority. `None`: the text is not an authority.
    pub(crate) fn parse(whole: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(whole).ok()?;
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                address.parse::<Ipv6Addr>().ok()?;
                let port = match rest {
                    "" => None,
                    _ => Some(rest.strip_prefix(':')?),
                };
                (&text[..address.len() + 2], port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (check_name(host)?, Some(port)),
                None => (check_name(text)?, None),
            },
        };
        let port = match port {
            // RFC 3986 §3.2.3 allows an empty port, which means the default one.
            None | Some("") => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        Some(Self { host, port, whole })
    }

    /// Whether both are the same host and port, with the default port of `scheme`.
    pub(crate) fn is_same(&self, other: &Self, scheme: Scheme) -> bool {
        let port = |authority: &Self| authority.port.unwrap_or(scheme.default_port());
        self.host.eq_ignore_ascii_case(other.host) && port(self) == port(other)
    }

    /// The canonical form, which is compared, routed and forwarded.
    fn settle(&self, scheme: Scheme) -> Option<Authority> {
        let port = self.port.filter(|&port| port != scheme.default_port());
        let mut text = self.host.to_ascii_lowercase();
        if let Some(port) = port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        Some(Authority {
            written: self.whole.into(),
            scheme,
            host_line: HeaderValue::try_from(text).ok()?,
            host_bytes: self.host.len(),
            port,
            port_text: HeaderValue::from(port.unwrap_or(scheme.default_port())),
        })
    }
}

/// The name without its root dot.
fn check_name(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let valid = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(is_name_byte)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..");
    valid.then_some(name)
}

fn parse_port(digits: &str) -> Option<u16> {
    if digits.len() > PORT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// RFC 1035 §2.3.4, in text form without the root dot.
const NAME_BYTES_MAX: usize = 253;

const PORT_DIGITS_MAX: usize = 5;
