//! `pool`: the idle connections to a service that the [pool](crate::upstream::pool) keeps for later requests.

use std::time::Duration;

use super::of_service::ServicePolicy;
use crate::syntax::{
    diagnostics::Diagnostics,
    fields::{Fields, Known, choice},
    tree::Node,
    units::{Invalid, count, duration_in, millis, minutes},
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
    pub http1: Http1Client,
}

/// The client that speaks HTTP/1.1 over new connections: for comparison, as long as there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http1Client {
    Ours,
    Hyper,
}

impl ServicePolicy for PoolSettings {
    type Settings = PoolSettings;
    const KEY: &'static str = "pool";
    const MAPS: &'static [&'static Known] = &[&POOL];

    fn by_default() -> Self {
        let (idle, max_age) = (Duration::from_mins(1), Duration::from_mins(10));
        Self { idle_max: 256, idle, max_age, http1: Http1Client::Ours }
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self> {
        let fields = Fields::of(node, &POOL, sink)?;
        let Self { idle_max, idle, max_age, http1 } = Self::by_default();
        let ages = Duration::from_secs(1)..=minutes(24 * 60);
        Some(Self {
            idle_max: fields.plain("max", sink, |t| count(t, 0..=100_000)).unwrap_or(idle_max),
            idle: fields.plain("idle", sink, |t| duration_in(t, millis(100)..=minutes(60))).unwrap_or(idle),
            max_age: fields.plain("max_age", sink, |t| duration_in(t, ages)).unwrap_or(max_age),
            http1: fields.plain("http1", sink, http1_client).unwrap_or(http1),
        })
    }
}

fn http1_client(text: &str) -> Result<Http1Client, Invalid> {
    choice(text, &[("ours", Http1Client::Ours), ("hyper", Http1Client::Hyper)], &[])
}

static POOL: Known =
    Known { what: "`pool`", prefix: "pool.", fields: &["max", "idle", "max_age", "http1"], later: &[] };
