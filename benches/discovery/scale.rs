//! Many services with many instances, and changes all the time.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use millgate_registry::{CheckStatus, Client, ServiceRegistration};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Options, backend,
    gateway::{Asking, Gateway},
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
        let source = Source::start(options.registry).await?;
        let port = backend::start().await?;
        let names: Arc<[String]> = (0..self.services).map(|at| format!("scale-{at}")).collect();
        self.register_all(&source.client, &names, port).await?;
        let fixed = (Ipv4Addr::LOCALHOST, port).into();
        let gateway = Gateway::start(options, &source, &names, Some(fixed)).await?;

        let quiet = self.requests_for(&gateway, Duration::from_secs(u64::from(self.seconds) / 2)).await?;
        let (queries, cpu) = (gateway.metric(QUERIES).await?, gateway.cpu()?);
        let (lags, busy) = tokio::try_join!(
            self.change(&gateway, &source.client, &names),
            self.requests_for(&gateway, Duration::from_secs(self.seconds.into()))
        )?;
        let changes = f64::from(self.changes * self.seconds);
        let mut report = Report::new("discovery-scale", options);
        report.distribution("from a passing check to the first proxied request", &Distribution::of(lags));
        report.distribution("requests to another service without changes", &Distribution::of(quiet));
        report.distribution("requests to another service with changes", &Distribution::of(busy));
        report.number("queries for each change", (gateway.metric(QUERIES).await? - queries) / changes);
        report.number(
            "CPU ms of the gateway for each change and what is asked meanwhile",
            gateway.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e3 / changes,
        );
        report.goal("p99 below 250 ms", |of| of.p99 < Duration::from_millis(250));
        report.finish()
    }

    /// Instance 0 of each service is passing, the others are critical.
    async fn register_all(&self, client: &Client, names: &Arc<[String]>, port: u16) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for first in 0..REGISTRARS {
            let (client, names, instances) = (client.clone(), Arc::clone(names), usize::from(self.instances));
            tasks.spawn(async move {
                for (service, name) in names.iter().enumerate().skip(first).step_by(REGISTRARS) {
                    for instance in 0..instances {
                        let address = backend::address(service, instance).to_string();
                        let mut registration =
                            ServiceRegistration::http(name, id(name, instance), &address, port);
                        registration.ttl = Some(TTL);
                        client.register(&registration).await?;
                        if instance == 0 {
                            client.check_pass(&registration.ttl_check_id()).await?;
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

    /// One service after the other gets another passing instance, and loses the one it had: two changes.
    async fn change(
        &self,
        gateway: &Gateway,
        client: &Client,
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
            let (client, name) = (client.clone(), names[service].clone());
            tasks.spawn(async move {
                let check = |instance| format!("service:{}:ttl", id(&name, instance));
                let began = Instant::now();
                client.check_pass(&check(new)).await?;
                let address = backend::address(service, new).to_string();
                let is_new = |_, content: &[u8]| content == address.as_bytes();
                let seen = asking.until(&format!("/{name}"), "the instance", is_new).await?;
                client.check_update(&check(old), CheckStatus::Critical, "its turn is over").await?;
                anyhow::Ok(seen.duration_since(began))
            });
        }
        let mut lags = Vec::new();
        while let Some(lag) = tasks.join_next().await {
            lags.push(lag??);
        }
        Ok(lags)
    }

    /// Requests in a closed loop to a service that is not in the registry.
    async fn requests_for(&self, gateway: &Gateway, time: Duration) -> anyhow::Result<Vec<Duration>> {
        let mut asking: Asking = gateway.ask().await?;
        let (end, mut times) = (Instant::now() + time, Vec::new());
        while Instant::now() < end {
            let began = Instant::now();
            let (status, _) = asking.get("/fixed").await?;
            anyhow::ensure!(status == 200, "the fixed service answered {status}");
            times.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(times)
    }
}

fn id(name: &str, instance: usize) -> String {
    format!("{name}-{instance}")
}

const REGISTRARS: usize = 16;
/// Longer than a run: checks change when they are told to.
const TTL: Duration = Duration::from_hours(1);
