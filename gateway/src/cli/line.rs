//! One line on standard error: as text, or as one event of the log in JSON.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tracing::Level;

use crate::clock;

/// Set once, before the first line is written.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Chooses the form of all lines that follow.
pub(super) fn use_json(is_json: bool) {
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// Whether lines are written as events in JSON.
pub(super) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// What standard error gets for `message`: the text itself, or one event of the log. `RUST_LOG` does not filter it.
pub(super) fn line(level: Level, message: impl Display) -> String {
    if is_json() { event(level, &json!({"message": message.to_string()})) } else { format!("{message}\n") }
}

/// One event with these fields, in the form of the log's JSON lines.
pub(super) fn event(level: Level, fields: &Value) -> String {
    let time = std::time::UNIX_EPOCH + clock::unix_now();
    let timestamp = humantime::format_rfc3339_micros(time).to_string();
    let event =
        json!({"timestamp": timestamp, "level": level.as_str(), "fields": fields, "target": "millgate"});
    format!("{event}\n")
}
