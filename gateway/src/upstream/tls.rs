//! TLS towards a service: which certificates a connection trusts, and the name that the endpoint must prove.
//!
//! What is made of files is made by the control plane ([`crate::tls::client_config`]); here is only what a new
//! connection needs.

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

/// How TLS is spoken with a service, as the configuration says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UpstreamTls {
    pub files: TlsOptions,
    /// Every certificate is accepted. Then TLS protects from eavesdroppers, and not from a program that pretends to be the
    /// service.
    pub insecure: bool,
}

/// What [`UpstreamTls`] became. Shared by all endpoints of all services that have the same.
pub struct ClientTls {
    /// No other one has it.
    number: u64,
    /// The error: it could not be made, which every connection then says.
    config: Result<Arc<ClientConfig>, String>,
    /// Instead of the endpoint's own name.
    server_name: Option<String>,
    /// Of the files that it was made of.
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

    pub fn is_usable(&self) -> bool {
        self.config.is_ok()
    }
}

/// Equal for connections that may take each other's place: to the same name, trusting the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsIdentity {
    client: u64,
    name: Result<ServerName<'static>, String>,
}

/// What a connection to one endpoint needs.
pub struct EndpointTls {
    client: Arc<ClientTls>,
    /// The error: what should be the name is none.
    name: Result<ServerName<'static>, String>,
}

impl EndpointTls {
    /// Unless the configuration has another name, the endpoint must prove to be the host that it is called.
    pub fn new(client: Arc<ClientTls>, authority: &HostPort) -> Self {
        let host = client.server_name.as_deref().unwrap_or(authority.host());
        let name = ServerName::try_from(host.trim_matches(['[', ']'])).map(|name| name.to_owned());
        let name = name.map_err(|_| format!("`{host}` is no name that a certificate could have"));
        Self { client, name }
    }

    pub fn identity(&self) -> TlsIdentity {
        TlsIdentity { client: self.client.number, name: self.name.clone() }
    }

    /// # Errors
    /// The endpoint does not speak TLS, or proves another name, or one that is not trusted.
    pub async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.client.config.as_ref().map_err(|why| io::Error::other(why.as_str()))?;
        let name = self.name.as_ref().map_err(|why| io::Error::other(why.as_str()))?;
        // A count that all workers share, once for each new connection.
        TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await
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
