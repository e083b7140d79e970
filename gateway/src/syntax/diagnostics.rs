//! The list of findings, with the advice of the format that is read.

use super::advice::{self, Advice};
pub(crate) use super::report::did_you_mean;
pub use super::report::{Diagnostic, Report, Severity, Source, Span, code};

/// The list to which every stage of reading adds its findings.
#[derive(Debug)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    advice: &'static Advice,
    /// Names of the file's providers, for help that proposes to name one.
    providers: Vec<String>,
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self::with(&advice::NONE)
    }
}

impl Diagnostics {
    /// An empty list with the advice of a format.
    pub(crate) fn with(advice: &'static Advice) -> Self {
        Self { found: Vec::new(), advice, providers: Vec::new() }
    }

    /// The advice of the format.
    pub(crate) fn advice(&self) -> &'static Advice {
        self.advice
    }

    /// Sets the names of the file's providers.
    pub(crate) fn name_providers(&mut self, names: Vec<String>) {
        self.providers = names;
    }

    /// The names of the file's providers.
    pub(crate) fn providers(&self) -> &[String] {
        &self.providers
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Adds a finding unless the list has it already, since an error that several routes inherit is one
    /// finding.
    pub fn push_once(&mut self, diagnostic: Diagnostic) {
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    /// Adds findings.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Diagnostic>) {
        self.found.extend(others);
    }

    /// Whether some finding refuses the file.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// The findings, in the order in which they were added.
    pub fn into_vec(self) -> Vec<Diagnostic> {
        self.found
    }
}
