//! Many services with many instances that change all the time.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use millgate_registry::CheckStatus;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Options, backend,
    catalog::{Catalog, Place},
    cores::{self, Apart},
    fixed::Fixed,
    gateway::Gateway,
    lag::QUERIES,
    report::{Distribution, Report},
    source::Source,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Scale {
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    services: u16,
    /// Instances of each service
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(2..=250))]
    instances: u8,
    /// Changes per second, over all services
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2000))]
    changes: u32,
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

impl Scale {
    pub(crate) async fn run(&self, options: &Options) -> anyhow::Result<()> {
        let mut report = Report::new("discovery-scale", options);
        let source = Source::start(options.registry).await?;
        let port = backend::start().await?;
        let names: Arc<[String]> = (0..self.services).map(|at| format!("scale-{at}")).collect();
        self.register_all(&source.catalog, &names, port).await?;
        let mut fixed = Fixed::start()?;
        let gateway =
            Gateway::start(options, &source, &names, Some((Ipv4Addr::LOCALHOST, fixed.port).into())).await?;

        cores::share_out(&Apart { gateway: gateway.id(), fixed: fixed.id() })?;
        let whole = Duration::from_secs(self.seconds.into());
        let http = gateway.http();
        let quiet = fixed.ask(http, whole / 2)?;
        let (queries, cpu) = (gateway.metric(QUERIES).await?, gateway.cpu()?);
        let (lags, busy) = tokio::try_join!(self.change(&gateway, &source.catalog, &names), async {
            tokio::task::spawn_blocking(move || fixed.ask(http, whole)).await?
        })?;
        let changes = f64::from(self.changes * self.seconds);
        report.distribution("from a passing check to the first proxied request", &Distribution::of(lags));
        let [quiet, busy] = [quiet, busy].map(Distribution::of);
        report.distribution("requests to another service without changes", &quiet);
        report.distribution("requests to another service with changes", &busy);
        report.number("p99 of them with changes, over that without", busy.p99.div_duration_f64(quiet.p99));
        report.number("queries for each change", (gateway.metric(QUERIES).await? - queries) / changes);
        report.number(
            "CPU ms of the gateway for each change and what is asked meanwhile",
            gateway.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e3 / changes,
        );
        report.goal("p99 below 250 ms", |of| of.p99 < Duration::from_millis(250));
        report.finish()
    }

    /// Instance 0 of each service is passing, and the others are critical.
    async fn register_all(&self, catalog: &Catalog, names: &Arc<[String]>, port: u16) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for first in 0..REGISTRARS {
            let (catalog, names, instances) =
                (catalog.clone(), Arc::clone(names), usize::from(self.instances));
            tasks.spawn(async move {
                for (service, name) in names.iter().enumerate().skip(first).step_by(REGISTRARS) {
                    for instance in 0..instances {
                        let place = place(name, service * instances, instance);
                        let address = backend::address(service, instance).to_string();
                        catalog.register(&place, &address, port).await?;
                        if instance == 0 {
                            catalog.set(&place, CheckStatus::Passing).await?;
                        }
                    }
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    /// One service after the other gets another passing instance and loses the last one, which are two
    /// changes.
    async fn change(
        &self,
        gateway: &Gateway,
        catalog: &Catalog,
        names: &Arc<[String]>,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut tick = tokio::time::interval(Duration::from_secs(2) / self.changes);
        let mut tasks = JoinSet::new();
        for turn in 0..(self.changes * self.seconds / 2) as usize {
            tick.tick().await;
            let (service, round) = (turn % names.len(), turn / names.len());
            let instances = usize::from(self.instances);
            let (new, old) = ((round + 1) % instances, round % instances);
            let mut asking = gateway.ask().await?;
            let (catalog, name) = (catalog.clone(), names[service].clone());
            tasks.spawn(async move {
                let place = |instance| place(&name, service * instances, instance);
                let began = Instant::now();
                catalog.set(&place(new), CheckStatus::Passing).await?;
                let address = backend::address(service, new).to_string();
                let is_new = |_, content: &[u8]| content == address.as_bytes();
                let seen = asking.until(&format!("/{name}"), "the instance", is_new).await?;
                catalog.set(&place(old), CheckStatus::Critical).await?;
                anyhow::Ok(seen.duration_since(began))
            });
        }
        let mut lags = Vec::new();
        while let Some(lag) = tasks.join_next().await {
            lags.push(lag??);
        }
        Ok(lags)
    }
}

/// `first` is the number of the service's first instance.
fn place(service: &str, first: usize, instance: usize) -> Place<'_> {
    Place { service, number: first + instance, id: format!("{service}-{instance}") }
}

const REGISTRARS: usize = 16;
