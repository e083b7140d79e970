//! Admission: the checks that a request must pass before any other code decides on it.
//!
//! hyper and h2 check syntax, but leave open questions that two programs can answer differently: several Host lines, a
//! target with another host, a list in Transfer-Encoding, an encoded slash. Admission refuses each message that has two
//! readings, and gives every other one a single reading, [`Admitted`], which routing, limits, authentication, logs and the
//! upstream all use. Code after admission does not read the request line again.
//!
//! Decided here:
//! - Methods: all registered ones (RFC 9110 §16.1) and those in the routes of the configuration are admitted. CONNECT and
//!   TRACE are 405, any other token is 501 (RFC 9110 §9.1). Method names are case-sensitive: `get` is not GET.
//! - `OPTIONS *` is a request to the gateway itself, which answers it.
//! - `Upgrade: h2c` is ignored. An extended CONNECT (RFC 8441) is read as GET, so that a route takes it as it takes the handshake
//!   of HTTP/1.1; all other protocols are the route's decision.
//! - An HTTP/1.0 request without Host is refused, because routing needs a host.
//! - Every refusal ends the downstream connection (HTTP/1) or the stream (HTTP/2): after a message with two readings, it is
//!   not certain where the next one starts.
//!
//! Limits: target bytes (414), header bytes, header lines and crumbs of a cookie (431), options in Connection (400).
//!
//! Both protocols get the same verdict on the same request. `http2` does what HTTP/1.1's parser normalises or refuses and h2
//! does not. `tests/it/both_protocols.rs` lists the requests that h2 refuses below admission, with RST_STREAM or GOAWAY.

mod authority;
mod framing;
mod http2;
mod odd_path;
mod path;
mod refusal;
mod target;
mod upgrade;

use std::{rc::Rc, sync::Arc};

use http::{HeaderName, Method, Version, header, request::Parts, uri::PathAndQuery};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::odd_path::canonical as canonical_odd;
pub(crate) use self::{
    http2::{crumbs_max, receive},
    odd_path::lenient_readings,
    upgrade::{asked_protocols, is_extended_connect, is_other_http},
};
pub use self::{
    odd_path::{Odd, Oddities},
    path::canonical_path,
    refusal::Refusal,
};
pub(crate) use crate::message::parse_length;
pub use crate::message::{Authority, Framing, Scheme};
use crate::message::{Found, GuardedNames, Survey, names};

/// The methods in the `Allow` field of a 405 that admission gives (RFC 9110 §15.5.6).
pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The bounds and names of admission that come from the configuration.
#[derive(Debug, Clone)]
pub struct AdmissionLimits {
    target_bytes_max: usize,
    header_bytes_max: usize,
    header_lines_max: usize,
    /// Methods beyond the registered ones that some route has.
    extension_methods: Vec<Method>,
    /// The oddities that some route allows in its paths.
    oddities: Oddities,
    /// The names that `Connection` may not contain: fields that carry a verified identity upstream, and fields that only a
    /// trusted peer may send.
    names: Arc<GuardedNames>,
}

/// The limits of a request's header section.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBounds {
    pub bytes_max: usize,
    pub lines_max: usize,
}

impl AdmissionLimits {
    /// `methods` are those of the routes, and `oddities` those that some route allows in its paths.
    pub fn compile<'m>(
        bounds: HeaderBounds,
        methods: impl IntoIterator<Item = &'m Method>,
        oddities: Oddities,
        names: Arc<GuardedNames>,
    ) -> Self {
        let mut extension_methods: Vec<Method> = Vec::new();
        for method in methods {
            let known = is_standard(method) || is_registered(method) || is_forbidden(method);
            let fits = method.as_str().len() <= METHOD_BYTES_MAX;
            if fits && !known && !extension_methods.contains(method) {
                extension_methods.push(method.clone());
            }
        }
        Self {
            target_bytes_max: TARGET_BYTES_MAX,
            header_bytes_max: bounds.bytes_max,
            header_lines_max: bounds.lines_max,
            extension_methods,
            oddities: Oddities::ALWAYS.with(oddities),
            names,
        }
    }
}

