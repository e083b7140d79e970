//! The parts of a route that govern its traffic, as written: rate limits, timeouts, retries, rewriting, header rules.
//!
//! Each has a short form for the plain case and a map for the rest, and both mean the same fields.

use std::str::FromStr as _;

use http::{HeaderName, HeaderValue};

use super::{
    fields::{Fields, Known, named_entries, value},
    pattern::{path_prefix, upstream_host},
    tree::{At, Node},
};
use crate::{
    config::{
        diagnostics::{Diagnostic, Diagnostics, code},
        settings::UpstreamHost,
        units::Invalid,
    },
    headers::{MadeValue, fold, names::Kind},
};

#[derive(Debug, Clone, Default)]
pub(crate) struct Rewrite {
    pub(crate) strip: Option<At<String>>,
    pub(crate) add: Option<String>,
    pub(crate) host: Option<UpstreamHost>,
}

/// Rules for one direction. `set` and `add` merge by header name.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeaderRules {
    pub(crate) set: Vec<(HeaderName, FieldValue)>,
    pub(crate) add: Vec<(HeaderName, FieldValue)>,
    pub(crate) remove: Option<Vec<HeaderName>>,
}

#[derive(Debug, Clone)]
pub(crate) enum FieldValue {
    Fixed(HeaderValue),
    /// With something of the request in it.
    Made(MadeValue),
}

impl Rewrite {
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &REWRITE, sink) else { return Self::default() };
        Self {
            strip: fields.value("strip", sink, path_prefix),
            add: fields.plain("add", sink, path_prefix),
            host: fields.plain("host", sink, upstream_host),
        }
    }
}

impl HeaderRules {
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &HEADER_RULES, sink) else { return Self::default() };
        Self {
            set: fields.get("set").map(|node| read_header_map(node, "set", sink)).unwrap_or_default(),
            add: fields.get("add").map(|node| read_header_map(node, "add", sink)).unwrap_or_default(),
            remove: fields
                .values("remove", sink, settable_header)
                .map(|list| list.into_iter().map(|at| at.value).collect()),
        }
    }
}

fn read_header_map(node: &Node, what: &str, sink: &mut Diagnostics) -> Vec<(HeaderName, FieldValue)> {
    let mut headers = Vec::new();
    for entry in named_entries(node, &format!("`{what}`"), sink) {
        let name = match settable_header(&entry.key.value) {
            Ok(name) => Some(name),
            Err(invalid) => {
                sink.push(
                    Diagnostic::error(
                        invalid.code,
                        entry.key.span,
                        format!("`{what}` needs {}", invalid.expected),
                    )
                    .label(invalid.label),
                );
                None
            }
        };
        let header = value(&entry.value, what, sink, field_value);
        headers.extend(name.zip(header.map(|at| at.value)));
    }
    headers
}

fn field_value(text: &str) -> Result<FieldValue, Invalid> {
    let fixed = header_value(text)?;
    match MadeValue::parse(text) {
        Ok(Some(made)) => Ok(FieldValue::Made(made)),
        Ok(None) => Ok(FieldValue::Fixed(fixed)),
        Err(why) => Err(Invalid::new(code::BAD_VALUE, "a header value", why).help("`{{` stands for a brace")),
    }
}

pub(crate) fn header_value(text: &str) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_str(text)
        .map_err(|_| Invalid::new(code::BAD_VALUE, "a header value", "control characters are not allowed"))
}

/// A header that configuration may write. Framing and connection headers (RFC 9110 §7.6.1, RFC 9112 §6) belong to
/// the gateway alone: a rule for them would be a way to smuggle requests.
pub(crate) fn settable_header(text: &str) -> Result<HeaderName, Invalid> {
    let name = HeaderName::from_str(text).map_err(|_| {
        Invalid::new(code::BAD_VALUE, "a header name such as `X-User-Id`", "not a header name")
    })?;
    let folded = fold(name.as_str());
    let is_of_the_gateway = match Kind::of(&folded) {
        Kind::HopByHop => *folded != *"proxy-status",
        Kind::Framing => true,
        // Where the request came through is added, and what it expects is met.
        Kind::Managed => matches!(&*folded, "via" | "expect"),
        Kind::Credential | Kind::Forwarding | Kind::EndToEnd => false,
    };
    if is_of_the_gateway {
        let label = "the gateway itself decides about this header";
        return Err(Invalid::new(
            code::BAD_VALUE,
            "a header that is not about the connection or the length",
            label,
        ));
    }
    Ok(name)
}

/// `size` of `body_limit`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLimit {
    Off,
    Bytes(u64),
}

impl BodyLimit {
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" | "false" => Ok(Self::Off),
            _ => {
                crate::config::units::size_in(text, 1..=1 << 40).map(Self::Bytes).map_err(|e| match e.code {
                    code::OUT_OF_RANGE => e.help("write `off` for no limit"),
                    _ => e,
                })
            }
        }
    }
}

/// `gather`, or `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyStart {
    Gather,
    Stream,
}

impl BodyStart {
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "gather" => Ok(Self::Gather),
            "stream" => Ok(Self::Stream),
            _ => Err(Invalid::new(code::BAD_VALUE, "`stream` or `gather`", "not one of the two")),
        }
    }
}

pub(crate) static REWRITE: Known =
    Known { what: "`rewrite`", prefix: "rewrite.", fields: &["strip", "add", "host"], later: &["to"] };
pub(crate) static HEADER_RULES: Known =
    Known { what: "header rules", prefix: "", fields: &["set", "add", "remove"], later: &[] };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_headers_cannot_be_configured() {
        assert!(settable_header("X-User-Id").is_ok());
        assert!(settable_header("Proxy-Status").is_ok() && settable_header("X-Forwarded-User").is_ok());
        for text in [
            "Content-Length",
            "transfer-encoding",
            "Connection",
            "Host",
            "a b",
            "",
            "Content_Length",
            "Transfer.Encoding",
            "HTTP2-Settings",
            "Proxy",
            "Proxy-Authorization",
            "Via",
            "Expect",
            "Upgrade",
        ] {
            assert!(settable_header(text).is_err(), "{text:?}");
        }
    }
}
