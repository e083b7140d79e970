//! `/metrics`: the workers' samples and the control plane's own numbers as Prometheus families.
//!
//! Each scrape takes a copy of every worker's counters. For a worker that does not answer within [`SAMPLE_PATIENCE`], its last
//! copy counts, so counters never go backwards. The merged numbers stand behind a `prometheus::core::Collector`; the crate's
//! registry and encoder do the rest.

mod endpoints;
pub(super) mod instances;
mod rare;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use millgate_registry::{FollowStats, SideCounts};
use prometheus::{
    Encoder, Registry, TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use super::{
    acme_report, certificates,
    declared::DeclaredReport,
    exposition::{Families, Reading, count},
    file_places,
    keys::report,
    status::Status,
    watches,
};
use crate::{
    clock,
    downstream::{Refusal, merge_refusals},
    file_account::FileAccount,
    metrics::{ClusterSample, Histogram, RouteKey, RouteSample, WorkerSample},
    policy::rate_limit::KeyBudget,
    snapshot::{Publisher, Snapshot},
    worker::Command,
};

/// A worker answers between two polls of its event loop. One that needs longer is stuck.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(1);
/// Endpoints have a series each in services of at most this many; those of larger services are summed up.
const INSTANCE_SERIES_MAX: usize = 50;

/// Collects and encodes the metrics of the gateway.
pub struct Exporter {
    registry: Registry,
    merged: Arc<Mutex<Vec<MetricFamily>>>,
    sources: Sources,
    last: AsyncMutex<Vec<WorkerSample>>,
}

/// The sources of the numbers.
pub struct Sources {
    pub workers: Vec<mpsc::Sender<Command>>,
    pub publisher: Arc<Publisher>,
    pub status: Arc<Status>,
    pub budget: Arc<KeyBudget>,
    pub files: Arc<FileAccount>,
    pub admin: Arc<SideCounts>,
}

/// The collector that the crate's registry reads: it has what the last scrape merged.
struct Merged {
    families: Arc<Mutex<Vec<MetricFamily>>>,
    desc: Vec<Desc>,
}

impl Collector for Merged {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        std::mem::take(&mut *self.families.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Exporter {
    /// # Errors
    /// The collectors cannot be registered (two of one name).
    pub fn new(sources: Sources) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let merged: Arc<Mutex<Vec<MetricFamily>>> = Arc::default();
        let desc = Desc::new("millgate".into(), "All metrics of the gateway".into(), vec![], HashMap::new())?;
        registry.register(Box::new(Merged { families: Arc::clone(&merged), desc: vec![desc] }))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let last = AsyncMutex::new(vec![WorkerSample::default(); sources.workers.len()]);
        Ok(Self { registry, merged, sources, last })
    }

    /// The counters of the admin listener.
    pub fn admin_connections(&self) -> Arc<SideCounts> {
        Arc::clone(&self.sources.admin)
    }

    /// The last refusals that are in no access log, the latest last; those of workers that do not answer are missing.
    pub async fn refusals(&self) -> Vec<Refusal> {
        let replies: Vec<_> = self.ask(Command::Refusals).collect();
        let deadline = tokio::time::Instant::now() + SAMPLE_PATIENCE;
        let mut known = Vec::new();
        for reply in replies.into_iter().flatten() {
            known.extend(tokio::time::timeout_at(deadline, reply).await.into_iter().flatten());
        }
        merge_refusals(known)
    }

    /// Sends a command to each worker. `None` for a worker whose queue is full.
    fn ask<T>(
        &self,
        question: fn(oneshot::Sender<T>) -> Command,
    ) -> impl Iterator<Item = Option<oneshot::Receiver<T>>> {
        self.sources.workers.iter().map(move |worker| {
            let (reply, answer) = oneshot::channel();
            worker.try_send(question(reply)).is_ok().then_some(answer)
        })
    }

    /// The exposition in text format 0.0.4.
    ///
    /// # Errors
    /// The encoder refuses a family.
    pub async fn scrape(&self) -> prometheus::Result<Vec<u8>> {
        let samples = self.samples().await;
        let families = self.families(&samples);
        *self.merged.lock().unwrap_or_else(PoisonError::into_inner) = families;
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    pub(super) async fn samples(&self) -> Vec<WorkerSample> {
        let mut last = self.last.lock().await;
        let replies: Vec<_> = self.ask(Command::Sample).collect();
        // One deadline for all workers, so that several stuck ones cost no more than one.
        let deadline = tokio::time::Instant::now() + SAMPLE_PATIENCE;
        for (known, reply) in last.iter_mut().zip(replies) {
            let Some(reply) = reply else { continue };
            if let Ok(Ok(sample)) = tokio::time::timeout_at(deadline, reply).await {
                *known = sample;
            }
        }
        last.clone()
    }

    fn families(&self, samples: &[WorkerSample]) -> Vec<MetricFamily> {
        let snapshot = self.sources.publisher.load();
        let mut out = Families::default();
        routes(&mut out, samples);
        clusters(&mut out, samples);
        rare::families(&mut out, samples);
        connections(&mut out, samples);
        file_places::families(&mut out, &self.sources.files);
        file_places::admin(&mut out, &self.sources.admin);
        endpoints::endpoints(&mut out, &snapshot);
        instances::families(&mut out, &snapshot, samples);
        self.control(&mut out, &snapshot);
        out.into_non_empty()
    }

    fn control(&self, out: &mut Families, snapshot: &Snapshot) {
        let (status, budget) = (&self.sources.status, &self.sources.budget);
        status.config().families(out);
        let mut reloads =
            out.counter("millgate_config_reloads_total", "Configurations that were read, by result");
        reloads.add(&[("result", "accepted")], count(status.reloads_ok.load(Ordering::Relaxed)));
        reloads.add(&[("result", "refused")], count(status.reloads_refused.load(Ordering::Relaxed)));
        let mut warnings =
            out.gauge("millgate_config_warnings", "Warnings of the configuration in use, by code");
        for (code, number) in status.warnings() {
            warnings.add(&[("code", code)], count(number));
        }
        out.gauge("millgate_ready", "1 while /readyz returns 200")
            .add(&[], f64::from(u8::from(status.is_ready())));
        out.gauge("millgate_rate_limit_keys", "Keys that rate limits track now")
            .add(&[], count(budget.used() as u64));
        out.counter(
            "millgate_rate_limit_overflow_total",
            "Checks of new keys that share an overflow bucket, past limits.rate_keys",
        )
        .add(&[], count(budget.overflowed()));
        out.gauge("millgate_build_info", "Always 1; the label is the version")
            .add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        out.counter("millgate_discovery_updates_total", "Changes of instances that the registry reported")
            .add(&[], count(status.updates.load(Ordering::Relaxed)));
        if let Some(report) = status.declared() {
            declared(out, &report);
        }
        if let Some(key) = status.key() {
            followed_key(out, &key, status.key_deleted.load(Ordering::Relaxed));
        }
        out.histogram(
            "millgate_discovery_update_duration_seconds",
            "Time from the registry's response to the snapshot that uses it",
        )
        .add_histogram(&[], &status.update_duration());
        status.certificates.families(out);
        acme_report::families(&status.acme, out);
        certificates::staples(out, snapshot.tls.iter().map(|(_, tls)| &*tls.names));
        watches::families(out, snapshot, &status.watches());
        report::families(out, snapshot, clock::unix_now());
    }
}

/// Numbers of declared routes.
fn declared(out: &mut Families, report: &DeclaredReport) {
    out.gauge("millgate_declared_routes", "Declared routes that are in the table")
        .add(&[], count(report.accepted as u64));
    let mut refused =
        out.gauge("millgate_declared_routes_refused", "Declared routes that are not in the table, by reason");
    for (reason, number) in report.by_reason() {
        refused.add(&[("reason", reason)], count(number as u64));
    }
}

/// Numbers of the Consul key with the configuration.
fn followed_key(out: &mut Families, key: &FollowStats, deleted: bool) {
    out.gauge("millgate_config_key_present", "0 after the key of the configuration was deleted, 1 otherwise")
        .add(&[], f64::from(u8::from(!deleted)));
    // Until Consul has answered, the age counts from the start.
    if let Some(last) = key.last_success.or(key.started) {
        let age = clock::now().saturating_duration_since(last.into()).as_secs_f64();
        out.gauge(
            "millgate_config_key_age_seconds",
            "Time since Consul last responded for the key of the configuration",
        )
        .add(&[], age);
    }
    out.counter("millgate_config_key_queries_total", "Queries for the key of the configuration")
        .add(&[], count(key.queries));
    out.counter("millgate_config_key_errors_total", "Failed queries for the key of the configuration")
        .add(&[], count(key.errors));
}

type Histograms = (&'static str, &'static str, fn(&RouteSample) -> &Histogram);

fn routes(out: &mut Families, samples: &[WorkerSample]) {
    let mut merged: HashMap<RouteKey, RouteSample> = HashMap::new();
    for (key, sample) in samples.iter().flat_map(|worker| &worker.routes) {
        merged.entry(key.clone()).or_default().merge(sample);
    }
    let mut merged: Vec<_> = merged.into_iter().filter(|(_, sample)| !sample.requests.is_empty()).collect();
    merged.sort_by(|a, b| a.0.cmp(&b.0));
    let mut family = out.counter("millgate_requests_total", "Requests by route, service, method and status");
    for ((route, service), sample) in &merged {
        for (method, code, n) in &sample.requests {
            let code = code.to_string();
            let labels =
                [("route", &**route), ("service", &**service), ("method", *method), ("code", &*code)];
            family.add(&labels, count(*n));
        }
    }
    let histograms: [Histograms; 2] = [
        (
            "millgate_request_duration_seconds",
            "Time from the first byte of the request to the last byte of the response",
            |s| &s.duration,
        ),
        ("millgate_overhead_seconds", "The gateway's own part of the time to the response head", |s| {
            &s.overhead
        }),
    ];
    for (name, help, read) in histograms {
        let mut family = out.histogram(name, help);
        for ((route, service), sample) in &merged {
            family.add_histogram(&[("route", route), ("service", service)], read(sample));
        }
    }
    let bytes: [Reading<RouteSample, u64>; 2] = [
        ("millgate_request_bytes_total", "Bytes of request bodies", |s| s.request_bytes),
        ("millgate_response_bytes_total", "Bytes of response bodies", |s| s.response_bytes),
    ];
    for (name, help, read) in bytes {
        let mut family = out.counter(name, help);
        for ((route, service), sample) in &merged {
            family.add(&[("route", route), ("service", service)], count(read(sample)));
        }
    }
}

fn clusters(out: &mut Families, samples: &[WorkerSample]) {
    let mut merged: HashMap<Arc<str>, ClusterSample> = HashMap::new();
    for (name, sample) in samples.iter().flat_map(|worker| &worker.clusters) {
        merged.entry(Arc::clone(name)).or_default().merge(sample);
    }
    let mut merged: Vec<_> = merged.into_iter().collect();
    merged.sort_by(|a, b| a.0.cmp(&b.0));
    let mut family = out.counter(
        "millgate_upstream_requests_total",
        "Attempts by service and status; `none` stands for no response",
    );
    for (service, sample) in &merged {
        for (code, n) in &sample.attempts {
            let code = if *code == 0 { "none".to_owned() } else { code.to_string() };
            family.add(&[("service", service), ("code", &code)], count(*n));
        }
    }
    let mut family = out.histogram(
        "millgate_upstream_duration_seconds",
        "Time of an attempt from sending to the response head",
    );
    for (service, sample) in &merged {
        family.add_histogram(&[("service", service)], &sample.duration);
    }
    let mut family = out.counter(
        "millgate_upstream_connections_total",
        "Upstream connections that attempts used, opened or reused",
    );
    for (service, sample) in &merged {
        family.add(&[("service", service), ("how", "opened")], count(sample.connections_opened));
        family.add(&[("service", service), ("how", "reused")], count(sample.connections_reused));
    }
    let shared = || merged.iter().filter_map(|(service, sample)| Some((service, sample.shared?)));
    let mut family =
        out.gauge("millgate_upstream_http2_connections", "HTTP/2 connections that are open to a service");
    for (service, (connections, _)) in shared() {
        family.add(&[("service", service)], count(connections));
    }
    let mut family = out.gauge("millgate_upstream_http2_streams", "Streams in use on these connections");
    for (service, (_, streams)) in shared() {
        family.add(&[("service", service)], count(streams));
    }
}

fn connections(out: &mut Families, samples: &[WorkerSample]) {
    let sum = |read: fn(&WorkerSample) -> u64| count(samples.iter().map(read).sum());
    let mut family = out.gauge("millgate_connections", "Open client connections");
    family.add(&[("protocol", "new")], sum(|s| s.new));
    family.add(&[("protocol", "http1")], sum(|s| s.http1));
    family.add(&[("protocol", "http2")], sum(|s| s.http2));
    out.gauge("millgate_connections_parked", "Idle client connections that have no buffers")
        .add(&[], sum(|s| s.parked));
    out.gauge("millgate_upstream_large_buffers", "Upstream connections with buffers of 256 KiB")
        .add(&[], sum(|s| s.large_reads));
    out.counter("millgate_connections_accepted_total", "Client connections that were accepted")
        .add(&[], sum(|s| s.accepted));
    out.counter("millgate_accept_errors_total", "Client connections that could not be accepted")
        .add(&[], sum(|s| s.refused));
    out.counter("millgate_tls_handshakes_total", "TLS handshakes that were completed")
        .add(&[], sum(|s| s.tls_handshakes));
    out.counter("millgate_tls_resumed_total", "TLS handshakes that resumed an earlier session")
        .add(&[], sum(|s| s.tls_resumed));
}
