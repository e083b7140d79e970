//! Timeouts: how long a request, one attempt, a connect and a silent body may take.
//!
//! `total` runs from the end of the request to the response head, over all attempts and the pauses between them. While a
//! body is on its way, in either direction, `idle` and `min_rate` apply. This module only computes instants: it neither
//! reads a clock nor sets a timer.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::of_route::{BadOption, Check, Compile, RoutePolicy, View, replace};
use crate::{
    clock::LONGEST,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, value},
        tree::{At, Value},
        units::{Invalid, duration_in, millis, minutes, show_duration, size_in},
    },
};

/// `timeout` as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Written {
    total: Option<Duration>,
    connect: Option<At<Duration>>,
    per_try: Option<At<Duration>>,
    idle: Option<Duration>,
    min_rate: Option<MinRate>,
    tunnel: Option<Duration>,
}

impl Written {
    /// A timeout of the whole request only.
    #[cfg(test)]
    pub(crate) fn total(total: Option<Duration>) -> Self {
        Self { total, ..Self::default() }
    }
}

impl RoutePolicy for Timeouts {
    type Written = Written;
    type Compiled = Arc<Timeouts>;
    const KEYS: &'static [&'static str] = &["timeout"];
    const MAPS: &'static [&'static Known] = &[&TIMEOUT];

    /// Reads a map, or a duration, which is the total.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        let Some(node) = fields.get("timeout") else { return Written::default() };
        let total = |text: &str| duration_in(text, millis(1)..=minutes(24 * 60));
        if !matches!(node.value, Value::Map(_)) {
            return Written {
                total: value(node, "timeout", sink, total).map(|at| at.value),
                ..Written::default()
            };
        }
        let Some(fields) = Fields::of(node, &TIMEOUT, sink) else { return Written::default() };
        let per_try = fields.value("try", sink, total);
        let mut timeout = Written {
            total: fields.plain("total", sink, total),
            connect: fields.value("connect", sink, |t| duration_in(t, millis(1)..=minutes(1))),
            per_try: per_try.clone(),
            idle: fields.plain("idle", sink, |t| duration_in(t, millis(10)..=minutes(24 * 60))),
            min_rate: fields.plain("min_rate", sink, MinRate::parse),
            tunnel: fields.plain("tunnel", sink, |t| duration_in(t, millis(100)..=minutes(24 * 60))),
        };
        if let (Some(per_try), Some(total)) = (per_try, timeout.total)
            && per_try.value > total
        {
            sink.push(
                Diagnostic::error(
                    code::CONFLICT,
                    per_try.span,
                    "`timeout.try` is longer than `timeout.total`",
                )
                .label("one attempt cannot take longer than all of them")
                .help("write a longer `total`, or a shorter `try`"),
            );
            // Without it, `check` does not report it again.
            timeout.per_try = None;
        }
        timeout
    }

    fn overlay(under: &mut Written, top: &Written) {
        if top.total.is_some() {
            // A part that was written beside another total is not reported if this total is shorter.
            for inherited in [&mut under.connect, &mut under.per_try].into_iter().flatten() {
                inherited.span = Span::default();
            }
        }
        replace(&mut under.total, top.total.as_ref());
        replace(&mut under.connect, top.connect.as_ref());
        replace(&mut under.per_try, top.per_try.as_ref());
        replace(&mut under.idle, top.idle.as_ref());
        replace(&mut under.min_rate, top.min_rate.as_ref());
        replace(&mut under.tunnel, top.tunnel.as_ref());
    }

    /// Reads `timeout`, which is the total.
    fn read_option(written: &mut Written, option: &str, value: &str) -> Option<Result<(), BadOption>> {
        if option != "timeout" {
            return None;
        }
        let read = duration_in(value, millis(1)..=minutes(60)).map(|total| written.total = Some(total));
        Some(read.map_err(|why| BadOption::of(option, why)))
    }

    fn write_options(written: &Written, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match written.total {
            Some(total) => write!(to, " timeout={}ms", total.as_millis()),
            None => Ok(()),
        }
    }

    fn check(written: &Written, with: &mut Check<'_>) {
        let total = written.total.unwrap_or(TOTAL);
        for (name, part) in [("connect", &written.connect), ("try", &written.per_try)] {
            report_longer_than(total, name, part.as_ref(), with.sink);
        }
    }

    fn compile(written: &Written, with: &mut Compile<'_, '_>) -> Arc<Timeouts> {
        with.shared.share(Arc::new(Self::of(written)))
    }

    fn show(timeouts: &Arc<Timeouts>, view: &mut View<'_>) {
        view.number("timeout_ms", u64::try_from(timeouts.total.as_millis()).unwrap_or(u64::MAX));
    }
}

