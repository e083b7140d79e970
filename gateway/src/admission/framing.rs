//! How a request's content is delimited (RFC 9112 §6). A message is refused if another program could find a different
//! end of it: request smuggling needs two programs that disagree about where a message ends.

use http::{HeaderValue, Version, header, request::Parts};

use super::Refusal;
use crate::message::{Found, Framing, Survey, parse_length};

/// How the request's content is delimited, or why two programs could disagree about that.
pub(super) fn check_request(parts: &Parts, survey: Survey) -> Result<Framing, Refusal> {
    let length = if survey.has(Found::ContentLength) { check_content_length(parts)? } else { None };
    let without_coding = match length {
        Some(bytes) => Framing::Length(bytes),
        None if parts.version > Version::HTTP_11 => Framing::Unstated,
        None => Framing::None,
    };
    if !survey.has(Found::TransferEncoding) {
        return Ok(without_coding);
    }
    let mut transfer_encoding = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = transfer_encoding.next() else {
        return Ok(without_coding);
    };
    // Transfer-Encoding in an HTTP/1.0 message is faulty framing (RFC 9112 §6.1), and HTTP/2 does not have it.
    if parts.version != Version::HTTP_11 {
        return Err(Refusal::TransferEncodingVersion);
    }
    // hyper reads only the last item of the last line.
    if transfer_encoding.next().is_some() {
        return Err(Refusal::TransferEncodingInvalid);
    }
    check_transfer_coding(coding)?;
    // RFC 9112 §6.1 allows two answers to a message with both fields: forwarding it with Transfer-Encoding alone, or
    // refusing it. hyper does the first and hides the Content-Length; where both are visible, it is refused here.
    if length.is_some() {
        return Err(Refusal::ContentLengthAndTransferEncoding);
    }
    Ok(Framing::Chunked)
}

/// Several lines with one value count as one (RFC 9110 §8.6). hyper joins them on HTTP/1.1, h2 does not; in both cases
/// the service gets one line.
fn check_content_length(parts: &Parts) -> Result<Option<u64>, Refusal> {
    let mut known = None;
    for line in parts.headers.get_all(header::CONTENT_LENGTH) {
        let bytes = parse_length(line.as_bytes()).ok_or(Refusal::ContentLengthInvalid)?;
        if known.is_some_and(|known| known != bytes) {
            return Err(Refusal::ContentLengthInvalid);
        }
        known = Some(bytes);
    }
    Ok(known)
}

/// Accepts one coding, `chunked`. Other known codings before a final `chunked` are valid but not supported: 501 (RFC
/// 9112 §6.1). Everything else is 400.
fn check_transfer_coding(value: &HeaderValue) -> Result<(), Refusal> {
    let value = value.as_bytes().trim_ascii();
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).rev();
    let last_is_chunked = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let is_known = |coding: &[u8]| KNOWN_CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known));
    if last_is_chunked && codings.all(is_known) {
        Err(Refusal::TransferCodingNotImplemented)
    } else {
        Err(Refusal::TransferEncodingInvalid)
    }
}

/// The HTTP transfer coding registry, without `chunked` and the withdrawn `identity`.
const KNOWN_CODINGS: [&[u8]; 5] = [b"gzip", b"x-gzip", b"compress", b"x-compress", b"deflate"];
