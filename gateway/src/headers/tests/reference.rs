//! The reference of [`write_request`]: the client's map is edited, one step after the other, and holds what the service gets.
//! It is simple to read and slow; nothing but tests calls it.

use super::{
    super::{request::is_dropped, *},
    *,
};
use crate::message::names::{
    X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PREFIX, X_FORWARDED_PROTO, X_REQUEST_ID,
};

/// Turns the client's header section into the service's.
pub(super) fn apply_request(headers: &mut HeaderMap, context: &ForwardContext<'_>) {
    if context.survey.has_dropped(context.peer_is_trusted) {
        remove_fields(headers, |name| is_dropped(name, context));
    }
    write_framing(headers, context);
    write_forwarding(headers, context);
    append_via(headers, context.version);
    headers.insert(&X_REQUEST_ID, context.request_id.clone());
    for (name, value) in context.forward {
        headers.insert(name.clone(), value.clone());
    }
    apply_rules(headers, context.rules);
    apply_made(headers, context.rules, &context.facts);
    if let Some(host) = context.host {
        headers.insert(header::HOST, host.clone());
    }
}

/// Writes one Host line, and one statement of where the content ends.
fn write_framing(headers: &mut HeaderMap, context: &ForwardContext<'_>) {
    headers.insert(header::HOST, context.authority.host_line().clone());
    match context.framing {
        Framing::Length(bytes) => write_content_length(headers, bytes),
        Framing::Chunked | Framing::Unstated => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // RFC 9110 §8.6: a method that anticipates content gets a length of 0 when there is none.
        Framing::None if matches!(*context.method, Method::POST | Method::PUT | Method::PATCH) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Framing::None => {}
    }
}

/// Writes the forwarding fields. The fields of a trusted peer stay, and its address is appended; otherwise the fields contain only
/// what the gateway itself sees.
fn write_forwarding(headers: &mut HeaderMap, context: &ForwardContext<'_>) {
    if let Some(prefix) = context.prefix {
        write_prefix(headers, prefix);
    }
    let scheme = HeaderValue::from_static(context.scheme.as_str());
    // Fields of untrusted peers have been removed, so only a trusted peer can have sent any that are left.
    if !context.survey.has(Found::Forwarding) || !context.peer_is_trusted {
        headers.insert(&X_FORWARDED_FOR, context.peer.clone());
        headers.insert(&X_FORWARDED_PROTO, scheme);
        headers.insert(&X_FORWARDED_HOST, context.authority.host_line().clone());
        headers.insert(&X_FORWARDED_PORT, context.authority.port_text().clone());
        return;
    }
    let addresses = joined(headers, &X_FORWARDED_FOR, context.peer);
    headers.insert(&X_FORWARDED_FOR, addresses.unwrap_or_else(|| context.peer.clone()));
    headers.entry(&X_FORWARDED_PROTO).or_insert(scheme);
    headers.entry(&X_FORWARDED_HOST).or_insert_with(|| context.authority.host_line().clone());
    if !headers.contains_key(&X_FORWARDED_PORT) {
        let port =
            default_port(headers.get(&X_FORWARDED_PROTO)).filter(|_| context.authority.port().is_none());
        headers.insert(&X_FORWARDED_PORT, port.unwrap_or_else(|| context.authority.port_text().clone()));
    }
}

/// The default port of the scheme that the trusted peer's client used.
fn default_port(proto: Option<&HeaderValue>) -> Option<HeaderValue> {
    match proto?.as_bytes() {
        b"https" => Some(HeaderValue::from_static("443")),
        b"http" => Some(HeaderValue::from_static("80")),
        _ => None,
    }
}

/// Writes the prefix that the service must put before its paths in links, after a prefix that a trusted peer has stripped before.
fn write_prefix(headers: &mut HeaderMap, prefix: &str) {
    let before = headers.get(&X_FORWARDED_PREFIX).map_or(&b""[..], HeaderValue::as_bytes);
    let before = before.strip_suffix(b"/").unwrap_or(before);
    if let Ok(value) = HeaderValue::from_bytes(&[before, prefix.as_bytes()].concat()) {
        headers.insert(&X_FORWARDED_PREFIX, value);
    }
}

/// All lines of a field in one list, with `last` at the end. `None`: there is no line.
fn joined(headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let mut text = lines.next()?.as_bytes().to_vec();
    for line in lines.chain([last]) {
        text.extend_from_slice(b", ");
        text.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// Writes one Content-Length line in the only form that has one reading.
fn write_content_length(headers: &mut HeaderMap, bytes: u64) {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let is_written = lines.next().is_some_and(|line| is_canonical_length(line.as_bytes()));
    // A single line with a canonical number is `bytes` itself, which was read from it.
    if !is_written || lines.next().is_some() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
}
