//! `host:port`: the name of an endpoint in requests (`Host`, `:authority`) and in TLS.

use std::net::SocketAddr;

use http::HeaderValue;

/// The name of an endpoint in the forms that requests and connections need. It is compiled once, so that these parse
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    value: HeaderValue,
    /// The host in `value`, without the brackets of an IPv6 address.
    host: Box<str>,
}

impl HostPort {
    /// The name of the endpoint at `address` that the configuration or the registry calls `text`. A text that is not a
    /// header value cannot have been resolved to an address; the address becomes the name then.
    pub fn new(text: &str, address: SocketAddr) -> Self {
        let address = address.to_string();
        let text = if text.bytes().all(|byte| byte.is_ascii_graphic()) { text } else { &address };
        // Visible ASCII is a header value, so the fallback is never taken.
        let value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host).trim_matches(['[', ']']).into();
        Self { value, host }
    }

    pub fn as_str(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }

    pub fn as_value(&self) -> &HeaderValue {
        &self.value
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_neither_port_nor_brackets_and_what_cannot_be_sent_is_the_address() {
        let address = ([192, 0, 2, 1], 80).into();
        let read = |text| {
            let read = HostPort::new(text, address);
            (read.as_str().to_owned(), read.host().to_owned())
        };
        for (text, shown, host) in [
            ("users.internal:80", "users.internal:80", "users.internal"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443", "2001:db8::1"),
            ("users", "users", "users"),
            ("a\nb:80", "192.0.2.1:80", "192.0.2.1"),
            ("é:80", "192.0.2.1:80", "192.0.2.1"),
        ] {
            assert_eq!(read(text), (shown.to_owned(), host.to_owned()), "{text}");
        }
    }
}
