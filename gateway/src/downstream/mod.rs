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

/// The reason for which the gateway or an error ended a connection; the label of a metric.
pub(crate) type Ended = &'static str;

/// The client did not send the end of a request head in time.
pub(crate) const HEADER_TIMEOUT: Ended = "header_timeout";
/// The connection was closed before the end of a request head, because another client needed its place.
pub(crate) const SHED: Ended = "shed";
/// The client asked for a name whose certificate is not issued yet.
pub(crate) const CERTIFICATE_AWAITED: Ended = "certificate_awaited";
/// A trusted proxy sent no valid header of the PROXY protocol.
pub(crate) const PROXY_PROTOCOL: Ended = "proxy_protocol";
/// A peer that is not trusted came to a listener where each connection must begin with such a header.
pub(crate) const PROXY_UNTRUSTED: Ended = "proxy_untrusted";
