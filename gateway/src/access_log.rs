//! Access log: one line per request, written by a thread of its own.
//!
//! A worker formats into its own buffer and hands full buffers (32 KiB, or ten times a second) to the [`writer`]
//! over a bounded queue. When the disk is too slow or full, lines are dropped and counted
//! (`millgate_log_dropped_total`): a request never waits for the log. Tokens, queries and other headers are
//! never written. docs/ACCESS-LOG.md describes the fields.

mod entry;
mod settings;
mod writer;

use std::{
    cell::{Cell, RefCell},
    io::Write,
    time::{Duration, Instant},
};

use http::Version;

pub use self::{
    entry::{LogEntry, OneAttempt, Outcome},
    settings::{AccessLogFormat, AccessLogSettings},
    writer::LogSink,
};
use crate::{clock::Clock, printable::is_hidden};

/// A worker hands over its buffer at this size.
const CHUNK_BYTES: usize = 32 * 1024;

/// The access log of one worker.
pub struct AccessLog {
    sink: Option<LogSink>,
    format: Cell<AccessLogFormat>,
    sample_per_mille: Cell<u32>,
    refusals: SecondBudget,
    /// Position in the sampling sequence. It is a counter and not a random number, so that 10 % is exactly 10 %.
    turn: Cell<u32>,
    buffer: RefCell<Vec<u8>>,
    buffered_lines: Cell<u64>,
    dropped: Cell<u64>,
    second: RefCell<Second>,
    clock: std::rc::Rc<Clock>,
}

impl AccessLog {
    /// The access log of a worker. Without a sink, nothing is logged.
    pub fn new(sink: Option<LogSink>, settings: &AccessLogSettings, clock: std::rc::Rc<Clock>) -> Self {
        Self {
            sink,
            format: Cell::new(settings.format),
            sample_per_mille: Cell::new(settings.sample_per_mille),
            refusals: SecondBudget::new(settings.refusals_per_second),
            turn: Cell::new(0),
            buffer: RefCell::new(Vec::new()),
            buffered_lines: Cell::new(0),
            dropped: Cell::new(0),
            second: RefCell::default(),
            clock,
        }
    }

    /// Applies format and sampling of a new configuration. The file itself stays until a restart.
    pub fn configure(&self, settings: &AccessLogSettings) {
        self.format.set(settings.format);
        self.sample_per_mille.set(settings.sample_per_mille);
        self.refusals.max.set(settings.refusals_per_second);
    }

    /// Whether a request is logged: by its status, by the sample, or by the budget of refusals. It must be called once for
    /// each request, since it advances the sample.
    pub fn takes(&self, status: u16, is_refusal: bool, ended: Instant) -> bool {
        if self.sink.is_none() {
            return false;
        }
        let share = self.sample_per_mille.get();
        if share >= 1000 || status >= 500 {
            return true;
        }
        let turn = (self.turn.get() + share) % 1000;
        let wanted = turn < self.turn.get();
        self.turn.set(turn);
        wanted || (is_refusal && self.refusals.take(self.clock.unix(ended).as_secs()))
    }

    /// Formats one line; hands the buffer over when it is full.
    pub fn write(&self, entry: &LogEntry<'_>, ended: Instant) {
        let wall = self.clock.unix(ended);
        let mut buffer = self.buffer.borrow_mut();
        match self.format.get() {
            AccessLogFormat::Json => {
                let mut second = self.second.borrow_mut();
                json_line(&mut buffer, entry, second.at(wall));
            }
            AccessLogFormat::Combined => combined_line(&mut buffer, entry, wall),
            AccessLogFormat::Off => return,
        }
        self.buffered_lines.set(self.buffered_lines.get() + 1);
        if buffer.len() >= CHUNK_BYTES {
            drop(buffer);
            self.hand_over();
        }
    }

    /// Hands the buffered lines to the writer. Called ten times a second and at the end.
    pub fn hand_over(&self) {
        let Some(sink) = &self.sink else { return };
        let lines = self.buffered_lines.replace(0);
        if lines == 0 {
            return;
        }
        let chunk = std::mem::take(&mut *self.buffer.borrow_mut());
        if !sink.write(chunk) {
            self.dropped.set(self.dropped.get() + lines);
        }
    }

