//! The request's header section, from what the client sent to what the service gets.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use super::{
    Facts, Handshake, HeaderRules, MadeField, naming_options,
    request_head::{Delimiting, RequestHead},
    trailers::announced_by_client,
    via,
};
use crate::message::{
    Authority, Found, Framing, GuardedNames, Scheme, Survey, Verdict,
    names::{
        CLIENT_CERT, CLIENT_CERT_CHAIN, Kind, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT,
        X_FORWARDED_PREFIX, X_FORWARDED_PROTO, X_REQUEST_ID,
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
    /// Whether the request has a body that is still to come.
    pub has_content: bool,
    /// `Host` of `rewrite.host`. `None`: the service gets the client's.
    pub host: Option<&'a HeaderValue>,
    /// The prefix that `rewrite.strip` took from the path.
    pub prefix: Option<&'a str>,
    /// The names that are removed from requests.
    pub names: &'a GuardedNames,
    /// Fields with verified claims of this request.
    pub forward: &'a [(HeaderName, HeaderValue)],
    /// The route's rules for requests.
    pub rules: &'a HeaderRules,
    /// The client's certificate for the service. `None`: it gets none.
    pub certificate: Option<ClientCert<'a>>,
    /// The handshake of another protocol. `None`: the request is a plain one.
    pub handshake: Option<&'a Handshake>,
    /// What the client asks of the service besides its fields.
    pub asks: Asks,
    /// The values that the rules may refer to.
    pub facts: Facts<'a>,
}

/// The fields in which a service gets the client's certificate (RFC 9440 §2).
#[derive(Debug, Clone, Copy)]
pub struct ClientCert<'a> {
    pub certificate: &'a HeaderValue,
    pub chain: Option<&'a HeaderValue>,
}

/// What a client asks of a service, and has said to the gateway alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asks {
    /// The response may have trailers, and the client gets them.
    pub trailers: bool,
    /// The client waits with its content for a 100 (Continue).
    pub invitation: bool,
}

/// Writes the head that the service gets, from the client's header section.
///
/// `Host` comes first, then the client's fields in their order, then those of the gateway, then those of the rules. The rules may
/// remove or replace all fields before them. No look-up and no change of the map is needed for a request of which nothing is
/// dropped.
pub fn write_request(fields: &HeaderMap, target: &str, context: &ForwardContext<'_>) -> RequestHead {
    let host = context.host.unwrap_or_else(|| context.authority.host_line());
    let mut head = RuledHead::begin(RequestHead::begin(context.method, target, host), context);
    write_clients(fields, context, &mut head);
    write_forwarding(fields, context, &mut head);
    head.push(&header::VIA, via(context.version).as_bytes());
    head.push(&X_REQUEST_ID, context.request_id.as_bytes());
    if let Some(ClientCert { certificate, chain }) = context.certificate {
        head.push(&CLIENT_CERT, certificate.as_bytes());
        if let Some(chain) = chain {
            head.push(&CLIENT_CERT_CHAIN, chain.as_bytes());
        }
    }
    for (at, (name, value)) in context.forward.iter().enumerate() {
        if !has_name(context.forward.get(at + 1..), name) {
            head.push(name, value.as_bytes());
        }
    }
    let mut head = head.end(&context.facts);
    let delimiting = match context.framing {
        Framing::Length(bytes) => Delimiting::Length(bytes),
        Framing::Chunked | Framing::Unstated if context.has_content => Delimiting::Chunked,
        Framing::Chunked | Framing::Unstated | Framing::None => Delimiting::Nothing,
    };
    match context.handshake {
        Some(handshake) => handshake.write(&mut head),
        None => write_hop_fields(fields, context, delimiting, &mut head),
    }
    // RFC 9110 §8.6: a method that anticipates content gets a length of 0 when there is none.
    let anticipates_content = matches!(*context.method, Method::POST | Method::PUT | Method::PATCH);
    head.end(delimiting, anticipates_content)
}