/// Warns about a part that is longer than the total. A part without a place was written beside another total.
fn report_longer_than(total: Duration, name: &str, part: Option<&At<Duration>>, sink: &mut Diagnostics) {
    if let Some(part) = part.filter(|part| part.value > total && part.span != Span::default()) {
        let message = format!("`timeout.{name}` is longer than `timeout.total`");
        let label = format!("never reached: the whole request has {}", show_duration(total));
        sink.push_once(
            Diagnostic::warning(code::NO_EFFECT, part.span, message)
                .label(label)
                .help("write a longer `total` beside it, or a shorter time here"),
        );
    }
}

/// The least rate of a body: bytes per second, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinRate {
    Off,
    BytesPerSecond(u64),
}

impl MinRate {
    /// Reads a rate such as `240B/s`, or `off`.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" | "false" => Ok(Self::Off),
            _ => {
                let bytes = text.strip_suffix("/s").unwrap_or(text);
                let rate = size_in(bytes, 1..=1 << 30);
                let per_second = |e: Invalid| Invalid {
                    expected: format!(
                        "`off`, or bytes per second such as `240B/s`: {} per second",
                        e.expected
                    ),
                    ..e
                };
                rate.map(Self::BytesPerSecond).map_err(|e| {
                    Invalid { help: None, ..per_second(e) }.help("write `240B/s`, or `off` for no minimum")
                })
            }
        }
    }
}

/// The timeouts of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    total: Duration,
    connect: Duration,
    per_try: Option<Duration>,
    idle: Duration,
    min_rate: Option<u64>,
    tunnel: Duration,
}

/// The instant by which one request must have its response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    timeouts: Timeouts,
    /// The client's own deadline, which nothing extends.
    latest: Option<Instant>,
}

impl Timeouts {
    /// The compiled timeouts, with defaults for parts that are not written.
    pub(crate) fn of(written: &Written) -> Self {
        let value = |part: &Option<At<Duration>>| part.as_ref().map(|at| at.value);
        let total = written.total.unwrap_or(TOTAL).min(LONGEST);
        Self {
            total,
            connect: value(&written.connect).unwrap_or(CONNECT).min(LONGEST),
            // An inherited `try` that is not shorter than the route's own total has no effect.
            per_try: value(&written.per_try).filter(|per_try| *per_try < total),
            idle: written.idle.unwrap_or(IDLE),
            min_rate: match written.min_rate {
                Some(MinRate::Off) => None,
                Some(MinRate::BytesPerSecond(rate)) => Some(rate),
                None => Some(MIN_RATE),
            },
            tunnel: written.tunnel.unwrap_or(TUNNEL),
        }
    }

    /// The deadline of one request that is ready to be sent at `now`.
    pub fn apply(&self, now: Instant) -> Deadline {
        Deadline { at: now + self.total, timeouts: *self, latest: None }
    }

    /// Longest time from the end of the request to the response head.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Longest silence while a body is on its way, in both directions together.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// Longest silence in a tunnel, in both directions together.
    pub fn tunnel(&self) -> Duration {
        self.tunnel
    }

    /// Least bytes per second that a client must send or take while the gateway waits for it.
    pub fn min_rate(&self) -> Option<u64> {
        self.min_rate
    }
}

