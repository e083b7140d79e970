//! The response's header section, from what the service sent to what the client gets.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, response::Parts};

use super::{
    append_via, apply_rules,
    names::{Kind, X_REQUEST_ID},
    remove_fields, write_content_length,
};
use crate::{admission::parse_length, config::settings::HeaderRules};

/// How a response's content is delimited, and what that says about the connection it came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFraming {
    /// Content-Length to pass on. `None`: there is none, or chunks overrule it.
    pub content_length: Option<u64>,
    /// False if the message could be read in two ways, so that the connection may hold bytes of either reading.
    pub reusable: bool,
}

/// A response that must not be passed on: 502 `upstream_protocol_error`, and the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFault {
    TransferEncoding,
    ContentLength,
    /// 101, though nobody asked to switch protocols: what follows would not be HTTP.
    SwitchingProtocols,
}

impl ResponseFault {
    /// For the log; the client learns only the error's code.
    pub fn detail(self) -> &'static str {
        match self {
            Self::TransferEncoding => "the service's Transfer-Encoding is not exactly chunked",
            Self::ContentLength => "the service's Content-Length has no single value",
            Self::SwitchingProtocols => "the service switched protocols without being asked",
        }
    }
}

/// What the gateway knows about a response and its headers must say.
#[derive(Debug, Clone, Copy)]
pub struct ResponseContext<'a> {
    pub framing: ResponseFraming,
    /// That the response arrived by.
    pub version: Version,
    pub request_id: &'a HeaderValue,
    pub rules: &'a HeaderRules,
}

/// Refuses a response whose end is not certain. hyper's client has looked at the last Transfer-Encoding line and
/// at contradicting lengths only.
pub fn check_response(parts: &Parts) -> Result<ResponseFraming, ResponseFault> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ResponseFault::SwitchingProtocols);
    }
    let content_length = check_content_length(&parts.headers)?;
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(ResponseFraming { content_length, reusable: true });
    };
    let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some() || !is_chunked || parts.version < Version::HTTP_11 {
        return Err(ResponseFault::TransferEncoding);
    }
    // RFC 9112 §6.3: chunks overrule the length, and the pair may be an attempt at response splitting.
    Ok(ResponseFraming { content_length: None, reusable: content_length.is_none() })
}

/// Turns the service's header section into the client's.
pub fn apply_response(headers: &mut HeaderMap, context: &ResponseContext<'_>) {
    remove_fields(headers, is_dropped);
    match context.framing.content_length {
        Some(bytes) => write_content_length(headers, bytes),
        None => _ = headers.remove(header::CONTENT_LENGTH),
    }
    append_via(headers, context.version);
    headers.insert(&X_REQUEST_ID, context.request_id.clone());
    apply_rules(headers, context.rules);
}

/// RFC 9112 §6.3 (5): several equal values are one; anything else is an error.
fn check_content_length(headers: &HeaderMap) -> Result<Option<u64>, ResponseFault> {
    let lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut values =
        lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii));
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let length = parse_length(first).ok_or(ResponseFault::ContentLength)?;
    if values.all(|value| parse_length(value) == Some(length)) {
        Ok(Some(length))
    } else {
        Err(ResponseFault::ContentLength)
    }
}

/// `Proxy-Status` stays: RFC 9209 makes it end-to-end.
fn is_dropped(name: &HeaderName) -> bool {
    match Kind::of(name.as_str()) {
        Kind::HopByHop => *name != "proxy-status",
        _ => *name == header::TRANSFER_ENCODING,
    }
}
