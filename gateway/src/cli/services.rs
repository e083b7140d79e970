//! `millgate services`: what is registered in Consul, as the gateway sees it; register and deregister by hand.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use clap::{ArgGroup, Args, Subcommand};
use millgate_registry::{
    Client, Instance, Probe, QueryOptions, ServiceRegistration, Status, WatchTarget, types::ServiceEntry,
};
use serde_json::{Value, json};

use super::{
    consul_client::{ConsulArg, all_instances, columns},
    print, say,
};
use crate::{
    printable::printable,
    syntax::{diagnostics::did_you_mean, units},
};

mod watch;

#[derive(Debug, Subcommand)]
pub enum Services {
    /// All services with the number of their instances by health
    List(List),
    /// The instances of one service, with the checks that fail
    Show(Show),
    /// Print each change of a service's instances as it happens, until SIGINT or SIGTERM
    Watch(watch::Watch),
    /// Register an instance with the agent
    Register(Box<Register>),
    /// Remove an instance from the agent
    Deregister(Deregister),
}

/// The help text about JSON. Scripts rely on it: fields may be added, but none changes or goes away.
const LIST_JSON: &str = "\
JSON, one object on one line: {services: [{name, instances, passing, warning, critical, maintenance, unusable, tags}]}.
`unusable` instances have no port or no address that a gateway could use.";

#[derive(Debug, Args)]
#[command(after_help = LIST_JSON)]
pub struct List {
    #[command(flatten)]
    consul: ConsulArg,
    /// Print JSON (described below)
    #[arg(long)]
    json: bool,
}

const SHOW_JSON: &str = "\
JSON, one object on one line: {service, instances: [{id, node, address, port, status, weight, tags, meta, checks, unusable}]},
checks: [{id, name, status, output}]; `unusable` says why a gateway leaves the instance out, or is null.

Exit codes: 0 done, 1 no such service or Consul not reachable, 2 wrong usage.";

#[derive(Debug, Args)]
#[command(after_help = SHOW_JSON)]
pub struct Show {
    /// The service's name
    name: String,
    #[command(flatten)]
    consul: ConsulArg,
    /// Print JSON (described below)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("check").args(["ttl", "http", "tcp", "grpc"]).multiple(true))]
#[command(group = ArgGroup::new("probe").args(["http", "tcp", "grpc"]).multiple(true))]
pub struct Register {
    /// The service's name
    name: String,
    /// Port of the instance
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Id of the instance, unique on the agent [default: NAME-PORT]
    #[arg(long)]
    id: Option<String>,
    /// IP address or host name of the instance [default: the agent's node]
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    /// A tag; can be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Metadata; can be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    meta: Vec<(String, String)>,
    /// Shares of requests while passing and while warning, as in 10:1
    #[arg(long, value_name = "PASSING:WARNING", value_parser = weights)]
    weights: Option<(u32, u32)>,
    /// Add a check that must be passed this often (`consul` or PUT /v1/agent/check/pass), as in 10s
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Add a check that asks this URL: 2xx is passing, 429 warning, anything else critical
    #[arg(long, value_name = "URL", value_parser = url)]
    http: Option<String>,
    /// Add a check that opens a connection to this address
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    tcp: Option<String>,
    /// Add a check that asks gRPC's health service there (cleartext), for all of it or for one SERVICE
    #[arg(long, value_name = "HOST:PORT[/SERVICE]", value_parser = grpc_target)]
    grpc: Option<String>,
    /// How often those three are tried
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time, requires = "probe")]
    interval: Duration,
    /// Let Consul remove the instance after a check was critical for this long (at least 1m)
    #[arg(long, value_name = "TIME", value_parser = removal_time, requires = "check")]
    deregister_after: Option<Duration>,
    #[command(flatten)]
    consul: ConsulArg,
    /// Print JSON: {registered: ID, service: NAME}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Deregister {
    /// Id of the instance (`millgate services show NAME` has it)
    id: String,
    #[command(flatten)]
    consul: ConsulArg,
    /// Print JSON: {deregistered: ID, service: NAME}
    #[arg(long)]
    json: bool,
}

