//! `outlier` of a service: its parameters.

use std::time::Duration;

use super::OutlierDetector;
use crate::{
    policy::of_service::ServicePolicy,
    syntax::{
        diagnostics::Diagnostics,
        fields::{Fields, Known, is_word},
        tree::Node,
        units::{count, duration_in, millis, minutes, ratio, share_per_mille},
    },
};

/// The parameters of outlier detection.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierSettings {
    /// Failed connects in a row; `None` = off.
    pub connect_failures: Option<u32>,
    /// Resets, timeouts, broken responses and 502 to 504 in a row; `None` = off.
    pub gateway_failures: Option<u32>,
    /// Requests that wait far longer than usual while the endpoint sends no response at all; `None` = off.
    pub unanswered: Option<u32>,
    /// The first ejection lasts this long, each further one twice as long.
    pub pause: Duration,
    /// At most this share of a cluster's endpoints is out at once, 0.0..=1.0.
    pub max: f32,
    /// While a smaller share of the endpoints is left, ejections are ignored, 0.0..=1.0.
    pub panic: f32,
}

impl ServicePolicy for OutlierDetector {
    /// `None`: off.
    type Settings = Option<OutlierSettings>;
    const KEY: &'static str = "outlier";
    const MAPS: &'static [&'static Known] = &[&OUTLIER];

    fn by_default() -> Option<OutlierSettings> {
        Some(OutlierSettings::default())
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self::Settings> {
        if is_word(node, "off") {
            return Some(None);
        }
        if is_word(node, "on") {
            return Some(Self::by_default());
        }
        let fields = Fields::of(node, &OUTLIER, sink)?;
        let usual = OutlierSettings::default();
        let row = |text: &str| match text {
            "off" | "false" => Ok(None),
            _ => count(text, 1..=1_000_000).map(Some),
        };
        Some(Some(OutlierSettings {
            connect_failures: fields.plain("connect_failures", sink, row).unwrap_or(usual.connect_failures),
            gateway_failures: fields.plain("gateway_failures", sink, row).unwrap_or(usual.gateway_failures),
            unanswered: fields.plain("unanswered", sink, row).unwrap_or(usual.unanswered),
            pause: fields
                .plain("pause", sink, |t| duration_in(t, millis(100)..=minutes(1)))
                .unwrap_or(usual.pause),
            max: fields.plain("max", sink, share_per_mille).map_or(usual.max, ratio),
            panic: fields
                .plain("panic", sink, |text| match text {
                    "off" | "false" => Ok(0),
                    _ => share_per_mille(text),
                })
                .map_or(usual.panic, ratio),
        }))
    }
}

/// docs/DEFAULTS.md has the reason for each value.
impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            connect_failures: Some(3),
            gateway_failures: Some(5),
            unanswered: Some(5),
            pause: Duration::from_secs(5),
            max: 0.5,
            panic: 0.5,
        }
    }
}

static OUTLIER: Known = Known {
    what: "`outlier`",
    prefix: "outlier.",
    fields: &["connect_failures", "gateway_failures", "unanswered", "pause", "max", "panic"],
    later: &[],
};