/// The fields of the client that the service gets, without those that the gateway writes itself.
fn write_clients(fields: &HeaderMap, context: &ForwardContext<'_>, head: &mut RuledHead<'_>) {
    let survey = context.survey;
    let has_dropped = survey.has_dropped(context.peer_is_trusted);
    let names_fields = survey.has(Found::Connection) && names_a_field(fields);
    let joins = survey.has(Found::Forwarding) && context.peer_is_trusted;
    for (name, value) in fields {
        let is_framing = *name == header::HOST || *name == header::CONTENT_LENGTH;
        let is_left_out = is_framing
            || has_dropped && is_dropped(name, context)
            || names_fields && is_named(fields, name)
            || joins && is_joined(name, context)
            || context.handshake.is_some_and(|handshake| handshake.replaces(name));
        if !is_left_out {
            head.push(name, value.as_bytes());
        }
    }
}

/// The fields about trailers of both directions, and the expectation, which the gateway passes on. A service that the gateway asks for trailers must know that `TE` ends with this connection
/// (RFC 9110 §10.1.4).
fn write_hop_fields(
    fields: &HeaderMap,
    context: &ForwardContext<'_>,
    delimiting: Delimiting,
    head: &mut RequestHead,
) {
    if context.asks.trailers {
        head.push(header::TE.as_str(), b"trailers");
        head.push(header::CONNECTION.as_str(), b"te");
    }
    if context.asks.invitation {
        head.expect_invitation();
    }
    if context.survey.has(Found::Trailer)
        && delimiting == Delimiting::Chunked
        && let Some(names) = announced_by_client(fields, context.names)
    {
        head.push(header::TRAILER.as_str(), &names);
    }
}

/// A head on which the rules of a route are applied while it is written: remove, then set, then add.
struct RuledHead<'a> {
    head: RequestHead,
    rules: &'a HeaderRules,
    /// There are none for most routes.
    has_rules: bool,
}

impl<'a> RuledHead<'a> {
    fn begin(head: RequestHead, context: &ForwardContext<'a>) -> Self {
        Self { head, rules: context.rules, has_rules: !context.rules.is_empty() }
    }

    /// Adds a field that the rules may remove or replace.
    fn push(&mut self, name: &HeaderName, value: &[u8]) {
        if !(self.has_rules && self.takes_away(name)) {
            self.head.push(name.as_str(), value);
        }
    }

    fn takes_away(&self, name: &HeaderName) -> bool {
        let HeaderRules { set, remove, made, .. } = self.rules;
        remove.contains(name) || has_name(Some(set), name) || is_made_anew(Some(made), name)
    }

    /// Adds the fields of the rules.
    fn end(self, facts: &Facts<'_>) -> RequestHead {
        let Self { mut head, rules: HeaderRules { set, add, made, .. }, has_rules } = self;
        if !has_rules {
            return head;
        }
        for (at, (name, value)) in set.iter().enumerate() {
            if !has_name(set.get(at + 1..), name) && !is_made_anew(Some(made), name) {
                head.push(name.as_str(), value.as_bytes());
            }
        }
        for (name, value) in add {
            if !is_made_anew(Some(made), name) {
                head.push(name.as_str(), value.as_bytes());
            }
        }
        for (at, field) in made.iter().enumerate() {
            if !is_made_anew(made.get(at + 1..), &field.name)
                && let Some(value) = field.value.of(facts)
            {
                head.push(field.name.as_str(), value.as_bytes());
            }
        }
        head
    }
}

fn has_name(fields: Option<&[(HeaderName, HeaderValue)]>, name: &HeaderName) -> bool {
    fields.unwrap_or_default().iter().any(|(other, _)| other == name)
}

