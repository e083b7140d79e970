//! HTTP/2 windows of client connections: how many bytes a client may send before the gateway has passed them on.
//!
//! A client sends one window in each round trip: with 64 KiB and 150 ms, 9 MB take 20 seconds. So windows are large, and
//! their memory is bounded in two ways. The connection's window bounds what all its streams hold together, because only
//! bytes that were passed on open a window again; and at most `LARGE_MAX` connections of a worker have large windows.
//! hyper sets windows when a connection starts and later changes them only by its own estimate, which has no budget.

use std::{cell::Cell, rc::Rc};

use crate::{metrics::Rare, worker::WorkerState};

/// The windows of one connection.
pub(super) struct Windows {
    pub(super) stream: u32,
    pub(super) connection: u32,
    _large: Option<Large>,
}

/// The mark of a connection with large windows, which is counted until it ends.
struct Large(Rc<Cell<u64>>);

impl Windows {
    /// The windows for a new connection: large ones, unless too many connections of the worker have them.
    pub(super) fn of(worker: &WorkerState) -> Self {
        let large = &worker.large_windows;
        if large.get() >= LARGE_MAX {
            worker.metrics.count(Rare::SmallWindows, "", "");
            return Self { stream: SMALL_STREAM, connection: SMALL_CONNECTION, _large: None };
        }
        large.set(large.get() + 1);
        Self { stream: LARGE_STREAM, connection: LARGE_CONNECTION, _large: Some(Large(Rc::clone(large))) }
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// 7 MB/s for one upload at 150 ms.
const LARGE_STREAM: u32 = 1024 * 1024;
/// Two uploads whose services do not read fill it; the connection's other uploads then wait.
const LARGE_CONNECTION: u32 = 2 * 1024 * 1024;
/// At most 128 MiB of memory per worker, if every service stops reading at once.
const LARGE_MAX: u64 = 64;
/// The window that every client has before it gets another value (RFC 9113 §6.9.2).
const SMALL_STREAM: u32 = 64 * 1024;
const SMALL_CONNECTION: u32 = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::{self, Prepared};

    #[test]
    fn so_many_connections_have_large_windows_and_one_that_ends_makes_room() {
        let routes = "version: 1\nroutes:\n  - {path: /*, service: items}\n\
            services: {items: {hosts: [\"192.0.2.1:80\"]}}\naccess_log: {format: off}\n";
        let prepared = Prepared::new(routes, Path::new("")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let worker = testing::worker_with_endpoints(&prepared.setup);
            let mut all: Vec<_> = (0..=LARGE_MAX).map(|_| Windows::of(&worker)).collect();
            assert_eq!((all[0].stream, all.last().unwrap().stream), (LARGE_STREAM, SMALL_STREAM));
            all.swap_remove(0);
            assert_eq!(Windows::of(&worker).stream, LARGE_STREAM);
        });
    }
}
