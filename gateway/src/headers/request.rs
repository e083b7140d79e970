//! The request's header section, from what the client sent to what the service gets.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use super::{HeaderRules, append_via, apply_rules, remove_fields, write_content_length};
use crate::message::{
    Authority, Found, Framing, GuardedNames, Scheme, Survey, Verdict,
    names::{
        Kind, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PREFIX, X_FORWARDED_PROTO,
        X_REQUEST_ID,
    },
};

/// The facts of a request from which its header section is written.
#[derive(Debug, Clone, Copy)]
pub struct ForwardContext<'a> {
    /// The survey of the header section as it is now.
    pub survey: Survey,
    /// The peer's address as text, without port. Made once per connection.
    pub peer: &'a HeaderValue,
    /// Whether the peer is one of `listen.trusted_proxies`, whose fields about earlier hops are passed on.
    pub peer_is_trusted: bool,
    /// The scheme that the client used, as far as it is known ([`crate::admission::Admitted::scheme`]).
    pub scheme: Scheme,
    /// The host and port that the client requested.
    pub authority: &'a Authority,
    /// Method of the request.
    pub method: &'a Method,
    /// Version of HTTP by which the request arrived.
    pub version: Version,
    /// Framing of the content, resolved ([`Framing::resolve`]).
    pub framing: Framing,
    /// Id of the request.
    pub request_id: &'a HeaderValue,
    /// The prefix that `rewrite.strip` took from the path.
    pub prefix: Option<&'a str>,
    /// The names that are removed from requests.
    pub names: &'a GuardedNames,
    /// Fields with verified claims of this request.
    pub forward: &'a [(HeaderName, HeaderValue)],
    /// The route's rules for requests.
    pub rules: &'a HeaderRules,
}

/// Turns the client's header section into the service's. The fields by which a protocol delimits content are written by
/// [`crate::upstream::protocol`].
pub fn apply_request(headers: &mut HeaderMap, context: &ForwardContext<'_>) {
    if context.survey.has_dropped(context.peer_is_trusted) {
        remove_fields(headers, |name| is_dropped(name, context));
    }
    // At most this many fields are new. Fails only past 32,768 fields, far beyond what admission lets in.
    let _ = headers.try_reserve(MANAGED_FIELDS + context.forward.len());
    write_framing(headers, context);
    write_forwarding(headers, context);
    append_via(headers, context.version);
    headers.insert(&X_REQUEST_ID, context.request_id.clone());
    for (name, value) in context.forward {
        headers.insert(name.clone(), value.clone());
    }
    apply_rules(headers, context.rules);
}

/// Removes what the sender of the request may not claim: the identity that only a credential proves, and, unless the peer is trusted, what
/// proxies report. It runs before anything is decided: a route's conditions and the keys of limits must not depend on it either.
pub fn remove_claimed(headers: &mut HeaderMap, names: &GuardedNames, peer_is_trusted: bool) {
    let is_claimed = |name: &&HeaderName| {
        let name = name.as_str();
        let is_untrusted = || Kind::of(name) == Kind::EndToEnd && names.verdict(name) == Verdict::Untrusted;
        names.is_claimed_identity(name) || (!peer_is_trusted && is_untrusted())
    };
    let claimed: Vec<HeaderName> = headers.keys().filter(is_claimed).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

/// The request id that a trusted peer sent, if it is fit for the log and the service: 1 to 128 visible characters.
pub fn trusted_request_id(headers: &HeaderMap, peer_is_trusted: bool) -> Option<&HeaderValue> {
    let value = if peer_is_trusted { headers.get(&X_REQUEST_ID)? } else { return None };
    let fit = (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic);
    fit.then_some(value)
}

fn is_dropped(name: &HeaderName, context: &ForwardContext<'_>) -> bool {
    if context.names.is_identity(name.as_str()) {
        return true;
    }
    match Kind::of(name.as_str()) {
        Kind::HopByHop => true,
        Kind::Framing => *name == header::TRANSFER_ENCODING,
        Kind::Forwarding => !context.peer_is_trusted,
        // Via names the earlier hops, and is kept from every sender.
        Kind::Managed => *name != header::VIA,
        Kind::Credential => false,
        Kind::EndToEnd => context.names.verdict(name.as_str()) == Verdict::LooksLikeAnother,
    }
}

/// Writes one Host line, and one statement of where the content ends.
fn write_framing(headers: &mut HeaderMap, context: &ForwardContext<'_>) {
    if !context.authority.is_the_host_line(context.version) {
        headers.insert(header::HOST, context.authority.host_line().clone());
    }
    match context.framing {
        Framing::Length(bytes) => write_content_length(headers, bytes),
        Framing::Chunked | Framing::Unstated => {
            if context.survey.has(Found::ContentLength) {
                headers.remove(header::CONTENT_LENGTH);
            }
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

/// The largest number of fields that [`apply_request`] adds: Host, length or coding, X-Forwarded-{For,Proto,Host,Port,Prefix}, Via,
/// X-Request-ID.
const MANAGED_FIELDS: usize = 9;

const REQUEST_ID_BYTES_MAX: usize = 128;
