//! The id of a request: the client's, if a trusted peer sends one, and otherwise the gateway's own.

use std::time::Instant;

use http::HeaderValue;
use rand::Rng;

use crate::{message::never_indexed, worker::WorkerState};

/// A request id as a header value, which is always visible ASCII.
#[derive(Debug, Clone)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    /// `id` has been checked to be visible ASCII.
    pub(super) fn of(id: HeaderValue) -> Self {
        Self(never_indexed(id))
    }

    /// The same id in memory of its own, for a request that lasts.
    pub(super) fn copied(&self) -> Self {
        HeaderValue::from_bytes(self.0.as_bytes()).map_or_else(|_| self.clone(), Self::of)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Ids are UUID text or checked visible ASCII; the fallback is never used.
        self.0.to_str().unwrap_or("-")
    }
}

/// Makes an id: UUID version 7 (RFC 9562 §5.7), which sorts by time, from the worker's clock and random
/// numbers.
pub(super) fn new_request_id(worker: &WorkerState, now: Instant) -> RequestId {
    let millis = u64::try_from(worker.clock.unix(now).as_millis()).unwrap_or(u64::MAX);
    let mut random = [0; 10];
    worker.rng.borrow_mut().fill_bytes(&mut random);
    let mut buffer = uuid::Uuid::encode_buffer();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let text = id.as_hyphenated().encode_lower(&mut buffer);
    // Cut from a buffer of the worker, so that the id is made and cloned (service, client, log) without an
    // allocation of its own.
    let mut ids = worker.ids.borrow_mut();
    if ids.capacity() < text.len() {
        ids.reserve(ID_BUFFER_BYTES);
    }
    ids.extend_from_slice(text.as_bytes());
    let text = ids.split().freeze();
    // UUID text is visible ASCII; the fallback is never used.
    RequestId::of(HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("-")))
}

/// Bytes of a hundred ids. An old buffer is freed with the last of its ids.
const ID_BUFFER_BYTES: usize = 3600;
