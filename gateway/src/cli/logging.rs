//! The log on standard error, as text or as JSON, and a bound for lines of libraries.
//!
//! With `MILLGATE_LOG_FORMAT=json` every line is one event: also start-up lines, reports, errors and panics. Lines of libraries
//! are bounded, since a client can cause them: rustls has one for each handshake that names an address. The file watcher's lines
//! below a warning are dropped: its line about a written file, written into the folder that it watches, would cause the next one.

use std::{
    fmt::Display,
    process::ExitCode,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::{LevelFilter, STATIC_MAX_LEVEL},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use super::{
    diagnostics::{self, Diagnostics, InBackground},
    is_coloured,
    line::{is_json, line, use_json},
    variable,
};
use crate::clock;

/// Starts the log of a process that serves: it goes to standard error, and nothing waits for that to be read. `RUST_LOG`
/// overrides `level`, `MILLGATE_LOG_FORMAT` chooses the form. Dropping the result waits a moment for unwritten lines.
pub fn start(level: &str) -> InBackground {
    let said = diagnostics::in_background();
    init(level);
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        // Empty unless RUST_BACKTRACE is set.
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        tracing::error!(thread, place, "panic: {text}{backtrace}");
    }));
    said
}

/// Starts the log; `RUST_LOG` overrides `level`.
pub(super) fn init(level: &str) {
    let rust_log = variable("RUST_LOG");
    let rust_log = rust_log.as_ref().map(|text| text.to_string_lossy());
    let without_trace = rust_log.as_ref().filter(|_| STATIC_MAX_LEVEL < LevelFilter::TRACE);
    let without_trace = without_trace.map(|text| without_trace_level(text));
    let (filter, wrong_filter) = match without_trace.as_deref().or(rust_log.as_deref()) {
        None => (EnvFilter::new(level), None),
        Some(text) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(level), Some(error)),
        },
    };
    let format = variable("MILLGATE_LOG_FORMAT").map(|format| format.to_string_lossy().into_owned());
    use_json(format.as_deref() == Some("json"));
    let filtered = tracing_subscriber::registry().with(filter).with(Libraries);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Diagnostics)
        // Otherwise the library reports a closed standard error on standard error, and panics.
        .log_internal_errors(false);
    let _ = if is_json() {
        filtered.with(lines.json()).try_init()
    } else {
        filtered.with(lines.with_ansi(is_coloured()).with_target(false)).try_init()
    };
    if let Some(error) = wrong_filter {
        tracing::warn!(%error, "RUST_LOG is not understood; the level is {level}");
    }
    if let Some(format) = format.filter(|format| !["json", "text"].contains(&format.as_str())) {
        tracing::warn!(%format, "MILLGATE_LOG_FORMAT is neither `json` nor `text`; taking `text`");
    }
}

/// `filter` with the level `debug` in the place of `trace`, which release builds do not contain: the spans of h2 and tokio would cost each
/// request some hundred instructions. The library would report each such part in plain lines on standard error, which are no
/// events.
fn without_trace_level(filter: &str) -> String {
    let parts = filter.split(',').map(|part| {
        // A span and its fields stand in brackets; a level is behind them and behind a `=`, or it is the whole part.
        let (before, end) = part.trim().rsplit_once(']').map_or(("", part.trim()), |(span, end)| (span, end));
        let bracket = if before.is_empty() { "" } else { "]" };
        let (target, level) = match end.rsplit_once('=') {
            Some((target, level)) => (Some(target), level),
            None if before.is_empty() && end.parse::<LevelFilter>().is_ok() => (None, end),
            // A name alone stands for all of its levels.
            None => (Some(end), ""),
        };
        let is_trace = target.is_some() && level.is_empty()
            || level.parse().is_ok_and(|level: LevelFilter| level == LevelFilter::TRACE);
        match (target, is_trace) {
            _ if !is_trace || part.trim().is_empty() => part.to_owned(),
            (Some(target), _) => format!("{before}{bracket}{target}=debug"),
            (None, _) => "debug".to_owned(),
        }
    });
    parts.collect::<Vec<_>>().join(",")
}

