//! The settings of the access log.

use std::path::PathBuf;

use crate::syntax::diagnostics::Span;

/// The top-level `access_log` with its defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    pub format: AccessLogFormat,
    /// `None` = standard output.
    pub file: Option<PathBuf>,
    /// The place of the file's name in the configuration.
    pub file_span: Span,
    /// Share of requests that are logged, in thousandths. Responses with status 500 and above are always
    /// logged.
    pub sample_per_mille: u32,
    /// Refusals per second that each worker logs although the sample leaves them out; 0 is `off`.
    pub refusals_per_second: u32,
}

/// The format of the access log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    #[default]
    Json,
    /// Apache's combined format with the request id at the end.
    Combined,
    /// Requests are not logged.
    Off,
}
