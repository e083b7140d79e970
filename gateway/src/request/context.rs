//! The state that all requests of one connection share.

use std::{
    cell::{OnceCell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use http::HeaderValue;

use super::tunnel::Tunnel;
use crate::{
    admission::Arrival,
    certificate::{client::ClientCertificate, handshake::TlsHandshake},
    downstream::ConnectionState,
    listen::Listener,
    message::Authority,
    policy::concurrency::Held,
    proxy_protocol::Hop,
    worker::WorkerState,
};

/// A client's connection, with what all of its requests share.
pub struct ConnectionContext {
    /// The worker that serves the connection.
    pub worker: Rc<WorkerState>,
    /// Address of the TCP peer, which is the client or a proxy; or the one that a trusted proxy gave for it (PROXY protocol).
    pub peer: SocketAddr,
    /// The address of the gateway to which the client connected. `None`: no service needed it when the client came.
    pub local: Option<SocketAddr>,
    /// The peer's address as a header value, made once.
    pub peer_text: HeaderValue,
    /// The TLS handshake. Empty before it, and in cleartext. Boxed, because connections in cleartext have no room for it.
    pub(crate) handshake: OnceCell<Box<TlsHandshake>>,
    /// Authority of the last request, of any connection of the worker at first. The next request nearly always has the same one, which is
    /// then not parsed again.
    pub authority: RefCell<Option<Rc<Authority>>>,
    /// State of the connection.
    pub state: Rc<ConnectionState>,
    /// Slots of services that the connection's requests have.
    pub held: Rc<Held>,
    /// The tunnel that an HTTP/1.1 connection becomes, as soon as hyper has written the 101. Its exchange owns this context, so they
    /// keep each other: the connection takes it out of here when hyper has ended, however it has ended.
    pub(crate) tunnel: RefCell<Option<Box<Tunnel>>>,
}

impl ConnectionContext {
    /// The listener through which the client came.
    pub(crate) fn listener(&self) -> &Listener {
        &self.state.listener
    }

    /// The connection of this client, for a header in front of connections to services. A client that a proxy names has no port
    /// here.
    pub(crate) fn hop_of(&self, client: IpAddr) -> Hop {
        let is_peer = client == self.peer.ip().to_canonical();
        let source = SocketAddr::new(client, if is_peer { self.peer.port() } else { 0 });
        let unknown = || match client {
            IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            IpAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        Hop::new(source, self.local.unwrap_or_else(unknown))
    }

    /// How a request of this connection arrived, for admission.
    pub(crate) fn arrival(&self, peer_is_trusted: bool) -> Arrival {
        Arrival { scheme: self.listener().scheme, peer_is_trusted }
    }

    /// Keeps the facts of the handshake. If the certificate depends on the host, the host of the first request must be looked at.
    pub(crate) fn shook_hands(&self, handshake: TlsHandshake) {
        if handshake.depends_on_host() {
            self.authority.take();
        }
        self.state.client_auth.set(handshake.verified_by());
        // A connection has one handshake.
        let _ = self.handshake.set(Box::new(handshake));
    }

    /// Whether a request for this host belongs on another connection. `is_trusted`: the peer is a proxy that the configuration
    /// trusts.
    pub(crate) fn is_misdirected(&self, authority: &Authority, is_trusted: bool) -> bool {
        let handshake = self.handshake.get();
        handshake.is_some_and(|handshake| !handshake.may_serve(authority.host(), is_trusted))
    }

    /// The certificate with which the client has proved its identity.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.handshake.get()?.client()
    }

    /// Whether the connection closes when its requests in flight have ended.
    pub(crate) fn is_closing(&self) -> bool {
        self.worker.draining.get() || self.state.close.get() || self.state.retires.get()
    }
}
