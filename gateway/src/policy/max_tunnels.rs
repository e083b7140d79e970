//! `max_tunnels`: the most tunnels to a whole service at a time, past which a handshake gets 503 `overloaded`.
//!
//! A tunnel takes no slot of `max_inflight`, because it lasts for hours: a few hundred browsers would leave none for requests.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::of_service::ServicePolicy;
use crate::syntax::{diagnostics::Diagnostics, fields::value, tree::Node, units::count};

/// The policy.
pub(crate) enum MaxTunnels {}

impl ServicePolicy for MaxTunnels {
    type Settings = u32;
    const KEY: &'static str = "max_tunnels";

    fn by_default() -> u32 {
        10_000
    }

    fn read(node: &Node, sink: &mut Diagnostics) -> Option<u32> {
        value(node, "max_tunnels", sink, |text| count(text, 1..=1_000_000)).map(|at| at.value)
    }
}

/// The limit of one service, with the count of all workers. The count goes on over a reload.
#[derive(Debug, Clone)]
pub struct TunnelLimit {
    max: u32,
    open: Arc<AtomicU32>,
}

impl TunnelLimit {
    /// Compiles the limit. `carried` is that of the same service before.
    pub(crate) fn compile(max: u32, carried: Option<&Self>) -> Self {
        Self { max, open: carried.map_or_else(Arc::default, |before| Arc::clone(&before.open)) }
    }

    /// A place for one more tunnel, which has it until the place is dropped. `None`: all are taken.
    pub(crate) fn check(&self) -> Option<TunnelPlace> {
        let taken = self
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| (open < self.max).then_some(open + 1));
        taken.ok().map(|_| TunnelPlace(Arc::clone(&self.open)))
    }

    /// Tunnels that are open, for metrics.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

/// The place of one tunnel.
#[derive(Debug)]
pub(crate) struct TunnelPlace(Arc<AtomicU32>);

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_are_counted_over_a_reload() {
        let limit = TunnelLimit::compile(2, None);
        let first = limit.check();
        assert!(first.is_some());
        let after = TunnelLimit::compile(2, Some(&limit));
        let second = after.check();
        assert!(second.is_some() && after.check().is_none());
        drop(first);
        assert_eq!(after.open(), 1);
        assert!(after.check().is_some());
    }
}
