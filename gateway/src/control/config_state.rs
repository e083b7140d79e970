//! What the admin listener shows of the configuration: the one in use, the part of it that waits for a restart, and why the last
//! one was refused.
//!
//! It is in `/api/v1/config`, in the metrics and, as one line each, in the events. They have no line of the source, because it
//! may contain what not every reader of the admin listener may see.

use std::time::Duration;

use serde_json::{Value, json};

use super::exposition::Families;
use crate::syntax::diagnostics::{Diagnostic, Report, Severity};

/// The last attempts to load a configuration.
#[derive(Debug, Clone, Default)]
pub struct ConfigState {
    /// Wall time of the last success, since the Unix epoch.
    pub succeeded: Duration,
    /// The last refused configuration, if none was accepted since.
    pub refused: Option<Refused>,
    /// Keys of the configuration in use whose new values wait for the next start.
    pub waiting: Vec<&'static str>,
    /// Files of the configuration in use whose new content cannot be used, while a new configuration is refused: one sentence each.
    pub(super) unusable: Vec<String>,
    /// Warnings of the configuration in use.
    pub(super) warnings: Vec<Warned>,
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Wall time since the Unix epoch.
    at: Duration,
    errors: usize,
    /// File, line and column of the first error.
    place: String,
    code: &'static str,
    text: String,
}

/// A warning without its place, which changes when lines move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warned {
    pub(super) code: &'static str,
    pub(super) text: String,
}

impl Warned {
    pub(super) fn of(warning: &Diagnostic) -> Self {
        Self { code: warning.code, text: format!("{} {}", warning.code, words(warning)) }
    }
}

impl Refused {
    pub(super) fn of(report: &Report, at: Duration) -> Self {
        let name = &report.source.name;
        let first = report.diagnostics.iter().find(|found| found.severity == Severity::Error);
        let place = match first.map(|first| first.span).filter(|span| span.line > 0) {
            Some(span) => format!("{name}:{}:{}", span.line, span.column),
            None => name.clone(),
        };
        let (code, text) = first.map_or(("", String::new()), |first| (first.code, words(first)));
        Self { at, errors: report.errors(), place, code, text }
    }

    /// The text of the event, one line.
    pub(super) fn line(&self) -> String {
        let more = match self.errors.saturating_sub(1) {
            0 => String::new(),
            1 => " (and 1 more error)".to_owned(),
            more => format!(" (and {more} more errors)"),
        };
        format!("{}: {} {}{more}", self.place, self.code, self.text)
    }
}

/// The message of a finding, with the words beside the marked text.
pub(super) fn words(found: &Diagnostic) -> String {
    match &*found.label {
        "" => found.message.clone(),
        label => format!("{}: {label}", found.message),
    }
}

impl ConfigState {
    pub(super) fn families(&self, out: &mut Families) {
        out.gauge("millgate_config_last_reload_successful", "1 if the last configuration was accepted")
            .add(&[], f64::from(u8::from(self.refused.is_none())));
        out.gauge(
            "millgate_config_last_reload_success_timestamp_seconds",
            "When a configuration was last accepted",
        )
        .add(&[], self.succeeded.as_secs_f64());
        let mut family = out
            .gauge("millgate_config_refused", "1 while the last configuration is refused; its first error");
        if let Some(refused) = &self.refused {
            family.add(&[("place", &refused.place), ("code", refused.code)], 1.0);
        }
        out.gauge(
            "millgate_config_files_unusable",
            "Files of the configuration in use whose new content cannot be used, while a new configuration is refused",
        )
        .add(&[], u32::try_from(self.unusable.len()).map_or(f64::MAX, f64::from));
        let mut family = out.gauge(
            "millgate_config_waiting_for_restart",
            "1 for each key whose new value takes effect at the next restart",
        );
        for key in &self.waiting {
            family.add(&[("key", key)], 1.0);
        }
    }

    /// The body of `/api/v1/config`. `source`: where the configuration comes from.
    pub(super) fn json(&self, source: &str) -> Value {
        let time = |at| humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + at).to_string();
        let refused = self.refused.as_ref().map(|refused| {
            let Refused { at, errors, place, code, text } = refused;
            json!({"time": time(*at), "errors": errors, "place": place, "code": code, "text": text})
        });
        let warnings = self.warnings.iter().map(|warned| &warned.text).collect::<Vec<_>>();
        json!({
            "source": source,
            "accepted": time(self.succeeded),
            "waiting_for_restart": self.waiting,
            "refused": refused,
            "unusable_files": self.unusable,
            "warnings": warnings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::diagnostics::{Source, Span, code};

    #[test]
    fn the_first_error_stands_with_its_place_and_the_others_are_counted() {
        let span = |line| Span { line, column: 3, length: 1 };
        let error =
            |line| Diagnostic::error(code::BAD_VALUE, span(line), format!("wrong {line}")).label("here");
        let warning = Diagnostic::warning(code::OPEN_TWIN, span(1), "odd");
        for (findings, line) in [
            (vec![error(7), warning.clone()], "r.yaml:7:3: E022 wrong 7: here"),
            (vec![error(9), error(8)], "r.yaml:8:3: E022 wrong 8: here (and 1 more error)"),
            (vec![error(9), error(8), error(9)], "r.yaml:8:3: E022 wrong 8: here (and 2 more errors)"),
            (
                vec![Diagnostic::error(code::UNREADABLE, Span::default(), "cannot be read")],
                "r.yaml: E004 cannot be read",
            ),
        ] {
            let report = Report::new(Source::new("r.yaml", "a\n"), findings);
            assert_eq!(Refused::of(&report, Duration::ZERO).line(), line);
        }
    }
}
