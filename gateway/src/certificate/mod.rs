//! What a TLS listener presents and accepts: certificates by the name that a client asks for, and the settings of it.
//!
//! This is the part that workers use. Files are read, and rustls is set up, in [`tls`](crate::tls).

pub mod acme;
pub mod client;
pub mod handshake;
pub mod issued;
pub mod names;
pub mod served;
pub mod settings;
pub mod staple;
pub mod validation;

use std::sync::Arc;

use rustls::ServerConfig;

use self::{
    served::{ServedNames, without_root_dot},
    settings::ClientAuth,
    validation::Validation,
};

/// A TLS listener as workers use it: one value, so that a handshake and the requests after it see the same certificates.
#[derive(Debug)]
pub struct ListenerTls {
    /// A configuration for each way in which clients are asked for certificates. At least one.
    pub configs: Box<[(ClientAuth, Arc<ServerConfig>)]>,
    pub names: Arc<ServedNames>,
    /// What clients are verified against: the authorities and the revocations. Two listeners with equal values accept the same
    /// certificates. 0: no client is asked for one.
    pub clients: u64,
    /// `None`: no authority is about to verify a host by a handshake.
    pub validation: Option<Arc<Validation>>,
}

impl ListenerTls {
    /// The configuration, if it does not depend on the name for which a client asks.
    pub fn only_config(&self) -> Option<&Arc<ServerConfig>> {
        match &*self.configs {
            [(_, only)] => Some(only),
            _ => None,
        }
    }

    /// The configuration for a client that asks for this name (SNI). For a name that is refused it is any: none has a certificate.
    pub fn config_for(&self, name: Option<&str>) -> Option<&Arc<ServerConfig>> {
        let asked = self.names.set_of(name.map(without_root_dot)).map(|set| self.names.client_auth(set));
        let found = self.configs.iter().find(|(client_auth, _)| Some(*client_auth) == asked);
        found.or(self.configs.first()).map(|(_, config)| config)
    }
}
