//! The parts of a route that govern its traffic, as written: rate limits, timeouts, retries, rewriting, header rules.
//!
//! Each has a short form for the plain case and a map for the rest, and both mean the same fields.

use std::{str::FromStr as _, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{
    fields::{Fields, Known, named_entries, one_or_many, value},
    is_word,
    listen::{millis, minutes},
    pattern::{method, path_prefix, upstream_host},
    report_empty,
    tree::{At, Node, Value},
};
use crate::{
    config::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        settings::UpstreamHost,
        units::{Invalid, Rate, burst, count, duration_in, rate_key, share_per_mille},
    },
    headers::{MadeValue, fold, names::Kind},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RateLimit {
    pub(crate) rate: Rate,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Timeout {
    pub(crate) total: Option<Duration>,
    pub(crate) connect: Option<At<Duration>>,
    pub(crate) per_try: Option<At<Duration>>,
    pub(crate) idle: Option<Duration>,
    pub(crate) min_rate: Option<MinRate>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Retry {
    pub(crate) retries: Option<u32>,
    pub(crate) on: Option<Vec<RetryOn>>,
    /// With the place of the list.
    pub(crate) methods: Option<At<Vec<Method>>>,
    pub(crate) budget_per_mille: Option<u16>,
    /// First and longest pause.
    pub(crate) backoff: Option<(Duration, Duration)>,
    /// Largest body that is kept to be sent again; 0 is `off`.
    pub(crate) body_bytes_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryOn {
    Connect,
    Refused,
    Reset,
    Timeout,
    Status(StatusCode),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Rewrite {
    pub(crate) strip: Option<At<String>>,
    pub(crate) add: Option<String>,
    pub(crate) host: Option<UpstreamHost>,
}

/// Rules for one direction. `set` and `add` merge by header name.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeaderRules {
    pub(crate) set: Vec<(HeaderName, FieldValue)>,
    pub(crate) add: Vec<(HeaderName, FieldValue)>,
    pub(crate) remove: Option<Vec<HeaderName>>,
}

#[derive(Debug, Clone)]
pub(crate) enum FieldValue {
    Fixed(HeaderValue),
    /// With something of the request in it.
    Made(MadeValue),
}

/// `100/s per user`, a list of those, `{rate, burst, per}`, or `off`.
pub(crate) fn read_rate_limits(node: &Node, sink: &mut Diagnostics) -> Vec<RateLimit> {
    if is_word(node, "off") {
        return Vec::new();
    }
    one_or_many(node).iter().filter_map(|item| read_rate_limit(item, sink)).collect()
}

fn read_rate_limit(node: &Node, sink: &mut Diagnostics) -> Option<RateLimit> {
    if !matches!(node.value, Value::Map(_)) {
        let rate = value(node, "rate_limit", sink, Rate::parse)?;
        return Some(RateLimit { rate: rate.value, span: rate.span });
    }
    let fields = Fields::of(node, &RATE_LIMIT, sink)?;
    fields.need("rate", "rate: 100/s", sink)?;
    let burst = fields.value("burst", sink, burst);
    let key = fields.value("per", sink, rate_key);
    let At { value: mut rate, span } = fields.value("rate", sink, Rate::parse)?;
    if rate.burst.is_some() && burst.is_some() || rate.key.is_some() && key.is_some() {
        sink.push(
            Diagnostic::error(code::CONFLICT, span, "`rate` already says what `burst` or `per` says")
                .label("remove one of the two"),
        );
    }
    rate.burst = rate.burst.or(burst.map(|at| at.value));
    rate.key = rate.key.or(key.map(|at| at.value));
    Some(RateLimit { rate, span })
}

impl Timeout {
    /// `3s` is the total.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let total = |text: &str| duration_in(text, millis(1)..=minutes(24 * 60));
        if !matches!(node.value, Value::Map(_)) {
            return Self { total: value(node, "timeout", sink, total).map(|at| at.value), ..Self::default() };
        }
        let Some(fields) = Fields::of(node, &TIMEOUT, sink) else { return Self::default() };
        let per_try = fields.value("try", sink, total);
        let mut timeout = Self {
            total: fields.plain("total", sink, total),
            connect: fields.value("connect", sink, |t| duration_in(t, millis(1)..=minutes(1))),
            per_try: per_try.clone(),
            idle: fields.plain("idle", sink, |t| duration_in(t, millis(10)..=minutes(24 * 60))),
            min_rate: fields.plain("min_rate", sink, MinRate::parse),
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
            // Said once.
            timeout.per_try = None;
        }
        timeout
    }
}

impl Retry {
    /// `off`, or the number of retries.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let retries = |text: &str| count(text, 0..=RETRIES_MAX);
        if is_word(node, "off") {
            return Self { retries: Some(0), ..Self::default() };
        }
        if !matches!(node.value, Value::Map(_)) {
            let short = value(node, "retry", sink, |text| {
                retries(text)
                    .map_err(|e| Invalid { expected: format!("`off`, a map, or {}", e.expected), ..e })
            });
            return Self { retries: short.map(|at| at.value), ..Self::default() };
        }
        let Some(fields) = Fields::of(node, &RETRY, sink) else { return Self::default() };
        report_empty(&fields, "on", "nothing leads to another attempt", sink);
        let bare = |list: Vec<At<RetryOn>>| list.into_iter().map(|at| at.value).collect();
        let retries = read_retries(&fields, sink, retries);
        report_no_retries(&fields, retries, sink);
        Self {
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
                _ => crate::config::units::size_in(text, 0..=RETRY_BODY_BYTES_MAX),
            }),
        }
    }
}

