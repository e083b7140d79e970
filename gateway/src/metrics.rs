//! Counters of one worker.
//!
//! A worker counts in plain cells of its own: without atomics, locks, or cache lines that cores share.
//! For a scrape, every worker sends a copy ([`WorkerSample`]), and `control::metrics` merges the copies into the
//! Prometheus exposition. Labels never contain a path, a user or a client's address; unknown methods count as `OTHER`,
//! unmatched requests as route `(none)`. docs/METRICS.md lists all metrics.

mod instance;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::Method;

pub use self::instance::InstanceSample;

/// Upper bounds of the buckets in seconds: those that OpenTelemetry recommends for HTTP, with three finer steps below.
pub const LATENCY_BOUNDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const LATENCY_BOUNDS_NS: [u64; 17] = {
    let mut out = [0; 17];
    let seconds_e4 =
        [5, 10, 25, 50, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000, 25_000, 50_000, 75_000, 100_000];
    let mut i = 0;
    while i < 17 {
        out[i] = seconds_e4[i] * 100_000;
        i += 1;
    }
    out
};

/// A histogram of durations with fixed buckets, which are not cumulative. The last bucket counts values above the last bound.
///
/// The order of the fields puts the sum beside the buckets of short times: one cache line for most requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Histogram {
    pub sum_ns: u64,
    pub counts: [u64; LATENCY_BOUNDS.len() + 1],
}

/// A duration with its bucket, which is the same in every [`Histogram`], so that it is searched once for several of them.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    ns: u64,
    bucket: usize,
}

impl Spot {
    /// Finds the bucket of a duration.
    pub fn of(value: Duration) -> Self {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        // The search is linear from below, since most requests of a gateway are in the first few buckets.
        let bucket = LATENCY_BOUNDS_NS.iter().position(|bound| ns <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        Self { ns, bucket }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, value: Duration) {
        self.add(Spot::of(value));
    }

    /// Counts a duration whose bucket is known.
    pub fn add(&mut self, spot: Spot) {
        if let Some(count) = self.counts.get_mut(spot.bucket) {
            *count += 1;
        }
        self.sum_ns = self.sum_ns.saturating_add(spot.ns);
    }

    /// The smallest bound below which this share (0.0..=1.0) of all values lies. `None`: it is above the last bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "no worker counts 2^52 requests")]
        let wanted = self.total() as f64 * share;
        let mut below = 0;
        LATENCY_BOUNDS_NS.iter().zip(self.counts).find_map(|(bound, count)| {
            below += count;
            #[expect(clippy::cast_precision_loss, reason = "no worker counts 2^52 requests")]
            let is_it = below as f64 >= wanted;
            is_it.then(|| Duration::from_nanos(*bound))
        })
    }

