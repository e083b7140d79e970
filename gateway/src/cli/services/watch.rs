//! `millgate services watch`: each change of a service's instances, as the gateway's own watch sees it.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode, time::SystemTime};

use clap::Args;
use millgate_registry::{Client, Instance, WatchOptions, WatchTarget, watch};
use serde_json::json;
use tokio::sync::mpsc;

use super::{ConsulArg, entries_of, word};
use crate::{
    cli::{LOG_LEVEL, logging, until_terminated},
    printable::printable,
};

const JSON: &str = "\
Lines are: time, change, instance, address, status. `+` is a new instance, `-` one that is gone, `~` one that changed.
The service must have an instance at the beginning; afterwards it may lose the last one and be watched on. An error of
Consul changes nothing and is said on standard error.

JSON, one object per line: {time, change: added|removed|changed, instance, node, address, status, was, weight}.
`was` is the status before, or null.

Exit codes: 0 ended by SIGINT or SIGTERM, 1 no such service or Consul not reachable, 2 wrong usage.";

#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct Watch {
    /// The service's name
    name: String,
    #[command(flatten)]
    consul: ConsulArg,
    /// Print one JSON object per line (described below)
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub(super) fn execute(&self) -> ExitCode {
        logging::init(LOG_LEVEL);
        self.consul.run(|client| self.follow(client))
    }

    async fn follow(&self, client: Client) -> Result<ExitCode, String> {
        // Without this, a misspelt name would be watched for ever.
        entries_of(&client, &self.name).await?;
        let (updates, mut received) = mpsc::channel(16);
        let target = WatchTarget::service(&self.name);
        let _watch = watch::spawn(client, target, WatchOptions::default(), updates);
        let mut known = BTreeMap::new();
        let ended = until_terminated();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                update = received.recv() => {
                    let Some(update) = update else { return Ok(ExitCode::FAILURE) };
                    let now = by_identity(&update.instances);
                    for change in changes(&known, &now) {
                        let mut out = std::io::stdout().lock();
                        // The reader is gone and needs no further lines.
                        if writeln!(out, "{}", self.line(&change)).and_then(|()| out.flush()).is_err() {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    known = now;
                }
                done = &mut ended => {
                    return done.map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string());
                }
            }
        }
    }

    fn line(&self, change: &Change<'_>) -> String {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let (mark, name, instance, was) = match change {
            Change::Added(instance) => ('+', "added", instance, None),
            Change::Removed(instance) => ('-', "removed", instance, Some(instance.status)),
            Change::Changed(before, instance) => ('~', "changed", instance, Some(before.status)),
        };
        let address = host_port(instance);
        if self.json {
            let object = json!({
                "time": time.to_string(), "change": name, "instance": instance.id, "node": instance.node,
                "address": address, "status": instance.status, "was": was, "weight": instance.weight,
            });
            return object.to_string();
        }
        let status = match change {
            Change::Changed(before, now) if before.status != now.status => {
                format!("{} (was {})", word(now.status), word(before.status))
            }
            Change::Changed(before, now) => {
                format!("{} ({})", word(now.status), differences(before, now).join(", "))
            }
            Change::Removed(_) => "gone".to_owned(),
            Change::Added(now) => word(now.status).to_owned(),
        };
        printable(&format!("{time} {mark} {} {address} {status}", instance.id)).into_owned()
    }
}

enum Change<'a> {
    Added(&'a Instance),
    Removed(&'a Instance),
    Changed(&'a Instance, &'a Instance),
}

type ByIdentity = BTreeMap<(String, String), Instance>;

fn by_identity(instances: &[Instance]) -> ByIdentity {
    instances.iter().map(|i| ((i.node.clone(), i.id.clone()), i.clone())).collect()
}

fn changes<'a>(before: &'a ByIdentity, now: &'a ByIdentity) -> Vec<Change<'a>> {
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, old)| Change::Removed(old));
    let present = now.iter().filter_map(|(key, new)| match before.get(key) {
        None => Some(Change::Added(new)),
        Some(old) if old != new => Some(Change::Changed(old, new)),
        Some(_) => None,
    });
    gone.chain(present).collect()
}

/// Changes other than of the status, in words.
fn differences(before: &Instance, now: &Instance) -> Vec<String> {
    let mut said = Vec::new();
    if host_port(before) != host_port(now) {
        said.push(format!("address was {}", host_port(before)));
    }
    if before.weight != now.weight {
        said.push(format!("weight {} was {}", now.weight, before.weight));
    }
    if before.tags != now.tags {
        said.push(format!("tags were [{}]", before.tags.join(", ")));
    }
    if before.meta != now.meta {
        said.push("metadata".to_owned());
    }
    said
}

/// `host:port`; IPv6 in brackets.
fn host_port(instance: &Instance) -> String {
    let brackets = if instance.address.contains(':') { ("[", "]") } else { ("", "") };
    format!("{}{}{}:{}", brackets.0, instance.address, brackets.1, instance.port)
}
