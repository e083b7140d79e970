//! `retry` as it is written: how it is read, merged and compiled, and warnings for values without effect.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{Retry, RetryCauses};
use crate::{
    policy::of_route::{Check, Compile, RoutePolicy, View, replace},
    router::pattern::method,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, Known, is_word, report_empty, value},
        tree::{At, Value},
        units::{Invalid, count, duration_in, minutes, ratio, share_per_mille, size_in},
    },
};

/// `retry` as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Written {
    retries: Option<u32>,
    on: Option<Vec<RetryOn>>,
    /// The methods, with the place of the list.
    methods: Option<At<Vec<Method>>>,
    budget_per_mille: Option<u16>,
    /// The first and the longest pause.
    backoff: Option<(Duration, Duration)>,
    /// Largest body that is kept to be sent again, in bytes; 0 is `off`.
    body_bytes_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryOn {
    Connect,
    Refused,
    Reset,
    Timeout,
    Status(StatusCode),
}

impl Written {
    /// Share of a service's requests that retries may add, 0.0..=1.0.
    pub(crate) fn budget(&self) -> f32 {
        self.budget_per_mille.map_or(BUDGET, ratio)
    }

    /// The number of retries, or the default.
    pub(crate) fn retries(&self) -> u32 {
        self.retries.unwrap_or(RETRIES)
    }

    fn body_bytes_max(&self) -> usize {
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.body_bytes_max.map_or(BODY_BYTES_MAX, bytes)
    }
}

impl RoutePolicy for Retry {
    type Written = Written;
    type Compiled = Arc<Retry>;
    const KEYS: &'static [&'static str] = &["retry"];
    const MAPS: &'static [&'static Known] = &[&RETRY];

    /// Reads `off`, the number of retries, or a map.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        let Some(node) = fields.get("retry") else { return Written::default() };
        let retries = |text: &str| count(text, 0..=RETRIES_MAX);
        if is_word(node, "off") {
            return Written { retries: Some(0), ..Written::default() };
        }
        if !matches!(node.value, Value::Map(_)) {
            let short = value(node, "retry", sink, |text| {
                retries(text)
                    .map_err(|e| Invalid { expected: format!("`off`, a map, or {}", e.expected), ..e })
            });
            return Written { retries: short.map(|at| at.value), ..Written::default() };
        }
        let Some(fields) = Fields::of(node, &RETRY, sink) else { return Written::default() };
        report_empty(&fields, "on", "nothing leads to another attempt", sink);
        let bare = |list: Vec<At<RetryOn>>| list.into_iter().map(|at| at.value).collect();
        let retries = read_retries(&fields, sink, retries);
        report_no_retries(&fields, retries, sink);
        Written {
            retries,
            on: fields.values("on", sink, retry_on).map(bare),
            methods: fields.values("methods", sink, method).map(|list| At {
                span: list.first().map(|first| first.span).unwrap_or_default(),
                value: list.into_iter().map(|at| at.value).collect(),
            }),
            budget_per_mille: fields.plain("budget", sink, share_per_mille),
            backoff: fields.plain("backoff", sink, backoff),
            body_bytes_max: fields.plain("body", sink, |text| match text {
                "off" | "false" => Ok(0),
                _ => size_in(text, 0..=RETRY_BODY_BYTES_MAX),
            }),
        }
    }

    fn overlay(under: &mut Written, top: &Written) {
        replace(&mut under.retries, top.retries.as_ref());
        replace(&mut under.on, top.on.as_ref());
        replace(&mut under.methods, top.methods.as_ref());
        replace(&mut under.budget_per_mille, top.budget_per_mille.as_ref());
        replace(&mut under.backoff, top.backoff.as_ref());
        replace(&mut under.body_bytes_max, top.body_bytes_max.as_ref());
    }

    fn check(written: &Written, with: &mut Check<'_>) {
        report_bodies_that_are_not_kept(written, with.sink);
    }

    fn compile(written: &Written, with: &mut Compile<'_, '_>) -> Arc<Retry> {
        with.shared.share(Arc::new(Self::of(written)))
    }

    fn show(retry: &Arc<Retry>, view: &mut View<'_>) {
        view.number("retries", retry.retries.into());
    }
}