    /// Adds the values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The label of a method: the usual methods by name, all others as `OTHER`.
pub fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// One worker's counters of one route, carried across snapshots by (route, service).
///
/// The order of the fields keeps what every request counts in one cache line.
#[derive(Debug, Clone, Default)]
#[repr(C)]
pub struct RouteSample {
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Numbers of requests by method and status. There are a few pairs, so a list beats a map.
    pub requests: Vec<(&'static str, u16, u64)>,
    pub duration: Histogram,
    /// The gateway's own time: duration without the wait for the upstream.
    pub overhead: Histogram,
}

/// One worker's counters of one cluster, carried across snapshots by service name.
#[derive(Debug, Clone, Default)]
pub struct ClusterSample {
    /// Numbers of attempts by status; 0 stands for no response (failed connect, reset, timeout).
    pub attempts: Vec<(u16, u64)>,
    pub duration: Histogram,
    pub connections_opened: u64,
    pub connections_reused: u64,
    /// Connections of HTTP/2 that are open, and streams in use on them, as of the last second. `None`: the service speaks HTTP/1.1.
    pub shared: Option<(u64, u64)>,
}

/// A counter that rarely changes. Each variant names its two labels; `docs/METRICS.md` has their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rare {
    /// (route, reason): local replies by the reason in docs/ERRORS.md.
    LocalReply,
    /// (route, policy)
    RateLimited,
    /// (provider, reason)
    AuthFailure,
    /// (service, reason)
    Retry,
    /// (service, "")
    RetryBudgetExhausted,
    /// (service, reason): endpoints left out by outlier detection.
    Ejection,
    /// (service, reason): ejections that did not happen, because the largest permitted number of endpoints was out.
    EjectionSpared,
    /// (service, reason): tunnels that have ended.
    TunnelEnded,
    /// (service, status): gRPC calls that their service ended with another status than 0.
    CallFailed,
    /// (service, ""): breakers that stayed closed for the reason of `EjectionSpared`.
    BreakerSpared,
    /// (service, ""): requests to ejected endpoints, because too few others were left.
    PanicPick,
    /// (service, "")
    PoolFull,
    /// (client or upstream, reason): idle connections that were closed to make room.
    Shed,
    /// (listener, reason): connections that ended before a request could be served.
    ConnectionError,
    /// ("stream" or "connection", code): RST_STREAM and GOAWAY with which h2 refused malformed input.
    Http2Refusal,
    /// ("", "")
    Panic,
    /// (reason, ""): lost lines of the access log.
    LogDropped,
    /// ("", ""): refusals past `access_log.refusals_per_second` that the access log's sample left out.
    RefusalNotLogged,
    /// ("hit" or "miss", "")
    TokenCache,
    /// (provider, outcome): requests that waited for keys.
    KeyWait,
    /// ("", ""): clients that left before their response was complete.
    ClientGone,
    /// ("", ""): clients that did not read their response, or read it too slowly.
    ClientStalled,
    /// ("", ""): HTTP/2 connections that began with small windows.
    SmallWindows,
    /// ("forwarded" or "dropped", ""): informational responses of services.
    Informational,
    /// (limit, ""): requests whose body was not gathered before an instance was chosen.
    NotGathered,
}

/// Most distinct series of [`Rare`] that one worker keeps; past it, new ones count under the label `(other)`.
/// Labels come from the configuration and fixed words, so only a very large configuration reaches this.
const RARE_SERIES_MAX: usize = 20_000;

/// Route and service.
pub type RouteKey = (Arc<str>, Arc<str>);
/// Service and instance.
pub type InstanceKey = (Arc<str>, Box<str>);
/// A rare counter and its two label values.
pub type RareKey = (Rare, Box<str>, Box<str>);

/// One worker's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: RefCell<HashMap<RouteKey, Rc<RefCell<RouteSample>>>>,
    clusters: RefCell<HashMap<Arc<str>, Rc<RefCell<ClusterSample>>>>,
    instances: RefCell<HashMap<InstanceKey, Rc<RefCell<InstanceSample>>>>,
    rare: RefCell<HashMap<RareKey, u64>>,
    /// Numbers of cells at which unused cells are removed.
    next_sweep: SweepAt,
    pub connections: Connections,
    /// Upstream connections that have had large reads.
    pub large_reads: Rc<Cell<u64>>,
}

/// One worker's numbers of client connections.
#[derive(Debug, Default)]
pub struct Connections {
    /// Connections that were accepted and are not closed.
    pub open: Cell<u64>,
    pub http1: Cell<u64>,
    pub http2: Cell<u64>,
    /// HTTP/1 connections that are idle and have no buffers.
    pub parked: Cell<u64>,
    pub tls_handshakes: Cell<u64>,
    pub tls_resumed: Cell<u64>,
    pub accepted: Cell<u64>,
    pub refused: Cell<u64>,
}

