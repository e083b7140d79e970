//! Closed loop: each proxy gets its turn, round by round.
//!
//! Each round begins with another proxy, so that none always runs after the same one. The other proxies are idle
//! meanwhile. The cost of a proxy is read just before and just after its turn.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{
    cost::{self, Cpu},
    generator::{Load, Tool, said_by},
    program::Program,
    proxy::Proxy,
    stage::{Ready, Stage},
};

/// The result of one turn of one proxy.
#[derive(Debug, Serialize)]
pub(crate) struct Turn {
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) load: Load,
    /// Microseconds of CPU time of all processes of the proxy.
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    /// Microseconds for which it was ready to run while something else had the core.
    pub(crate) waited_us: f64,
    /// Proportional set size just after the turn.
    pub(crate) memory_kib: u64,
    /// The largest resident memory during the turn.
    pub(crate) peak_kib: u64,
}

impl Turn {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

/// The work, and its cost.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) load: Load,
    pub(crate) cpu: Cpu,
}

/// Lets `generate` load a proxy, and reads what that costs the proxy. Each response has a content of `response_bytes`.
pub(crate) fn turn(
    proxy: &Proxy,
    round: u32,
    response_bytes: usize,
    generate: impl FnOnce() -> anyhow::Result<Load>,
) -> anyhow::Result<Turn> {
    cost::forget_peak(proxy.pid())?;
    let before = Cpu::of(proxy.pid())?;
    let load = generate()?.whole(response_bytes)?;
    let cpu = Cpu::of(proxy.pid())? - before;
    let (memory_kib, peak_kib) = (cost::memory_kib(proxy.pid())?, cost::peak_kib(proxy.pid())?);
    Ok(Turn { memory_kib, peak_kib, ..of(&Work { load, cpu }, round) })
}

fn of(Work { load, cpu }: &Work, round: u32) -> Turn {
    let (user_us, system_us) = cpu.split_us();
    let waited_us = cpu.waited_us();
    Turn { round, load: *load, user_us, system_us, waited_us, memory_kib: 0, peak_kib: 0 }
}

/// A subject in its turns.
enum Contender<'a> {
    Proxy {
        ready: &'a Ready,
        proxy: Proxy,
        tool: Tool,
    },
    /// Not a proxy: it does its work without a load generator.
    Alone(&'a Ready),
}

impl Contender<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Proxy { ready, .. } | Self::Alone(ready) => &ready.name,
        }
    }

    fn take(&self, stage: &Stage<'_>, round: u32, duration: Duration) -> anyhow::Result<Turn> {
        match self {
            Self::Proxy { proxy, tool, .. } => {
                turn(proxy, round, stage.scenario.response_bytes, || tool.run(proxy.port, duration))
            }
            Self::Alone(ready) => {
                let mut command = ready.executable.pinned(&ready.cores);
                command.args(ready.program.args(&ready.invocation(stage.dir(), 0)));
                command.arg("--keys").arg(stage.dir());
                command.args(["--seconds", &duration.as_secs().to_string()]);
                Ok(of(&said_by(&mut command, &ready.executable.path)?, round))
            }
        }
    }
}

/// The time for connections, pools and caches to fill before the measurement: each endpoint is reached several times,
/// and each token is used.
fn warm_up(endpoints: usize, tokens: usize) -> Duration {
    Duration::from_secs(1 + (endpoints / 500).max(tokens / 1000) as u64)
}

pub(crate) fn take_turns(stage: &Stage<'_>) -> anyhow::Result<BTreeMap<String, Vec<Turn>>> {
    let mut contenders = Vec::new();
    for ready in &stage.subjects {
        if ready.program == Program::Verification {
            contenders.push(Contender::Alone(ready));
            continue;
        }
        let tool = stage.tool(ready)?;
        let proxy = ready.start().with_context(|| ready.name.clone())?;
        tool.run(proxy.port, warm_up(ready.endpoint_ports.len(), stage.scenario.tokens))
            .with_context(|| format!("{}, warming up", ready.name))?;
        contenders.push(Contender::Proxy { ready, proxy, tool });
    }
    let mut turns: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    for round in 0..stage.rounds {
        let first = round as usize % contenders.len();
        for contender in contenders.iter().cycle().skip(first).take(contenders.len()) {
            let name = contender.name();
            let turn =
                contender.take(stage, round, stage.turn).with_context(|| format!("{name}, round {round}"))?;
            turns.entry(name.to_owned()).or_default().push(turn);
        }
    }
    Ok(turns)
}
