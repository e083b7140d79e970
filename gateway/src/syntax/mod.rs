//! The toolkit that reads a configuration file: YAML with the place of each value, `${NAME}`, maps that are read strictly, units,
//! and findings. It knows no field of the format.
//!
//! [`tree`] reads the text, [`fields`] reads one map of it, [`units`] one value, and each adds what it finds to
//! [`Diagnostics`](diagnostics::Diagnostics). What a format knows about habits of other products it gives as [`advice`].

pub(crate) mod advice;
pub(crate) mod claims;
pub mod diagnostics;
pub(crate) mod environment;
pub(crate) mod fields;
pub(crate) mod foreign_variables;
pub mod hidden;
mod known;
mod node;
mod redacted;
mod report;
pub(crate) mod tree;
pub mod units;
mod variables;
