//! The head of a response: its status, the fields that go on to the client, and how its content is delimited, in one pass.
//!
//! The bytes are parsed by `httparse`, which refuses what has two readings inside a line: bare CR, folded lines (RFC 9112
//! §5.2), white space before a colon (§5.1), control characters. What the fields mean together is read by the same
//! [`FramingReading`] that checks responses elsewhere. Two rules are added to those:
//!
//! - A response begins with its status line. Empty lines before it, which a server may ignore before a request
//!   (RFC 9112 §2.2), are refused.
//! - A line that ends with LF alone is accepted (§2.2), but a stricter reader would see another message, so the connection is
//!   not used again.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use crate::headers::{FramingReading, ResponseFault, ResponseFraming, remove_named};

/// What the head of a response depends on besides its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected {
    /// HEAD: the response has no content, whatever its fields contain.
    pub(super) is_head: bool,
    /// The request asks for another protocol, so the response may switch to it.
    pub(super) may_switch: bool,
}

/// What stands at the beginning of bytes.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Nothing that is complete.
    Partial,
    /// A 1xx response of so many bytes. The response that the request waits for is still to come.
    Informational {
        /// False if a line ends with a bare LF: the connection is not used again.
        has_crlf: bool,
        bytes: usize,
        response: Response<()>,
    },
    Final(FinalHead),
}

/// The head of a final response.
#[derive(Debug)]
pub(super) struct FinalHead {
    /// Bytes of the head.
    pub(super) bytes: usize,
    pub(super) response: Response<()>,
    pub(super) framing: ResponseFraming,
    pub(super) content: Delimited,
    /// All bytes after the head, if they are few and they need no change: in the memory of the fields.
    pub(super) behind: Option<Bytes>,
    /// As far as this head is concerned, the connection can serve another request.
    pub(super) keeps_alive: bool,
}

/// How the content of a response ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delimited {
    /// There is no content: the response ends with its head.
    Nothing,
    /// After so many bytes, and at least one.
    Length(u64),
    Chunked,
    /// With the connection.
    ByClose,
    /// What follows is another protocol.
    Switched,
}

/// Why bytes are not a head that may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadFault {
    #[error("its head has more than {RESPONSE_LINES_MAX} lines or {RESPONSE_HEAD_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it does not begin with a status line")]
    Start,
    #[error("its head is not HTTP/1: {0}")]
    Syntax(httparse::Error),
    #[error("its head has an invalid status or field")]
    Value,
    #[error("its informational responses have more than {INFORMATIONAL_BYTES_MAX} bytes")]
    Informational,
    #[error("{}", .0.detail())]
    Framing(ResponseFault),
}

/// Reads what stands at the beginning of `bytes`, which may go on behind it. `headers` is empty; its memory is used for the
/// fields of a final response.
///
/// # Errors
/// It is not a head that may be passed on, or becomes none, whatever follows.
pub(super) fn parse(bytes: &[u8], expected: Expected, headers: &mut HeaderMap) -> Result<Parsed, HeadFault> {
    if bytes.first().is_some_and(|first| *first != b'H') {
        return Err(HeadFault::Start);
    }
    let mut lines = [const { MaybeUninit::uninit() }; RESPONSE_LINES_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let end = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut lines) {
        Ok(httparse::Status::Complete(end)) if end <= RESPONSE_HEAD_BYTES_MAX => end,
        Ok(httparse::Status::Partial) if bytes.len() < RESPONSE_HEAD_BYTES_MAX => return Ok(Parsed::Partial),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::TooLarge),
        Err(error) => return Err(HeadFault::Syntax(error)),
    };
    let Some(head) = bytes.get(..end) else { return Ok(Parsed::Partial) };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadFault::Value)?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        let mut response = Response::new(());
        (*response.status_mut(), *response.version_mut()) = (status, version);
        let shared = Bytes::copy_from_slice(head);
        append_fields(&shared, head, parsed.headers, response.headers_mut(), |_, _| Ok(true))?;
        let has_crlf = ends_with_crlf(head, parsed.headers);
        return Ok(Parsed::Informational { bytes: end, response, has_crlf });
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return switched((bytes, end), &parsed, expected, headers);
    }
    let mut framing = FramingReading::default();
    let mut connection = Persistence::default();
    let is_chunked = parsed.headers.iter().any(|line| line.name.eq_ignore_ascii_case("transfer-encoding"));
    let behind = bytes.len() - end;
    let is_small = !is_chunked && behind > 0 && behind <= SHARED_BYTES_MAX;
    let shared = Bytes::copy_from_slice(if is_small { bytes } else { head });
    append_fields(&shared, head, parsed.headers, headers, |name, value| {
        if *name == header::CONNECTION {
            connection.read(value);
        }
        framing.read(name, value, version).map_err(HeadFault::Framing)
    })?;
    if framing.names_fields() {
        let is_connection = |line: &&httparse::Header<'_>| line.name.eq_ignore_ascii_case("connection");
        parsed.headers.iter().filter(is_connection).for_each(|line| remove_named(headers, line.value));
    }
    let content = delimited(&framing, status, expected)?;
    let mut response = Response::new(());
    (*response.status_mut(), *response.version_mut()) = (status, version);
    *response.headers_mut() = std::mem::take(headers);
    keep_reason(&mut response, parsed.reason);
    Ok(Parsed::Final(FinalHead {
        bytes: end,
        response,
        framing: framing.framing(status),
        content,
        behind: is_small.then(|| shared.slice(end..)),
        keeps_alive: connection.keeps_alive(version) && ends_with_crlf(head, parsed.headers),
    }))
}

