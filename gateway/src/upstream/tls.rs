//! TLS towards a service: the certificates that a connection trusts, and the name that the endpoint must prove.
//!
//! The control plane reads the files ([`crate::tls::client_config`]); this module has only what a new connection needs.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millgate_registry::TlsOptions;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::host_port::HostPort;

/// The TLS settings of a service, as the configuration has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UpstreamTls {
    pub files: TlsOptions,
    /// Every certificate is accepted. TLS then protects against eavesdropping, but not against a program that poses as the
    /// service.
    pub insecure: bool,
}

/// The compiled form of [`UpstreamTls`]. All endpoints of all services with the same settings share it.
pub struct ClientTls {
    /// A number that identifies this value.
    number: u64,
    /// The error that prevented the configuration; every connection reports it.
    config: Result<Arc<ClientConfig>, String>,
    /// The name that endpoints must prove, instead of their own.
    server_name: Option<String>,
    /// The fingerprint of the files from which it was made.
    pub fingerprint: u64,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("number", &self.number).finish_non_exhaustive()
    }
}

impl ClientTls {
    pub fn new(config: Result<Arc<ClientConfig>, String>, tls: &UpstreamTls, fingerprint: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, config, server_name: tls.files.server_name.clone(), fingerprint }
    }

    /// Whether the files gave a configuration. Otherwise every connection fails.
    pub fn is_usable(&self) -> bool {
        self.config.is_ok()
    }
}

/// Equal for connections that can replace each other, because they trust the same certificates and expect the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsIdentity {
    client: u64,
    name: Result<ServerName<'static>, String>,
}

/// The TLS parameters of a connection to one endpoint.
pub struct EndpointTls {
    client: Arc<ClientTls>,
    /// The error: the text is not a name that a certificate could have.
    name: Result<ServerName<'static>, String>,
}

impl EndpointTls {
    /// Unless the configuration has another name, the endpoint must prove the host by which it is called.
    pub fn new(client: Arc<ClientTls>, authority: &HostPort) -> Self {
        let host = client.server_name.as_deref().unwrap_or(authority.host());
        let name = ServerName::try_from(host.trim_matches(['[', ']'])).map(|name| name.to_owned());
        let name = name.map_err(|_| format!("`{host}` is no name that a certificate could have"));
        Self { client, name }
    }

    /// The identity of connections that are made with these parameters.
    pub fn identity(&self) -> TlsIdentity {
        TlsIdentity { client: self.client.number, name: self.name.clone() }
    }

    /// Does the TLS handshake as a client. `protocols` are offered by ALPN (RFC 7301), in this order; none: there is no offer.
    ///
    /// # Errors
    /// The endpoint does not speak TLS, or proves another name, or one that is not trusted, or speaks none of the protocols.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        protocols: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.client.config.as_ref().map_err(|why| io::Error::other(why.as_str()))?;
        let name = self.name.as_ref().map_err(|why| io::Error::other(why.as_str()))?;
        // This count is shared by all workers; it changes once for each new connection.
        let connector = TlsConnector::from(Arc::clone(config));
        if protocols.is_empty() {
            return connector.connect(name.clone(), stream).await;
        }
        let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        connector.with_alpn(protocols).connect(name.clone(), stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(authority: &str) -> HostPort {
        HostPort::new(authority, ([192, 0, 2, 1], 443).into())
    }

    fn named(server_name: Option<&str>, authority: &str) -> EndpointTls {
        let files = TlsOptions { server_name: server_name.map(str::to_owned), ..TlsOptions::default() };
        let tls = UpstreamTls { files, insecure: false };
        EndpointTls::new(Arc::new(ClientTls::new(Err(String::new()), &tls, 0)), &called(authority))
    }

    #[test]
    fn the_name_is_the_endpoints_host_unless_another_is_given() {
        let name = |tls: EndpointTls| tls.name.map(|name| name.to_str().into_owned());
        assert_eq!(name(named(None, "orders.internal:443")), Ok("orders.internal".to_owned()));
        assert_eq!(name(named(None, "192.0.2.1:443")), Ok("192.0.2.1".to_owned()));
        assert_eq!(name(named(None, "[2001:db8::1]:443")), Ok("2001:db8::1".to_owned()));
        assert_eq!(name(named(Some("orders.internal"), "192.0.2.1:443")), Ok("orders.internal".to_owned()));
        assert!(name(named(None, "a/b:443")).is_err());
    }

    #[test]
    fn connections_take_each_others_place_only_where_they_trust_the_same_and_ask_for_the_same() {
        let one = named(None, "a.internal:443");
        let same = EndpointTls::new(Arc::clone(&one.client), &called("a.internal:8443"));
        let other_name = EndpointTls::new(Arc::clone(&one.client), &called("b.internal:443"));
        let like_it = named(None, "a.internal:443");
        let others = [same, other_name, like_it].map(|other| other.identity() == one.identity());
        assert_eq!(others, [true, false, false]);
    }
}
