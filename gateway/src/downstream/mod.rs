//! A client's connection, as the rooms above see it: its phase, what its frames have used of their budget, what
//! waits to be written to it. What serves it is [`crate::connection`].

pub(crate) mod budget;
mod fields;
pub(crate) mod frames;
mod informational;
mod log_pace;
mod refusals;
mod shed;
mod state;
mod table;

pub(crate) use self::state::Phase;
pub use self::{
    refusals::{Refusal, merge as merge_refusals},
    state::ConnectionState,
    table::ConnectionTable,
};

/// Why a connection ended other than by being closed; the label of a metric.
pub(crate) type Ended = &'static str;

/// A client that did not come to the end of a head in its time.
pub(crate) const HEADER_TIMEOUT: Ended = "header_timeout";
/// A client that had not come to the end of a head gave its place to another one.
pub(crate) const SHED: Ended = "shed";
