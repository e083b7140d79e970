//! The toolkit that reads a configuration file: YAML with the place of each value, `${NAME}`, strict maps, units,
//! and findings. The fields of the format are defined in other rooms.
//!
//! [`tree`] reads the text, [`fields`] one map of it, [`units`] one value, and each adds its findings to
//! [`Diagnostics`](diagnostics::Diagnostics). A format adds its help for the words of other products as [`advice`].

pub(crate) mod advice;
pub(crate) mod claims;
pub mod diagnostics;
pub(crate) mod environment;
pub(crate) mod fields;
pub(crate) mod foreign_variables;
pub mod hidden;
mod known;
mod node;
pub(crate) mod redacted;
mod report;
pub(crate) mod tree;
pub mod units;
mod variables;
