//! What the configuration says about the access log.

use std::path::PathBuf;

use crate::syntax::diagnostics::Span;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    pub format: AccessLogFormat,
    /// `None` = standard output.
    pub file: Option<PathBuf>,
    /// Where the file is named.
    pub file_span: Span,
    /// Share of requests that are logged, 0.0..=1.0 in thousandths; errors (≥ 500) always are.
    pub sample_per_mille: u32,
    /// Refusals that the sample leaves out, and that each worker logs nevertheless; 0: none.
    pub refusals_per_second: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    #[default]
    Json,
    Combined,
    Off,
}
