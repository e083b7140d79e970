//! The time from exec to the first answer.
//!
//! The thread that starts a program is pinned to the program's core before, so that the program inherits this and
//! no other program runs in between. The thread that sends the requests has the other core, and repeats them
//! without a noticeable pause.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use serde::Serialize;

use crate::{
    cost,
    proxy::{Running, tail},
    stage::{Ready, Stage},
};

/// Far less than any proxy needs, and long enough not to take time from it.
const POLL: Duration = Duration::from_micros(100);
const TIMEOUT: Duration = Duration::from_secs(20);
/// The number of starts in each round; a start takes milliseconds.
const STARTS: u32 = 10;

#[derive(Debug, Serialize)]
pub(crate) struct Started {
    pub(crate) round: u32,
    pub(crate) ms: f64,
    /// The CPU time until then, with everything that the kernel did for exec.
    pub(crate) cpu_ms: f64,
    pub(crate) memory_kib: u64,
}

pub(crate) fn measure(stage: &Stage<'_>) -> anyhow::Result<BTreeMap<String, Vec<Started>>> {
    stay_on(&stage.load_cores)?;
    let mut starts: BTreeMap<String, Vec<Started>> = BTreeMap::new();
    // One more round, because the first one reads files that are not cached yet.
    for round in 0..=stage.rounds * STARTS {
        let first = round as usize % stage.subjects.len();
        for ready in stage.subjects.iter().cycle().skip(first).take(stage.subjects.len()) {
            let started = start(ready, round).with_context(|| ready.name.clone())?;
            if round > 0 {
                starts.entry(ready.name.clone()).or_default().push(started);
            }
        }
    }
    Ok(starts)
}

fn start(ready: &Ready, round: u32) -> anyhow::Result<Started> {
    let start = ready.prepare()?;
    let output = File::create(start.log())?;
    let mut command = start.executable.command();
    command.args(start.args()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let (sender, receiver) = mpsc::channel();
    let cores = start.cores.to_owned();
    // Linux pins threads, and a child inherits from the thread that started it.
    let starter = thread::spawn(move || -> anyhow::Result<Running> {
        stay_on(&cores)?;
        sender.send(Instant::now())?;
        Ok(Running(command.spawn()?))
    });
    let began = receiver.recv().context("the program could not be pinned")?;
    let mut running = starter.join().map_err(|_| anyhow!("the starting thread panicked"))??;
    loop {
        if ready.probe.ask(start.port, None).is_ok_and(|status| status == 200) {
            break;
        }
        let ended = running.0.try_wait()?.is_some();
        if ended || began.elapsed() > TIMEOUT {
            bail!("does not serve:\n{}", tail(&start.log()));
        }
        thread::sleep(POLL);
    }
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let cpu_ms = cost::Cpu::of(running.0.id())?.total_us() / 1e3;
    Ok(Started { round, ms, cpu_ms, memory_kib: cost::memory_kib(running.0.id())? })
}

/// Pins this thread.
fn stay_on(cores: &str) -> anyhow::Result<()> {
    let thread = fs::read_link("/proc/thread-self")?;
    let id = thread.file_name().context("a thread has an id")?;
    let pinned = Command::new("taskset").args(["--cpu-list", "--pid", cores]).arg(id).output()?;
    ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr));
    Ok(())
}

/// User and system seconds of `millgate check`.
pub(crate) fn check_seconds(ready: &Ready) -> anyhow::Result<f64> {
    let start = ready.prepare()?;
    let before = cost::waited_for_ticks()?;
    let output = start.executable.command().arg("check").arg("-c").arg(&start.config).output()?;
    ensure!(output.status.success(), "millgate check: {}", String::from_utf8_lossy(&output.stderr));
    Ok((cost::waited_for_ticks()? - before) as f64 / cost::TICKS_PER_S)
}
