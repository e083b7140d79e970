//! `breaker` of a service: its parameters, and the failures that it counts.

use std::time::Duration;

use http::StatusCode;

use super::CircuitBreaker;
use crate::{
    policy::of_service::ServicePolicy,
    syntax::{
        diagnostics::{Diagnostics, code},
        fields::{Fields, Known, is_word, report_empty},
        tree::Node,
        units::{Invalid, count, duration_in, millis, minutes, ratio, share_per_mille},
    },
};

/// The parameters of a circuit breaker.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerSettings {
    /// The breaker trips at this share of errors, 0.0..=1.0.
    pub error_ratio: f32,
    /// The breaker does not trip before this many requests were counted in the window.
    pub requests_min: u32,
    /// Length of the sliding window.
    pub window: Duration,
    /// Time in `open` before probes are let through.
    pub open: Duration,
    /// Probes in `half-open`; all must succeed before the breaker closes.
    pub probes: u32,
    /// The failures that are counted.
    pub count: FailureKinds,
    /// Failures that do not prove an endpoint to be at fault (statuses, clients that gave up) open no more than this
    /// share of a cluster's breakers, 0.0..=1.0.
    pub max_by_status: f32,
}

/// Which failures a breaker counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureKinds {
    /// Connects that failed.
    pub connect: bool,
    /// Connections that the endpoint broke, and responses that are not HTTP.
    pub reset: bool,
    /// Attempts without a response in time.
    pub timeout: bool,
    /// Statuses, in ascending order.
    pub statuses: Vec<StatusCode>,
}

impl FailureKinds {
    /// Whether a response with this status is a failure.
    pub fn has(&self, status: StatusCode) -> bool {
        // Nearly every status is below all of them.
        self.statuses.first().is_some_and(|lowest| status >= *lowest)
            && self.statuses.binary_search(&status).is_ok()
    }

    fn of(words: &[Counted]) -> Self {
        let statuses = words.iter().flat_map(|word| match word {
            Counted::Status(status) => status.as_u16()..=status.as_u16(),
            Counted::ServerErrors => 500..=599,
            #[expect(clippy::reversed_empty_ranges, reason = "no status")]
            Counted::Connect | Counted::Reset | Counted::Timeout => 1..=0,
        });
        let mut statuses: Vec<_> =
            statuses.filter_map(|status| http::StatusCode::from_u16(status).ok()).collect();
        statuses.sort_unstable();
        statuses.dedup();
        Self {
            connect: words.contains(&Counted::Connect),
            reset: words.contains(&Counted::Reset),
            timeout: words.contains(&Counted::Timeout),
            statuses,
        }
    }
}

impl ServicePolicy for CircuitBreaker {
    /// `None`: off.
    type Settings = Option<BreakerSettings>;
    const KEY: &'static str = "breaker";
    const MAPS: &'static [&'static Known] = &[&BREAKER];

    fn by_default() -> Option<BreakerSettings> {
        Some(BreakerSettings::default())
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self::Settings> {
        if is_word(node, "off") {
            return Some(None);
        }
        if is_word(node, "on") {
            return Some(Self::by_default());
        }
        let fields = Fields::of(node, &BREAKER, sink)?;
        report_empty(&fields, "count", "nothing counts, so the breaker never opens", sink);
        let usual = BreakerSettings::default();
        let words = fields.values("count", sink, counted);
        let words = words.map(|list| list.into_iter().map(|at| at.value).collect::<Vec<_>>());
        Some(Some(BreakerSettings {
            error_ratio: fields.plain("errors", sink, errors).map_or(usual.error_ratio, ratio),
            requests_min: fields
                .plain("min", sink, |t| count(t, 1..=1_000_000))
                .unwrap_or(usual.requests_min),
            window: fields
                .plain("window", sink, |t| duration_in(t, Duration::from_secs(1)..=minutes(10)))
                .unwrap_or(usual.window),
            open: fields
                .plain("open", sink, |t| duration_in(t, millis(100)..=minutes(10)))
                .unwrap_or(usual.open),
            probes: fields.plain("probes", sink, |t| count(t, 1..=1000)).unwrap_or(usual.probes),
            count: words.map_or(usual.count, |words| FailureKinds::of(&words)),
            max_by_status: fields
                .plain("max_by_status", sink, share_per_mille)
                .map_or(usual.max_by_status, ratio),
        }))
    }
}

/// docs/DEFAULTS.md has the reason for each value.
impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            error_ratio: 0.5,
            requests_min: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(10),
            probes: 3,
            count: FailureKinds {
                connect: true,
                reset: true,
                timeout: true,
                statuses: vec![
                    StatusCode::BAD_GATEWAY,
                    StatusCode::SERVICE_UNAVAILABLE,
                    StatusCode::GATEWAY_TIMEOUT,
                ],
            },
            max_by_status: 0.5,
        }
    }
}

/// One word of `breaker.count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Connect,
    Reset,
    Timeout,
    Status(StatusCode),
    /// Every status from 500 to 599.
    ServerErrors,
}

/// A share of errors in thousandths, more than zero.
fn errors(text: &str) -> Result<u16, Invalid> {
    match share_per_mille(text)? {
        0 => Err(Invalid::new(code::OUT_OF_RANGE, "more than `0%`", "the breaker would always be open")
            .help("write `50%`, or `breaker: off` to have none")),
        share => Ok(share),
    }
}

fn counted(text: &str) -> Result<Counted, Invalid> {
    let status = |text: &str| {
        let status = StatusCode::from_bytes(text.as_bytes()).ok()?;
        (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS).then_some(status)
    };
    match text {
        "connect" => Ok(Counted::Connect),
        "reset" => Ok(Counted::Reset),
        "timeout" => Ok(Counted::Timeout),
        "5xx" => Ok(Counted::ServerErrors),
        _ => status(text).map(Counted::Status).ok_or_else(|| {
            let expected = "`connect`, `reset`, `timeout`, `5xx`, or a status: `429`, `500` to `599`";
            Invalid::new(code::BAD_VALUE, expected, "not one of them")
        }),
    }
}

static BREAKER: Known = Known {
    what: "`breaker`",
    prefix: "breaker.",
    fields: &["errors", "min", "window", "open", "probes", "count", "max_by_status"],
    later: &[],
};