impl Services {
    pub fn execute(&self) -> ExitCode {
        match self {
            Self::List(verb) => verb.consul.run(|client| verb.execute(client)),
            Self::Show(verb) => verb.consul.run(|client| verb.execute(client)),
            Self::Watch(verb) => verb.execute(),
            Self::Register(verb) => verb.consul.run(|client| verb.execute(client)),
            Self::Deregister(verb) => verb.consul.run(|client| verb.execute(client)),
        }
    }
}

impl List {
    async fn execute(&self, client: Client) -> Result<ExitCode, String> {
        let catalog = client.catalog_services().await.map_err(|error| error.to_string())?;
        let all = all_instances(&client, catalog.keys().cloned()).await.map_err(|error| error.to_string())?;
        let counted: Vec<Counted<'_>> = all
            .iter()
            .map(|(name, entries)| Counted::of(name, entries, catalog.get(name).map_or(&[][..], |tags| tags)))
            .collect();
        if self.json {
            let services: Vec<Value> = counted.iter().map(Counted::to_json).collect();
            return Ok(print(json!({ "services": services }), ExitCode::SUCCESS));
        }
        if counted.is_empty() {
            say("no services; if there should be some, the token may lack `service:read`");
            return Ok(ExitCode::SUCCESS);
        }
        let head = ["SERVICE", "INSTANCES", "PASSING", "WARNING", "CRITICAL", "TAGS"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(counted.iter().map(Counted::row)).collect();
        Ok(print(columns(&rows).trim_end(), ExitCode::SUCCESS))
    }
}

/// One line of the list of services.
struct Counted<'a> {
    name: &'a str,
    instances: usize,
    by_status: [usize; 4],
    unusable: usize,
    tags: &'a [String],
}

impl<'a> Counted<'a> {
    fn of(name: &'a str, entries: &[ServiceEntry], tags: &'a [String]) -> Self {
        let mut counted = Self { name, instances: entries.len(), by_status: [0; 4], unusable: 0, tags };
        for entry in entries {
            counted.by_status[Instance::status_of(entry) as usize] += 1;
            counted.unusable += usize::from(Instance::read(entry).is_err());
        }
        counted
    }

    fn to_json(&self) -> Value {
        let [passing, warning, critical, maintenance] = self.by_status;
        json!({
            "name": self.name, "instances": self.instances, "passing": passing, "warning": warning,
            "critical": critical, "maintenance": maintenance, "unusable": self.unusable, "tags": self.tags,
        })
    }

    fn row(&self) -> [String; 6] {
        let [passing, warning, critical, maintenance] = self.by_status;
        let tags = if self.tags.is_empty() { "-".to_owned() } else { self.tags.join(", ") };
        let critical = match maintenance {
            0 => critical.to_string(),
            some => format!("{critical} (+{some} in maintenance)"),
        };
        let [instances, passing, warning] = [self.instances, passing, warning].map(|n| n.to_string());
        [self.name.to_owned(), instances, passing, warning, critical, tags]
    }
}