impl Retry {
    /// The compiled policy, with defaults for fields that are not written.
    pub(crate) fn of(written: &Written) -> Self {
        let (backoff_min, backoff_max) = written.backoff.unwrap_or((BACKOFF_MIN, BACKOFF_MAX));
        let on = written.on.as_deref();
        let has = |cause| on.is_none_or(|on| on.contains(&cause));
        let statuses = on.map(|on| {
            let statuses = on.iter().filter_map(|on| match on {
                RetryOn::Status(status) => Some(*status),
                RetryOn::Connect | RetryOn::Refused | RetryOn::Reset | RetryOn::Timeout => None,
            });
            statuses.collect::<Box<[StatusCode]>>()
        });
        Self {
            retries: written.retries(),
            on: RetryCauses {
                connect: has(RetryOn::Connect),
                refused: has(RetryOn::Refused),
                reset: has(RetryOn::Reset),
                timeout: has(RetryOn::Timeout),
            },
            on_status: statuses.unwrap_or_else(|| [StatusCode::SERVICE_UNAVAILABLE].into()),
            methods: written.methods.as_ref().map_or_else(|| METHODS.into(), |at| at.value.as_slice().into()),
            backoff_min,
            backoff_max: backoff_max.max(backoff_min),
            body_bytes_max: written.body_bytes_max(),
        }
    }
}

/// Warns about `on` beside `retries: 0`, which has no effect: not even a failed connect is followed by
/// another attempt.
fn report_no_retries(fields: &Fields<'_>, retries: Option<u32>, sink: &mut Diagnostics) {
    if retries == Some(0)
        && let Some(on) = fields.get("on")
    {
        sink.push_once(
            Diagnostic::warning(code::NO_EFFECT, on.span, "`retry.on` beside `retries: 0`")
                .label("no attempt is followed by another, whatever happens to it")
                .help("write `retry: off`, or the number of retries"),
        );
    }
}

/// Reads `retries`, or `attempts`, its name in version 0.1.
fn read_retries(
    fields: &Fields<'_>,
    sink: &mut Diagnostics,
    parse: impl Fn(&str) -> Result<u32, Invalid>,
) -> Option<u32> {
    let retries = fields.plain("retries", sink, &parse);
    let Some(old) = fields.entry("attempts") else { return retries };
    let finding = if fields.get("retries").is_some() {
        let message = "`retry.attempts` is the old name of `retry.retries`";
        Diagnostic::error(code::CONFLICT, old.key.span, message).label("remove it")
    } else {
        let message = "`retry.attempts` has the name `retry.retries` now: it counts retries, not attempts";
        Diagnostic::warning(code::OLD_NAME, old.key.span, message)
            .label("the old name")
            .help("write `retries` with the same number")
    };
    sink.push(finding);
    retries.or(fields.plain("attempts", sink, parse))
}