/// A copy of one worker's counters.
#[derive(Debug, Clone, Default)]
pub struct WorkerSample {
    pub routes: Vec<(RouteKey, RouteSample)>,
    pub clusters: Vec<(Arc<str>, ClusterSample)>,
    /// Instances that have had attempts.
    pub instances: Vec<(InstanceKey, InstanceSample)>,
    pub rare: Vec<(RareKey, u64)>,
    /// Connections whose protocol is not known yet, since the first bytes of a request, or its TLS handshake, are missing.
    pub new: u64,
    pub http1: u64,
    pub http2: u64,
    pub parked: u64,
    pub large_reads: u64,
    pub tls_handshakes: u64,
    pub tls_resumed: u64,
    pub accepted: u64,
    pub refused: u64,
}

impl Metrics {
    /// The cell of a route. Called for a new snapshot, not for each request.
    pub fn route(&self, route: &Arc<str>, service: &Arc<str>) -> Rc<RefCell<RouteSample>> {
        let mut routes = self.routes.borrow_mut();
        sweep(&mut routes, &self.next_sweep.routes);
        let key = (Arc::clone(route), Arc::clone(service));
        Rc::clone(routes.entry(key).or_default())
    }

    /// The cell of a cluster. Called for a new snapshot.
    pub fn cluster(&self, service: &Arc<str>) -> Rc<RefCell<ClusterSample>> {
        let mut clusters = self.clusters.borrow_mut();
        sweep(&mut clusters, &self.next_sweep.clusters);
        Rc::clone(clusters.entry(Arc::clone(service)).or_default())
    }

    /// The cell of an instance. Called for a new snapshot.
    pub fn instance(&self, service: &Arc<str>, instance: &str) -> Rc<RefCell<InstanceSample>> {
        let mut instances = self.instances.borrow_mut();
        sweep(&mut instances, &self.next_sweep.instances);
        Rc::clone(instances.entry((Arc::clone(service), Box::from(instance))).or_default())
    }

    /// Adds one to a rare counter with these label values.
    pub fn count(&self, what: Rare, first: &str, second: &str) {
        self.count_many(what, first, second, 1);
    }

    /// Adds `n` to a rare counter with these label values.
    pub fn count_many(&self, what: Rare, first: &str, second: &str, n: u64) {
        let mut rare = self.rare.borrow_mut();
        let key = (what, Box::from(first), Box::from(second));
        if rare.len() >= RARE_SERIES_MAX && !rare.contains_key(&key) {
            *rare.entry((what, Box::from("(other)"), Box::from("(other)"))).or_default() += n;
        } else {
            *rare.entry(key).or_default() += n;
        }
    }

    /// A copy for the control plane.
    pub fn sample(&self) -> WorkerSample {
        let instances = self.instances.borrow();
        let asked = instances.iter().filter(|(_, cell)| !cell.borrow().attempts.is_empty());
        let known = self.connections.http1.get() + self.connections.http2.get();
        WorkerSample {
            routes: self.routes.borrow().iter().map(|(k, v)| (k.clone(), v.borrow().clone())).collect(),
            clusters: self.clusters.borrow().iter().map(|(k, v)| (k.clone(), v.borrow().clone())).collect(),
            instances: asked.map(|(key, cell)| (key.clone(), cell.borrow().clone())).collect(),
            rare: self.rare.borrow().iter().map(|(k, v)| (k.clone(), *v)).collect(),
            new: self.connections.open.get().saturating_sub(known),
            http1: self.connections.http1.get(),
            http2: self.connections.http2.get(),
            parked: self.connections.parked.get(),
            large_reads: self.large_reads.get(),
            tls_handshakes: self.connections.tls_handshakes.get(),
            tls_resumed: self.connections.tls_resumed.get(),
            accepted: self.connections.accepted.get(),
            refused: self.connections.refused.get(),
        }
    }
}

#[derive(Debug)]
struct SweepAt {
    routes: Cell<usize>,
    clusters: Cell<usize>,
    instances: Cell<usize>,
}

impl Default for SweepAt {
    fn default() -> Self {
        let [routes, clusters, instances] = [SERIES_KEPT; 3].map(Cell::new);
        Self { routes, clusters, instances }
    }
}