impl Show {
    async fn execute(&self, client: Client) -> Result<ExitCode, String> {
        let mut entries = entries_of(&client, &self.name).await?;
        entries.sort_by(|a, b| (&a.node.node, &a.service.id).cmp(&(&b.node.node, &b.service.id)));
        if self.json {
            let instances: Vec<Value> = entries.iter().map(entry_json).collect();
            return Ok(print(json!({ "service": self.name, "instances": instances }), ExitCode::SUCCESS));
        }
        let head = ["INSTANCE", "NODE", "ADDRESS", "STATUS", "WEIGHT", "TAGS"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(entries.iter().map(entry_row)).collect();
        let said =
            entries.iter().flat_map(notes).fold(String::new(), |said, note| said + "\n" + &printable(&note));
        let text = columns(&rows) + &said;
        Ok(print(text.trim_end(), ExitCode::SUCCESS))
    }
}

/// Lines for what the columns do not have: failing checks, and why a gateway leaves the instance out.
fn notes(entry: &ServiceEntry) -> Vec<String> {
    let id = &entry.service.id;
    let failing = entry.checks.iter().filter(|check| check.status != "passing");
    let failing = failing.map(|check| {
        let output: String = one_line(&check.output).chars().take(OUTPUT_CHARS_MAX).collect();
        let colon = if output.is_empty() { "" } else { ": " };
        format!("{id}: {} is {}{colon}{output}", check.name, check.status)
    });
    let unusable = Instance::read(entry).err().map(|why| format!("{id}: left out by a gateway: {why}"));
    failing.chain(unusable).collect()
}

/// The instances of a service; an error if there is no such service.
async fn entries_of(client: &Client, name: &str) -> Result<Vec<ServiceEntry>, String> {
    let answer = client.health_service(name, &QueryOptions::default()).await;
    let entries = answer.map_err(|error| error.to_string())?.entries;
    if !entries.is_empty() {
        return Ok(entries);
    }
    let sight = client.sight(&WatchTarget::service(name)).await.map_err(|error| error.to_string())?;
    if let Some(missing) = sight.missing_rights(name) {
        return Err(missing);
    }
    let known = client.catalog_services().await.map_err(|error| error.to_string())?;
    let hint = match did_you_mean(name, known.keys().map(String::as_str)) {
        Some(other) => format!("did you mean `{other}`?"),
        None => {
            "`millgate services list` names those that are; without `service:read` on it, it is not shown"
                .to_owned()
        }
    };
    Err(format!("no instance of `{name}` is registered; {hint}"))
}

fn entry_json(entry: &ServiceEntry) -> Value {
    let (node, service) = (&entry.node, &entry.service);
    let read = Instance::read(entry);
    let checks = entry.checks.iter().map(|check| {
        json!({"id": check.check_id, "name": check.name, "status": check.status, "output": check.output})
    });
    json!({
        "id": service.id,
        "node": node.node,
        "address": if service.address.is_empty() { &node.address } else { &service.address },
        "port": service.port,
        "status": Instance::status_of(entry),
        "weight": read.as_ref().ok().map(|instance| instance.weight),
        "tags": service.tags,
        "meta": service.meta,
        "checks": checks.collect::<Vec<_>>(),
        "unusable": read.err(),
    })
}

fn entry_row(entry: &ServiceEntry) -> [String; 6] {
    let (node, service) = (&entry.node, &entry.service);
    let address = if service.address.is_empty() { &node.address } else { &service.address };
    let address = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    [
        service.id.clone(),
        node.node.clone(),
        format!("{address}:{}", service.port),
        word(Instance::status_of(entry)).to_owned(),
        Instance::read(entry).map_or_else(|_| "-".to_owned(), |instance| instance.weight.to_string()),
        if service.tags.is_empty() { "-".to_owned() } else { service.tags.join(", ") },
    ]
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Passing => "passing",
        Status::Warning => "warning",
        Status::Critical => "critical",
        Status::Maintenance => "maintenance",
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Register {
    async fn execute(&self, client: Client) -> Result<ExitCode, String> {
        let id = self.id.clone().unwrap_or_else(|| format!("{}-{}", self.name, self.port));
        let probes = [(Probe::Http, &self.http), (Probe::Tcp, &self.tcp), (Probe::Grpc, &self.grpc)];
        let probes =
            probes.into_iter().filter_map(|(probe, target)| Some((probe, (target.clone()?, self.interval))));
        let registration = ServiceRegistration {
            tags: self.tags.clone(),
            meta: self.meta.iter().cloned().collect::<BTreeMap<_, _>>(),
            weights: self.weights,
            ttl: self.ttl,
            probes: probes.collect(),
            deregister_after: self.deregister_after,
            ..ServiceRegistration::http(&self.name, &id, &self.address, self.port)
        };
        client.register(&registration).await.map_err(|error| error.to_string())?;
        if self.json {
            return Ok(print(json!({"registered": id, "service": self.name}), ExitCode::SUCCESS));
        }
        if self.ttl.is_some() {
            let check = registration.ttl_check_id();
            say(format_args!("it is critical until check `{check}` is passed"));
        } else if registration.probes.is_empty() {
            say(
                "it has no check, so it counts as healthy until it is removed (--ttl, --http, --tcp or --grpc adds one)",
            );
        }
        Ok(print(format_args!("registered `{id}` of service `{}`", self.name), ExitCode::SUCCESS))
    }
}

impl Deregister {
    async fn execute(&self, client: Client) -> Result<ExitCode, String> {
        let known = client.agent_services().await.map_err(|error| error.to_string())?;
        let Some(service) = known.get(&self.id) else {
            let hint = match did_you_mean(&self.id, known.keys().map(String::as_str)) {
                Some(other) => format!("did you mean `{other}`?"),
                None => "an instance is removed at the agent that it was registered with".to_owned(),
            };
            return Err(format!("the agent at {} has no instance `{}`; {hint}", client.address(), self.id));
        };
        client.deregister(&self.id).await.map_err(|error| error.to_string())?;
        if self.json {
            return Ok(print(
                json!({"deregistered": self.id, "service": service.service}),
                ExitCode::SUCCESS,
            ));
        }
        Ok(print(
            format_args!("deregistered `{}` of service `{}`", self.id, service.service),
            ExitCode::SUCCESS,
        ))
    }
}

fn key_value(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as in zone=a")?;
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !is_key {
        return Err("Consul takes letters, digits, `-` and `_` in a key of metadata");
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn weights(text: &str) -> Result<(u32, u32), &'static str> {
    let read = |text: &str| text.parse().ok().filter(|weight| *weight <= 65_535);
    let both = text.split_once(':').and_then(|(passing, warning)| Some((read(passing)?, read(warning)?)));
    both.filter(|(passing, _)| *passing > 0)
        .ok_or("expected two numbers up to 65535, as in 10:1, the first above 0")
}

fn time(text: &str) -> Result<Duration, String> {
    time_from(text, Duration::from_millis(100))
}

/// Consul silently raises a shorter time to a minute.
fn removal_time(text: &str) -> Result<Duration, String> {
    time_from(text, Duration::from_mins(1))
}

fn time_from(text: &str, least: Duration) -> Result<Duration, String> {
    units::duration_in(text, least..=Duration::from_hours(24 * 7))
        .map_err(|why| format!("expected {}: {}", why.expected, why.label))
}

fn url(text: &str) -> Result<String, &'static str> {
    let is_http = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    is_http
        .filter(|rest| !rest.is_empty())
        .map(|_| text.to_owned())
        .ok_or("expected an http:// or https:// URL")
}

fn host_port(text: &str) -> Result<String, &'static str> {
    let is_host = |host: &str| match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ']),
    };
    text.rsplit_once(':')
        .filter(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
        .map(|_| text.to_owned())
        .ok_or("expected HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080")
}

fn grpc_target(text: &str) -> Result<String, &'static str> {
    let (address, service) =
        text.split_once('/').map_or((text, None), |(address, name)| (address, Some(name)));
    host_port(address)
        .ok()
        .filter(|_| service.is_none_or(|name| !name.is_empty()))
        .map(|_| text.to_owned())
        .ok_or("expected HOST:PORT or HOST:PORT/SERVICE, as in 127.0.0.1:9090/shop.Orders")
}

/// The output of a check may be a long log; its beginning has the fault.
const OUTPUT_CHARS_MAX: usize = 200;
