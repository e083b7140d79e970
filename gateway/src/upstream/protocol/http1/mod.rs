//! HTTP/1.1 with an endpoint: one request at a time.

mod chunks;
mod request_head;
mod response_head;
