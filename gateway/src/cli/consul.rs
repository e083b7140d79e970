//! `millgate consul lint`: finds mistakes in what is registered, before requests meet them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};
use millgate_registry::{Client, Instance, Status, types::ServiceEntry};
use serde_json::json;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};

use self::rules::{Finding, Reach, Severity};
use super::{
    consul_client::{ConsulArg, all_instances},
    print,
};
use crate::declaration::{
    allow,
    tags::{FABIO_PREFIX, NATIVE_PREFIX, TagForms},
};

pub mod rules;

#[derive(Debug, Subcommand)]
pub enum Consul {
    /// Report what is wrong with the services that are registered
    Lint(Lint),
}

/// The help text about JSON. Scripts rely on it: fields may be added, but none changes or goes away.
const JSON: &str = "\
Findings have stable codes:
  L001 error    a port that no socket has          L008 error    services declare the same route
  L002 warning  no port                            L009 warning  instances declare different routes
  L003 error    passing, but nobody listens        L010 warning  a weight of 0 takes an instance out
  L004 warning  no check of its own                L011 error    two instances at one address
  L005 warning  a check with a long output         L012 error    an address that others cannot reach
  L006 error    a route tag that cannot be read    L013 warning  no instance is passing
  L007 warning  a route tag that asks too much     L014 error    a host name that has no address
                                                   L015 warning  route metadata without the tag for it

JSON, one object on one line: {services, instances, errors, warnings, findings: [...]}, each finding with
  code, severity, service, message, why, help
  instance, node    null where it is about the whole service

Exit codes: 0 no errors (warnings are printed), 1 errors, or warnings with --strict, or Consul not reachable, 2 wrong usage.";

#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct Lint {
    /// Only services whose name fits; `*` stands for any characters
    #[arg(default_value = "*", value_name = "SERVICE")]
    services: String,
    #[command(flatten)]
    consul: ConsulArg,
    /// Do not connect to instances and do not look up their names
    #[arg(long)]
    offline: bool,
    /// In front of `.route=` in tags that declare routes
    #[arg(long, default_value = NATIVE_PREFIX)]
    tag_prefix: String,
    /// What Fabio's tags begin with; empty: they declare nothing
    #[arg(long, default_value = FABIO_PREFIX)]
    fabio_prefix: String,
    /// Print the findings as JSON (described below)
    #[arg(long)]
    json: bool,
    /// Exit with 1 for warnings, too
    #[arg(long)]
    strict: bool,
}

impl Consul {
    pub fn execute(&self) -> ExitCode {
        let Self::Lint(lint) = self;
        lint.consul.run(|client| lint.execute(client))
    }
}

impl Lint {
    async fn execute(&self, client: Client) -> Result<ExitCode, String> {
        let catalog = client.catalog_services().await.map_err(|error| error.to_string())?;
        if catalog.is_empty() {
            return Err("Consul shows no service at all, not even itself; the token lacks `service:read` \
                        (`service_prefix \"\" { policy = \"read\" }`)"
                .to_owned());
        }
        let wanted =
            |name: &str| name != OWN_SERVICE && allow::fits(self.services.as_bytes(), name.as_bytes());
        let names: Vec<String> = catalog.into_keys().filter(|name| wanted(name)).collect();
        if names.is_empty() && self.services != "*" {
            return Err(format!("no service fits `{}`; `millgate services list` names them", self.services));
        }
        let all = all_instances(&client, names.into_iter()).await.map_err(|error| error.to_string())?;
        if let Some((name, _)) = all.iter().find(|(_, entries)| entries.is_empty()) {
            // A service may have gone between the two queries; not all of them have.
            if all.values().all(Vec::is_empty) {
                return Err(format!(
                    "Consul shows service `{name}` but no instance of any service; the token lacks `node:read` \
                     (`node_prefix \"\" {{ policy = \"read\" }}`)"
                ));
            }
        }
        let reach = if self.offline { Reach::default() } else { reach(&all).await };
        let forms = TagForms {
            native: Some(self.tag_prefix.clone()).filter(|prefix| !prefix.is_empty()),
            fabio: Some(self.fabio_prefix.clone()).filter(|prefix| !prefix.is_empty()),
        };
        let findings = rules::findings(&all, &reach, &forms);
        Ok(self.report(&all, &findings))
    }

    fn report(&self, all: &BTreeMap<String, Vec<ServiceEntry>>, findings: &[Finding]) -> ExitCode {
        let count = |severity| findings.iter().filter(|finding| finding.severity() == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let instances: usize = all.values().map(Vec::len).sum();
        let failed = errors > 0 || (self.strict && warnings > 0);
        let code = if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        if self.json {
            let list: Vec<_> = findings.iter().map(Finding::to_json).collect();
            let object = json!({
                "services": all.len(), "instances": instances, "errors": errors, "warnings": warnings,
                "findings": list,
            });
            return print(object, code);
        }
        let summary = format!(
            "{}, {} in {} with {}",
            plural(errors, "error"),
            plural(warnings, "warning"),
            plural(all.len(), "service"),
            plural(instances, "instance")
        );
        let paragraphs: Vec<String> =
            findings.iter().map(ToString::to_string).chain(std::iter::once(summary)).collect();
        print(paragraphs.join("\n\n"), code)
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// Tries every address that requests would go to: does the name have an address, does a program listen there?
async fn reach(all: &BTreeMap<String, Vec<ServiceEntry>>) -> Reach {
    let instances = all.values().flatten().filter(|entry| Instance::status_of(entry) == Status::Passing);
    let addresses: BTreeSet<(String, u16)> =
        instances.filter_map(|entry| Instance::read(entry).ok()).map(|i| (i.address, i.port)).collect();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tries = JoinSet::new();
    for (host, port) in addresses {
        let permits = Arc::clone(&permits);
        tries.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let outcome = connect(&host, port).await;
            ((host, port), outcome)
        });
    }
    let mut reach = Reach::default();
    while let Some(tried) = tries.join_next().await {
        let Ok((at, outcome)) = tried else { continue };
        match outcome {
            Outcome::Connected => {}
            Outcome::NoAddress => {
                reach.nameless.insert(at.0);
            }
            Outcome::Refused(why) => {
                reach.unreachable.insert(at, why);
            }
        }
    }
    reach
}

enum Outcome {
    Connected,
    NoAddress,
    Refused(String),
}

async fn connect(host: &str, port: u16) -> Outcome {
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    };
    if addresses.is_empty() {
        return Outcome::NoAddress;
    }
    match tokio::time::timeout(PATIENCE, TcpStream::connect(&addresses[..])).await {
        Ok(Ok(_)) => Outcome::Connected,
        Ok(Err(error)) => Outcome::Refused(match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => error.to_string(),
        }),
        Err(_) => Outcome::Refused(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Consul's servers register themselves under this name.
const OWN_SERVICE: &str = "consul";
const CONNECTIONS_MAX: usize = 64;
/// A connection within one data centre takes milliseconds; a slower one counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);