    /// Numbers of lines dropped since the last call: those of this worker that the full queue did not take, and those of any
    /// worker that could not be written.
    pub fn take_dropped(&self) -> [(&'static str, u64); 2] {
        let failed = self.sink.as_ref().map_or(0, LogSink::take_lost);
        [("behind", self.dropped.replace(0)), ("write", failed)]
    }

    /// Number of refusals since the last call that neither the sample nor the budget included.
    pub fn take_left_out(&self) -> u64 {
        self.refusals.left_out.replace(0)
    }
}

/// A budget for each second of wall time.
struct SecondBudget {
    /// 0 means that the budget is off, and left-out refusals are not counted.
    max: Cell<u32>,
    second: Cell<u64>,
    taken: Cell<u32>,
    left_out: Cell<u64>,
}

impl SecondBudget {
    fn new(max: u32) -> Self {
        Self { max: Cell::new(max), second: Cell::new(0), taken: Cell::new(0), left_out: Cell::new(0) }
    }

    fn take(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.taken.set(0);
        }
        if self.taken.get() < self.max.get() {
            self.taken.set(self.taken.get() + 1);
            return true;
        }
        if self.max.get() > 0 {
            self.left_out.set(self.left_out.get() + 1);
        }
        false
    }
}

/// The part of the timestamp that stays the same for a whole second: `2026-11-24T17:19:55.`.
#[derive(Default)]
struct Second {
    unix: u64,
    text: String,
}

impl Second {
    /// A timestamp in two parts: the text of the second, and the millisecond in it.
    fn at(&mut self, wall: Duration) -> (&str, u32) {
        if self.unix != wall.as_secs() || self.text.is_empty() {
            let whole = Duration::from_secs(wall.as_secs());
            self.unix = wall.as_secs();
            self.text = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + whole).to_string();
            self.text.truncate(self.text.len() - 1);
            self.text.push('.');
        }
        (&self.text, wall.subsec_millis())
    }
}

