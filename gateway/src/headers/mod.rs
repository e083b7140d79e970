//! The header fields of requests and responses: the fields that end at this hop, those that the gateway adds, and those that the
//! route adds.
//!
//! The order is a guarantee. First all fields are removed that the sender may not decide (hop-by-hop fields, forwarding fields of a
//! peer that is not trusted, identity headers, names that only look different). Then the gateway adds its own. So a client cannot
//! remove or replace what the gateway adds, by any field that it sends or names in Connection. Route rules come last, since the
//! operator decides.
//!
//! - Hop-by-hop (RFC 9110 §7.6.1): `Connection` and every field that one of its lines names, `Keep-Alive`, `TE`,
//!   `Transfer-Encoding`, `Upgrade`, `HTTP2-Settings`, `Proxy-*` of a request (with `Proxy` itself, which CGI would read as
//!   `HTTP_PROXY`) and the proxy authentication fields of a response. `TE: trailers` and `Trailer` are
//!   written anew where trailers can follow ([`trailers`]).
//! - Names are folded (all but letters and digits to `-`) and those that then equal a name which the gateway or a rule sets
//!   or removes are dropped: services that build variables from names cannot tell them apart ([`GuardedNames`](crate::message::GuardedNames)).
//! - A field that only a proxy can fill and that services trust (`X-Original-URL`, `Client-Cert`, `True-Client-IP`, …) is dropped unless
//!   the peer is trusted, and before the route is chosen.
//! - `Expect` is passed on for a client that waits with its content, and only then.
//! - `Server` of the service is never touched.
//!
//! The code here edits or decides; it does not wait, log or build a response.

mod client;
mod handshake;
mod made;
mod request;
mod request_head;
mod response;
mod rules;
pub(crate) mod settable;
mod trailers;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use crate::message::names;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::response::remove_hop_by_hop;
pub use self::{
    client::{claimed, client_ip, is_trusted},
    handshake::{Handshake, apply_switched, is_switched, remove_subprotocols},
    made::{Facts, MadeField, MadeValue, apply_made},
    request::{Asks, ClientCert, ForwardContext, remove_claimed, trusted_request_id, write_request},
    request_head::{Delimiting, RequestHead},
    response::{
        AnnouncedTrailers, FramingReading, ResponseContext, ResponseFault, ResponseFraming,
        apply_informational, apply_response, invitation, is_invitation, remove_dropped,
    },
    rules::HeaderRules,
    trailers::{RequestTrailers, TrailersTooLarge, apply_trailers, confines_fields, takes_trailers},
};

/// The gateway's name in `Via` and `Proxy-Status`.
pub const PSEUDONYM: &str = "millgate";

/// Whether the request has passed so many gateways of our name that it must be in a loop (508). A chain of gateways (edge, then
/// inner) is normal, so [`VIA_HOPS_MAX`] of them are allowed.
pub fn is_loop(headers: &HeaderMap) -> bool {
    let ours = headers
        .get_all(header::VIA)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter(|hop| is_our_hop(hop))
        .take(VIA_HOPS_MAX + 1)
        .count();
    ours > VIA_HOPS_MAX
}

/// Whether this hop is a gateway of our name: `received-protocol RWS received-by [ RWS comment ]` (RFC 9110 §7.6.3).
fn is_our_hop(hop: &[u8]) -> bool {
    let mut words = hop.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
    words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(PSEUDONYM.as_bytes()))
}

/// Appends this hop to `Via`.
fn append_via(headers: &mut HeaderMap, received: Version) {
    headers.append(header::VIA, HeaderValue::from_static(via(received)));
}

/// This hop, with the protocol by which the message arrived.
fn via(received: Version) -> &'static str {
    match received {
        Version::HTTP_09 | Version::HTTP_10 => "1.0 millgate",
        Version::HTTP_2 => "2 millgate",
        Version::HTTP_3 => "3 millgate",
        _ => "1.1 millgate",
    }
}

/// Removes what Connection names and every field for which `is_dropped` is true.
fn remove_fields(headers: &mut HeaderMap, is_dropped: impl Fn(&HeaderName) -> bool) {
    // Allocates only if there is a field to remove.
    let mut dropped: Vec<HeaderName> = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        dropped.extend(named_in(line.as_bytes()));
    }
    dropped.extend(headers.keys().filter(|name| is_dropped(name)).cloned());
    for name in dropped {
        headers.remove(name);
    }
}

/// Removes the fields that a line of Connection names.
pub fn remove_named(headers: &mut HeaderMap, line: &[u8]) {
    for name in named_in(line) {
        headers.remove(name);
    }
}

fn named_in(line: &[u8]) -> impl Iterator<Item = HeaderName> {
    naming_options(line).filter_map(|option| HeaderName::from_bytes(option).ok())
}

/// The members of a list, over all of its lines (RFC 9110 §5.6.1).
pub(crate) fn list_members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// The options of a line of Connection that name a field: all but `close`, `keep-alive` and `upgrade`.
fn naming_options(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let options = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    options.filter(|option| !names::is_plain_connection_option(option))
}

/// Applies the rules: remove, then set, then add. So one set of rules can remove the fields that came and add its own.
pub fn apply_rules(headers: &mut HeaderMap, rules: &HeaderRules) {
    for name in &rules.remove {
        headers.remove(name);
    }
    for (name, value) in &rules.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &rules.add {
        headers.append(name.clone(), value.clone());
    }
}

/// Applies the rules for responses to a local reply. The fields of the reply win: a rule that lets a service's responses be cached
/// for an hour must not do so to a 429. Rules may change or remove only the fields that name the answering program.
pub fn apply_rules_to_local_reply(headers: &mut HeaderMap, rules: &HeaderRules, facts: &Facts<'_>) {
    let own = std::mem::take(headers);
    apply_rules(headers, rules);
    apply_made(headers, rules, facts);
    let is_ruled = |name: &HeaderName| {
        let names_the_answerer = *name == header::SERVER || *name == names::PROXY_STATUS;
        names_the_answerer && (rules.remove.contains(name) || headers.contains_key(name))
    };
    let kept: Vec<HeaderName> = own.keys().filter(|name| !is_ruled(name)).cloned().collect();
    for name in kept {
        headers.remove(&name);
        for value in own.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Whether a length is decimal without a leading zero (RFC 9110 §8.6).
fn is_canonical_length(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || !digits.starts_with(b"0"))
}

/// The largest number of `Via` entries of our name with which a request passes: that many gateways of our name may be in one chain.
const VIA_HOPS_MAX: usize = 4;

#[cfg(test)]
pub(crate) mod tests;