/// Whether one of these replaces the values that are there.
fn is_made_anew(made: Option<&[MadeField]>, name: &HeaderName) -> bool {
    made.unwrap_or_default().iter().any(|field| !field.is_added && field.name == *name)
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

pub(super) fn is_dropped(name: &HeaderName, context: &ForwardContext<'_>) -> bool {
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

/// Whether some `Connection` line names a field.
fn names_a_field(fields: &HeaderMap) -> bool {
    fields.get_all(header::CONNECTION).iter().any(|line| naming_options(line.as_bytes()).next().is_some())
}

/// Whether a `Connection` line names this field. Admission bounds the number of options.
fn is_named(fields: &HeaderMap, name: &HeaderName) -> bool {
    let mut lines = fields.get_all(header::CONNECTION).iter();
    let name = name.as_str().as_bytes();
    lines.any(|line| naming_options(line.as_bytes()).any(|option| option.eq_ignore_ascii_case(name)))
}

/// Whether the gateway writes this field of a trusted peer anew, with what it adds.
fn is_joined(name: &HeaderName, context: &ForwardContext<'_>) -> bool {
    *name == X_FORWARDED_FOR || (context.prefix.is_some() && *name == X_FORWARDED_PREFIX)
}

/// Writes the forwarding fields. The fields of a trusted peer stay, and its address is appended; otherwise the fields contain only
/// what the gateway itself sees.
fn write_forwarding(fields: &HeaderMap, context: &ForwardContext<'_>, head: &mut RuledHead<'_>) {
    let scheme = context.scheme.as_str().as_bytes();
    let (host, port) = (context.authority.host_line().as_bytes(), context.authority.port_text().as_bytes());
    // Only a trusted peer's fields about earlier hops are passed on.
    if !context.survey.has(Found::Forwarding) || !context.peer_is_trusted {
        if let Some(prefix) = context.prefix {
            head.push(&X_FORWARDED_PREFIX, prefix.as_bytes());
        }
        head.push(&X_FORWARDED_FOR, context.peer.as_bytes());
        head.push(&X_FORWARDED_PROTO, scheme);
        head.push(&X_FORWARDED_HOST, host);
        head.push(&X_FORWARDED_PORT, port);
        return;
    }
    let names = context.survey.has(Found::Connection) && names_a_field(fields);
    let first = |name: &HeaderName| fields.get(name).filter(|_| !(names && is_named(fields, name)));
    if let Some(prefix) = context.prefix {
        // The prefix that the service must put before its paths in links, after one that the peer has stripped.
        let before = first(&X_FORWARDED_PREFIX).map_or(&b""[..], HeaderValue::as_bytes);
        let before = before.strip_suffix(b"/").unwrap_or(before);
        head.push(&X_FORWARDED_PREFIX, &[before, prefix.as_bytes()].concat());
    }
    match first(&X_FORWARDED_FOR) {
        Some(_) => head.push(&X_FORWARDED_FOR, &joined(fields, &X_FORWARDED_FOR, context.peer)),
        None => head.push(&X_FORWARDED_FOR, context.peer.as_bytes()),
    }
    if first(&X_FORWARDED_PROTO).is_none() {
        head.push(&X_FORWARDED_PROTO, scheme);
    }
    if first(&X_FORWARDED_HOST).is_none() {
        head.push(&X_FORWARDED_HOST, host);
    }
    if first(&X_FORWARDED_PORT).is_none() {
        let stated = first(&X_FORWARDED_PROTO).map_or(scheme, HeaderValue::as_bytes);
        let default = default_port(stated).filter(|_| context.authority.port().is_none());
        head.push(&X_FORWARDED_PORT, default.unwrap_or(port));
    }
}

/// The default port of the scheme that the trusted peer's client used.
fn default_port(scheme: &[u8]) -> Option<&'static [u8]> {
    match scheme {
        b"https" => Some(b"443"),
        b"http" => Some(b"80"),
        _ => None,
    }
}

/// All lines of a field in one list, with `last` at the end.
fn joined(fields: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> Vec<u8> {
    let mut text = Vec::new();
    for line in fields.get_all(name) {
        text.extend_from_slice(line.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(last.as_bytes());
    text
}

const REQUEST_ID_BYTES_MAX: usize = 128;