/// What is said beside `retries: 0` has no effect: not even a connect is tried again.
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

/// `retries`, or the word of version 0.1 for it.
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
        let expected = "`connect`, `refused`, `reset`, `timeout`, or a status that may pass by itself: `408`, `425`, `429`, `500` to `599`";
        Invalid::new(code::BAD_VALUE, expected, label)
    };
    match text {
        "connect" => Ok(RetryOn::Connect),
        "refused" => Ok(RetryOn::Refused),
        "reset" => Ok(RetryOn::Reset),
        "timeout" => Ok(RetryOn::Timeout),
        _ => match text.parse::<u16>().map(StatusCode::from_u16) {
            Ok(Ok(status)) if matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) => {
                Ok(RetryOn::Status(status))
            }
            Ok(_) => Err(refuse("a retry would get the same answer")),
            Err(_) => Err(refuse("not one of them")),
        },
    }
}

/// `25ms..250ms`; one value means that every pause may be as long.
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

impl Rewrite {
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &REWRITE, sink) else { return Self::default() };
        Self {
            strip: fields.value("strip", sink, path_prefix),
            add: fields.plain("add", sink, path_prefix),
            host: fields.plain("host", sink, upstream_host),
        }
    }
}

impl HeaderRules {
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &HEADER_RULES, sink) else { return Self::default() };
        Self {
            set: fields.get("set").map(|node| read_header_map(node, "set", sink)).unwrap_or_default(),
            add: fields.get("add").map(|node| read_header_map(node, "add", sink)).unwrap_or_default(),
            remove: fields
                .values("remove", sink, settable_header)
                .map(|list| list.into_iter().map(|at| at.value).collect()),
        }
    }
}

fn read_header_map(node: &Node, what: &str, sink: &mut Diagnostics) -> Vec<(HeaderName, FieldValue)> {
    let mut headers = Vec::new();
    for entry in named_entries(node, &format!("`{what}`"), sink) {
        let name = match settable_header(&entry.key.value) {
            Ok(name) => Some(name),
            Err(invalid) => {
                sink.push(
                    Diagnostic::error(
                        invalid.code,
                        entry.key.span,
                        format!("`{what}` needs {}", invalid.expected),
                    )
                    .label(invalid.label),
                );
                None
            }
        };
        let header = value(&entry.value, what, sink, field_value);
        headers.extend(name.zip(header.map(|at| at.value)));
    }
    headers
}

fn field_value(text: &str) -> Result<FieldValue, Invalid> {
    let fixed = header_value(text)?;
    match MadeValue::parse(text) {
        Ok(Some(made)) => Ok(FieldValue::Made(made)),
        Ok(None) => Ok(FieldValue::Fixed(fixed)),
        Err(why) => Err(Invalid::new(code::BAD_VALUE, "a header value", why).help("`{{` stands for a brace")),
    }
}