/// The circumstances in which a request arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The scheme of the listener.
    pub scheme: Scheme,
    /// The peer is one of `listen.trusted_proxies`.
    pub peer_is_trusted: bool,
}

/// The verdict on a request that is not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// The request is to be routed and forwarded.
    Forward(Admitted),
    /// `OPTIONS *`: the answer is 204 with `Allow`, without a route or an upstream (RFC 9110 §9.3.7).
    LocalOptions,
}

/// The one reading of a request. It owns its parts, because the headers of the request are edited before they are sent; the
/// bytes are shared, so that usually nothing is copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    target: PathAndQuery,
    scheme: Scheme,
    authority: Rc<Authority>,
    framing: Framing,
    survey: Survey,
    odd: Option<Odd>,
}

impl Admitted {
    /// The oddities of the path, which its route must allow.
    pub fn odd(&self) -> Option<Odd> {
        self.odd
    }

    /// [`Authority::host`].
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The host and port of the request.
    pub fn authority(&self) -> &Rc<Authority> {
        &self.authority
    }

    /// The scheme of the listener, unless the target from a trusted proxy has the other one.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The kinds of fields that the header section contains.
    pub fn survey(&self) -> Survey {
        self.survey
    }

    /// The canonical path ([`canonical_path`]).
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// The query as received, byte by byte, without `?`.
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// The canonical path and the query: the origin-form target for the upstream.
    pub fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// The same, and nothing else.
    pub fn into_target(self) -> PathAndQuery {
        self.target
    }

    /// How the request's content is delimited.
    pub fn framing(&self) -> Framing {
        self.framing
    }
}

/// Refuses a request that has two readings or is past a limit, and reads any other once. `last` is the authority of the
/// connection's last request, if there was one. An HTTP/2 request must have been through [`http2::receive`].
///
/// # Errors
/// The reason of the refusal.
pub fn admit(
    parts: &Parts,
    limits: &AdmissionLimits,
    arrival: Arrival,
    last: Option<&Rc<Authority>>,
) -> Result<Admission, Refusal> {
    if let Some(refused) = parts.extensions.get::<http2::Refused>() {
        return Err(refused.0);
    }
    let survey = Survey::of(&parts.headers, &limits.names);
    check_size(parts, survey, limits)?;
    check_method(&parts.method, limits)?;
    if survey.has(Found::Connection) {
        check_connection(parts, limits)?;
    }
    check_form(parts)?;
    let framing = framing::check_request(parts, survey)?;
    if survey.has(Found::Expect) {
        check_expect(parts)?;
    }
    let scheme = authority::check_scheme(&parts.uri, arrival)?;
    let authority = authority::check(parts, scheme, last)?;
    let Some((target, odd)) = check_target(parts, limits.oddities)? else {
        return Ok(Admission::LocalOptions);
    };
    Ok(Admission::Forward(Admitted { target, scheme, authority, framing, survey, odd }))
}

/// Checks the size of the target and of the header section, in the same way for both protocols, whatever their encodings
/// take. The HTTP libraries accept more (`connection::head_bytes_max`), so that the refusal is given here.
fn check_size(parts: &Parts, survey: Survey, limits: &AdmissionLimits) -> Result<(), Refusal> {
    let target_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > limits.target_bytes_max {
        return Err(Refusal::TargetTooLong);
    }
    let lines = parts.headers.len();
    if lines > limits.header_lines_max {
        return Err(Refusal::TooManyHeaders);
    }
    if survey.bytes + lines * LINE_OVERHEAD_BYTES > limits.header_bytes_max {
        return Err(Refusal::HeadersTooLarge);
    }
    Ok(())
}

fn check_method(method: &Method, limits: &AdmissionLimits) -> Result<(), Refusal> {
    if is_standard(method) {
        Ok(())
    } else if is_forbidden(method) {
        Err(Refusal::MethodNotAllowed)
    } else if is_registered(method) || limits.extension_methods.contains(method) {
        Ok(())
    } else {
        Err(Refusal::MethodNotImplemented)
    }
}

fn is_standard(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
    )
}

