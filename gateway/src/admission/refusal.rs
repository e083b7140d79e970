//! The reasons for which admission refuses a request: one table of status, code and text.

use http::StatusCode;

/// The reason of a refusal. Each refusal ends the downstream connection (HTTP/1) or stream (HTTP/2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    TargetTooLong,
    TooManyHeaders,
    HeadersTooLarge,
    TooManyCookies,
    HeaderPadded,
    MethodNotAllowed,
    MethodNotImplemented,
    ConnectionTooLong,
    ConnectionInvalid,
    ConnectionNamesProtected,
    ContentLengthInvalid,
    ContentLengthAndTransferEncoding,
    TransferEncodingVersion,
    TransferEncodingInvalid,
    TransferCodingNotImplemented,
    ExpectationFailed,
    HostMissing,
    HostRepeated,
    HostInvalid,
    AuthorityMismatch,
    /// The connection's certificate is for other hosts.
    Misdirected,
    SchemeMismatch,
    TargetForm,
    TargetCharacter,
    TargetEncoding,
    TargetDotSegment,
    TargetEmptySegment,
    TargetAmbiguous,
}

impl Refusal {
    /// The status of the local reply.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// A stable word for problem bodies, logs and metrics.
    pub fn code(self) -> &'static str {
        self.row().1
    }

    /// One sentence for the client. It contains nothing that the client sent.
    pub fn detail(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (StatusCode, &'static str, &'static str) {
        let bad_request = |detail| (StatusCode::BAD_REQUEST, "bad_request", detail);
        let too_large = |detail| (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail);
        let not_implemented = |detail| (StatusCode::NOT_IMPLEMENTED, "not_implemented", detail);
        match self {
            Self::TargetTooLong => {
                (StatusCode::URI_TOO_LONG, "uri_too_long", "The request target is too long.")
            }
            Self::TooManyHeaders => too_large("The request has too many header lines."),
            Self::HeadersTooLarge => too_large("The request's header section is too large."),
            Self::TooManyCookies => too_large("The request has too many cookies."),
            Self::HeaderPadded => bad_request("A header value begins or ends with whitespace."),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This gateway does not accept CONNECT and TRACE.",
            ),
            Self::MethodNotImplemented => not_implemented("The request method is not known here."),
            Self::ConnectionTooLong => bad_request("The Connection field has too many options."),
            Self::ConnectionInvalid => bad_request("An option in the Connection field is not a token."),
            Self::ConnectionNamesProtected => {
                bad_request("The Connection field names a field that must reach the service.")
            }
            Self::ContentLengthInvalid => bad_request("Content-Length is not one decimal number."),
            Self::ContentLengthAndTransferEncoding => {
                bad_request("The request has both Content-Length and Transfer-Encoding.")
            }
            Self::TransferEncodingVersion => bad_request("Transfer-Encoding needs HTTP/1.1."),
            Self::TransferEncodingInvalid => bad_request("Transfer-Encoding must be chunked, once."),
            Self::TransferCodingNotImplemented => {
                not_implemented("No transfer coding other than chunked is supported.")
            }
            Self::ExpectationFailed => (
                StatusCode::EXPECTATION_FAILED,
                "expectation_failed",
                "The only supported expectation is 100-continue.",
            ),
            Self::HostMissing => bad_request("The request has no Host."),
            Self::HostRepeated => bad_request("The request has more than one Host."),
            Self::HostInvalid => bad_request("Host is not a name or address with an optional port."),
            Self::AuthorityMismatch => bad_request("The request target and Host name different hosts."),
            // RFC 9110 §15.5.20: the client may repeat the request on another connection, whatever its method is.
            Self::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                "The certificate of this connection is for other hosts.",
            ),
            Self::SchemeMismatch => bad_request("The request target's scheme is not this listener's."),
            Self::TargetForm => bad_request("The request target must be a path that starts with a slash."),
            Self::TargetCharacter => bad_request("The request target has a character that must be encoded."),
            Self::TargetEncoding => {
                bad_request("The path has a percent-encoding that is invalid or ambiguous.")
            }
            Self::TargetDotSegment => bad_request("The path has a dot segment."),
            Self::TargetEmptySegment => bad_request("The path has an empty segment."),
            Self::TargetAmbiguous => {
                bad_request("A service could read the path as one that this route does not give.")
            }
        }
    }
}
