//! The resources that a proxy's processes have used so far, as the kernel accounts them. Linux only.
//!
//! CPU time comes from `/proc/PID/task/*/schedstat` (nanoseconds on the CPU, exact). `/proc/PID/stat` has the division
//! into user and system time, which many kernels sample by the clock tick, so the exact sum is divided in its
//! proportion. Memory is the proportional set size: pages that master and worker share count once.

use std::{collections::HashMap, fs, io, ops::Sub};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// CPU time, in nanoseconds and in clock ticks, and the time for which it was ready to run while another process had
/// the core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    ns: u64,
    waited_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

impl Cpu {
    /// The CPU time of a process and all its living descendants.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in family(pid)? {
            let Some(stat) = living(fs::read_to_string(format!("/proc/{pid}/stat")))? else { continue };
            let (user_ticks, system_ticks) = ticks(&stat).context("/proc/PID/stat is not as expected")?;
            sum.user_ticks += user_ticks;
            sum.system_ticks += system_ticks;
            let Some(tasks) = living(fs::read_dir(format!("/proc/{pid}/task")))? else { continue };
            for task in tasks {
                let Some(task) = living(task)? else { break };
                let Some(schedstat) = living(fs::read_to_string(task.path().join("schedstat")))? else {
                    continue;
                };
                let (ns, waited_ns) = times(&schedstat).context("schedstat is not as expected")?;
                sum.ns += ns;
                sum.waited_ns += waited_ns;
            }
        }
        Ok(sum)
    }

    /// The user and the system time in microseconds.
    pub(crate) fn split_us(self) -> (f64, f64) {
        let ticks = (self.user_ticks + self.system_ticks).max(1);
        let total = self.ns as f64 / 1e3;
        let user = total * self.user_ticks as f64 / ticks as f64;
        (user, total - user)
    }

    pub(crate) fn total_us(self) -> f64 {
        self.ns as f64 / 1e3
    }

    pub(crate) fn waited_us(self) -> f64 {
        self.waited_ns as f64 / 1e3
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(earlier.ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }
}

/// Proportional set size of a process and its descendants, in KiB.
pub(crate) fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(pid)? {
        let Some(rollup) = living(fs::read_to_string(format!("/proc/{pid}/smaps_rollup")))? else { continue };
        sum += kib(&rollup, "Pss:").context("smaps_rollup has no Pss")?;
    }
    Ok(sum)
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The largest resident memory of a process and its descendants since [`forget_peak`], in KiB. Pages that they share
/// count in each.
pub(crate) fn peak_kib(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(pid)? {
        let Some(status) = living(fs::read_to_string(format!("/proc/{pid}/status")))? else { continue };
        // A process that has ended, but was not waited for, has no memory.
        sum += kib(&status, "VmHWM:").unwrap_or(0);
    }
    Ok(sum)
}

/// Starts a new measurement of the peak.
pub(crate) fn forget_peak(pid: u32) -> anyhow::Result<()> {
    for pid in family(pid)? {
        // A kernel without this counts from the start of the process, which only makes the peak larger.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
    Ok(())
}

/// User and system time of all children of this process that have ended and were waited for, in ticks.
pub(crate) fn waited_for_ticks() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    children_ticks(&stat).context("/proc/self/stat is not as expected")
}

/// `USER_HZ`: the unit in which the kernel reports its ticks, whatever its own clock is.
pub(crate) const TICKS_PER_S: f64 = 100.0;

/// The content that was read for a process or thread. `None`: it has ended meanwhile, as descendants and threads may at
/// any time.
fn living<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// "No such process" on Linux: the error of a file of `/proc` that was opened while its process lived.
const ESRCH: i32 = 3;

/// A process and its descendants.
fn family(root: u32) -> anyhow::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Other processes come and go meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = fields(&stat).and_then(|mut fields| fields.nth(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(family)
}

/// The fields of `/proc/PID/stat` from the third (state) on. The second, the name, may contain spaces and brackets.
fn fields(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace())
}

/// The time on the CPU and the time of waiting for it, in nanoseconds.
fn times(schedstat: &str) -> Option<(u64, u64)> {
    let mut words = schedstat.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// utime and stime: fields 14 and 15 (proc_pid_stat(5)).
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = fields(stat)?.skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// cutime + cstime: fields 16 and 17.
fn children_ticks(stat: &str) -> Option<u64> {
    let mut fields = fields(stat)?.skip(13);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 6 7 20 0 1 0";
        assert_eq!(ticks(stat), Some((150, 50)));
        assert_eq!(children_ticks(stat), Some(13));
        assert_eq!(fields(stat).and_then(|mut fields| fields.nth(1)), Some("7"));
    }

    #[test]
    fn exact_time_is_split_as_the_ticks_are() {
        let cpu = Cpu { ns: 2_000_000, waited_ns: 0, user_ticks: 150, system_ticks: 50 };
        assert_eq!(cpu.split_us(), (1500.0, 500.0));
    }

    #[test]
    fn time_without_a_tick_is_not_lost() {
        let cpu = Cpu { ns: 1_000, waited_ns: 0, user_ticks: 0, system_ticks: 0 };
        assert_eq!(cpu.split_us(), (0.0, 1.0));
    }

    #[test]
    fn this_process_has_cost_something_and_holds_memory() {
        let pid = std::process::id();
        assert!(Cpu::of(pid).unwrap().ns > 0);
        assert!(memory_kib(pid).unwrap() > 0 && peak_kib(pid).unwrap() > 0);
    }

    #[test]
    fn descendants_that_end_meanwhile_are_no_error() {
        let pid = std::process::id();
        let short = std::thread::spawn(|| {
            for _ in 0..200 {
                assert!(std::process::Command::new("true").status().unwrap().success());
            }
        });
        while !short.is_finished() {
            assert!(Cpu::of(pid).unwrap().ns > 0);
            assert!(memory_kib(pid).unwrap() > 0 && peak_kib(pid).unwrap() > 0);
        }
        short.join().unwrap();
    }
}
