//! One address in a cluster, and what all workers know of it.
//!
//! An [`Endpoint`] is part of a snapshot and immutable; its [`EndpointState`] (requests in flight, breaker)
//! is shared by all workers and carried into the next snapshot by [`EndpointKey`].

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

use super::{host_port::HostPort, response_time::ResponseTime, tls::ClientTls};
use crate::policy::{circuit_breaker::BreakerState, outlier::OutlierState};

/// What makes an endpoint the same one in the next snapshot: its address and, if the registry knows one, the
/// instance behind it. A new instance at an old address starts with a clean record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// `address#id`, or only the address.
    text: Box<str>,
    /// Datacenter and node of the instance: its id is unique only there.
    node: Option<(Box<str>, Box<str>)>,
}

impl EndpointKey {
    /// Of an address that the configuration names.
    pub fn address(address: SocketAddr) -> Self {
        Self { text: address.to_string().into(), node: None }
    }

    /// Of an instance in the registry: datacenter, node and id.
    pub fn instance(address: SocketAddr, (datacenter, node, id): (&str, &str, &str)) -> Self {
        Self { text: format!("{address}#{id}").into(), node: Some((datacenter.into(), node.into())) }
    }

    /// The endpoint's name for people: unique in its cluster.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Clone)]
pub struct Endpoint {
    key: EndpointKey,
    address: SocketAddr,
    authority: HostPort,
    weight: u32,
    state: Arc<EndpointState>,
    tls: Option<Arc<ClientTls>>,
}

impl Endpoint {
    /// `weight` is relative to the other endpoints of the cluster and held to 1..=[`WEIGHT_MAX`]: an
    /// instance that wants no traffic is not an endpoint. `state` is the carried one, or [`EndpointState::new`].
    pub fn new(
        key: EndpointKey,
        address: SocketAddr,
        authority: &str,
        weight: u32,
        state: Arc<EndpointState>,
    ) -> Self {
        let weight = weight.clamp(1, WEIGHT_MAX);
        Self { key, address, authority: HostPort::new(authority, address), weight, state, tls: None }
    }

    /// The same, spoken with over TLS; `None`: in cleartext.
    #[must_use]
    pub fn over(self, tls: Option<Arc<ClientTls>>) -> Self {
        Self { tls, ..self }
    }

    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the endpoint is called in requests and in TLS.
    pub fn authority(&self) -> &HostPort {
        &self.authority
    }

    /// What TLS is spoken with; `None`: HTTP in cleartext.
    pub fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    pub fn weight(&self) -> u32 {
        self.weight
    }

    pub fn state(&self) -> &Arc<EndpointState> {
        &self.state
    }
}

/// Shared by all workers. On cache lines of its own, so that a busy endpoint does not slow its neighbours.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    /// Written by [`InFlight`] only.
    in_flight: AtomicU32,
    outlier: OutlierState,
    breaker: BreakerState,
    /// Kept only where the balancer asks for it.
    response_time: ResponseTime,
}

impl EndpointState {
    /// Nothing in flight, not ejected, breaker closed.
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            outlier: OutlierState::new(now),
            breaker: BreakerState::new(now),
            response_time: ResponseTime::new(now),
        }
    }

    /// Requests under way to this endpoint, over all workers.
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

/// An endpoint's shared state, held by a count that only this worker touches: guards of requests clone this and
/// not the `Arc`, whose count all cores would share.
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

/// Counts one request as under way until it is dropped.
///
/// `S` is any handle to the state (`&`, `Rc`, `Arc`): a response body that streams needs an owned one, a
/// worker that holds its snapshot by `Rc` need not touch a reference count that other cores share.
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

/// Largest weight; Consul's own limit is the same.
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
