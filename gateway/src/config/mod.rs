//! `routes.yaml`: from its text to effective settings, of which [`compile`](crate::compile) makes the snapshot.
//!
//! [`load()`] reads a file into [`Loaded`], or reports all of its errors in one [`Report`]. Inside, `raw`
//! mirrors the file with the place of each value, and `resolve` merges defaults, policies and routes into
//! [`settings::Settings`].

pub(crate) mod advice;
mod foreign_files;
pub mod load;
pub(crate) mod raw;
mod resolve;
pub mod settings;
pub mod source;
pub mod twins;

pub use load::{Loaded, load, parse};
pub use source::{ConfigKey, ConfigSource};

pub use crate::syntax::diagnostics::{Diagnostic, Report, Severity, Source, Span};
