//! The handshake by which an authority verifies a host (RFC 8737): its only protocol is `acme-tls/1`, it shows a certificate that proves
//! the knowledge of a token, and it carries no request.
//!
//! It exists only while such a challenge is pending, and for the hosts of those. Any other handshake for `acme-tls/1` fails with
//! `no_application_protocol`, as for every protocol that a listener does not speak. A client's certificate is never asked for here, since
//! nothing can be reached by it.

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::served::without_root_dot;

/// RFC 8737 §6.2.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// What answers the pending challenges.
pub struct Validation {
    pub config: Arc<ServerConfig>,
    hosts: Arc<Hosts>,
}

/// The certificates of the pending challenges by host.
#[derive(Debug)]
struct Hosts(HashMap<Box<str>, Arc<CertifiedKey>>);

impl Validation {
    /// `hosts` has the certificate of each pending challenge. `None`: none is pending, or TLS cannot be set up.
    pub fn new(hosts: HashMap<Box<str>, Arc<CertifiedKey>>) -> Option<Self> {
        if hosts.is_empty() {
            return None;
        }
        let hosts = Arc::new(Hosts(hosts));
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().ok()?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::clone(&hosts) as _);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // No session of such a handshake may be resumed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Some(Self { config: Arc::new(config), hosts })
    }

    /// Whether a handshake is one for a pending challenge.
    pub fn is_for(&self, hello: &ClientHello<'_>) -> bool {
        // RFC 8737 §3: the list has exactly this value.
        let is_only = hello
            .alpn()
            .is_some_and(|mut offered| offered.next() == Some(PROTOCOL) && offered.next().is_none());
        is_only && self.hosts.of(hello).is_some()
    }
}

impl Hosts {
    fn of(&self, hello: &ClientHello<'_>) -> Option<&Arc<CertifiedKey>> {
        self.0.get(without_root_dot(hello.server_name()?))
    }
}

impl ResolvesServerCert for Hosts {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(&hello).map(Arc::clone)
    }
}

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validation").field("hosts", &self.hosts.0.keys()).finish_non_exhaustive()
    }
}
