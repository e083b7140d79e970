//! `routes.yaml`: the text → what is written → effective settings. [`compile`](crate::compile) makes the snapshot of them.
//!
//! [`load()`] reads a file into [`Loaded`], or says everything that is wrong with it in one [`Report`]. Inside, `raw`
//! mirrors the file with the place of each value, and `resolve` merges defaults, policies and routes into
//! [`settings::Settings`].

pub mod diagnostics;
pub(crate) mod environment;
mod foreign_files;
mod foreign_values;
pub(crate) mod foreign_variables;
mod foreign_words;
pub mod hidden;
pub mod load;
pub(crate) mod raw;
mod redacted;
mod resolve;
pub mod settings;
pub mod source;
pub mod twins;
pub mod units;

pub(crate) use raw::{
    access_cures, claims,
    fields::{self, name as service_name},
    header, header_cures,
    listen::url_or,
    pattern, tree,
};

pub use diagnostics::{Diagnostic, Report, Severity, Source, Span};
pub use load::{Loaded, load, parse};
pub use source::{ConfigKey, ConfigSource};
