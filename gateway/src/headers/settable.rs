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
        // The gateway adds its own hop to Via, and passes the client's Expect on.
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

/// A header in which a verified claim may be forwarded: one that configuration may write, and in which services expect neither the way
/// of the request nor a credential.
pub(crate) fn identity_header(text: &str) -> Result<HeaderName, Invalid> {
    let name = settable_header(text)?;
    let is_taken = matches!(
        &*fold(name.as_str()),
        "authorization"
            | "cookie"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-prefix"
            | "x-forwarded-proto"
            | "x-real-ip"
            | "x-request-id"
    );
    if is_taken {
        let expected = "a header of your own, such as `X-User-Id`";
        return Err(Invalid::new(code::BAD_VALUE, expected, "this header has another meaning for services"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_takes_no_header_that_services_read_as_something_else() {
        for text in ["X-User-Id", "X-Forwarded-User", "X-Forwarded-Email", "Remote-User"] {
            assert!(identity_header(text).is_ok(), "{text}");
        }
        for text in [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Request-Id",
            "Authorization",
            "Cookie",
            "Forwarded",
            "Via",
        ] {
            assert!(identity_header(text).is_err(), "{text}");
        }
    }

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
