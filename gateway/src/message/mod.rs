//! Facts about messages that more than one room uses: names of fields and which of them are not trusted, the authority, the
//! scheme and the framing of a request. [`admission`](crate::admission) refuses requests by these facts, and
//! [`headers`](crate::headers) edits messages by them. This room is pure.

mod authority;
mod framing;
mod guarded;
pub mod names;
mod prefilter;
mod scheme;
mod survey;

pub use self::{
    authority::Authority,
    framing::Framing,
    guarded::{ConfiguredNames, GuardedNames, fold},
    scheme::Scheme,
    survey::Survey,
};
pub(crate) use self::{authority::HostAndPort, framing::parse_length, guarded::Verdict, survey::Found};

/// `value` marked as sensitive, which only HTTP/2 reads: HPACK leaves it out of its table (RFC 7541 §7.1.3). It is for values that no later
/// message repeats: h2 would search all of them in the table for each new one.
pub(crate) fn never_indexed(mut value: http::HeaderValue) -> http::HeaderValue {
    value.set_sensitive(true);
    value
}
