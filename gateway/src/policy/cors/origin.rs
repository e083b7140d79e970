//! One origin in `cors.origins`: read as browsers serialise origins (HTML, "serialization of an origin"; URL Standard), and compared
//! byte by byte.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    router::pattern::host_pattern,
    syntax::{diagnostics::code, units::Invalid},
};

/// One entry of `origins`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AllowedOrigin {
    Any,
    Exact(String),
    /// `https://*.shop.example:8443` is `https://`, `.shop.example:8443`.
    Below {
        scheme: String,
        end: String,
    },
}

impl AllowedOrigin {
    /// Whether `origin`, as a browser sends it, is allowed by this entry.
    pub(super) fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => text.as_bytes() == origin,
            Self::Below { scheme, end } => {
                let front =
                    origin.strip_prefix(scheme.as_bytes()).and_then(|rest| rest.strip_suffix(end.as_bytes()));
                front.is_some_and(|front| front.split(|byte| *byte == b'.').all(is_label))
            }
        }
    }
}

impl AllowedOrigin {
    /// Whether it is a wildcard directly below one label, such as `https://*.com`. Names below `localhost` are of the own machine
    /// (RFC 6761 §6.3).
    pub(super) fn is_below_one_label(&self) -> bool {
        let Self::Below { end, .. } = self else { return false };
        let host = end.split(':').next().unwrap_or_default().trim_matches('.');
        !host.contains('.') && host != "localhost"
    }
}

/// As it would be written.
impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Below { scheme, end } => write!(f, "{scheme}*{end}"),
        }
    }
}

/// `https://app.example`, `https://*.shop.example`, `http://localhost:3000`, `*`.
pub(super) fn origin(text: &str) -> Result<AllowedOrigin, Invalid> {
    if text == "*" {
        return Ok(AllowedOrigin::Any);
    }
    if text.contains(is_between) {
        let parts: Vec<&str> = text.split(is_between).filter(|part| !part.is_empty()).collect();
        let refusal = refuse("several origins in one text");
        return Err(if parts.iter().all(|part| origin(part).is_ok()) {
            refusal.help(format!("write a list: `[\"{}\"]`", parts.join("\", \"")))
        } else {
            refusal
        });
    }
    if text == "null" {
        return Err(refuse("every page in a sandbox has this origin, whoever wrote it"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let with_scheme = format!("https://{text}");
        let refusal = refuse("the scheme is missing");
        let is_host = text.contains('.') || text.starts_with("localhost");
        return Err(if is_host && origin(&with_scheme).is_ok() {
            refusal.help(format!("write `{with_scheme}`"))
        } else {
            refusal
        });
    };
    let (scheme, rest) = (scheme.to_ascii_lowercase(), rest.to_ascii_lowercase());
    if let Some((bare, _)) = rest.split_once(['/', '?', '#']) {
        let bare = format!("{scheme}://{bare}");
        let refusal = refuse("an origin has no path");
        return Err(if origin(&bare).is_ok() { refusal.help(format!("write `{bare}`")) } else { refusal });
    }
    // RFC 3986 §3.1.
    let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(is_of_scheme) {
        return Err(refuse("not a scheme"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port =
                port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| refuse("not a port"))?;
            (host, Some(port))
        }
        _ => (rest.as_str(), None),
    };
    let own_port = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    // As browsers serialise it (HTML, "serialization of an origin").
    let port = port.filter(|port| Some(*port) != own_port).map(|port| format!(":{port}")).unwrap_or_default();
    match as_browsers_write(host) {
        Some(address) if address == host => {}
        Some(address) => {
            let help = format!("write `{scheme}://{address}{port}`");
            return Err(refuse("browsers write this address in another way").help(help));
        }
        None => check_name(host)?,
    }
    match host.strip_prefix('*') {
        Some("") => Err(refuse("a host must follow `*.`").help("write `*` for every origin")),
        Some(end) => Ok(AllowedOrigin::Below { scheme: format!("{scheme}://"), end: format!("{end}{port}") }),
        None => Ok(AllowedOrigin::Exact(format!("{scheme}://{host}{port}"))),
    }
}

fn refuse(label: &str) -> Invalid {
    let expected = "an origin such as `https://app.example` or `https://*.shop.example`";
    Invalid::new(code::BAD_VALUE, expected, label)
}

/// The error: why it is not a host name, and what to do.
fn check_name(host: &str) -> Result<(), Invalid> {
    if !host.is_ascii() {
        return Err(refuse("browsers write such a name in ASCII").help("write it as `xn--…`"));
    }
    host_pattern(host).map_err(|invalid| refuse(&invalid.label))?;
    // URL Standard, "ends in a number": such a host is an address or nothing.
    if is_number(host.rsplit('.').next().unwrap_or_default()) {
        return Err(refuse("for browsers, a host that ends in a number is an address such as `192.0.2.1`"));
    }
    Ok(())
}

/// The host as it is serialised if it is an address (URL Standard, "host serializing").
fn as_browsers_write(host: &str) -> Option<String> {
    if let Ok(v4) = host.parse::<Ipv4Addr>() {
        return Some(v4.to_string());
    }
    let v6 = host.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
    Some(match v6.segments() {
        // The library writes the end of these as an IPv4 address.
        [0, 0, 0, 0, 0, 0xffff, high, low] => format!("[::ffff:{high:x}:{low:x}]"),
        _ => format!("[{v6}]"),
    })
}

fn is_number(label: &str) -> bool {
    let is_decimal = !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    let is_hexadecimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_decimal || label.strip_prefix("0x").is_some_and(is_hexadecimal)
}

/// What stands between the items of a list that was written as one text.
fn is_between(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

fn is_label(label: &[u8]) -> bool {
    !label.is_empty() && label.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}
