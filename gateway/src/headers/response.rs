//! The response's header section, from what the service sent to what the client gets.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};

use super::{
    HeaderRules, append_via, apply_rules, is_canonical_length, naming_options, remove_fields, trailers,
};
use crate::message::{
    names::{Kind, X_REQUEST_ID},
    parse_length,
};

/// How a response's content is delimited, and whether its connection can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFraming {
    /// Content-Length to pass on. `None`: there is none, or chunks overrule it.
    pub content_length: Option<u64>,
    /// False if the message can be read in two ways, so that bytes of either reading may be left on the connection.
    pub reusable: bool,
    /// What the head says about trailers.
    pub trailers: AnnouncedTrailers,
    /// The header section has just that length, on one line, in canonical form.
    is_written: bool,
}

/// What the head of a response says about trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnouncedTrailers {
    /// Nothing.
    None,
    /// There is a `Trailer` field.
    Some,
    /// `Connection` names a field, which ends at this hop in a trailer section too: no trailer passes.
    Confined,
}

/// The reason for which a response must not be passed on. The client gets 502 `upstream_protocol_error`, and the connection
/// is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFault {
    /// Transfer-Encoding is not exactly `chunked`.
    TransferEncoding,
    /// Content-Length does not have a single value.
    ContentLength,
    /// The status is 101, though the request did not ask to switch protocols: the bytes that follow would not be HTTP.
    SwitchingProtocols,
}

impl ResponseFault {
    /// The reason for the log. The client gets only the code of the error.
    pub fn detail(self) -> &'static str {
        match self {
            Self::TransferEncoding => "the service's Transfer-Encoding is not exactly chunked",
            Self::ContentLength => "the service's Content-Length has no single value",
            Self::SwitchingProtocols => "the service switched protocols without being asked",
        }
    }
}

/// The facts of a response from which its header section is written.
#[derive(Debug, Clone, Copy)]
pub struct ResponseContext<'a> {
    /// Framing of the content, as [`FramingReading`] read it.
    pub framing: ResponseFraming,
    /// Version of HTTP by which the response arrived.
    pub version: Version,
    /// Id of the request.
    pub request_id: &'a HeaderValue,
    /// Trailers may follow the content, and the client gets them.
    pub has_trailers: bool,
    /// The route's rules for responses.
    pub rules: &'a HeaderRules,
}

/// The framing of a final response, read field by field, and which fields end at this hop.
#[derive(Default)]
pub struct FramingReading {
    length: Length,
    is_chunked: bool,
    names_fields: bool,
    announces_trailers: bool,
}

impl FramingReading {
    /// Reads the next field. False: it ends at this hop, and is not passed on.
    ///
    /// # Errors
    /// With this field the end of the response is not certain.
    pub fn read(&mut self, name: &HeaderName, value: &[u8], version: Version) -> Result<bool, ResponseFault> {
        if *name == header::CONTENT_LENGTH {
            self.length.read(value)?;
            return Ok(true);
        }
        if *name == header::TRANSFER_ENCODING {
            let is_chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if self.is_chunked || !is_chunked || version < Version::HTTP_11 {
                return Err(ResponseFault::TransferEncoding);
            }
            self.is_chunked = true;
            return Ok(false);
        }
        // What it names is removed, and that may be the length.
        self.names_fields |= *name == header::CONNECTION && naming_options(value).next().is_some();
        match Kind::of(name.as_str()) {
            // Nearly all fields.
            Kind::EndToEnd => Ok(true),
            Kind::HopByHop if *name == header::TRAILER => {
                self.announces_trailers = true;
                Ok(true)
            }
            _ => Ok(!is_dropped(name)),
        }
    }

    /// Whether a `Connection` line names a field, besides `close` or `keep-alive`. Such fields end at this hop, too:
    /// [`remove_named`](super::remove_named).
    pub fn names_fields(&self) -> bool {
        self.names_fields
    }

    /// There is a Transfer-Encoding. Chunks overrule a length (RFC 9112 §6.3).
    pub fn is_chunked(&self) -> bool {
        self.is_chunked
    }

    pub fn content_length(&self) -> Option<u64> {
        self.length.value
    }

