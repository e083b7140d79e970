//! The bodies of requests while they are received and sent, and the activity of both directions.
//!
//! [`Upload`] reads the client's body under a size limit, and holds its first bytes until an instance is chosen and for a
//! retry; [`RequestBody`] carries it to an endpoint, once for each attempt. The end of each is recorded in one place. Dropping
//! any of them at any point is right: an unfinished upstream connection is closed, never pooled. [`Activity`] decides how
//! long a body of either direction may stand still; content on its way back is
//! [`ResponseBody`](crate::request::response_body::ResponseBody). Trailers stay with the upload, for each attempt.

mod activities;
mod activity;
mod base64_text;
mod client;
mod held;
mod kept;
mod request;
mod upload;

use std::time::Duration;

pub use self::{
    activities::Activities,
    activity::{Activity, Chunk},
    client::ClientBody,
    request::RequestBody,
    upload::{Upload, UploadLimits},
};
pub(crate) use self::{
    activities::Watch,
    activity::{Cause, Limits},
    upload::Surroundings,
};

/// The reason for which a body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body is larger than the route accepts")]
    TooLarge,
    #[error("no byte of the request body arrived for {0:?}")]
    Silent(Duration),
    #[error("the request body came slower than {0} bytes/s")]
    Slow(u64),
    #[error("the service was silent for longer than the idle timeout")]
    Idle,
    #[error("the peer sent a broken body")]
    Broken,
    /// The client reset its request, or closed the connection, before the end of its body.
    #[error("the client is gone")]
    Gone,
    /// Another attempt sends the body now.
    #[error("this attempt was given up")]
    Replaced,
}

#[cfg(test)]
mod tests;
