//! One address in a cluster, and the state of it that all workers share.
//!
//! An [`Endpoint`] is part of a snapshot and immutable. Its [`EndpointState`] (requests in flight, breaker) is
//! shared by all workers, and carried into the next snapshot by [`EndpointKey`].

use std::{
    fmt,
    net::SocketAddr,
    ops::Deref,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use super::{host_port::HostPort, response_time::ResponseTime, settings::HttpVersion, tls::ClientTls};
use crate::policy::{circuit_breaker::BreakerState, outlier::OutlierState};

/// The identity of an endpoint across snapshots: its address and, if the registry has one, the instance at that
/// address. A new instance at an old address starts with new state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// `address#id`, or only the address.
    text: Box<str>,
    /// The datacenter and node of the instance, because its id is unique only there.
    node: Option<(Box<str>, Box<str>)>,
}

impl EndpointKey {
    /// The key of an address in the configuration.
    pub fn address(address: SocketAddr) -> Self {
        Self { text: address.to_string().into(), node: None }
    }

    /// The key of an instance in the registry, from its datacenter, node and id.
    pub fn instance(address: SocketAddr, (datacenter, node, id): (&str, &str, &str)) -> Self {
        Self { text: format!("{address}#{id}").into(), node: Some((datacenter.into(), node.into())) }
    }

    /// The endpoint's name for people. It is unique in its cluster.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One address to which requests can be sent.
#[derive(Debug, Clone)]
pub struct Endpoint {
    key: EndpointKey,
    address: SocketAddr,
    authority: HostPort,
    weight: u32,
    state: Arc<EndpointState>,
    tls: Option<Arc<ClientTls>>,
    version: HttpVersion,
}

impl Endpoint {
    /// `weight` is relative to the other endpoints of the cluster and limited to 1..=[`WEIGHT_MAX`]; an instance
    /// of weight 0 must not become an endpoint. `state` is the state carried over, or [`EndpointState::new`].
    pub fn new(
        key: EndpointKey,
        address: SocketAddr,
        authority: &str,
        weight: u32,
        state: Arc<EndpointState>,
    ) -> Self {
        let weight = weight.clamp(1, WEIGHT_MAX);
        let (authority, version) = (HostPort::new(authority, address), HttpVersion::Http1);
        Self { key, address, authority, weight, state, tls: None, version }
    }

    /// The same endpoint with this TLS configuration (`None`: in cleartext) and version of HTTP.
    #[must_use]
    pub fn over(self, tls: Option<Arc<ClientTls>>, version: HttpVersion) -> Self {
        Self { tls, version, ..self }
    }

    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint's name in requests and in TLS.
    pub fn authority(&self) -> &HostPort {
        &self.authority
    }

    /// The version of HTTP that the endpoint gets.
    pub fn version(&self) -> HttpVersion {
        self.version
    }

    /// The TLS configuration. `None`: HTTP in cleartext.
    pub fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    /// The share of requests, relative to the other endpoints of the cluster.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The state that all workers share.
    pub fn state(&self) -> &Arc<EndpointState> {
        &self.state
    }
}

/// The state of one endpoint, shared by all workers. It has its own cache lines, so that a busy endpoint does
/// not slow its neighbours.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    /// Written only by [`InFlight`].
    in_flight: AtomicU32,
    outlier: OutlierState,
    breaker: BreakerState,
    /// Recorded only where the balancer uses it.
    response_time: ResponseTime,
}

impl EndpointState {
    /// The state of a new endpoint: no requests in flight, not ejected, breaker closed.
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            outlier: OutlierState::new(now),
            breaker: BreakerState::new(now),
            response_time: ResponseTime::new(now),
        }
    }

    /// The number of requests in flight to this endpoint, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn breaker(&self) -> &BreakerState {
        &self.breaker
    }

    pub fn response_time(&self) -> &ResponseTime {
        &self.response_time
    }

    pub fn outlier(&self) -> &OutlierState {
        &self.outlier
    }
}

impl AsRef<OutlierState> for EndpointState {
    fn as_ref(&self) -> &OutlierState {
        &self.outlier
    }
}

impl AsRef<BreakerState> for EndpointState {
    fn as_ref(&self) -> &BreakerState {
        &self.breaker
    }
}

/// A handle to an endpoint's shared state whose count only this worker touches. Guards of requests clone this
/// instead of the `Arc`, whose count all cores would share.
#[derive(Clone)]
#[expect(clippy::redundant_allocation, reason = "the outer count is the point: it is this worker's own")]
pub struct StateHandle(Rc<Arc<EndpointState>>);

impl StateHandle {
    pub fn new(state: &Arc<EndpointState>) -> Self {
        Self(Rc::new(Arc::clone(state)))
    }
}

impl Deref for StateHandle {
    type Target = EndpointState;

    fn deref(&self) -> &EndpointState {
        &self.0
    }
}

/// Counts one request as in flight until it is dropped.
///
/// `S` is any handle to the state (`&`, `Rc`, `Arc`). A response body that streams needs an owned handle, and a
/// worker that holds its snapshot by `Rc` avoids a reference count that other cores share.
#[derive(Debug)]
#[must_use = "dropping the guard ends the count"]
pub struct InFlight<S: Deref<Target = EndpointState>>(S);

impl<S: Deref<Target = EndpointState>> InFlight<S> {
    pub fn begin(state: S) -> Self {
        state.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl<S: Deref<Target = EndpointState>> Drop for InFlight<S> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The largest weight; Consul has the same limit.
pub const WEIGHT_MAX: u32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_flight_until_its_guard_is_dropped() {
        let state = Arc::new(EndpointState::new(Instant::now()));
        let owned = InFlight::begin(Arc::clone(&state));
        let borrowed = InFlight::begin(&*state);
        assert_eq!(state.in_flight(), 2);
        drop(borrowed);
        drop(owned);
        assert_eq!(state.in_flight(), 0);
    }

    #[test]
    fn another_instance_at_the_same_address_is_another_endpoint() {
        let address = SocketAddr::from(([10, 0, 0, 1], 8080));
        let key = EndpointKey::instance(address, ("dc1", "n1", "a"));
        assert_eq!(key, EndpointKey::instance(address, ("dc1", "n1", "a")));
        for other in [("dc1", "n1", "b"), ("dc1", "n2", "a"), ("dc2", "n1", "a")] {
            assert_ne!(key, EndpointKey::instance(address, other));
        }
        assert_ne!(key, EndpointKey::address(address));
        assert_eq!(key.to_string(), "10.0.0.1:8080#a");
    }

    #[test]
    fn a_weight_is_held_to_its_bounds() {
        for (given, held) in [(0, 1), (1, 1), (WEIGHT_MAX, WEIGHT_MAX), (u32::MAX, WEIGHT_MAX)] {
            let state = Arc::new(EndpointState::new(Instant::now()));
            let address = ([10, 0, 0, 1], 80).into();
            let endpoint = Endpoint::new(EndpointKey::address(address), address, "users", given, state);
            assert_eq!(endpoint.weight(), held);
        }
    }
}
