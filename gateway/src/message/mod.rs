//! What a message is made of, as far as more than one room reads it: names of fields and which of them may not be believed, the
//! authority, the scheme and the framing of a request. [`admission`](crate::admission) refuses by these facts, and
//! [`headers`](crate::headers) edits by them. Everything here is pure.

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
