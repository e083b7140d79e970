//! What is known of the endpoints of each service at the time of a scrape.

use super::INSTANCE_SERIES_MAX;
use crate::{
    clock,
    control::exposition::{Families, count},
    policy::circuit_breaker::State,
    snapshot::Snapshot,
};

pub(super) fn endpoints(out: &mut Families, snapshot: &Snapshot) {
    let now = clock::now();
    let mut clusters: Vec<_> = snapshot.clusters.iter().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let mut family = out.gauge("millgate_endpoints", "Routable endpoints of a service");
    for cluster in &clusters {
        family.add(&[("service", &cluster.name)], count(cluster.endpoints.len() as u64));
    }
    let mut family = out.gauge("millgate_requests_in_flight", "Requests in flight to a service");
    for cluster in &clusters {
        family.add(&[("service", &cluster.name)], f64::from(cluster.concurrency.in_flight()));
    }
    let mut family = out.gauge("millgate_tunnels_open", "Tunnels that are open to a service");
    for cluster in &clusters {
        family.add(&[("service", &cluster.name)], f64::from(cluster.tunnels.open()));
    }
    let mut family = out.gauge(
        "millgate_failover_position",
        "Datacenter that serves a service: 0 is its own, otherwise the place in `failover`",
    );
    for cluster in clusters.iter().filter(|cluster| cluster.settings.source.targets().len() > 1) {
        family.add(&[("service", &cluster.name)], count(cluster.target as u64));
    }
    let small: Vec<_> = clusters.iter().filter(|c| c.endpoints.len() <= INSTANCE_SERIES_MAX).collect();
    let mut family =
        out.gauge("millgate_breaker_state", "State of a circuit breaker: 0 closed, 1 half-open, 2 open");
    for cluster in small.iter().filter(|cluster| cluster.breaker.is_some()) {
        for endpoint in &cluster.endpoints {
            let Some(breaker) = &cluster.breaker else { continue };
            let state = match breaker.state(endpoint.state().breaker(), now) {
                State::Closed => 0.0,
                State::HalfOpen => 1.0,
                State::Open => 2.0,
            };
            family.add(&[("service", &cluster.name), ("instance", endpoint.key().as_str())], state);
        }
    }
    let mut family =
        out.gauge("millgate_endpoint_ejected", "1 while outlier detection leaves an endpoint out");
    for cluster in small.iter().filter(|cluster| cluster.outlier.is_some()) {
        for endpoint in &cluster.endpoints {
            let ejected = f64::from(u8::from(!endpoint.state().outlier().is_in()));
            family.add(&[("service", &cluster.name), ("instance", endpoint.key().as_str())], ejected);
        }
    }
    let mut family =
        out.counter("millgate_breaker_transitions_total", "Changes of circuit breakers, by new state");
    for cluster in small {
        for endpoint in &cluster.endpoints {
            let made = endpoint.state().breaker().transitions();
            for (to, n) in [("open", made.opened), ("half_open", made.half_opened), ("closed", made.closed)] {
                if n > 0 {
                    let labels =
                        [("service", &*cluster.name), ("instance", endpoint.key().as_str()), ("to", to)];
                    family.add(&labels, f64::from(n));
                }
            }
        }
    }
}
