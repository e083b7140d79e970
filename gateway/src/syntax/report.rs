//! Errors and warnings about a configuration, with their places in the file.
//!
//! A [`Diagnostic`] is one finding: a stable code, one sentence, the place, and help. A [`Report`]
//! contains all findings of one file, printed in the order of the file with the source line under each.
//! A diagnostic never contains values of environment variables, since the source line shows `${NAME}`, nor secrets
//! that the text itself contains ([`redacted`]).

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use super::redacted::{redacted, without_keys};

/// A place in a configuration file. Lines and columns count from 1; 0 = unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub line: u32,
    pub column: u32,
    /// Length in characters; 0 = one character.
    pub length: u32,
}

/// Whether a finding refuses the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, but probably does not do what its author intends.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable code: `E…` for errors, `W…` for warnings; see [`code`].
    pub code: &'static str,
    /// The problem in one sentence, without a full stop.
    pub message: String,
    pub span: Span,
    /// Text beside the marked place; may be empty.
    pub label: String,
    /// Advice for a correction.
    pub help: Option<String>,
    /// Other places that belong to the finding, with their labels.
    pub related: Vec<(Span, String)>,
}

impl Diagnostic {
    /// An error with this code, place and message.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, span, message.into())
    }

    /// A warning with this code, place and message.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, span, message.into())
    }

    fn new(severity: Severity, code: &'static str, span: Span, message: String) -> Self {
        Self { severity, code, message, span, label: String::new(), help: None, related: Vec::new() }
    }

    /// Sets the text beside the marked place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets the help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the help, unless it is `None`.
    #[must_use]
    pub(crate) fn help_if(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Adds another place that belongs to the finding.
    #[must_use]
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Replaces API keys in all texts: a key may have been written in any place, and messages quote values.
    fn hide_keys(&mut self) {
        let labels = self.related.iter_mut().map(|(_, label)| label);
        for text in [&mut self.message, &mut self.label].into_iter().chain(&mut self.help).chain(labels) {
            *text = without_keys(std::mem::take(text));
        }
    }
}

/// The codes of findings, in one list so that each is used once. E00x belong to the text, E01x to fields, E02x to values, E03x
/// to routes, E04x to auth, E05x to names, E06x to parts that cannot be compiled or opened. W codes are warnings.
pub mod code {
    /// The text is not valid YAML.
    pub const SYNTAX: &str = "E001";
    /// A key that a map has twice.
    pub const DUPLICATE_KEY: &str = "E002";
    /// An environment variable that is not set, or is written in a wrong form.
    pub const UNSET_VARIABLE: &str = "E003";
    /// A file that cannot be read.
    pub const UNREADABLE: &str = "E004";
    /// YAML that this format does not allow: anchors, tags, several documents.
    pub const YAML_FEATURE: &str = "E005";
    /// A setting or a variable that a text from Consul cannot use, since it belongs to the process that reads the text.
    pub const NOT_FROM_CONSUL: &str = "E006";
    /// A file of another gateway.
    pub const OTHER_PRODUCT: &str = "E007";
    /// A required field is missing.
    pub const MISSING_FIELD: &str = "E010";
    /// A value of the wrong kind, such as a map instead of a text.
    pub const WRONG_KIND: &str = "E011";
    /// A field that the format does not have.
    pub const UNKNOWN_FIELD: &str = "E012";
    /// A planned part of the format that this version does not have.
    pub const NOT_SUPPORTED: &str = "E013";
    /// A version of the format that this gateway does not read.
    pub const FILE_VERSION: &str = "E014";
    /// A value without a unit, or with an unknown one.
    pub const BAD_UNIT: &str = "E020";
    /// A value outside of its range.
    pub const OUT_OF_RANGE: &str = "E021";
    /// A value that is not allowed.
    pub const BAD_VALUE: &str = "E022";
    /// A path or pattern that is not valid.
    pub const BAD_PATH: &str = "E023";
    /// Two fields of one map that exclude each other.
    pub const CONFLICT: &str = "E024";
    /// Two routes with one name.
    pub const DUPLICATE_NAME: &str = "E030";
    /// This route can never match.
    pub const DEAD_ROUTE: &str = "E031";
    /// Two routes match some requests, and neither is more specific.
    pub const AMBIGUOUS_ROUTE: &str = "E032";
    /// Two listeners with one address.
    pub const ADDRESS_TWICE: &str = "E033";
    /// Two routes match the same requests.
    pub const DUPLICATE_ROUTE: &str = "E034";
    /// An auth provider exists, and a route neither names one nor is declared open.
    pub const ROUTE_WITHOUT_AUTH: &str = "E040";
    /// A policy needs a verified identity on a route that is open.
    pub const NEEDS_AUTH: &str = "E041";
    /// A provider without a source of keys, or with several that exclude each other.
    pub const KEY_SOURCE: &str = "E042";
    /// Signature algorithms that do not fit the keys of a provider.
    pub const ALGORITHMS: &str = "E043";
    /// A shared secret that is too short.
    pub const WEAK_SECRET: &str = "E044";
    /// `audience: none` without another field that restricts the accepted tokens.
    pub const NO_AUDIENCE: &str = "E045";
    /// A name that the file does not define.
    pub const UNKNOWN_NAME: &str = "E050";
    /// A provider that could not accept any token.
    pub const PROVIDER: &str = "E060";
    /// Key files without a usable key.
    pub const KEYS: &str = "E061";
    /// A certificate or its key that cannot be used.
    pub const CERTIFICATE: &str = "E062";
    /// A limit that cannot be counted.
    pub const RATE_LIMIT: &str = "E063";
    /// The access log cannot be opened.
    pub const LOG_FILE: &str = "E064";
    /// A policy that no route uses.
    pub const UNUSED_POLICY: &str = "W001";
    /// A service that no route uses.
    pub const UNUSED_SERVICE: &str = "W002";
    /// A provider that no route uses.
    pub const UNUSED_AUTH: &str = "W003";
    /// A secret in the configuration file itself.
    pub const SECRET_IN_FILE: &str = "W005";
    /// A field with its old name, which still works.
    pub const OLD_NAME: &str = "W006";
    /// A request that matches an open route may reach the service as one of a closed route.
    pub const OPEN_TWIN: &str = "W010";
    /// Keys that are fetched without TLS.
    pub const KEYS_IN_CLEAR_TEXT: &str = "W011";
    /// One client could use half of each service.
    pub const AT_THE_EDGE: &str = "W012";
    /// A setting without effect.
    pub const NO_EFFECT: &str = "W013";
    /// Statements that any client can make about itself are trusted.
    pub const TRUSTS_EVERYONE: &str = "W014";
    /// A pattern or a variable of other products is plain text here.
    pub const TAKEN_AS_TEXT: &str = "W015";
    /// Peers refuse a certificate that has expired or is not valid yet, or will soon refuse one.
    pub const CERTIFICATE_TIME: &str = "W016";
    /// A list replaces a default that protects.
    pub const DEFAULT_REPLACED: &str = "W017";
    /// A certificate that another one with the same name hides.
    pub const HIDDEN_CERTIFICATE: &str = "W018";
    /// An OCSP response that is not stapled.
    pub const NOT_STAPLED: &str = "W019";
}

