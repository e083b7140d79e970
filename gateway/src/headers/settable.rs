//! Names and values of header fields that configuration may write.

use std::str::FromStr as _;

use http::{HeaderName, HeaderValue};

use crate::{
    message::{fold, names::Kind},
    syntax::{diagnostics::code, units::Invalid},
};

/// A value that configuration may write: any text without control characters.
pub(crate) fn header_value(text: &str) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_str(text)
        .map_err(|_| Invalid::new(code::BAD_VALUE, "a header value", "control characters are not allowed"))
}

/// A header that configuration may write. The gateway alone writes framing and connection headers (RFC 9110
/// §7.6.1, RFC 9112 §6): a rule for them would be a way to smuggle requests.
pub(crate) fn settable_header(text: &str) -> Result<HeaderName, Invalid> {
    let name = HeaderName::from_str(text).map_err(|_| {
        Invalid::new(code::BAD_VALUE, "a header name such as `X-User-Id`", "not a header name")
    })?;
    let folded = fold(name.as_str());
    let is_of_the_gateway = match Kind::of(&folded) {
        Kind::HopByHop => *folded != *"proxy-status",
        Kind::Framing => true,
        // The gateway adds its own hop to Via, and answers Expect itself.
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
