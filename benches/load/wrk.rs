//! The load generator: wrk, closed loop, one thread. Its script is made here, and prints the numbers as JSON.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    proxy::pinned,
    scenario::{Scenario, Subject},
};

/// One turn as wrk saw it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) duration_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Connections refused, cut or silent for two seconds.
    pub(crate) socket_errors: u64,
    /// Answers of 400 and above.
    pub(crate) status_errors: u64,
}

impl Load {
    pub(crate) fn requests_per_s(&self) -> f64 {
        self.requests as f64 / (self.duration_us / 1e6)
    }
}

/// wrk, ready to be let at one subject.
#[derive(Debug)]
pub(crate) struct Wrk {
    program: PathBuf,
    script: PathBuf,
    connections: usize,
    core: u32,
}

impl Wrk {
    pub(crate) fn prepare(
        program: &Path,
        scenario: &Scenario,
        subject: &Subject,
        tokens: &[String],
        dir: &Path,
        core: u32,
    ) -> anyhow::Result<Self> {
        let list = dir.join("requests.txt");
        let requests = scenario.requests(subject, tokens);
        let mut lines = String::new();
        for (path, token) in &requests {
            writeln!(lines, "{path} {}", token.unwrap_or(""))?;
        }
        fs::write(&list, lines)?;
        let script = dir.join("wrk.lua");
        fs::write(&script, lua(scenario.new_connections, requests.len(), &list))?;
        let (program, connections) = (program.to_owned(), scenario.connections);
        Ok(Self { program, script, connections, core })
    }

    pub(crate) fn run(&self, port: u16, duration: Duration) -> anyhow::Result<Load> {
        let output = pinned(self.core, &self.program)
            .arg("--threads=1")
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", duration.as_secs()))
            .arg("--script")
            .arg(&self.script)
            .arg(format!("http://127.0.0.1:{port}/"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk failed: {said}{}", String::from_utf8_lossy(&output.stderr));
        let json = said.lines().find_map(|line| line.strip_prefix(MARK)).context("wrk printed no result")?;
        let load: Load = serde_json::from_str(json)?;
        ensure!(load.requests > 0, "no request was answered");
        ensure!(load.status_errors == 0, "{} of {} answers were errors", load.status_errors, load.requests);
        Ok(load)
    }
}

const MARK: &str = "result: ";

/// A list of one becomes wrk's own request, and then no Lua runs for a request.
fn lua(new_connections: bool, requests: usize, list: &Path) -> String {
    let close = if new_connections { r#"wrk.headers["Connection"] = "close""# } else { "" };
    let request = if requests > 1 { IN_TURN } else { "" };
    let list = list.display();
    format!(
        r#"{close}
local requests, turn = {{}}, 0
function init()
  for line in io.lines("{list}") do
    local path, token = line:match("(%S+)%s*(%S*)")
    wrk.path = path
    if token ~= "" then wrk.headers["Authorization"] = "Bearer " .. token end
    requests[#requests + 1] = wrk.format()
  end
end
{request}
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{MARK}{{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,"socket_errors":%d,"status_errors":%d}}\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
"#
    )
}

const IN_TURN: &str = "function request()
  turn = turn % #requests + 1
  return requests[turn]
end";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_needs_no_lua_and_several_take_turns() {
        let list = Path::new("/list");
        assert!(!lua(false, 1, list).contains("function request("));
        assert!(lua(false, 2, list).contains("function request("));
        assert!(lua(true, 1, list).contains(r#"["Connection"] = "close""#));
    }
}
