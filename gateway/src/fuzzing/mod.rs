//! The functions that `fuzz/` calls, one per target. Each takes any bytes and panics if its property is violated. The
//! module is not a part of the product: it is built for tests and with the feature `fuzzing`.
//!
//! The tests below call each function with some hundred inputs, made of words that the reader under test accepts, so that
//! the properties are also checked on stable. `docs/BUILDING.md` has the command for a long run.

mod authority;
mod forwarded;
mod http1_response;
mod path;
mod round_trip;
mod strict;
mod tag;
mod token;
mod yaml;

pub use self::{
    authority::authority,
    forwarded::forwarded,
    http1_response::http1_response,
    path::path,
    round_trip::round_trip,
    tag::tag,
    token::{jwks, token},
    yaml::yaml,
};

#[cfg(test)]
mod tests;
