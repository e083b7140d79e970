//! Concurrency limit: at most `max_inflight` requests under way to one cluster, over all workers.
//!
//! One atomic count; past the limit we refuse (503 `overloaded`) and never queue, so a slow service costs a
//! bounded number of requests. Compiled from `ServiceSettings::max_inflight`. The count is carried into the
//! next snapshot, where the limit itself may be another one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// What one connection, and one client, may hold of a service's slots while others need them; in thousandths of
/// `max_inflight`, `None` = off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShareSettings {
    pub per_connection: Option<u16>,
    pub per_client: Option<u16>,
}

/// The limit of one cluster.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    max: u32,
    in_flight: Arc<AtomicU32>,
}

/// The limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded {
    pub max: u32,
}

impl ConcurrencyLimit {
    /// `carried` is the limit of the same cluster in the snapshot before: requests that it counts still
    /// count.
    pub fn compile(max_inflight: u32, carried: Option<&Self>) -> Self {
        Self {
            max: max_inflight,
            in_flight: carried.map_or_else(Arc::default, |before| Arc::clone(&before.in_flight)),
        }
    }

    /// One more request? The slot holds the place until it is dropped.
    ///
    /// The slot owns a reference to the count: the reference count lies on the cache line that the count's
    /// own update has just taken, so this shares nothing more between cores.
    pub fn check(&self) -> Result<Slot, Overloaded> {
        let taken = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |in_flight| {
            (in_flight < self.max).then_some(in_flight + 1)
        });
        match taken {
            Ok(_) => Ok(Slot { in_flight: Arc::clone(&self.in_flight) }),
            Err(_) => Err(Overloaded { max: self.max }),
        }
    }

    /// Requests under way, for metrics.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn max(&self) -> u32 {
        self.max
    }
}

/// A request's place among those under way.
#[derive(Debug)]
#[must_use = "dropping the slot gives the place back"]
pub struct Slot {
    in_flight: Arc<AtomicU32>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn the_limit_is_exact_and_a_dropped_slot_is_free_again() {
        let limit = ConcurrencyLimit::compile(2, None);
        let first = limit.check().unwrap();
        let _second = limit.check().unwrap();
        assert_eq!(limit.check().unwrap_err(), Overloaded { max: 2 });
        assert_eq!(limit.in_flight(), 2);
        drop(first);
        assert!(limit.check().is_ok());
    }

    #[test]
    fn requests_of_the_snapshot_before_still_count() {
        let before = ConcurrencyLimit::compile(2, None);
        let _old = before.check().unwrap();
        let after = ConcurrencyLimit::compile(1, Some(&before));
        assert!(after.check().is_err());
    }

    #[test]
    fn racing_workers_never_exceed_the_limit() {
        const MAX: u32 = 3;
        let limit = ConcurrencyLimit::compile(MAX, None);
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..2_000 {
                        if let Ok(_slot) = limit.check() {
                            assert!(limit.in_flight() <= MAX);
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(limit.in_flight(), 0);
    }
}
