//! The time from the registration of one instance to the first request that it answers, for one instance at a time.

use std::time::Duration;

use millgate_registry::ServiceRegistration;
use tokio::time::Instant;

use crate::{
    Options, backend,
    gateway::Gateway,
    report::{Distribution, Report},
    source::Source,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Lag {
    /// Registrations
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: u32,
    /// Services that take turns, so that the pace of one service's queries is not what is measured
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=90))]
    services: u16,
}

impl Lag {
    pub(crate) async fn run(&self, options: &Options) -> anyhow::Result<()> {
        let source = Source::start(options.registry).await?;
        let port = backend::start().await?;
        let names: Vec<String> = (0..self.services).map(|at| format!("lag-{at}")).collect();
        // An instance that is critical, so that no service is ever empty: Consul wakes the queries for all empty
        // services whenever another one becomes empty.
        for (at, name) in names.iter().enumerate() {
            let address = backend::address(at, 1).to_string();
            let mut registration = ServiceRegistration::http(name, format!("{name}-stays"), &address, port);
            registration.ttl = Some(Duration::from_hours(1));
            source.client.register(&registration).await?;
        }
        let gateway = Gateway::start(options, &source, &names, None).await?;
        let mut asking = gateway.ask().await?;
        let mut lags = Vec::new();
        for trial in 0..self.trials as usize {
            let at = trial % names.len();
            let (name, path) = (&names[at], format!("/{}", names[at]));
            asking.until(&path, "no instance", |status, _| status == 503).await?;
            let address = backend::address(at, 0).to_string();
            let registration = ServiceRegistration::http(name, format!("{name}-{trial}"), &address, port);
            let began = Instant::now();
            source.client.register(&registration).await?;
            let answered = asking.until(&path, "the instance", |status, _| status == 200).await?;
            lags.push(answered.duration_since(began));
            source.client.deregister(&registration.id).await?;
        }
        let mut report = Report::new("discovery-lag", options);
        report.distribution("from PUT register to the first proxied request", &Distribution::of(lags));
        report
            .number("queries for each registration", gateway.metric(QUERIES).await? / f64::from(self.trials));
        report.goal("p50 below 20 ms, p99 below 100 ms", |of| {
            of.p50 < Duration::from_millis(20) && of.p99 < Duration::from_millis(100)
        });
        report.finish()
    }
}

pub(crate) const QUERIES: &str = "millgate_discovery_queries_total";