pub(crate) fn header_value(text: &str) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_str(text)
        .map_err(|_| Invalid::new(code::BAD_VALUE, "a header value", "control characters are not allowed"))
}

/// A header that configuration may write. Framing and connection headers (RFC 9110 §7.6.1, RFC 9112 §6) belong to
/// the gateway alone: a rule for them would be a way to smuggle requests.
pub(crate) fn settable_header(text: &str) -> Result<HeaderName, Invalid> {
    let name = HeaderName::from_str(text).map_err(|_| {
        Invalid::new(code::BAD_VALUE, "a header name such as `X-User-Id`", "not a header name")
    })?;
    let folded = fold(name.as_str());
    let is_of_the_gateway = match Kind::of(&folded) {
        Kind::HopByHop => *folded != *"proxy-status",
        Kind::Framing => true,
        // Where the request came through is added, and what it expects is met.
        Kind::Managed => matches!(&*folded, "via" | "expect"),
        Kind::Credential | Kind::Forwarding | Kind::EndToEnd => false,
    };
    if is_of_the_gateway {
        let label = "the gateway itself decides about this header";
        return Err(Invalid::new(
            code::BAD_VALUE,
            "a header that is not about the connection or the length",
            label,
        ));
    }
    Ok(name)
}

/// `size` of `body_limit`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLimit {
    Off,
    Bytes(u64),
}

impl BodyLimit {
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" | "false" => Ok(Self::Off),
            _ => {
                crate::config::units::size_in(text, 1..=1 << 40).map(Self::Bytes).map_err(|e| match e.code {
                    code::OUT_OF_RANGE => e.help("write `off` for no limit"),
                    _ => e,
                })
            }
        }
    }
}

/// `gather`, or `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyStart {
    Gather,
    Stream,
}

impl BodyStart {
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "gather" => Ok(Self::Gather),
            "stream" => Ok(Self::Stream),
            _ => Err(Invalid::new(code::BAD_VALUE, "`stream` or `gather`", "not one of the two")),
        }
    }
}

/// Bytes in a second, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinRate {
    Off,
    BytesPerSecond(u64),
}

impl MinRate {
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" | "false" => Ok(Self::Off),
            _ => {
                let bytes = text.strip_suffix("/s").unwrap_or(text);
                let rate = crate::config::units::size_in(bytes, 1..=1 << 30);
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

pub(crate) static RATE_LIMIT: Known =
    Known { what: "`rate_limit`", prefix: "rate_limit.", fields: &["rate", "burst", "per"], later: &[] };
pub(crate) static TIMEOUT: Known = Known {
    what: "`timeout`",
    prefix: "timeout.",
    fields: &["total", "connect", "try", "idle", "min_rate"],
    later: &[],
};
pub(crate) static RETRY: Known = Known {
    what: "`retry`",
    prefix: "retry.",
    fields: &["retries", "on", "methods", "budget", "backoff", "body", "attempts"],
    later: &[],
};
pub(crate) static REWRITE: Known =
    Known { what: "`rewrite`", prefix: "rewrite.", fields: &["strip", "add", "host"], later: &["to"] };
pub(crate) static HEADER_RULES: Known =
    Known { what: "header rules", prefix: "", fields: &["set", "add", "remove"], later: &[] };

/// Each retry is a whole request more; past ten it is a typing mistake.
const RETRIES_MAX: u32 = 10;
/// Bodies are kept in memory, one for each request under way.
const RETRY_BODY_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn framing_headers_cannot_be_configured() {
        assert!(settable_header("X-User-Id").is_ok());
        assert!(settable_header("Proxy-Status").is_ok() && settable_header("X-Forwarded-User").is_ok());
        for text in [
            "Content-Length",
            "transfer-encoding",
            "Connection",
            "Host",
            "a b",
            "",
            "Content_Length",
            "Transfer.Encoding",
            "HTTP2-Settings",
            "Proxy",
            "Proxy-Authorization",
            "Via",
            "Expect",
            "Upgrade",
        ] {
            assert!(settable_header(text).is_err(), "{text:?}");
        }
    }
}