/// CONNECT would open a tunnel past every policy, TRACE would show a client what the gateway adds for the upstream, and PRI
/// is not a method but the beginning of HTTP/2 (RFC 9113 §3.4).
fn is_forbidden(method: &Method) -> bool {
    matches!(*method, Method::CONNECT | Method::TRACE) || method.as_str() == "PRI"
}

/// Whether the method is registered, beyond the standard ones. A route without methods takes these, as it takes any method.
fn is_registered(method: &Method) -> bool {
    REGISTERED_METHODS.binary_search(&method.as_str()).is_ok()
}

/// `Connection` contains the names of fields that end at this hop, and these are removed (RFC 9110 §7.6.1). A client could
/// have the gateway remove fields that frame, authenticate or attribute the request, so their names are refused.
fn check_connection(parts: &Parts, limits: &AdmissionLimits) -> Result<(), Refusal> {
    let mut options = 0;
    for line in parts.headers.get_all(header::CONNECTION) {
        for option in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            options += 1;
            if options > CONNECTION_OPTIONS_MAX {
                return Err(Refusal::ConnectionTooLong);
            }
            if option.is_empty() || names::is_plain_connection_option(option) {
                continue;
            }
            let name = HeaderName::from_bytes(option).map_err(|_| Refusal::ConnectionInvalid)?;
            let (text, guarded) = (name.as_str(), &limits.names);
            let is_protected = names::Kind::of(text).is_protected();
            if is_protected || guarded.is_identity(text) || guarded.is_untrusted(text) {
                return Err(Refusal::ConnectionNamesProtected);
            }
        }
    }
    Ok(())
}

/// The only expectation is `100-continue`; any other is 417 (RFC 9110 §10.1.1). hyper sends the `100` when the body is first
/// polled, so every check that may refuse the request must come before that, the service's own too.
fn check_expect(parts: &Parts) -> Result<(), Refusal> {
    let mut lines = parts.headers.get_all(header::EXPECT).iter();
    let is_understood = lines.next().is_none_or(|line| line.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_understood && lines.next().is_none() { Ok(()) } else { Err(Refusal::ExpectationFailed) }
}

/// A target is a path, or in absolute-form. `GET admin` arrives as authority-form (RFC 9112 §3.2.3), which belongs to
/// CONNECT alone.
fn check_form(parts: &Parts) -> Result<(), Refusal> {
    let is_authority_form = parts.uri.scheme().is_none() && parts.uri.authority().is_some();
    // RFC 9113 §8.3.1. In HTTP/1.1 an absolute-form target may have an empty path, and h2 accepts `:path: ?x` as well.
    let is_pathless = parts.version > Version::HTTP_11
        && !parts.uri.path_and_query().is_some_and(|target| target.as_str().starts_with(['/', '*']));
    if is_authority_form || is_pathless { Err(Refusal::TargetForm) } else { Ok(()) }
}

/// The target for the upstream, which is always in origin-form. `None` for `OPTIONS *`.
fn check_target(parts: &Parts, allowed: Oddities) -> Result<Option<(PathAndQuery, Option<Odd>)>, Refusal> {
    let Some(target) = parts.uri.path_and_query() else {
        return Err(Refusal::TargetForm);
    };
    if target.as_str() == "*" {
        return if parts.method == Method::OPTIONS { Ok(None) } else { Err(Refusal::TargetForm) };
    }
    if target.query().is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Refusal::TargetCharacter);
    }
    target::canonical_target(target, allowed).map(Some)
}

/// The longest path and query, in bytes. RFC 9112 §3 asks for at least 8000.
pub(crate) const TARGET_BYTES_MAX: usize = 8 << 10;

/// The registry of RFC 9110 §16.1.1 without the standard methods and those that are refused, and with QUERY. Sorted.
pub(crate) const REGISTERED_METHODS: [&str; 30] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// The longest method that a route may add. The longest registered one has 17 bytes.
pub(crate) const METHOD_BYTES_MAX: usize = 32;

/// The largest number of options in all Connection lines together. Honest requests have one or two.
const CONNECTION_OPTIONS_MAX: usize = 32;

/// `: ` and CRLF of one header line.
const LINE_OVERHEAD_BYTES: usize = 4;

#[cfg(test)]
mod tests;