    /// After the last field.
    pub fn framing(&self, status: StatusCode) -> ResponseFraming {
        let (length, is_chunked) = (&self.length, self.is_chunked);
        if status == StatusCode::NO_CONTENT {
            return ResponseFraming {
                // RFC 9110 §8.6: a 204 has no Content-Length, since it has no content; HTTP/2 clients refuse one that has. (304 and
                // responses to HEAD may have the length that the response to GET would have; 1xx are read elsewhere.)
                content_length: None,
                // Content that the service sends all the same would be read as the beginning of the connection's next response.
                reusable: !is_chunked && length.value.unwrap_or(0) == 0,
                is_written: length.value.is_none(),
                trailers: self.trailers(),
            };
        }
        let is_canonical = if is_chunked { length.value.is_none() } else { length.is_canonical() };
        ResponseFraming {
            // RFC 9112 §6.3: chunks overrule the length, and the pair may be an attempt at response splitting.
            content_length: length.value.filter(|_| !is_chunked),
            reusable: !is_chunked || length.value.is_none(),
            is_written: is_canonical && !self.names_fields,
            trailers: self.trailers(),
        }
    }

    fn trailers(&self) -> AnnouncedTrailers {
        match (self.names_fields, self.announces_trailers) {
            (true, _) => AnnouncedTrailers::Confined,
            (false, true) => AnnouncedTrailers::Some,
            (false, false) => AnnouncedTrailers::None,
        }
    }
}

/// Turns the service's header section, without the fields that end at this hop, into the client's.
pub fn apply_response(headers: &mut HeaderMap, context: &ResponseContext<'_>) {
    match context.framing.content_length {
        _ if context.framing.is_written => {}
        Some(bytes) => _ = headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes)),
        None => _ = headers.remove(header::CONTENT_LENGTH),
    }
    if context.framing.trailers != AnnouncedTrailers::None {
        trailers::announce(headers, context.has_trailers, context.rules);
    }
    append_via(headers, context.version);
    headers.insert(&X_REQUEST_ID, context.request_id.clone());
    apply_rules(headers, context.rules);
}

/// Removes the fields that end at this hop.
pub fn remove_dropped(headers: &mut HeaderMap) {
    remove_fields(headers, is_dropped);
}

/// The response that invites a client to send the body with which it waits (RFC 9110 §15.2.1).
pub fn invitation() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::CONTINUE;
    response
}

/// Whether a response with this status invites a client so.
pub fn is_invitation(status: StatusCode) -> bool {
    status == StatusCode::CONTINUE
}

/// Turns the fields of a service's informational response into the client's. Fields that belong to the final response are
/// removed: CORS, the request id, and every field that the route's rules remove or set.
pub fn apply_informational(headers: &mut HeaderMap, rules: &HeaderRules) {
    let is_final = |name: &HeaderName| {
        // The fields that the gateway or the route writes into the final response, and CORS, which belongs to it.
        *name == header::CONTENT_LENGTH
            || *name == header::TRAILER
            || *name == X_REQUEST_ID
            || name.as_str().starts_with("access-control-")
            || rules.set.iter().any(|(set, _)| set == name)
            || rules.made.iter().any(|made| made.name == *name)
    };
    remove_fields(headers, |name| is_dropped(name) || is_final(name));
    for name in &rules.remove {
        headers.remove(name);
    }
    append_via(headers, Version::HTTP_11);
}

/// The meaning of all Content-Length lines together. RFC 9112 §6.3 (5): several equal values are one; anything else is an
/// error.
#[derive(Default)]
struct Length {
    value: Option<u64>,
    lines: usize,
    is_plain: bool,
}

impl Length {
    fn read(&mut self, line: &[u8]) -> Result<(), ResponseFault> {
        self.lines += 1;
        self.is_plain = is_canonical_length(line);
        for item in line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let bytes = parse_length(item).ok_or(ResponseFault::ContentLength)?;
            if self.value.is_some_and(|known| known != bytes) {
                return Err(ResponseFault::ContentLength);
            }
            self.value = Some(bytes);
        }
        Ok(())
    }

    /// There is no line, or one in canonical form.
    fn is_canonical(&self) -> bool {
        self.lines == 0 || (self.lines == 1 && self.is_plain)
    }
}

/// Removes the fields that end at this hop.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_fields(headers, is_dropped);
}

/// Whether a field ends at this hop. `Proxy-Status` does not: RFC 9209 makes it end-to-end.
fn is_dropped(name: &HeaderName) -> bool {
    match Kind::of(name.as_str()) {
        // `Trailer` is about the content that follows, and is written anew with it.
        Kind::HopByHop => *name != "proxy-status" && *name != header::TRAILER,
        _ => *name == header::TRANSFER_ENCODING,
    }
}
