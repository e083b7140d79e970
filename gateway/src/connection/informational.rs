//! Informational responses (1xx) on their way to a client.
//!
//! hyper's server has no way to send one. On HTTP/1.1 they are written under it ([`Queue`], by the
//! [`Transport`](super::transport::Transport)), when nothing of an earlier response is on its way and before the final
//! response begins. On HTTP/2 they wait for the stream's task.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    rc::Rc,
};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, Response, StatusCode};

use super::ConnectionContext;
use crate::{body::Activity, headers, metrics::Rare, snapshot::LocalRoute};

/// Where the informational responses to one request go.
#[derive(Clone)]
pub struct ResponseSink {
    connection: Rc<ConnectionContext>,
    /// HTTP/2.
    stream: Option<Rc<Activity>>,
    /// Its rules say which fields clients may see.
    route: Rc<LocalRoute>,
}

impl ResponseSink {
    /// `stream`: of HTTP/2.
    pub(crate) fn new(
        connection: &Rc<ConnectionContext>,
        stream: Option<&Rc<Activity>>,
        route: &Rc<LocalRoute>,
    ) -> Self {
        Self { connection: Rc::clone(connection), stream: stream.cloned(), route: Rc::clone(route) }
    }

    /// Sends a service's response on, unless the client takes them so slowly that too many wait.
    pub(crate) fn send(&self, status: StatusCode, mut fields: HeaderMap) {
        headers::apply_informational(&mut fields, &self.route.response_rules);
        let is_sent = match &self.stream {
            Some(stream) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = fields;
                stream.inform(response)
            }
            None => self.connection.state.inform(status, &fields),
        };
        let result = if is_sent { "forwarded" } else { "dropped" };
        self.connection.worker.metrics.count(Rare::Informational, result, "");
    }
}

/// Informational responses that an HTTP/1.1 client has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: RefCell<BytesMut>,
    /// Some of them are out: the rest must follow before anything else.
    is_begun: Cell<bool>,
    /// Nothing of an earlier response waits in hyper's buffer.
    is_flushed: Cell<bool>,
}

impl Queue {
    /// `false`: too much waits already.
    pub(super) fn push(&self, status: StatusCode, fields: &HeaderMap) -> bool {
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

    /// What is to be written now. `hyper_writes`: hyper is about to write, which may be the final response.
    pub(super) fn next(&self, hyper_writes: bool) -> Option<BytesMut> {
        let may_go = !hyper_writes || self.is_flushed.get() || self.is_begun.get();
        (may_go && !self.bytes.borrow().is_empty()).then(|| self.bytes.take())
    }

    /// So much of it was written.
    pub(super) fn advance(&self, mut next: BytesMut, count: usize) {
        next.advance(count);
        self.is_begun.set(!next.is_empty() && (count > 0 || self.is_begun.get()));
        if !next.is_empty() {
            *self.bytes.borrow_mut() = next;
        }
    }

    /// All that hyper had is written, or `false`: hyper has begun to write.
    pub(super) fn set_flushed(&self, is_flushed: bool) {
        self.is_flushed.set(is_flushed);
    }

    /// The final response comes next, and hyper puts it behind what is still there of an earlier one: what has not begun
    /// cannot come before it any more.
    pub(super) fn expire(&self) {
        if !self.is_flushed.get() && !self.is_begun.get() {
            self.bytes.borrow_mut().clear();
        }
    }
}

/// One head of the largest size that a service may send.
const QUEUE_BYTES_MAX: usize = 32 * 1024;