impl Deadline {
    /// The same, ended by the client's own deadline.
    #[must_use]
    pub fn at_latest(self, latest: Option<Instant>) -> Self {
        Self { at: latest.map_or(self.at, |latest| self.at.min(latest)), latest, ..self }
    }

    /// The client's own deadline.
    pub fn latest(&self) -> Option<Instant> {
        self.latest
    }

    /// When the time of the whole request is over.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Time of a first attempt that begins with the request.
    pub fn usual(&self) -> Duration {
        self.timeouts.per_try.map_or(self.timeouts.total, |per_try| per_try.min(self.timeouts.total))
    }

    /// The deadline of a request whose end came at `at`.
    #[must_use]
    pub fn received(self, at: Instant) -> Self {
        let at = self.at.max(at + self.timeouts.total);
        Self { at: self.latest.map_or(at, |latest| at.min(latest)), ..self }
    }

    /// The deadline of an attempt at an endpoint that is most likely still broken. It has half of the usual time, which
    /// leaves the other half for another endpoint.
    #[must_use]
    pub fn of_a_probe(self) -> Self {
        let timeouts = Timeouts { per_try: Some(self.usual() / 2), ..self.timeouts };
        Self { timeouts, ..self }
    }

    /// When the time of an attempt that begins at `now` is over: after `try`, and never later than the request.
    pub fn attempt(&self, now: Instant) -> Instant {
        self.timeouts.per_try.map_or(self.at, |per_try| self.at.min(now + per_try))
    }

    /// When a connect that begins at `now` is given up: after `connect`, and never later than its attempt.
    pub fn connect(&self, now: Instant) -> Instant {
        self.attempt(now).min(now + self.timeouts.connect)
    }
}

static TIMEOUT: Known = Known {
    what: "`timeout`",
    prefix: "timeout.",
    fields: &["total", "connect", "try", "idle", "min_rate", "tunnel"],
    later: &[],
};

// docs/DEFAULTS.md has the reason for each default.
const TOTAL: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_mins(1);
const TUNNEL: Duration = Duration::from_hours(1);
/// Bytes per second.
const MIN_RATE: u64 = 240;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: Duration) -> At<Duration> {
        At { value, span: Span::default() }
    }

    fn timeouts(per_try: Option<u64>) -> Timeouts {
        let per_try = per_try.map(Duration::from_secs).map(at);
        Timeouts::of(&Written { total: Some(10 * SECOND), per_try, ..Written::default() })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_deadline_counts_from_the_requests_first_moment() {
        let now = Instant::now();
        let deadline = timeouts(None).apply(now);
        assert_eq!(deadline.at(), now + 10 * SECOND);
    }

    #[test]
    fn an_attempt_ends_after_its_own_time_or_with_the_request() {
        let now = Instant::now();
        let deadline = timeouts(Some(3)).apply(now);
        assert_eq!(deadline.attempt(now + SECOND), now + 4 * SECOND);
        assert_eq!(deadline.attempt(now + 9 * SECOND), now + 10 * SECOND);
        assert_eq!(timeouts(None).apply(now).attempt(now), now + 10 * SECOND);
    }

    #[test]
    fn a_connect_ends_before_its_attempt() {
        let now = Instant::now();
        let deadline = timeouts(Some(3)).apply(now);
        assert_eq!(deadline.connect(now), now + SECOND);
        assert_eq!(deadline.connect(now + 9 * SECOND + SECOND / 2), now + 10 * SECOND);
    }

    #[test]
    fn a_timeout_past_the_range_of_instants_does_not_panic() {
        let longest = Some(at(Duration::MAX));
        let written = Written {
            total: Some(Duration::MAX),
            connect: longest.clone(),
            per_try: longest,
            idle: Some(Duration::MAX),
            min_rate: None,
            tunnel: None,
        };
        let now = Instant::now();
        let deadline = Timeouts::of(&written).apply(now);
        assert!(deadline.connect(now) > now);
    }
}
