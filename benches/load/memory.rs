//! The memory that clients cost: many idle clients, or some that do not read.
//!
//! A proxy is started anew for each turn, because it may never return the memory of an earlier one.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::{
    cost,
    generator::Own,
    proxy::Running,
    stage::{Ready, Stage},
};

/// Long enough for a proxy to return the memory that it does not need.
const REST: Duration = Duration::from_secs(5);

/// The number of concurrent clients before the measurement.
const WARMING: usize = 8;

/// Sizes in KiB. `before`, `at_once` and `rested` are the proxy's proportional set size.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    pub(crate) round: u32,
    pub(crate) clients: usize,
    pub(crate) before_kib: u64,
    /// Just after the last client has reached its state.
    pub(crate) at_once_kib: u64,
    /// Five seconds later.
    pub(crate) rested_kib: u64,
    /// The largest resident memory.
    pub(crate) peak_kib: u64,
    /// The additional memory of the kernel's sockets, including those of clients and backend.
    pub(crate) sockets_kib: Option<i64>,
}

impl Held {
    pub(crate) fn kib_per_client(&self, then_kib: u64) -> f64 {
        (then_kib as f64 - self.before_kib as f64) / self.clients as f64
    }
}

pub(crate) fn measure(stage: &Stage<'_>, stall: bool) -> anyhow::Result<BTreeMap<String, Vec<Held>>> {
    let mut held: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    for round in 0..stage.rounds {
        for ready in &stage.subjects {
            let turn =
                hold(stage, ready, round, stall).with_context(|| format!("{}, round {round}", ready.name))?;
            held.entry(ready.name.clone()).or_default().push(turn);
        }
    }
    Ok(held)
}

fn hold(stage: &Stage<'_>, ready: &Ready, round: u32, stall: bool) -> anyhow::Result<Held> {
    let proxy = ready.start()?;
    let own = stage.own(ready);
    let clients = own.connections;
    if !stall {
        // The connections to the endpoints, and everything that belongs to first requests, are made before
        // the measurement.
        let few = Own { connections: WARMING, ..stage.own(ready) };
        few.run("handshakes", proxy.port, Duration::from_secs(1), &[])?.checked()?;
    }
    let before_kib = cost::memory_kib(proxy.pid())?;
    let sockets_before = sockets_kib();
    let mut command = own.command("hold", proxy.port)?;
    if stall {
        command.arg("--stall");
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("the clients have no output")?;
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line.trim() == clients.to_string(), "not all clients came to where they stay");
    let at_once_kib = cost::memory_kib(proxy.pid())?;
    thread::sleep(REST);
    let rested_kib = cost::memory_kib(proxy.pid())?;
    let sockets_kib = sockets_kib().zip(sockets_before).map(|(after, before)| after - before);
    let peak_kib = cost::peak_kib(proxy.pid())?;
    drop(running);
    Ok(Held { round, clients, before_kib, at_once_kib, rested_kib, peak_kib, sockets_kib })
}

/// Memory of all TCP sockets of this network namespace.
fn sockets_kib() -> Option<i64> {
    pages(&fs::read_to_string("/proc/net/sockstat").ok()?).map(|pages| pages * PAGE_KIB)
}

const PAGE_KIB: i64 = 4;

fn pages(sockstat: &str) -> Option<i64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_socket_memory_in_pages() {
        let sockstat = "sockets: used 11\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 128\nUDP: inuse 0 mem 7\n";
        assert_eq!(pages(sockstat), Some(128));
        assert_eq!(pages("UDP: inuse 0 mem 7\n"), None);
    }

    #[test]
    fn what_was_there_before_is_no_clients() {
        let held = Held {
            round: 0,
            clients: 100,
            before_kib: 1000,
            at_once_kib: 1600,
            rested_kib: 1500,
            peak_kib: 0,
            sockets_kib: None,
        };
        assert_eq!((held.kib_per_client(held.at_once_kib), held.kib_per_client(held.rested_kib)), (6.0, 5.0));
    }
}
