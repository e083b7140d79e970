//! `pool`: the idle connections to a service that the [pool](crate::upstream::pool) keeps for later requests.

use std::time::Duration;

use super::of_service::ServicePolicy;
use crate::syntax::{
    diagnostics::Diagnostics,
    fields::{Fields, Known},
    tree::Node,
    units::{count, duration_in, millis, minutes},
};

/// Limits of one worker's idle connections to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle connections kept per endpoint.
    pub idle_max: usize,
    /// Time after which an idle connection is closed.
    pub idle: Duration,
    /// Age past which a connection is not used again.
    pub max_age: Duration,
}

impl ServicePolicy for PoolSettings {
    type Settings = PoolSettings;
    const KEY: &'static str = "pool";
    const MAPS: &'static [&'static Known] = &[&POOL];

    fn by_default() -> Self {
        let (idle, max_age) = (Duration::from_mins(1), Duration::from_mins(10));
        Self { idle_max: 256, idle, max_age }
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        let fields = Fields::of(node, &POOL, sink)?;
        let Self { idle_max, idle, max_age } = Self::by_default();
        let ages = Duration::from_secs(1)..=minutes(24 * 60);
        Some(Self {
            idle_max: fields.plain("max", sink, |t| count(t, 0..=100_000)).unwrap_or(idle_max),
            idle: fields.plain("idle", sink, |t| duration_in(t, millis(100)..=minutes(60))).unwrap_or(idle),
            max_age: fields.plain("max_age", sink, |t| duration_in(t, ages)).unwrap_or(max_age),
        })
    }
}

static POOL: Known =
    Known { what: "`pool`", prefix: "pool.", fields: &["max", "idle", "max_age"], later: &[] };
