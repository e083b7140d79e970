//! What the TLS handshake of one connection has decided for the requests on it.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::{
    ListenerTls,
    client::ClientCertificate,
    served::{SetId, without_root_dot},
};

/// A completed handshake.
#[derive(Debug)]
pub struct TlsHandshake {
    tls: Arc<ListenerTls>,
    /// The certificates to which the client's name led. `None`: it named no host, so it got the default ones.
    presented: Option<SetId>,
    client: Option<ClientCertificate>,
}

impl TlsHandshake {
    /// `name` is the host that the client named (SNI), `chain` the certificates with which it has proved its identity.
    pub fn new(tls: Arc<ListenerTls>, name: Option<&str>, chain: Option<&[CertificateDer<'_>]>) -> Self {
        let presented = name.and_then(|name| tls.names.set_of(Some(without_root_dot(name))));
        Self { tls, presented, client: chain.map(ClientCertificate::new) }
    }

    /// The verified certificate of the client.
    pub fn client(&self) -> Option<&ClientCertificate> {
        self.client.as_ref()
    }

    /// What the client was verified against ([`ListenerTls::clients`]). 0: it has shown no certificate.
    pub fn verified_by(&self) -> u64 {
        if self.client.is_some() { self.tls.clients } else { 0 }
    }

    /// Whether the listener asks clients for certificates.
    pub fn asks_clients(&self) -> bool {
        self.tls.clients != 0
    }

    /// Whether the host of a request matters: `false` if every host leads to the same certificates.
    pub fn depends_on_host(&self) -> bool {
        self.presented.is_some() && !self.tls.names.is_one_set()
    }

    /// Whether a request for `host` may come on this connection. Certificates are compared as they were at the handshake.
    ///
    /// A client without a name has no other way to reach a host than to say so in its request: clients of HTTP/1.0 times, probes,
    /// load balancers. It got the default certificate, and was content with it.
    pub fn may_serve(&self, host: &str) -> bool {
        self.presented.is_none_or(|presented| self.tls.names.may_serve(presented, host))
    }
}
