//! What a TLS listener presents and accepts: certificates by the name that a client asks for, and the settings of it.
//!
//! This is the part that workers use. Files are read, and rustls is set up, in [`tls`](crate::tls).

pub mod client;
pub mod handshake;
pub mod names;
pub mod served;
pub mod settings;
pub mod staple;

use std::sync::Arc;

use rustls::ServerConfig;

use self::served::ServedNames;

/// A TLS listener as workers use it: one value, so that a handshake and the requests after it see the same certificates.
#[derive(Debug)]
pub struct ListenerTls {
    pub config: Arc<ServerConfig>,
    pub names: Arc<ServedNames>,
    /// What clients are verified against: the authorities, the revocations, and whether a certificate is required. Two listeners with
    /// equal values accept the same clients. 0: clients are not asked for certificates.
    pub clients: u64,
}
