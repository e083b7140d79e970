//! Informational responses (1xx) that wait for an HTTP/1.1 client.
//!
//! hyper's server cannot send them. They are written to its transport, when hyper has written all of an earlier response
//! and before the final response begins.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};

/// Informational responses that an HTTP/1.1 client has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: RefCell<BytesMut>,
    /// Whether some of the bytes have been written: the rest must follow before anything else.
    is_begun: Cell<bool>,
    /// Whether hyper has written all of an earlier response.
    is_flushed: Cell<bool>,
}

impl Queue {
    /// Adds an informational response. Returns false if too much waits already.
    pub(crate) fn push(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        let before = bytes.len();
        let reason = status.canonical_reason().unwrap_or_default();
        // Writing to memory does not fail.
        let _ = write!(bytes, "HTTP/1.1 {} {reason}\r\n", status.as_str());
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        let fits = bytes.len() <= QUEUE_BYTES_MAX;
        if !fits {
            bytes.truncate(before);
        }
        fits
    }

    /// Whether any response waits, which is rare.
    pub(crate) fn has_any(&self) -> bool {
        !self.bytes.borrow().is_empty()
    }

    /// The bytes to write now. `hyper_writes`: hyper is about to write, possibly the final response.
    pub(crate) fn next(&self, hyper_writes: bool) -> Option<BytesMut> {
        let may_go = !hyper_writes || self.is_flushed.get() || self.is_begun.get();
        (may_go && self.has_any()).then(|| self.bytes.take())
    }

    /// `count` bytes of `next` were written; the rest waits again.
    pub(crate) fn advance(&self, mut next: BytesMut, count: usize) {
        next.advance(count);
        self.is_begun.set(!next.is_empty() && (count > 0 || self.is_begun.get()));
        if !next.is_empty() {
            *self.bytes.borrow_mut() = next;
        }
    }

    /// Notes whether hyper has written all of its buffer, or has begun to write.
    pub(crate) fn set_flushed(&self, is_flushed: bool) {
        self.is_flushed.set(is_flushed);
    }

    /// Drops the responses that have not begun, if hyper will put the final response directly behind the rest of an
    /// earlier one: nothing can come between them then.
    pub(crate) fn expire(&self) {
        if !self.is_flushed.get() && !self.is_begun.get() {
            self.bytes.borrow_mut().clear();
        }
    }
}

/// Largest number of bytes that wait: one head of the largest size that a service may send.
const QUEUE_BYTES_MAX: usize = 32 * 1024;