fn retry_on(text: &str) -> Result<RetryOn, Invalid> {
    let refuse = |label: &str| {
        let expected = "`connect`, `refused`, `reset`, `timeout`, a status that may pass by itself (`408`, `425`, `429`, `500` to `599`), or one of gRPC (`unavailable`, `resource_exhausted`, `deadline_exceeded`, `internal`)";
        Invalid::new(code::BAD_VALUE, expected, label)
    };
    match text {
        "connect" => Ok(RetryOn::Connect),
        "refused" => Ok(RetryOn::Refused),
        "reset" => Ok(RetryOn::Reset),
        "timeout" => Ok(RetryOn::Timeout),
        // Statuses of gRPC; those that a service sends are read as these of HTTP.
        "unavailable" => Ok(RetryOn::Status(StatusCode::SERVICE_UNAVAILABLE)),
        "resource_exhausted" => Ok(RetryOn::Status(StatusCode::TOO_MANY_REQUESTS)),
        "deadline_exceeded" => Ok(RetryOn::Status(StatusCode::GATEWAY_TIMEOUT)),
        "internal" => Ok(RetryOn::Status(StatusCode::INTERNAL_SERVER_ERROR)),
        _ => match text.parse::<u16>().map(StatusCode::from_u16) {
            Ok(Ok(status)) if matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) => {
                Ok(RetryOn::Status(status))
            }
            Ok(_) => Err(refuse("a retry would get the same answer")),
            Err(_) => Err(refuse("not one of them")),
        },
    }
}

/// Reads `25ms..250ms`. A single value is the length of every pause.
fn backoff(text: &str) -> Result<(Duration, Duration), Invalid> {
    let (first, longest) = text.split_once("..").unwrap_or((text, text));
    let range = || Duration::ZERO..=minutes(1);
    let with_form = |e: Invalid| Invalid {
        expected: format!("a range such as `25ms..250ms`, each part {}", e.expected),
        ..e
    };
    let first = duration_in(first.trim(), range()).map_err(with_form)?;
    let longest = duration_in(longest.trim(), range()).map_err(with_form)?;
    if first > longest {
        return Err(Invalid::new(
            code::BAD_VALUE,
            "a range such as `25ms..250ms`",
            "the first part is the longer one",
        ));
    }
    Ok((first, longest))
}

/// Warns about methods with bodies where bodies are not kept, since such a request is not sent again.
fn report_bodies_that_are_not_kept(written: &Written, sink: &mut Diagnostics) {
    let has_no_effect = written.retries() > 0 && written.body_bytes_max() == 0;
    let Some(methods) = written.methods.as_ref().filter(|_| has_no_effect) else { return };
    let has_body = |method: &&Method| matches!(**method, Method::POST | Method::PUT | Method::PATCH);
    if let Some(method) = methods.value.iter().find(has_body) {
        let message = format!("`retry.methods` has `{method}`, and `retry.body` keeps no body to send again");
        sink.push_once(
            Diagnostic::warning(code::NO_EFFECT, methods.span, message)
                .label("requests with a body are not retried after they were sent")
                .help("keep bodies with `body: 64KiB`, or leave out the methods that have bodies"),
        );
    }
}

static RETRY: Known = Known {
    what: "`retry`",
    prefix: "retry.",
    fields: &["retries", "on", "methods", "budget", "backoff", "body", "attempts"],
    later: &[],
};
/// Each retry is one more request to the service, and a number past ten is a typing mistake.
const RETRIES_MAX: u32 = 10;
/// Bodies are kept in memory, one for each request in flight.
const RETRY_BODY_BYTES_MAX: u64 = 16 << 20;

// docs/DEFAULTS.md has the reason for each default.
const RETRIES: u32 = 1;
const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::OPTIONS];
const BUDGET: f32 = 0.2;
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(250);
const BODY_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::units::millis;

    #[test]
    fn a_backoff_is_a_range_or_one_value() {
        assert_eq!(backoff("25ms..250ms"), Ok((millis(25), millis(250))));
        assert_eq!(backoff("100ms"), Ok((millis(100), millis(100))));
        for text in ["", "..", "250ms..25ms", "25..250", "2m"] {
            assert!(backoff(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_answers_that_may_change_are_retried() {
        assert_eq!(retry_on("503"), Ok(RetryOn::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert_eq!((retry_on("reset"), retry_on("timeout")), (Ok(RetryOn::Reset), Ok(RetryOn::Timeout)));
        for text in ["404", "200", "600", "99999", "error", ""] {
            assert!(retry_on(text).is_err(), "{text:?}");
        }
    }
}
