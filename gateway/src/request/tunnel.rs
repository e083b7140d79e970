//! A request that becomes a tunnel: the checks of its handshake, and the way of its bytes until both sides have closed.
//!
//! Everything before is as for any request: authentication, limits, balancing and breaker act on the handshake. After it, the
//! tunnel keeps its endpoint and its route, whatever a reload changes. Its exchange lives as long as the tunnel, and so its
//! line in the access log comes at the end.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Response, Version, header, request::Parts};
use rand::RngExt as _;

use super::{
    ConnectionContext,
    error::Error,
    exchange::{Exchange, flags},
};
use crate::{
    admission::{self, Authority, Scheme},
    auth::{provider::LocalProvider, settings::CredentialSource},
    body::ClientBody,
    headers::{self, Handshake},
    policy::{cors::Cors, max_tunnels::TunnelPlace},
    snapshot::{LocalRoute, LocalSnapshot},
    tunnel::{
        TunnelEnd,
        open::{OpenTunnel, OpenTunnels},
        pump::{Pump, PumpEnd},
        standstill::{Standstill, Standstills},
        websocket,
    },
    upstream::protocol::SwitchedConnection,
    worker::WorkerState,
};

/// What a client asks for.
pub(super) struct TunnelRequest {
    pub(super) handshake: Handshake,
    place: TunnelPlace,
    idle: Duration,
}

/// The tunnel that a request asks for. `None`: it goes on as a plain request, since its client only prefers another way to
/// transmit HTTP.
pub(super) fn ask(
    (parts, body): (&mut Parts, &ClientBody),
    route: &LocalRoute,
    snapshot: &LocalSnapshot,
    (connection, authority): (&ConnectionContext, &Authority),
) -> Result<Option<TunnelRequest>, Error> {
    let policies = &route.shared().policies;
    let protocols = || admission::asked_protocols(parts);
    let Some(protocol) = policies.upgrade.choose(protocols()) else {
        let is_needed = protocols().any(|protocol| !admission::is_other_http(protocol));
        return if is_needed { Err(Error::UpgradeUnsupported) } else { Ok(None) };
    };
    // A route without a service redirects, and no request of it comes here.
    let cluster = route.shared().cluster.and_then(|at| snapshot.clusters.get(at)).ok_or(Error::Internal)?;
    // A tunnel takes a whole connection of HTTP/1.1.
    if cluster.shared.settings.may_speak_http2() {
        return Err(Error::UpgradeUnsupported);
    }
    let handshake = handshake(parts, body, protocol, &connection.worker)?;
    let sources = || snapshot.providers_of(route.shared()).flat_map(LocalProvider::sources);
    // A browser sends cookies, and proves itself with a certificate, whichever page asks it to.
    let mut providers = snapshot.providers_of(route.shared());
    let is_ambient = sources().any(|source| matches!(source, CredentialSource::Cookie(_)))
        || providers.any(LocalProvider::takes_certificates);
    if is_ambient && !is_from_own_page(&parts.headers, authority, policies.cors.as_deref()) {
        return Err(Error::OriginDenied);
    }
    for source in sources() {
        if let CredentialSource::Subprotocol(prefix) = source {
            headers::remove_subprotocols(&mut parts.headers, prefix);
        }
    }
    let place = cluster.shared.tunnels.check().ok_or(Error::TunnelsFull)?;
    Ok(Some(TunnelRequest { handshake, place, idle: policies.timeout.tunnel() }))
}

fn handshake(
    parts: &Parts,
    body: &ClientBody,
    protocol: &str,
    worker: &WorkerState,
) -> Result<Handshake, Error> {
    if parts.version == Version::HTTP_2 {
        // A stream that its client has ended already carries nothing.
        let random = worker.rng.borrow_mut().random();
        let handshake = Handshake::begun_here(protocol, random);
        return if body.is_end_stream() { Err(Error::UpgradeInvalid) } else { Ok(handshake) };
    }
    // Content behind the head would be read as the other protocol by one side, and as content by the other one.
    if parts.method != Method::GET || !body.is_end_stream() {
        return Err(Error::UpgradeInvalid);
    }
    let key = if protocol == websocket::NAME { Some(websocket_key(parts)?) } else { None };
    Ok(Handshake::passed_on(protocol, key))
}

/// Whether the response switches to the protocol that was asked for. Its fields become those of the client's response then.
pub(super) fn switches<B>(
    response: &mut Response<B>,
    asked: Option<&TunnelRequest>,
    exchange: &Exchange,
) -> Result<bool, Error> {
    if !headers::is_switched(response) {
        return Ok(false);
    }
    let answered = asked.filter(|asked| asked.handshake.is_answered_by(response.headers()));
    let Some(TunnelRequest { handshake, .. }) = answered else {
        exchange.head_is_invalid("it switches to another protocol than the one that was asked for");
        return Err(Error::UpstreamProtocolError);
    };
    let is_http2 = exchange.request.version == Version::HTTP_2;
    headers::apply_switched(response, handshake, is_http2);
    Ok(true)
}

