//! One scenario, from its stage to its findings.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    Options,
    cores::Cores,
    launch::{self, Started},
    memory::{self, Held},
    open_loop::{self, Rate},
    scenario::{Measures, Scenario},
    stage::{Builds, Stage},
    turns::{self, Turn},
};

#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) findings: Findings,
    /// User and system seconds of `millgate check` of each build, if the scenario has a target for them.
    pub(crate) check_seconds: BTreeMap<String, f64>,
    /// No core was shared.
    pub(crate) cores_were_free: bool,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) builds: Builds,
    /// Subjects that did not run, and the reasons.
    pub(crate) left_out: BTreeMap<String, String>,
}

/// The findings by subject, round after round.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Findings {
    Turns(BTreeMap<String, Vec<Turn>>),
    Rates(Vec<Rate>),
    Held(BTreeMap<String, Vec<Held>>),
    Starts(BTreeMap<String, Vec<Started>>),
}

pub(crate) fn run(scenario: &Scenario, options: &Options, machine_cores: usize) -> anyhow::Result<Results> {
    let machine_cores = u32::try_from(machine_cores)?;
    let cores = Cores::share_out(scenario.workers(), machine_cores, options.proxy_core, options.load_core);
    let mut stage = Stage::set(scenario, options, &cores)?;
    let mut check_seconds = BTreeMap::new();
    if scenario.check_seconds_at_most.is_some() {
        for ready in stage.subjects.iter().filter(|ready| stage.builds.names.contains(&ready.name)) {
            check_seconds.insert(ready.name.clone(), launch::check_seconds(ready)?);
        }
    }
    let findings = match measure(&stage, scenario.measures) {
        Err(error) if stage.backend_ended() => return Err(error.context("the backend ended meanwhile")),
        findings => findings?,
    };
    let Stage { versions, builds, left_out, .. } = stage;
    Ok(Results { findings, check_seconds, cores_were_free: cores.free, versions, builds, left_out })
}

fn measure(stage: &Stage<'_>, measures: Measures) -> anyhow::Result<Findings> {
    Ok(match measures {
        Measures::CpuPerRequest | Measures::CpuPerGib => Findings::Turns(turns::take_turns(stage)?),
        Measures::OpenLoop => Findings::Rates(open_loop::measure(stage)?),
        Measures::IdleMemory => Findings::Held(memory::measure(stage, false)?),
        Measures::StalledMemory => Findings::Held(memory::measure(stage, true)?),
        Measures::Start => Findings::Starts(launch::measure(stage)?),
    })
}