/// Removes cells that no snapshot uses, once there are many. The next sweep is at twice the number of cells in use.
fn sweep<K, V>(cells: &mut HashMap<K, Rc<V>>, at: &Cell<usize>) {
    if cells.len() >= at.get() {
        cells.retain(|_, cell| Rc::strong_count(cell) > 1);
        at.set(SERIES_KEPT.max(2 * cells.len()));
    }
}

/// Number of routes, clusters or instances from which a worker removes unused ones. Below it, unused ones stay, so that their
/// counters go on when they come back. The number is bounded because services may declare routes with new names without end.
const SERIES_KEPT: usize = 4096;

impl RouteSample {
    /// Counts `n` requests with this method and status.
    pub fn count(&mut self, method: &'static str, status: u16, n: u64) {
        match self.requests.iter_mut().find(|(m, s, _)| *s == status && *m == method) {
            Some((.., count)) => *count += n,
            None => self.requests.push((method, status, n)),
        }
    }

    /// Adds the counters of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (method, status, n) in &other.requests {
            self.count(method, *status, *n);
        }
        self.duration.merge(&other.duration);
        self.overhead.merge(&other.overhead);
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
    }
}

impl ClusterSample {
    /// Counts `n` attempts with this status.
    pub fn count(&mut self, status: u16, n: u64) {
        match self.attempts.iter_mut().find(|(s, _)| *s == status) {
            Some((_, count)) => *count += n,
            None => self.attempts.push((status, n)),
        }
    }

    /// Adds the counters of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (status, n) in &other.attempts {
            self.count(*status, *n);
        }
        self.duration.merge(&other.duration);
        self.connections_opened += other.connections_opened;
        self.connections_reused += other.connections_reused;
        if let Some((connections, streams)) = other.shared {
            let (ours, in_use) = self.shared.unwrap_or_default();
            self.shared = Some((ours + connections, in_use + streams));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_come_and_go_without_end_are_forgotten_and_those_in_use_are_not() {
        let metrics = Metrics::default();
        let service: Arc<str> = "a".into();
        let used = metrics.route(&"used".into(), &service);
        used.borrow_mut().count("GET", 200, 7);
        for at in 0..3 * SERIES_KEPT {
            metrics.route(&Arc::from(at.to_string()), &service);
            metrics.cluster(&Arc::from(at.to_string()));
            metrics.instance(&service, &at.to_string()).borrow_mut().record(200, Spot::of(Duration::ZERO));
        }
        let sample = metrics.sample();
        let lengths = [sample.routes.len(), sample.clusters.len(), sample.instances.len()];
        assert!(lengths.iter().all(|length| *length <= SERIES_KEPT), "{lengths:?}");
        let kept = sample.routes.iter().find(|((route, _), _)| &**route == "used").unwrap();
        assert_eq!(kept.1.requests, [("GET", 200, 7)]);
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_that_bucket_and_one_past_it_to_the_next() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_micros(500));
        histogram.record(Duration::from_nanos(500_001));
        histogram.record(Duration::from_secs(11));
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.counts[17]), (1, 1, 1));
        assert_eq!(histogram.total(), 3);
    }

    #[test]
    fn bounds_in_seconds_and_nanoseconds_agree() {
        for (seconds, ns) in LATENCY_BOUNDS.iter().zip(LATENCY_BOUNDS_NS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(ns));
        }
    }

    #[test]
    fn unknown_methods_share_one_label() {
        assert_eq!(method_label(&Method::from_bytes(b"PURGE").unwrap()), "OTHER");
    }

    #[test]
    fn series_past_the_cap_are_counted_together() {
        let metrics = Metrics::default();
        for i in 0..=RARE_SERIES_MAX {
            metrics.count(Rare::Retry, &i.to_string(), "");
        }
        let sample = metrics.sample();
        assert!(sample.rare.len() <= RARE_SERIES_MAX + 1);
        assert_eq!(sample.rare.iter().map(|(_, n)| n).sum::<u64>(), RARE_SERIES_MAX as u64 + 1);
    }
}