/// The text to which the places of diagnostics refer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The name of the file or key as on the command line.
    pub name: String,
    pub text: String,
}

impl Source {
    /// A text under its name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// The text of a file.
    pub(crate) fn of_path(path: &Path, text: String) -> Self {
        Self { name: path.display().to_string(), text }
    }

    /// Byte range of a span. `None`: the span is not in the text.
    fn range(&self, span: Span) -> Option<Range<usize>> {
        let line_index = usize::try_from(span.line).ok()?.checked_sub(1)?;
        let mut line_start = 0;
        for _ in 0..line_index {
            line_start += self.text.get(line_start..)?.find('\n')? + 1;
        }
        let line = self.text[line_start..].split('\n').next()?.trim_end_matches('\r');
        let byte_at = |chars: usize| line.char_indices().nth(chars).map_or(line.len(), |(at, _)| at);
        let first = usize::try_from(span.column.max(1)).ok()? - 1;
        let length = usize::try_from(span.length.max(1)).ok()?;
        Some(line_start + byte_at(first)..line_start + byte_at(first + length))
    }
}

/// All findings of one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub source: Source,
    pub diagnostics: Vec<Diagnostic>,
    /// The files that the configuration names, since a change of one may remove an error.
    pub files: Vec<PathBuf>,
}

