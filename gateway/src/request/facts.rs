//! What is known of a request when its head is complete.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use http::{Method, Request, Version, header};

use super::id::RequestId;
use crate::body::ClientBody;

/// The facts about a request that are known when its head is complete.
pub struct RequestFacts {
    /// Id of the request, in the log, in local replies and for the service.
    pub id: RequestId,
    /// The time at which the head was complete. Timeouts and durations count from it.
    pub started: Instant,
    /// Address of the client: the peer, or the client that a trusted proxy names.
    pub client: IpAddr,
    /// The peer is one of `listen.trusted_proxies`.
    pub peer_is_trusted: bool,
    pub method: Method,
    pub version: Version,
    /// Whether the request has a body that must be read before the connection can take another request.
    pub(crate) body: DeclaredBody,
    /// The request is a gRPC call. Its deadline, if it has one, counts from `started`.
    pub(crate) grpc: Option<GrpcCall>,
}

/// What the head of a gRPC call says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrpcCall {
    pub(crate) timeout: Option<Duration>,
    /// The call has the form of gRPC-Web. `None`: that of gRPC over HTTP/2.
    pub(crate) web: Option<GrpcWeb>,
}

/// The two forms of gRPC-Web.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrpcWeb {
    Binary,
    /// Both bodies are base64.
    Text,
}

/// What becomes of the trailers of a response.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ResponseTrailers {
    /// The client has said that it takes trailers (`TE`).
    pub(super) taken: bool,
    /// The client gets them.
    pub(super) pass: bool,
    /// They are announced to a client of HTTP/1.1, so that the response comes in chunks, although its length may be known.
    pub(super) announced: bool,
}

impl RequestFacts {
    /// The deadline of a gRPC call. `None`: it has none.
    pub(super) fn call_ends(&self) -> Option<Instant> {
        self.started.checked_add(self.grpc?.timeout?)
    }
}

/// The request's body, as its head declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeclaredBody {
    /// The request has no body.
    None,
    /// At most [`SHORT_BODY_BYTES`]: most likely the body came with the head, and hyper drops it before the next request.
    Short,
    /// Longer, of unknown length, or sent only after a 100 (Continue).
    Long,
}

impl DeclaredBody {
    /// The body that this request declares.
    pub(crate) fn of(request: &Request<ClientBody>) -> Self {
        let body = request.body();
        if body.is_end_stream() {
            return Self::None;
        }
        let is_short = body.length().is_some_and(|length| length <= SHORT_BODY_BYTES);
        // A client that waits for a 100 has not sent its body.
        if is_short && !request.headers().contains_key(header::EXPECT) { Self::Short } else { Self::Long }
    }
}

/// The largest body, in bytes, that most likely comes with the head in one read.
const SHORT_BODY_BYTES: u64 = 4 * 1024;
