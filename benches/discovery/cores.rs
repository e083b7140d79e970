//! The gateway's worker and the process that requests the fixed service have the first core; everything else has the
//! other cores: the gateway's control plane, the registry, the load. So a delay of the fixed service is what changes
//! cost the worker, and not another process on its core.

use std::{fs, process::Command};

use anyhow::{Context, ensure};

/// The processes that are pinned apart from the rest.
pub(crate) struct Apart {
    pub(crate) gateway: u32,
    pub(crate) fixed: u32,
}

/// Pins this process, its children and all their threads. On a machine with one core it does nothing.
pub(crate) fn share_out(apart: &Apart) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        println!("one core: the worker shares it with everything else");
        return Ok(());
    }
    let (own, others) = ("0", format!("1-{}", cores - 1));
    let this = std::process::id();
    for id in children(this)?.into_iter().chain([this]) {
        pin(&["--all-tasks", "--cpu-list", "--pid", &others], id)?;
    }
    pin(&["--all-tasks", "--cpu-list", "--pid", own], apart.fixed)?;
    for entry in fs::read_dir(format!("/proc/{}/task", apart.gateway))? {
        let thread = entry?.path();
        if fs::read_to_string(thread.join("comm"))?.starts_with("worker-") {
            let id = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
            pin(&["--cpu-list", "--pid", own], id.context("a thread's number")?)?;
        }
    }
    Ok(())
}

fn pin(how: &[&str], id: u32) -> anyhow::Result<()> {
    let pinned = Command::new("taskset").args(how).arg(id.to_string()).output().context("taskset")?;
    ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr));
    Ok(())
}

fn children(of: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // A process that has ended meanwhile has no parent.
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        if parent == Some(of) {
            found.push(id);
        }
    }
    Ok(found)
}