/// Whether no page of another site has begun the handshake. A browser sends cookies with the handshake of any page, and CORS does not
/// apply to WebSocket: the page could act as the user (cross-site WebSocket hijacking, RFC 6455 §10.2). Programs that are not
/// browsers send no `Origin`.
fn is_from_own_page(headers: &HeaderMap, authority: &Authority, cors: Option<&Cors>) -> bool {
    let mut lines = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = lines.next() else { return true };
    let own = || {
        let (scheme, host) = origin.to_str().ok()?.split_once("://")?;
        let scheme = if scheme.eq_ignore_ascii_case("https") { Scheme::Https } else { Scheme::Http };
        let origin = Authority::parse(host.as_bytes(), scheme)?;
        // The scheme is left out, because a proxy in front may end TLS.
        Some(origin.host() == authority.host() && origin.port() == authority.port())
    };
    lines.next().is_none()
        && (own() == Some(true) || cors.is_some_and(|cors| cors.allows_cookies(origin.as_bytes())))
}

/// RFC 6455 §4.2.1: exactly one key, of 16 bytes.
fn websocket_key(parts: &Parts) -> Result<HeaderValue, Error> {
    let mut lines = parts.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (lines.next(), lines.next()) {
        (Some(key), None) if websocket::is_key(key.as_bytes()) => Ok(key.clone()),
        _ => Err(Error::UpgradeInvalid),
    }
}

/// A tunnel whose handshake is over.
pub(crate) struct Tunnel {
    exchange: Box<Exchange>,
    service: SwitchedConnection,
    pump: Pump,
    idle: Duration,
    _place: TunnelPlace,
    /// The stream of a client that uses HTTP/2, until the tunnel runs.
    stream: Option<ClientBody>,
    /// Why it ended. `None`: the client's connection ended first.
    end: Option<&'static str>,
}

impl Tunnel {
    /// The tunnel of a request that a service has answered with 101.
    pub(super) fn begin(
        asked: TunnelRequest,
        service: SwitchedConnection,
        stream: Option<ClientBody>,
        mut exchange: Box<Exchange>,
    ) -> Self {
        exchange.becomes_tunnel();
        let pump = Pump::new(asked.handshake.is_websocket(), service.ahead());
        Self { exchange, service, pump, idle: asked.idle, _place: asked.place, stream, end: None }
    }

    /// The client's side of a stream, which is taken once.
    pub(crate) fn take_stream(&mut self) -> Option<ClientBody> {
        self.stream.take()
    }

    /// Moves bytes until the tunnel ends. `client` is the client's side.
    pub(crate) async fn run(mut self, mut client: impl TunnelEnd) {
        let worker = Rc::clone(self.exchange.worker());
        let entry = OpenTunnels::enter(&worker.tunnels);
        let mut standstills = Standstills::new(self.idle, worker.clock.now());
        let poll = |cx: &mut Context<'_>| self.poll(cx, &mut client, &mut standstills, (&worker, &entry));
        let end = std::future::poll_fn(poll).await;
        self.end = Some(end);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl TunnelEnd,
        standstills: &mut Standstills,
        (worker, entry): (&WorkerState, &OpenTunnel),
    ) -> Poll<&'static str> {
        entry.remember(cx);
        if worker.is_out_of_time.get() {
            return Poll::Ready(flags::DRAIN_TIMEOUT);
        }
        let is_closing = worker.draining.get();
        let polled = self.pump.poll(cx, (client, &mut self.service), is_closing);
        if let Poll::Ready(ended) = polled {
            return Poll::Ready(match ended {
                PumpEnd::Closed if is_closing => flags::TUNNEL_DRAINED,
                PumpEnd::Closed => flags::NONE,
                PumpEnd::ClientGone => flags::CLIENT_GONE,
                PumpEnd::ServiceGone => flags::UPSTREAM_TRUNCATED,
            });
        }
        standstills.poll(cx, (&self.pump, is_closing), &worker.clock).map(|standstill| match standstill {
            Standstill::Farewell => flags::TUNNEL_DRAINED,
            Standstill::Stalled => flags::TUNNEL_STALLED,
            Standstill::Idle => flags::TUNNEL_IDLE,
        })
    }
}

/// However it ends, its bytes are counted.
impl Drop for Tunnel {
    fn drop(&mut self) {
        self.exchange.tunnel_ended(self.pump.client_bytes(), self.pump.service_bytes(), self.end);
    }
}
