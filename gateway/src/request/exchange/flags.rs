//! Words of the access log for failures after the response head, which the status cannot show any more.

/// The request ended without a failure.
pub const NONE: &str = "-";
/// The client left before its response was complete.
pub const CLIENT_GONE: &str = "client_gone";
/// The service broke off in the middle of its response.
pub const UPSTREAM_TRUNCATED: &str = "upstream_truncated";
/// The deadline of a gRPC call passed in the middle of its response.
pub const CALL_DEADLINE: &str = "call_deadline";
/// The service paused for longer than `timeout.idle` in the middle of its response.
pub const BODY_TIMEOUT: &str = "body_timeout";
/// The client took nothing of its response for `timeout.idle`, or less than `timeout.min_rate`.
pub const CLIENT_STALLED: &str = "client_stalled";
/// The client paused for too long, or was too slow, in the middle of its request, when the response had begun.
pub const REQUEST_TIMEOUT: &str = "request_timeout";
/// A tunnel in which no byte moved for `timeout.tunnel`.
pub const TUNNEL_IDLE: &str = "tunnel_idle";
/// One side of a tunnel took nothing of what was there for it.
pub const TUNNEL_STALLED: &str = "tunnel_stalled";
/// The gateway closed the tunnel because it shuts down.
pub const TUNNEL_DRAINED: &str = "tunnel_drained";
/// The request had not ended when `drain.timeout` was over.
pub const DRAIN_TIMEOUT: &str = "drain_timeout";
