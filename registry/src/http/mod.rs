//! HTTP for the control plane: a client with hard limits, the TLS settings of any client, and a listener for tools.
//!
//! The room does not depend on Consul. The gateway uses it too: for JSON Web Key Sets, and for its admin listener.

mod any_certificate;
mod client;
mod error;
mod file_stamp;
mod side_listener;
mod tls;

pub use client::{HttpClient, HttpOptions, HttpResponse};
pub use error::HttpError;
pub(crate) use file_stamp::{LOOK_EVERY, Stamp, stamp};
pub use side_listener::{Hosts, SideCounts, SideLimits, serve_aside};
pub use tls::TlsOptions;