/// Prints an error that ends the process, and returns its exit code.
pub fn fail(message: impl Display) -> ExitCode {
    diagnostics::write(&line(Level::ERROR, message));
    ExitCode::FAILURE
}

/// The filter for lines of libraries.
struct Libraries;

impl<S: Subscriber> Layer<S> for Libraries {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let mut known = Target(metadata.target().to_owned());
        if known.0 == "log" {
            // The event came through the `log` crate, and its target is a field.
            event.record(&mut known);
        }
        let target = &*known.0;
        if OWN.iter().any(|own| target.starts_with(own)) {
            return true;
        }
        if *metadata.level() > Level::INFO {
            // These levels are written only if RUST_LOG includes them.
            return !target.starts_with(WATCHER);
        }
        let (may_write, left_out) = BUDGET.take(clock::unix_now().as_secs());
        if left_out > 0 {
            let words =
                format_args!("{left_out} lines of libraries were left out: more than {LINES_MAX} a second");
            diagnostics::write(&line(Level::WARN, words));
        }
        may_write
    }
}

struct Target(String);

impl Visit for Target {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// A number of lines for each second. Two threads at the boundary of a second may write one more.
struct Budget {
    second: AtomicU64,
    written: AtomicU32,
    left_out: AtomicU64,
}

impl Budget {
    const fn new() -> Self {
        Self { second: AtomicU64::new(0), written: AtomicU32::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether a line may be written, and the number of lines that were left out before it.
    fn take(&self, second: u64) -> (bool, u64) {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.written.store(0, Ordering::Relaxed);
        }
        if self.written.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            (true, self.left_out.swap(0, Ordering::Relaxed))
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            (false, 0)
        }
    }
}

static BUDGET: Budget = Budget::new();

/// Lines of libraries with level `info` or above, per second. Important ones come again.
const LINES_MAX: u32 = 10;
/// The names of our own crates begin with one of these.
const OWN: [&str; 3] = ["millgate", "sample_services", "demo"];
const WATCHER: &str = "notify";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_without_the_level_trace_is_otherwise_the_same() {
        for (filter, without) in [
            ("", ""),
            ("trace", "debug"),
            ("TRACE", "debug"),
            ("5", "debug"),
            ("info", "info"),
            ("off,millgate=warn", "off,millgate=warn"),
            ("info,h2=trace,hyper=5", "info,h2=debug,hyper=debug"),
            ("millgate", "millgate=debug"),
            ("millgate=", "millgate=debug"),
            ("warn, millgate", "warn,millgate=debug"),
            ("millgate[serve]=info", "millgate[serve]=info"),
            ("millgate[serve]", "millgate[serve]=debug"),
            ("[{name=trace}]=trace,info", "[{name=trace}]=debug,info"),
        ] {
            let made = without_trace_level(filter);
            assert_eq!(made, without, "{filter}");
            let hint = EnvFilter::try_new(&made).unwrap().max_level_hint();
            // A filter by the value of a field has no hint.
            assert!(hint <= Some(LevelFilter::DEBUG) || made.contains('{'), "{made}");
        }
        // What is not a filter is reported as it was.
        assert!(EnvFilter::try_new(without_trace_level("a=b=trace")).is_err());
    }

    #[test]
    fn so_many_lines_a_second_and_the_next_one_says_how_many_were_left_out() {
        let budget = Budget::new();
        let written: Vec<_> = (0..25).map(|_| budget.take(7)).collect();
        assert_eq!(written.iter().filter(|(may_write, _)| *may_write).count(), 10);
        assert!(written.iter().all(|(_, left_out)| *left_out == 0));
        assert_eq!(budget.take(8), (true, 15));
        assert_eq!(budget.take(8), (true, 0));
    }
}