impl Report {
    /// A report of findings, which are sorted by place. Secrets in the text are replaced by stars.
    pub fn new(source: Source, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|d| (d.span.line, d.span.column));
        for diagnostic in &mut diagnostics {
            diagnostic.hide_keys();
        }
        let source = Source { text: redacted(&source.text), ..source };
        Self { source, diagnostics, files: Vec::new() }
    }

    /// Sets the files that the configuration names.
    #[must_use]
    pub fn with_files(mut self, files: Vec<PathBuf>) -> Self {
        self.files = files;
        self
    }

    /// Number of errors.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Number of warnings.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|d| d.severity == severity).count()
    }

    /// The report as text: every finding with its source line, then one line that counts them. `color` adds ANSI colours.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code);
        let group = match self.source.range(diagnostic.span) {
            Some(range) => title.element(self.snippet(diagnostic, range)),
            None => title.element(Origin::path(self.source.name.as_str())),
        };
        match &diagnostic.help {
            // The renderer does not change messages, and the help may quote the file, so control characters are made visible.
            Some(help) => group.element(Level::HELP.message(normalize_untrusted_str(help))),
            None => group,
        }
    }

    fn snippet<'a>(
        &'a self,
        diagnostic: &'a Diagnostic,
        range: Range<usize>,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let label = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        let primary = AnnotationKind::Primary.span(range).label(label(&diagnostic.label));
        let related = diagnostic.related.iter().filter_map(|(span, text)| {
            Some(AnnotationKind::Context.span(self.source.range(*span)?).label(label(text)))
        });
        Snippet::source(self.source.text.as_str())
            .path(self.source.name.as_str())
            .annotation(primary)
            .annotations(related)
    }

    fn summary(&self) -> String {
        let plural = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            _ => format!("{count} {word}s"),
        };
        let name = &self.source.name;
        match (self.errors(), self.warnings()) {
            (0, 0) => format!("{name}: no errors"),
            (errors, 0) => format!("{name}: {}", plural(errors, "error")),
            (0, warnings) => format!("{name}: {}", plural(warnings, "warning")),
            (errors, warnings) => {
                format!("{name}: {}, {}", plural(errors, "error"), plural(warnings, "warning"))
            }
        }
    }

    /// The findings as JSON, for `check --json`.
    pub fn to_json(&self) -> serde_json::Value {
        let place =
            |span: Span| serde_json::json!({"line": span.line, "column": span.column, "length": span.length});
        let findings = self.diagnostics.iter().map(|d| {
            let related =
                d.related.iter().map(|(span, label)| serde_json::json!({"at": place(*span), "label": label}));
            serde_json::json!({
                "severity": match d.severity { Severity::Error => "error", Severity::Warning => "warning" },
                "code": d.code,
                "message": d.message,
                "at": place(d.span),
                "label": d.label,
                "help": d.help,
                "related": related.collect::<Vec<_>>(),
            })
        });
        serde_json::json!({
            "file": self.source.name,
            "errors": self.errors(),
            "warnings": self.warnings(),
            "diagnostics": findings.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// The candidate that a misspelt word most likely means. A number is not misspelt.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if !word.contains(char::is_alphabetic) {
        return None;
    }
    let word = word.to_lowercase();
    let similarity = |candidate: &str| {
        // In a short word, a single slip counts too much in this measure.
        let least = if is_one_slip(&word, candidate) { SIMILARITY_MIN } else { 0.0 };
        strsim::jaro_winkler(&word, candidate).max(least)
    };
    candidates
        .into_iter()
        .map(|candidate| (similarity(&candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// Whether the words differ by one letter that is added, missing, wrong, or swapped with its neighbour.
pub(crate) fn is_one_slip(word: &str, candidate: &str) -> bool {
    word.len() >= 3 && strsim::osa_distance(&word.to_lowercase(), candidate) == 1
}

/// Below this, a suggestion is more often wrong than right.
const SIMILARITY_MIN: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_line_the_marked_text_and_the_suggestion() {
        let source = Source::new("routes.yaml", "routes:\n  - path: /ü\n    rate_limt: 1/s\n");
        let span = Span { line: 3, column: 5, length: 9 };
        let finding = Diagnostic::error("E012", span, "unknown field `rate_limt`")
            .label("did you mean `rate_limit`?")
            .related(Span { line: 2, column: 11, length: 2 }, "in this route");
        let text = Report::new(source, vec![finding]).to_string();
        assert!(text.starts_with("error[E012]: unknown field `rate_limt`\n --> routes.yaml:3:5\n"), "{text}");
        assert!(text.contains("^^^^^^^^^ did you mean `rate_limit`?"), "{text}");
        assert!(text.contains("-- in this route"), "{text}");
        assert!(text.ends_with("routes.yaml: 1 error"), "{text}");
    }

    #[test]
    fn a_span_outside_of_the_text_still_names_the_file() {
        let finding = Diagnostic::error("E004", Span { line: 99, column: 1, length: 1 }, "gone");
        let text = Report::new(Source::new("routes.yaml", "a: b"), vec![finding]).to_string();
        assert!(text.contains("--> routes.yaml"), "{text}");
    }

    #[test]
    fn findings_are_in_the_order_of_the_file() {
        let at = |line| Diagnostic::error("E012", Span { line, column: 1, length: 1 }, "x");
        let report = Report::new(Source::default(), vec![at(3), at(1), at(2)]);
        assert_eq!(report.diagnostics.iter().map(|d| d.span.line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn json_has_the_place_and_the_counts() {
        let finding = Diagnostic::warning("W001", Span { line: 2, column: 3, length: 4 }, "unused");
        let json = Report::new(Source::new("routes.yaml", ""), vec![finding]).to_json();
        assert_eq!(json["warnings"], 1);
        assert_eq!(json["diagnostics"][0]["at"]["column"], 3);
    }

    #[test]
    fn suggestions_are_made_only_for_similar_words() {
        let known = ["rate_limit", "retry", "path"];
        assert_eq!(did_you_mean("rate_limt", known), Some("rate_limit"));
        assert_eq!(did_you_mean("Retries", known), Some("retry"));
        assert_eq!(did_you_mean("GTE", ["POST", "GET"]), Some("GET"));
        assert_eq!(did_you_mean("banana", known), None);
    }
}
