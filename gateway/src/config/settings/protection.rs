//! What keeps requests from an endpoint that fails: its breaker and outlier detection.

use std::time::Duration;

use http::StatusCode;

/// Circuit breaker of one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerSettings {
    /// Trips at this share of errors, 0.0..=1.0.
    pub error_ratio: f32,
    /// … once at least this many requests were seen in the window.
    pub requests_min: u32,
    pub window: Duration,
    /// Time in `open` before probes are let through.
    pub open: Duration,
    /// Probes in `half-open`; all must succeed to close.
    pub probes: u32,
    /// What counts as a failure.
    pub count: FailureKinds,
    /// Failures that are not proved against an endpoint (statuses, clients that gave up) open no more than this share of
    /// a cluster's breakers, 0.0..=1.0.
    pub max_by_status: f32,
}

/// Which failures a breaker counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureKinds {
    pub connect: bool,
    /// Connections that the endpoint broke, and answers that are not HTTP.
    pub reset: bool,
    pub timeout: bool,
    /// In order.
    pub statuses: Vec<StatusCode>,
}

impl FailureKinds {
    pub fn has(&self, status: StatusCode) -> bool {
        // Nearly every answer is below all of them.
        self.statuses.first().is_some_and(|lowest| status >= *lowest)
            && self.statuses.binary_search(&status).is_ok()
    }
}

/// When one endpoint is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierSettings {
    /// Failed connects in a row; `None` = off.
    pub connect_failures: Option<u32>,
    /// Resets, timeouts, broken answers and 502 to 504 in a row; `None` = off.
    pub gateway_failures: Option<u32>,
    /// Requests that wait far longer than usual while no answer at all comes; `None` = off.
    pub unanswered: Option<u32>,
    /// The first ejection lasts this long, each further one twice as long.
    pub pause: Duration,
    /// At most this share of a cluster's endpoints is out at once, 0.0..=1.0.
    pub max: f32,
    /// While a smaller share of them is left, ejections are ignored, 0.0..=1.0.
    pub panic: f32,
}
