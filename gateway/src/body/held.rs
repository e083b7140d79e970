//! The bytes of request bodies that a worker, and each connection, holds, and their limits.

use std::{cell::Cell, rc::Rc};

/// Counts the bytes that one request holds.
#[derive(Debug)]
pub(super) struct Share {
    counts: [Rc<Cell<u64>>; 2],
    mine: Cell<u64>,
}

/// The name of the limit that was reached.
pub(super) type Full = &'static str;

impl Share {
    /// `counts` are the bytes that the worker holds, and those that the connection holds.
    pub(super) fn of(counts: [Rc<Cell<u64>>; 2]) -> Self {
        Self { counts, mine: Cell::new(0) }
    }

    /// Whether the request may hold another piece; the error is the limit that was reached.
    pub(super) fn has_room(&self) -> Result<(), Full> {
        let [worker, connection] = &self.counts;
        if worker.get() >= WORKER_BYTES_MAX {
            Err("worker")
        } else if connection.get() >= CONNECTION_BYTES_MAX {
            Err("connection")
        } else {
            Ok(())
        }
    }

    /// Sets the number of bytes that the request holds.
    pub(super) fn set(&self, bytes: u64) {
        let before = self.mine.replace(bytes);
        for count in &self.counts {
            count.set((count.get() + bytes).saturating_sub(before));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Limit of a worker in bytes: a thousand requests that each hold 64 KiB, or four thousand that wait with
/// nothing but their heads.
const WORKER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Limit of a connection in bytes: sixteen such requests, so that one HTTP/2 connection cannot hold what all
/// others need.
const CONNECTION_BYTES_MAX: u64 = 1024 * 1024;