/// Writes a line of JSON. Numbers do not go through `std::fmt`, which takes ten times as long as the rest of the line.
fn json_line(out: &mut Vec<u8>, x: &LogEntry<'_>, (second, millisecond): (&str, u32)) {
    out.extend_from_slice(br#"{"ts":""#);
    out.extend_from_slice(second.as_bytes());
    out.extend_from_slice(&three_digits(millisecond));
    out.extend_from_slice(br#"Z","level":"access","request_id":"#);
    string(out, x.request_id);
    out.extend_from_slice(br#","client":""#);
    match x.client_text {
        Some(text) => out.extend_from_slice(text),
        // Writing to a Vec cannot fail.
        None => _ = write!(out, "{}", x.client),
    }
    out.extend_from_slice(br#"","method":"#);
    string(out, x.method);
    out.extend_from_slice(br#","host":"#);
    string(out, x.host.unwrap_or("-"));
    out.extend_from_slice(br#","path":"#);
    string(out, x.path);
    out.extend_from_slice(br#","proto":"#);
    string(out, protocol(x.version));
    out.extend_from_slice(if x.is_tls { br#","tls":true"# } else { br#","tls":false"# });
    out.extend_from_slice(br#","listener":"#);
    string(out, x.listener);
    number(out, br#","status":"#, x.status.into());
    number(out, br#","bytes_in":"#, x.bytes_in);
    number(out, br#","bytes_out":"#, x.bytes_out);
    millis(out, br#","duration_ms":"#, x.duration);
    if let Some(upstream) = x.upstream {
        millis(out, br#","overhead_ms":"#, x.overhead);
        millis(out, br#","upstream_ms":"#, upstream);
    }
    if let Some((route, service)) = x.route {
        out.extend_from_slice(br#","route":"#);
        string(out, route);
        out.extend_from_slice(br#","service":"#);
        string(out, service);
    }
    if let Some(subset) = x.subset {
        out.extend_from_slice(br#","subset":"#);
        string(out, subset);
    }
    if let Some(instance) = x.instance {
        out.extend_from_slice(br#","instance":"#);
        string(out, instance);
        number(out, br#","attempts":"#, x.attempts.into());
    }
    tried(out, x);
    if let Some(status) = x.grpc_status {
        number(out, br#","grpc_status":"#, status.into());
    }
    if let Some(user) = x.user {
        out.extend_from_slice(br#","user":"#);
        string(out, user);
    }
    if let Some(provider) = x.provider {
        out.extend_from_slice(br#","provider":"#);
        string(out, provider);
    }
    refused(out, x);
    out.extend_from_slice(br#","flags":"#);
    string(out, x.flag);
    out.extend_from_slice(b"}\n");
}

/// Writes the attempts of a request, unless its first attempt was good.
fn tried(out: &mut Vec<u8>, x: &LogEntry<'_>) {
    if x.tried.is_empty() {
        return;
    }
    let mut before: &[u8] = br#","tried":["#;
    for one in x.tried {
        out.extend_from_slice(before);
        out.extend_from_slice(br#"{"instance":"#);
        string(out, &one.instance);
        out.extend_from_slice(br#","outcome":"#);
        match one.outcome {
            Outcome::Answered(status) => string(out, itoa::Buffer::new().format(status)),
            Outcome::Failed(reason) => string(out, reason),
        }
        millis(out, br#","after_ms":"#, one.began.saturating_duration_since(x.started));
        millis(out, br#","ms":"#, one.took);
        out.push(b'}');
        before = b",";
    }
    out.push(b']');
}

/// Writes the address that may not use the route, and the reason why a credential was refused.
fn refused(out: &mut Vec<u8>, x: &LogEntry<'_>) {
    if let Some(denied) = x.denied {
        let _ = write!(out, r#","denied_address":"{denied}""#);
    }
    if let Some((reason, claim)) = x.auth_failure {
        out.extend_from_slice(br#","auth_failure":"#);
        string(out, reason);
        if let Some(claim) = claim {
            out.extend_from_slice(br#","auth_claim":"#);
            string(out, claim);
        }
    }
}

/// Writes a line in Apache's combined format with the request id at its end. Referer and user agent are not logged, so they
/// are `-`.
fn combined_line(out: &mut Vec<u8>, x: &LogEntry<'_>, wall: Duration) {
    let _ = write!(out, "{} - ", x.client);
    plain(out, x.user.unwrap_or("-"));
    let _ = write!(out, " [{}] \"", apache_time(wall));
    plain(out, x.method);
    out.push(b' ');
    plain(out, x.path);
    let (version, id) = (protocol(x.version), x.request_id);
    let _ = writeln!(out, " {version}\" {} {} \"-\" \"-\" {id}", x.status, x.bytes_out);
}

/// `24/Nov/2026:17:19:55 +0000`, from `Tue, 24 Nov 2026 17:19:55 GMT` (RFC 9110 §5.6.7).
fn apache_time(wall: Duration) -> String {
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + wall);
    match date.split(' ').collect::<Vec<_>>()[..] {
        [_, day, month, year, time, _] => format!("{day}/{month}/{year}:{time} +0000"),
        _ => date,
    }
}

/// Writes a JSON string with the escapes that RFC 8259 §7 requires, and those of [`is_hidden`], since lines are read in
/// terminals and by programs that end a line at U+2028.
fn string(out: &mut Vec<u8>, text: &str) {
    // The loop has no early exit, which is several times as fast for nearly all texts.
    if text.bytes().fold(true, |bare, byte| bare & is_bare(byte)) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    if (text.is_ascii() && !text.contains('\u{7f}')) || !text.contains(is_hidden) {
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.push(b'"');
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
        plain_json(out, rest.get(..at).unwrap_or_default());
        // All hidden characters are in the basic plane, so one unit of UTF-16 is enough.
        let _ = write!(out, "\\u{:04x}", u32::from(c));
        rest = rest.get(at + c.len_utf8()..).unwrap_or_default();
    }
    plain_json(out, rest);
    out.push(b'"');
}

/// Writes the text as serde does, without the quotes.
fn plain_json(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    let _ = serde_json::to_writer(&mut *out, text);
    out.pop();
    if out.len() > start {
        out.remove(start);
    }
}

/// Writes a text for the space-separated format. Characters that could break the line are replaced.
fn plain(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|b| if b.is_ascii_graphic() && b != b'"' { b } else { b'_' }));
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Whether a JSON string contains this byte as it is.
#[expect(clippy::needless_bitwise_bool, reason = "without a branch, many bytes are looked at at once")]
fn is_bare(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

fn number(out: &mut Vec<u8>, name: &[u8], number: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes milliseconds with three decimals, without floating point.
fn millis(out: &mut Vec<u8>, name: &[u8], duration: Duration) {
    number(out, name, duration.as_secs() * 1000 + u64::from(duration.subsec_millis()));
    out.push(b'.');
    out.extend_from_slice(&three_digits(duration.subsec_micros() % 1000));
}

/// The digits of a number below 1000, with leading zeros.
fn three_digits(number: u32) -> [u8; 3] {
    [number / 100, number / 10, number].map(|digits| b'0' + u8::try_from(digits % 10).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_begins_anew_each_second_and_counts_what_it_leaves_out() {
        let budget = SecondBudget::new(2);
        let taken = [7, 7, 7, 7, 8, 8, 8, 7].map(|second| budget.take(second));
        assert_eq!(taken, [true, true, false, false, true, true, false, true]);
        assert_eq!(budget.left_out.get(), 3);
        let none = SecondBudget::new(0);
        assert!(!none.take(7) && none.left_out.get() == 0);
    }

    #[test]
    fn milliseconds_keep_their_microseconds() {
        let mut out = Vec::new();
        for micros in [12_345, 7, 1_000_000, 61_000_999] {
            millis(&mut out, b" ", Duration::from_micros(micros));
        }
        assert_eq!(out, b" 12.345 0.007 1000.000 61000.999");
    }

    #[test]
    fn a_timestamp_is_made_anew_each_second() {
        let mut second = Second::default();
        for (millis, text, rest) in [
            (0, "1970-01-01T00:00:00.", 0),
            (7, "1970-01-01T00:00:00.", 7),
            (1_795_540_795_042, "2026-11-24T17:19:55.", 42),
            (1_795_540_795_999, "2026-11-24T17:19:55.", 999),
            (1_795_540_796_000, "2026-11-24T17:19:56.", 0),
            // The wall clock was set back.
            (1_795_540_795_001, "2026-11-24T17:19:55.", 1),
        ] {
            assert_eq!(second.at(Duration::from_millis(millis)), (text, rest));
        }
        assert_eq!(three_digits(7), *b"007");
    }

    #[test]
    fn the_combined_format_has_the_time_as_apache_writes_it() {
        assert_eq!(apache_time(Duration::from_secs(1_795_540_795)), "24/Nov/2026:17:19:55 +0000");
    }

    #[test]
    fn text_of_a_client_cannot_break_a_line() {
        let mut out = Vec::new();
        string(&mut out, "a\"b\n\u{1}");
        assert_eq!(out, br#""a\"b\n\u0001""#);
        out.clear();
        string(&mut out, "é\u{85}\u{2028}\"\u{202e}\u{7f}\n\u{9b}x");
        assert_eq!(out, "\"é\\u0085\\u2028\\\"\\u202e\\u007f\\u000a\\u009bx\"".as_bytes());
        out.clear();
        plain(&mut out, "a b\"\n");
        assert_eq!(out, b"a_b__");
    }

    #[test]
    fn a_writer_that_is_behind_loses_lines_and_says_how_many() {
        let (sink, _never_read) = LogSink::never_read();
        let log = AccessLog::new(
            Some(sink),
            &AccessLogSettings {
                format: AccessLogFormat::Json,
                file: None,
                file_span: crate::syntax::diagnostics::Span::default(),
                sample_per_mille: 1000,
                refusals_per_second: 0,
            },
            std::rc::Rc::new(Clock::new()),
        );
        for _ in 0..3 {
            log.buffer.borrow_mut().extend_from_slice(b"line\n");
            log.buffered_lines.set(1);
            log.hand_over();
        }
        assert_eq!(log.take_dropped(), [("behind", 2), ("write", 0)]);
        assert_eq!(log.take_dropped(), [("behind", 0), ("write", 0)]);
    }
}
