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