/// A 101 (RFC 9110 §15.2.2). `Connection` and `Upgrade` stay, since they are what it means; whether the protocol is the one
/// that was asked for is checked later, with the request ([`Handshake`](crate::headers::Handshake)).
fn switched(
    (bytes, end): (&[u8], usize),
    parsed: &httparse::Response<'_, '_>,
    expected: Expected,
    headers: &mut HeaderMap,
) -> Result<Parsed, HeadFault> {
    let fault = HeadFault::Framing(ResponseFault::SwitchingProtocols);
    if !expected.may_switch || parsed.version != Some(1) {
        return Err(fault);
    }
    let head = bytes.get(..end).unwrap_or_default();
    let mut framing = FramingReading::default();
    append_fields(&Bytes::copy_from_slice(head), head, parsed.headers, headers, |name, value| {
        let passes = framing.read(name, value, Version::HTTP_11).map_err(|_| fault)?;
        let switches = *name == header::CONNECTION || *name == header::UPGRADE;
        Ok(switches || (passes && *name != header::CONTENT_LENGTH && *name != header::TRAILER))
    })?;
    let is_connection = |line: &&httparse::Header<'_>| line.name.eq_ignore_ascii_case("connection");
    parsed.headers.iter().filter(is_connection).for_each(|line| remove_named(headers, line.value));
    // A 101 has no content (RFC 9110 §8.6); a length of 0 does no harm.
    if framing.is_chunked() || framing.content_length().unwrap_or(0) > 0 {
        return Err(fault);
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = std::mem::take(headers);
    Ok(Parsed::Final(FinalHead {
        bytes: end,
        response,
        framing: FramingReading::default().framing(StatusCode::SWITCHING_PROTOCOLS),
        content: Delimited::Switched,
        behind: None,
        keeps_alive: false,
    }))
}

/// RFC 9112 §6.3, in its order. A 2xx to CONNECT is not there: the gateway forwards no CONNECT.
fn delimited(
    framing: &FramingReading,
    status: StatusCode,
    expected: Expected,
) -> Result<Delimited, HeadFault> {
    let never = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if never || expected.is_head {
        return Ok(Delimited::Nothing);
    }
    if framing.is_chunked() {
        return Ok(Delimited::Chunked);
    }
    match framing.content_length() {
        None => Ok(Delimited::ByClose),
        Some(0) => Ok(Delimited::Nothing),
        Some(length) if length <= LENGTH_MAX => Ok(Delimited::Length(length)),
        Some(_) => Err(HeadFault::Framing(ResponseFault::ContentLength)),
    }
}

/// Appends the fields for which `read` returns true. Their values share one copy of the bytes that begin with the head.
fn append_fields(
    shared: &Bytes,
    head: &[u8],
    lines: &[httparse::Header<'_>],
    to: &mut HeaderMap,
    mut read: impl FnMut(&HeaderName, &[u8]) -> Result<bool, HeadFault>,
) -> Result<(), HeadFault> {
    to.reserve(lines.len() + ADDED_FIELDS);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadFault::Value)?;
        if !read(&name, line.value)? {
            continue;
        }
        let from = offset(head, line.value);
        let value = HeaderValue::from_maybe_shared(shared.slice(from..from + line.value.len()));
        to.append(name, value.map_err(|_| HeadFault::Value)?);
    }
    Ok(())
}

/// The gateway's own fields, with those of most rules: a map that has room for them does not grow.
const ADDED_FIELDS: usize = 6;

/// Where `part` begins in `whole`, of which it is a part. An empty part may be anywhere.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    if part.is_empty() { 0 } else { part.as_ptr().addr() - whole.as_ptr().addr() }
}

/// Whether each line of a complete head ends with CR LF: the lines before each field, and the last two.
fn ends_with_crlf(head: &[u8], lines: &[httparse::Header<'_>]) -> bool {
    let is_after_cr = |line: &httparse::Header<'_>| {
        let lf = offset(head, line.name.as_bytes()).checked_sub(2);
        lf.and_then(|before| head.get(before)) == Some(&b'\r')
    };
    head.ends_with(b"\r\n\r\n") && lines.iter().all(is_after_cr)
}

/// The server writes the canonical reason of a status unless it finds another one here.
fn keep_reason(response: &mut Response<()>, reason: Option<&str>) {
    if reason != response.status().canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.unwrap_or_default().as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
}

/// The effect of Connection on the connection itself (RFC 9112 §9.3): `close` in any of its lines wins.
#[derive(Default)]
struct Persistence {
    closes: bool,
    keeps_alive: bool,
}

impl Persistence {
    fn read(&mut self, line: &[u8]) {
        let says = |option: &[u8]| {
            line.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(option))
        };
        self.closes |= says(b"close");
        // Only HTTP/1.0 needs `keep-alive` to go on, and only where the framing is not doubtful.
        self.keeps_alive |= line.is_ascii() && says(b"keep-alive");
    }

    fn keeps_alive(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps_alive)
    }
}

/// Largest response head. nginx's default is 4 or 8 KiB, HAProxy's 16.
pub(super) const RESPONSE_HEAD_BYTES_MAX: usize = 32 * 1024;
/// Field lines of a response: hyper's own limit, and Envoy's default.
pub(super) const RESPONSE_LINES_MAX: usize = 100;
/// Informational heads before one response, in bytes, and so four thousand of them at most: room for one 102 each second for a
/// quarter of an hour. Go's client takes five of them; nginx forwards as many bytes as one head may have, and drops the rest.
pub(super) const INFORMATIONAL_BYTES_MAX: usize = 64 * 1024;
/// Content of this size lies in the memory of its head: one allocation less for most responses.
const SHARED_BYTES_MAX: usize = 8 * 1024;
/// hyper keeps the two numbers above for itself, and its server sends such a response on.
const LENGTH_MAX: u64 = u64::MAX - 2;

#[cfg(test)]
mod tests;
